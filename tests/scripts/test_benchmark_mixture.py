"""The benchmark of the mixture term: its rows, and that its measure of memory sees a large tensor."""

import argparse

import torch

from scripts.benchmarks import mixture as benchmark
from scripts.benchmarks.memory import peak_above


def test_rows_are_time_growth_and_memory(monkeypatch):
    monkeypatch.setattr(benchmark, "peak_above", lambda *_: 30_000_000)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--mixture-components=20", "--mixture-batch=4", "--mixture-dim=8"])
    options.repeats = 1
    time, growth, memory = benchmark.measure(options)
    assert (time.target, growth.target, memory.target) == (6.0, 1.2, 1.0)
    assert (time.at_least, growth.at_least, memory.at_least) == (False, False, False)
    assert time.ratio > 0
    assert growth.ratio > 0
    assert memory.ratio == 0.2


def large_tensor(megabytes):
    return lambda: torch.ones(megabytes * 250_000).sum()


def test_peak_is_that_of_the_call():
    assert 190e6 < peak_above(large_tensor, 200) < 260e6
