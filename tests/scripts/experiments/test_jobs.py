"""The runner: what is finished is skipped, what fails is named, what is stopped goes on."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.results import write_csv
from scripts.experiments import jobs as jobs_module
from scripts.experiments.jobs import Job, Runner, Step
from utils.errors import UserError

WRITE = "import pathlib, sys; folder = pathlib.Path(sys.argv[1]); "
METRICS = WRITE + "(folder / 'metrics.csv').write_text('acsa\\n'); (folder / 'log.txt').open('a').write('x')"
PRODUCT = WRITE + "(folder / 'metrics_more.csv').write_text('x'); (folder / 'predictions.csv').write_text('x')"
BELOW = WRITE + "(folder / 'adjusted').mkdir(exist_ok=True); (folder / 'adjusted' / 'metrics_aug.csv').write_text('x')"


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, tmp_path / "runs", tmp_path / "results", jobs=2)


def job(tmp_path: Path, name: str, *codes: str, product: str = "") -> Job:
    folder = str(tmp_path / "runs" / name)
    steps = [Step(("-c", code, folder)) for code in codes]
    return Job(name, (*steps, *([Step(("-c", PRODUCT, folder), product)] if product else [])))


def test_small_files_of_finished_runs_are_kept_and_nothing_is_run_twice(runner, tmp_path):
    jobs = [job(tmp_path, f"{name}/subset0", METRICS, BELOW, product="metrics_more.csv") for name in "abc"]
    assert runner.run(jobs).done == ["a/subset0", "b/subset0", "c/subset0"]
    kept = tmp_path / "results" / "a" / "subset0"
    found = {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()}
    assert found == {"metrics.csv", "metrics_more.csv", "log.txt", "adjusted/metrics_aug.csv"}
    assert len(runner.run(jobs).done) == 3
    assert (tmp_path / "runs/a/subset0/log.txt").read_text() == "x"


def test_results_that_cannot_be_kept_are_one_line_and_end_their_job_alone(runner, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/a").touch()
    report = runner.run([job(tmp_path, "a/subset0", METRICS), job(tmp_path, "b/subset0", METRICS)])
    assert (report.done, report.failed, report.left) == (["b/subset0"], ["a/subset0"], [])
    assert "FAILED   a/subset0: " in (said := capsys.readouterr().out)
    assert "results/a/subset0 cannot be written (Not a directory): choose another folder" in said


def test_a_run_that_is_no_result_is_asked_each_time(runner, tmp_path):
    judge = job(tmp_path, "judge", METRICS)._replace(kept=False)
    assert [runner.run([judge]).done, runner.run([judge]).done] == [["judge"]] * 2
    assert (tmp_path / "runs/judge/log.txt").read_text() == "xx"
    assert not (tmp_path / "results").exists()


def test_a_command_that_fails_ends_its_job_alone(runner, tmp_path, capsys):
    jobs = [job(tmp_path, "bad/subset0", "import sys; sys.exit(3)", METRICS), job(tmp_path, "good/subset0", METRICS)]
    report = runner.run(jobs)
    assert (report.done, report.failed, report.left) == (["good/subset0"], ["bad/subset0"], [])
    assert "FAILED   bad/subset0: -c ended with status 3, see" in capsys.readouterr().out
    assert not (tmp_path / "results" / "bad").exists()


def deadline_when(path: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """A deadline that comes when a file is there, however long its command takes to begin."""
    clock = SimpleNamespace(monotonic=lambda: 2.0 * path.exists())
    monkeypatch.setattr(jobs_module, "time", clock)
    return 1.0


def test_at_the_deadline_commands_are_asked_to_end_and_go_on_later(tmp_path, monkeypatch):
    wait = WRITE + "import time; (folder / 'begun').touch(); (folder / 'let').exists() or time.sleep(60)"
    jobs = [job(tmp_path, f"{name}/subset0", wait, METRICS) for name in "ab"]
    deadline = deadline_when(tmp_path / "runs/a/subset0/begun", monkeypatch)
    stopped = Runner(tmp_path, tmp_path / "runs", tmp_path / "results", 1, deadline).run(jobs)
    assert stopped.left == ["a/subset0", "b/subset0"]
    assert not (tmp_path / "runs/b").exists()
    for name in "ab":
        (tmp_path / f"runs/{name}/subset0").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"runs/{name}/subset0/let").touch()
    again = Runner(tmp_path, tmp_path / "runs", tmp_path / "results", 2).run(jobs)
    assert again.done == ["a/subset0", "b/subset0"]


def test_a_command_is_asked_once_and_has_the_time_to_save_itself(tmp_path, monkeypatch):
    """As train.py, it ends at once if it is asked again."""
    save = WRITE + (
        "import os, signal, time\n"
        "def end(*_):\n"
        "    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'saved').touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "(folder / 'begun').touch()\n"
        "time.sleep(60)"
    )
    deadline = deadline_when(tmp_path / "runs/a/subset0/begun", monkeypatch)
    runner = Runner(tmp_path, tmp_path / "runs", tmp_path / "results", 1, deadline)
    assert runner.run([job(tmp_path, "a/subset0", save)]).left == ["a/subset0"]
    assert (tmp_path / "runs/a/subset0/saved").exists()


def test_results_of_a_training_by_other_flags_are_not_taken(runner, tmp_path):
    """Wherever it lay and whether it was resumed does not matter."""
    write_csv(tmp_path / "results/a/subset0/metrics.csv", [{"acsa": 1}])
    made = tmp_path / "results/a/subset0/args.json"
    made.write_text(
        json.dumps({"command": ["train.py", "DATA", "--lr=1", "--wd=2", "--logdir=there", "--datadir=here"]})
    )
    same = Step(("train.py", "DATA", "--wd=2", "--lr=1", "--logdir=x", "--resume=auto"), record="args.json")
    assert runner.run([Job("a/subset0", (same,))]).done == ["a/subset0"]
    other = same._replace(words=("train.py", "DATA", "--wd=2", "--lr=3", "--mixup=1"))
    told = "a/subset0 was made by train.py with --lr=1, now it would be with --lr=3 --mixup=1: move it away"
    with pytest.raises(UserError, match=told):
        runner.run([Job("a/subset0", (other,))])


def test_an_unfinished_training_by_other_flags_does_not_go_on(runner, tmp_path, capsys):
    """Where its results were moved away, as they had been made by other flags, and its run folder was not."""
    folder = tmp_path / "runs/a/subset0"
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({"command": ["train.py", "DATA", "--lr=1"]}))
    assert runner.run([Job("a/subset0", (Step(("train.py", "DATA", "--lr=3"), record="args.json"),))]).failed
    told = f"{folder} was made by train.py with --lr=1, now it would be with --lr=3: move it away"
    assert told in capsys.readouterr().out
    assert not (folder / "output.txt").exists()


def test_what_has_its_product_is_not_made_again_after_an_interruption(runner, tmp_path):
    made = job(tmp_path, "a/subset0", METRICS, product="metrics_more.csv")
    folder = tmp_path / "runs/a/subset0"
    folder.mkdir(parents=True)
    (folder / "metrics_more.csv").write_text("from before")
    assert runner.run([made]).done == ["a/subset0"]
    assert (tmp_path / "results/a/subset0/metrics_more.csv").read_text() == "from before"


def test_what_was_measured_before_the_training_had_ended_is_not_taken(runner, tmp_path, capsys):
    folder, record = tmp_path / "runs/a/subset0", "args_baselines.json"
    write_csv(folder / "metrics_baselines.csv", [{"acsa": 1}])
    write_csv(folder / "metrics.csv", [{"epoch": epoch, "split": "test", "acsa": 1} for epoch in (1, 2, 3)])
    measured = Step(("scripts/baselines.py", "./here"), "metrics_baselines.csv", record)
    for epoch, ended in ((2, "failed"), (3, "done")):
        made = {"command": ["baselines.py", "./there"], "model": {"epoch": epoch, "step": 0}}
        (folder / record).write_text(json.dumps(made))
        assert getattr(runner.run([Job("a/subset0", (measured,))]), ended) == ["a/subset0"]
    assert "metrics_baselines.csv is of epoch 2, after which the training went on: delete it" in capsys.readouterr().out


def test_methods_of_other_values_are_not_taken_for_those_of_now(runner, tmp_path, capsys):
    folder, record = tmp_path / "runs/a/subset0", "args_baselines.json"
    write_csv(folder / "metrics_baselines.csv", [{"acsa": 1}])
    (folder / record).write_text(json.dumps({"command": ["baselines.py", "./there", "--fixed", "lda=0.1"]}))
    made = job(tmp_path, "a/subset0", METRICS)
    measured = Step(("scripts/baselines.py", "./here", "--fixed", "lda=0.5"), "metrics_baselines.csv", record)
    assert runner.run([Job("a/subset0", (*made.steps, measured))]).failed == ["a/subset0"]
    assert "baselines.py with lda=0.1, now it would be with lda=0.5: move it away" in capsys.readouterr().out
    same = measured._replace(words=(*measured.words[:-1], "lda=0.1"))
    assert runner.run([Job("a/subset0", (*made.steps, same))]).done == ["a/subset0"]
