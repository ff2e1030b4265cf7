#!/usr/bin/env python3
"""What `gpu_check.sh` does: parts one after the other, each in a process of its own, and a table of what they found.

A part that fails, or takes too long, does not keep the next ones from running; the exit status is then 1.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from packaging.requirements import Requirement

from scripts.benchmarks import MISSED
from utils.cli.common import Parser
from utils.errors import UserError, run_script
from utils.files import write_text, writing
from utils.versions import installed_version

GRACE = 10  # seconds from SIGINT, at which a part says what it has found, to SIGKILL
LOCAL = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # processes of one machine, whatever its network
EPOCHS, TRAINING_IMAGES = 100, 73_471  # of the published ChestXray run
BATCH = 180  # of the published training, shared by its GPUs
BENCHMARKS = ("step", "generative", "mixture", "extraction", "retraining")


@dataclass(frozen=True)
class Part:
    """A command whose output is kept.

    Attributes:
        name: of its file.
        words: the command, after the interpreter.
        environ: variables that it gets besides those that are there.
        seconds: after which it is ended.
        by_hand: only run if it is asked for.
    """

    name: str
    words: Sequence[str]
    environ: dict[str, str] = field(default_factory=dict)
    seconds: int = 120
    by_hand: bool = False

    @property
    def group(self) -> str:
        """What `--only` calls it."""
        return self.name.split("_")[0]


@dataclass(frozen=True)
class End:
    """How a part ended: its status, None where it was ended, seconds, output."""

    part: Part
    status: int | None
    seconds: float
    output: str

    @property
    def text(self) -> str:
        """The end in words; a missed target is no failure of the benchmark."""
        if self.status is None:
            return f"ENDED after {self.part.seconds} s"
        if self.status == MISSED and self.part.name in ("benchmark", "compile") and rows_of(self.output):
            return "a target is missed"
        return "good" if self.status == 0 else f"FAILED with status {self.status}"

    @property
    def good(self) -> bool:
        """Whether it did what it should."""
        return self.text in ("good", "a target is missed")


def missing_packages() -> list[str]:
    """Name what requirements.txt and the tests need and this interpreter has not, or has in another version."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    missing = []
    for wanted in map(Requirement, [*filter(str.strip, lines), "pytest"]):
        version = installed_version(wanted.name)
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            missing.append(f"{wanted} (has {version})" if version else str(wanted))
    return missing


def published_commands(gpus: int, folder: str) -> list[list[str]]:
    """Give the words of chestxray.sh's three commands for so many GPUs, on random images and for ten steps."""
    text = (ROOT / "scripts" / "chestxray.sh").read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^run python (\w+\.py .*)$", text, re.MULTILINE)]
    number = max(n for n in range(1, gpus + 1) if BATCH % n == 0)
    own = ["--dummy", "--max-steps=10", "--epochs=1", "--no-figures", f"--logdir={folder}"]
    found = []
    for words in commands:
        kept = [word for word in words if not word.startswith(("$", "--resume"))]
        train = words[0] == "train.py"
        found.append([*kept, *own, f"--ngpus={number}" if train else f"--resume={folder}/checkpoint.pth"])
    return found


def parts(gpus: int, folder: str) -> list[Part]:
    """List all parts, the most telling ones first."""
    several = ["-n4", "--dist=worksteal"] if installed_version("pytest-xdist") else []
    limited = ["--timeout=75"] if installed_version("pytest-timeout") else []
    environ = LOCAL | {"GPU_TESTS": "cuda", "OMP_NUM_THREADS": "4"}
    tests = ["-m", "pytest", "tests/gpu", "-rs", "-p", "no:cacheprovider", *several, *limited]
    names = ["commands_train", "commands_case_1", "commands_case_2"]
    benchmark = ["scripts/benchmark.py", "--repeats=5", "--only"]
    return [
        Part("tests", tests, environ, 180),
        Part("benchmark", [*benchmark, *BENCHMARKS], seconds=240),
        *(Part(name, words, LOCAL) for name, words in zip(names, published_commands(gpus, folder), strict=True)),
        Part("profile", ["-m", "scripts.benchmarks.profile"]),
        Part("compile", [*benchmark, "step", "--compile"], seconds=500, by_hand=True),
    ]


