"""Growth with classes and codes: small points are measured, and drawn."""

import json
import re
import runpy

import pytest
import torch

from helpers.project import ROOT
from scripts.benchmarks import retraining, scale


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"COMPONENTS": (2, 4), "CODES": (40, 80), "DIMS": (4, 8), "CLASSES": 2, "MIXTURE_BATCH": 6, "STEPS": 2}
    for name, value in values.items():
        monkeypatch.setattr(scale, name, value)
    for module in (scale, retraining):
        monkeypatch.setattr(module, "BATCH", 10)
    monkeypatch.setattr(scale, "peak_of", lambda call, *arguments: call(*arguments) or 1_000_000)


def test_points_are_written_and_drawn(small, tmp_path):
    path = tmp_path / "new" / "scale.json"
    scale.main([f"--json={path}", "--repeats=1", "--most-bytes=2560"])
    found = json.loads(path.read_text())
    assert re.match(
        rf"(no commit|commit [0-9a-f]{{40}}).*; .*torch {re.escape(torch.__version__)},", found["measured_on"]
    )
    assert [point["components"] for point in found["mixture"]] == [2, 4]
    assert [(point["codes"], point["dim"]) for point in found["codes"]] == [(40, 4), (80, 4), (40, 8)]
    assert all(point["seconds"] > 0 and point["bytes"] for point in found["mixture"] + found["codes"])
    axes = runpy.run_path(str(ROOT / "fig" / "draw_scale.py"))["draw"](found).axes
    labels = [line.get_label() for line in axes[1].get_lines()]
    assert labels.count("extrapolated, in proportion to N") == 2
    assert [list(line.get_xdata()) for line in axes[0].get_lines()] == [[2, 4]]


def take(size: int) -> None:
    assert bytearray(b"x") * size


def test_peak_is_what_a_call_needs_at_most():
    assert 90e6 < scale.peak_of(take, 100_000_000) < 120e6
