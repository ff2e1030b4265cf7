"""The table of results: last rows, mean and deviation over run folders."""

import subprocess
import sys

import pytest

from helpers.project import ROOT

HEADER = "epoch,split,acc,acsa,f_ma,g_ma,many,median,low\n"


def folder(path, value, split="test"):
    path.mkdir()
    for name in ("metrics.csv", "metrics_aug.csv", "metrics_aug_ftl.csv"):
        (path / name).write_text(f"{HEADER}1,test,0,0,0,0,0,0,0\n2,{split},{value},{value},0.5,0.5,0.5,0.5,\n")
    return path


def table(*folders):
    return subprocess.run([sys.executable, ROOT / "scripts/table.py", *folders], capture_output=True, text=True)


def test_one_folder(tmp_path):
    lines = table(folder(tmp_path / "a", 0.25)).stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["base", "Case 1", "Case 2"]
    assert lines[2].split("|")[2:5] == [" 0.2500 ", " 0.2500 ", " 0.5000 "]
    assert lines[2].split("|")[8].strip() == "-"


def test_mean_and_deviation(tmp_path):
    done = table(folder(tmp_path / "a", 0.2), folder(tmp_path / "b", 0.4))
    assert done.stdout.splitlines()[2].split("|")[2].strip() == "0.3000 ±0.1414"


def test_what_the_decoder_rebuilds_stands_below_where_all_runs_say(tmp_path):
    runs = [folder(tmp_path / name, 0.2) for name in "ab"]
    (runs[0] / "health.json").write_text('{"mse": 0.1, "mse_constant": 0.3, "mse_class_mean": 0.2, "epoch": 2}')
    assert len(table(*runs).stdout.splitlines()) == 5
    (runs[1] / "health.json").write_text('{"mse": 0.2, "mse_constant": 0.3, "mse_class_mean": 0.2, "epoch": 2}')
    assert table(*runs).stdout.splitlines()[5:] == [
        "",
        "squared error of reconstructions 0.1500 ±0.0707, of a constant grey 0.3000 ±0.0000, of the class's mean image "
        "0.2000 ±0.0000",
    ]


def test_run_that_has_not_been_measured_on_the_test_set_is_named(tmp_path):
    done = table(folder(tmp_path / "a", 0.2, split="val"))
    assert done.returncode == 2
    assert "metrics.csv: the run is not finished" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("missing", ["nowhere", ""])
def test_folder_without_results(tmp_path, missing):
    done = table(tmp_path / missing)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
