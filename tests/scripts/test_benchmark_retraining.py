"""The benchmark of re-training, on few and short codes."""

import argparse

import pytest
import torch

from scripts.benchmarks import memory
from scripts.benchmarks import retraining as benchmark
from utils.distributed.world import World


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"DIM": 16, "BATCH": 10, "TEST": 30, "ARCH": "resnet18_vae3", "IMAGE_SIZE": 32, "WORKERS": 0}
    for name, value in values.items():
        monkeypatch.setattr(benchmark, name, value)
    # persistent workers need workers
    loader = benchmark.DataLoader
    monkeypatch.setattr(benchmark, "DataLoader", lambda *a, persistent_workers, **kw: loader(*a, **kw))


def test_each_target_has_a_ratio(small, monkeypatch):
    monkeypatch.setattr(benchmark, "peak_of", lambda call, *arguments: call(*arguments) or 1)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--retraining-counts", "120", "40", "5", "--retraining-steps=3"])
    options.repeats = 1
    ratios = benchmark.measure(options)
    assert [(ratio.target, ratio.at_least) for ratio in ratios] == [(3, True), (8, False), (1.2, False)]
    assert all(ratio.ratio > 0 for ratio in ratios)


def test_passes_are_of_new_epochs_and_change_the_classifier(small):
    run = benchmark.make_run(2, benchmark.make_codes((30, 5), torch.device("cpu")), 2, 3, World())
    steps, epochs = benchmark._steps(run), []
    for _ in range(2):
        before = run.model.classifier.weight.clone()
        steps()
        epochs.append(run.epoch)
        assert run.position.step == 3
        assert not torch.equal(before, run.model.classifier.weight)
    assert epochs == [0, 1]


def take(size: int) -> None:
    assert bytearray(b"x") * size


def test_peak_is_what_a_call_needs_at_most():
    assert 90e6 < memory.peak_of(take, 100_000_000) < 120e6
