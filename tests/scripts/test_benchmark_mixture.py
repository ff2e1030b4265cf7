"""The benchmark of the mixture term: its rows, and that its measure of memory sees a large tensor."""

import argparse

import torch

from scripts.benchmarks import mixture as benchmark
from scripts.benchmarks.memory import peak_above


def test_rows_are_share_of_a_step_and_memory(monkeypatch):
    monkeypatch.setattr(benchmark, "peak_above", lambda *_: 200_000_000)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    sizes = ["--mixture-components=20", "--mixture-batch=4", "--mixture-dim=8"]
    options = parser.parse_args([*sizes, "--mixture-images=2", "--mixture-size=32"])
    options.repeats = 1
    share, memory = benchmark.measure(options)
    assert (share.target, memory.target) == (0.05, 1.0)
    assert (share.at_least, memory.at_least) == (False, False)
    assert share.ratio > 0
    assert memory.ratio == 0.2


def large_tensor(megabytes):
    return lambda: torch.ones(megabytes * 250_000).sum()


def test_peak_is_that_of_the_call():
    assert 190e6 < peak_above(large_tensor, 200) < 260e6
