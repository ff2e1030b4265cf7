"""The benchmark of extraction, on a small network."""

import argparse

import torch

from models.dgcmm import DGCMM
from scripts.benchmarks import extraction as benchmark


def test_each_precision_has_a_ratio(monkeypatch):
    for name, value in {"ENCODER": "resnet18", "SIDE": 32}.items():
        monkeypatch.setattr(benchmark, name, value)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--extraction-batch=2"])
    options.repeats = 1
    ratios = benchmark.measure(options)
    assert [ratio.name.split()[-1] for ratio in ratios] == ["off", "bf16"]
    assert all(ratio.ratio > 0 and ratio.target == 1.05 and not ratio.at_least for ratio in ratios)


def test_bare_network_has_the_layout_of_the_models(monkeypatch):
    monkeypatch.setattr(benchmark, "ENCODER", "resnet18")
    for layout in (torch.contiguous_format, torch.channels_last):
        model = DGCMM("resnet18_vae3", 3, 8, 32).to(memory_format=layout)
        resnet, batch = benchmark._bare(model, 2, torch.device("cpu"))
        assert not resnet.training
        assert resnet.conv1.weight.is_contiguous(memory_format=layout)
        assert batch.is_contiguous(memory_format=layout)
