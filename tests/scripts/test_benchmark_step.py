"""The benchmark of a training step: its rows, and that both precisions train the same model."""

import argparse

import pytest
import torch

from scripts.benchmarks import step as benchmark


def test_each_target_has_a_ratio(monkeypatch):
    monkeypatch.setattr(benchmark, "SMALL", {"arch": "resnet18_vae3", "size": 32, "batch": 4})
    monkeypatch.setattr(benchmark, "LOSS_STEPS", 2)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--step-arch=resnet18_vae3", "--step-batch=2", "--step-size=32"])
    options.repeats = 1
    ratios = benchmark.measure(options)
    assert [(ratio.name, ratio.target) for ratio in ratios] == [
        ("step: model off / bare off", 1.05),
        ("step: model bf16 / bare bf16", 1.10),
        ("step: model bf16 / plain", 0.45),
        ("step: loss of bf16 / off, less 1", 0.02),
    ]
    assert not any(ratio.at_least for ratio in ratios)


def test_losses_of_the_two_precisions_are_close_and_not_the_same(monkeypatch):
    monkeypatch.setattr(benchmark, "SMALL", {"arch": "resnet18_vae3", "size": 32, "batch": 8})
    off, bf16 = (benchmark.mean_loss(amp, 3, torch.device("cpu")) for amp in ("off", "bf16"))
    assert off != bf16
    assert bf16 == pytest.approx(off, rel=0.05)
