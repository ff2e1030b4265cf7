"""Jobs of several commands each, so many at a time; what is finished is not done again."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from scripts.experiments.results import damage_in_one_line
from utils.errors import UserError
from utils.files import writing
from utils.training.layout import epochs_of
from utils.training.reached import read_metrics

KEPT = ("*.json", "log*.txt", "metrics*.csv")  # small and text: what the tables are made of
OUTPUT = "output.txt"  # of all commands of a job
POLL_S = 0.2


class Step(NamedTuple):
    """A command of a job.

    Attributes:
        words: of it, after `python`.
        product: a file that it leaves in the run folder when it has ended well, and that it must not find; '' for a
            command that may be given again.
        record: the args*.json that it leaves there, or in a folder below, with its words; '' for none.
    """

    words: tuple[str, ...]
    product: str = ""
    record: str = ""


class Job(NamedTuple):
    """Commands one after the other.

    Attributes:
        folder: of the run, below that of all runs; that of its small files below the results.
        steps: the commands.
        kept: whether its small files are results. Else it is never taken for finished, as what it is made for, such
            as a checkpoint, lies in the run folder alone: its commands have to see by themselves what is done.
    """

    folder: str
    steps: tuple[Step, ...]
    kept: bool = True


class Report(NamedTuple):
    """Folders of the jobs that ended well, failed, and were stopped or not begun."""

    done: list[str]
    failed: list[str]
    left: list[str]


def finished(job: Job, results: Path) -> bool:
    """Tell whether the results hold all of a job; they are put there at its end, in one piece.

    Raises:
        UserError: they were made with other flags.
    """
    place, products = results / job.folder, [step.product for step in job.steps if step.product]
    if not job.kept or not all((place / name).exists() for name in ("metrics.csv", *products)):
        return False
    for step in job.steps:
        require_current(step, place)
    return True


def require_current(step: Step, place: Path) -> None:
    """Raise a `UserError` if what a command has made is not what it would make now, as its record in a folder says.

    It was given with other flags, or has measured a training that went on after it.
    """
    record = place / step.record
    if not step.record or not record.exists():
        return
    with damage_in_one_line(place):
        made = json.loads(record.read_text())
        before, measured = settings(made["command"]), made.get("model", {}).get("epoch")
    now = settings(step.words)
    if before != now:
        raise UserError(
            f"{place} was made by {Path(step.words[0]).name} with {' '.join(sorted(before - now)) or 'less'}, now it "
            f"would be with {' '.join(sorted(now - before)) or 'less'}: move it away, both from --results and from "
            "--runs, or go back to what was"
        )
    made_it = not step.product or (place / step.product).exists()
    if made_it and measured is not None and measured < epochs_of(read_metrics(place / "metrics.csv")):
        left = place / (step.product or step.record)
        raise UserError(f"{left} is of epoch {measured}, after which the training went on: delete it")


def settings(words: Sequence[str]) -> set[str]:
    """Take the words of a command that its result depends on; places are none of them."""
    program, *others = words
    places = ("--logdir=", "--datadir=", "--resume=", "--judge=")
    return {Path(program).name, *(word for word in others if "/" not in word and not word.startswith(places))}


class Runner:
    """Runs jobs, so many at a time, each with one thread of computation unless OMP_NUM_THREADS says otherwise.

    Args:
        code: working directory of the commands.
        runs: folder below which runs lie.
        results: folder below which the small files of finished runs are put.
        jobs: at a time.
        deadline: of `time.monotonic`, at which all is stopped; None: none.
    """

    def __init__(self, code: Path, runs: Path, results: Path, jobs: int, deadline: float | None = None) -> None:
        self.code, self.runs, self.results, self.jobs, self.deadline = code, runs, results, jobs, deadline
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._environment = {"OMP_NUM_THREADS": "1"} | os.environ

    def run(self, jobs: Sequence[Job]) -> Report:
        """Run what is not finished. At the deadline, or if this is interrupted, running commands are asked to end.

        A training that is asked to saves itself, and goes on with the same command.
        """
        waiting = [job for job in jobs if not finished(job, self.results)]
        report = Report([job.folder for job in jobs if job not in waiting], [], [])
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                running = {pool.submit(self._run_job, job): job for job in waiting}
                while wait(running, POLL_S).not_done:
                    if self.deadline is not None and time.monotonic() > self.deadline:
                        self.stop()
            except BaseException:
                self.stop()
                raise
        for future, job in running.items():
            ended = future.result()
            (report.left if ended is None else report.done if ended else report.failed).append(job.folder)
        return report

    def stop(self) -> None:
        """Ask running commands to end, once: to be asked again would end a training before it has saved itself."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        with self._lock:
            for process in self._running:
                process.terminate()

    def _run_job(self, job: Job) -> bool | None:
        """Run a job, and say how it ended: whether well; None if it was stopped before its end."""
        try:
            return self._run_steps(job)
        except UserError as error:  # of this job alone: the others go on
            print(f"FAILED   {job.folder}: {error}", flush=True)
            return False

    def _run_steps(self, job: Job) -> bool | None:
        """Run the commands of a job: True at its end, None if it was stopped before.

        Raises:
            UserError: one failed, was given with other flags before, or its results cannot be kept.
        """
        folder, started = self.runs / job.folder, time.monotonic()
        for step in job.steps:
            if self._stopped.is_set():
                return None
            require_current(step, folder)
            if step.product and (folder / step.product).exists():
                continue
            status = self._run_command(step, folder)
            if status and self._stopped.is_set():
                return None
            if status:
                raise UserError(f"{step.words[0]} ended with status {status}, see {folder / OUTPUT}")
        if job.kept:
            self._collect(folder, self.results / job.folder)
        print(f"finished {job.folder} in {time.monotonic() - started:.0f} s", flush=True)
        return True

    def _run_command(self, step: Step, folder: Path) -> int:
        """Run a command to its end, its output in the run folder; returns its exit status."""
        with writing(folder / OUTPUT):
            folder.mkdir(parents=True, exist_ok=True)
            output = (folder / OUTPUT).open("a")
        with output:
            words = [sys.executable, *step.words]
            with self._lock:
                if self._stopped.is_set():
                    return -1
                process = subprocess.Popen(
                    words,
                    cwd=self.code,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is for this process, which asks the others
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def _collect(self, folder: Path, place: Path) -> None:
        """Copy the small files of a run and of the folders in it, in one piece."""
        aside = place.with_name(f".{place.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        with writing(place):
            for pattern in KEPT:
                for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}")):
                    copied = aside / path.relative_to(folder)
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copied)
            shutil.rmtree(place, ignore_errors=True)
            aside.rename(place)
