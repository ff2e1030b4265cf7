"""The benchmark of the start."""

import argparse

import pytest

from scripts.benchmarks import start as benchmark


def test_each_script_has_a_ratio(monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "ask", asked.append)
    ratios = benchmark.measure(argparse.Namespace(repeats=1))
    assert set(asked) == {"train.py", "augment.py", "augment_ftl.py"}
    assert [(ratio.target, ratio.at_least) for ratio in ratios] == [(1.0, False)] * 3


@pytest.mark.parametrize("script", benchmark.SCRIPTS)
def test_a_script_explains_itself(script):
    assert benchmark.ask(script).startswith(f"usage: {script}")
