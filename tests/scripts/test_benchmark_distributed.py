"""The benchmark of several processes, on one process and a small network."""

import argparse
import json

import pytest

from scripts.benchmarks import distributed as benchmark
from utils.distributed.world import World


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ARCH": "resnet18_vae3", "SIDE": 32, "BATCH": 4, "VOTES": 3}.items():
        monkeypatch.setattr(benchmark, name, value)


def test_work_writes_what_it_measured(small, tmp_path):
    benchmark.work(World(), str(tmp_path / "seconds.json"), 6, 1)
    seconds = json.loads((tmp_path / "seconds.json").read_text())
    assert seconds.keys() == {"alone", "together", "vote"}
    assert all(value > 0 for value in seconds.values())


def test_each_target_has_a_ratio(small, monkeypatch):
    started = []

    def stand_in(work, launch, devices, *arguments):
        started.append((launch.size, launch.spawns, devices))
        work(World(), *arguments)

    monkeypatch.setattr(benchmark, "spawn", stand_in)
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--distributed-images=6"])
    options.repeats = 1
    evaluation, vote = benchmark.measure(options)
    assert started == [(2, True, [None, None])]
    assert (evaluation.target, evaluation.at_least, vote.target, vote.at_least) == (1.7, True, 0.01, False)
    assert evaluation.ratio > 0
    assert vote.ratio > 0