def run_part(part: Part, out: Path) -> End:
    """Run a part, show its output and keep it in a file.

    It has a process group of its own, so that all it has started ends with it, but not a session: what ends this script
    and all of its session ends the part too.
    """
    print(f"\n## {part.name}: {shlex.join(part.words)}", flush=True)
    started, lines, ended = time.monotonic(), [], threading.Event()
    environ = os.environ | {"PYTHONUNBUFFERED": "1"} | part.environ
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen([sys.executable, *part.words], cwd=ROOT, env=environ, process_group=0, **pipes)

    def end() -> None:
        ended.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(part.seconds, end)
    timer.start()
    try:
        with (out / f"{part.name}.txt").open("w", buffering=1) as file:
            for line in process.stdout:
                lines.append(line)
                file.write(line)
                print(line, end="", flush=True)
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:  # a signal to this script
            end()
    return End(part, None if ended.is_set() else process.returncode, time.monotonic() - started, "".join(lines))


def rows_of(output: str) -> list[dict]:
    """Give the benchmark's rows, which it prints as its last line; none where it did not come so far."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            return found if isinstance(found, list) else []
    return []


def summary(card: str, ends: Sequence[End]) -> str:
    """Lay out what was found, in Markdown."""
    about = next((end.output.splitlines()[0] for end in ends if rows_of(end.output)), f"torch {torch.__version__}")
    lines = [f"# {card}", "", about, "", "| part | end | seconds |", "|---|---|---|"]
    lines += [f"| {end.part.name} | {end.text} | {end.seconds:.0f} |" for end in ends]
    rows = [row for end in ends for row in rows_of(end.output)]
    if rows:
        lines += ["", "| ratio | measured | target | |", "|---|---|---|---|"]
    for row in rows:
        bound, verdict = ">=" if row["at_least"] else "<=", "" if row["met"] else "missed"
        lines.append(f"| {row['name']} | {row['ratio']:.3f} | {bound} {row['target']:g} | {verdict} |")
    steps = [row for row in rows if row["name"].startswith("step")]
    if steps:
        hours = f"{EPOCHS} epochs of ChestX-ray14, steps alone"
        lines += ["", f"| ChestXray recipe, a GPU | images/s | peak memory | {hours} |", "|---|---|---|---|"]
    for row in steps:
        memory = f"{row['memory'] / 2**30:.1f} GiB" if row["memory"] else "-"
        took = EPOCHS * TRAINING_IMAGES / row["rate"] / 3600
        name = row["name"].partition(", ")[2]
        lines.append(f"| {name} | {row['rate']:,.0f} | {memory} | {took:.1f} h |")
    failed = [end.part.name for end in ends if not end.good]
    lines += ["", f"failed: {', '.join(failed)}" if failed else "every part ran to its end"]
    return "\n".join(lines) + "\n"


def build_parser(groups: Sequence[str]) -> argparse.ArgumentParser:
    """Build the command line: where to write, and which parts."""
    parser = Parser(prog="gpu_check.sh", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the results (default: ./results/gpu/CARD)")
    text = f"of {', '.join(groups)} (default: all but compile, which takes minutes)"
    parser.add_argument("--only", nargs="+", choices=groups, metavar="PART", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts that are asked for; exit status 1 if one failed."""
    with tempfile.TemporaryDirectory(prefix="dgcmm-") as folder:
        every = parts(max(torch.cuda.device_count(), 1), folder)
        options = build_parser(list(dict.fromkeys(part.group for part in every))).parse_args(argv)
        if not torch.cuda.is_available():
            raise UserError("there is no GPU that torch can use here: run this on a machine that has one")
        if missing := missing_packages():
            raise UserError(
                f"{sys.executable} lacks {', '.join(missing)}: install what is missing, nothing is installed"
            )
        card = torch.cuda.get_device_name(0)
        out = options.out or ROOT / "results" / "gpu" / re.sub(r"[^\w.-]+", "-", card)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        chosen = [part for part in every if (part.group in options.only if options.only else not part.by_hand)]
        ends = []
        for part in chosen:
            ends.append(run_part(part, out))
            text = summary(f"{torch.cuda.device_count()} x {card}", ends)
            write_text(out / "summary.md", text)
    print(f"\n{text}\nall output: {out}")
    if not all(end.good for end in ends):
        raise SystemExit(1)


if __name__ == "__main__":
    run_script(main)
