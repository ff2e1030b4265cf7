"""Kills and continues train.py and the augmentations; see soak.sh, which runs it."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.compare_runs import differences
from utils.cli.common import Parser
from utils.cli.types import count, seed
from utils.errors import run_script

DATA = ["Digits_LT", "--arch=resnet18_vae3", "--new-size=32", "--crop-size=32", "--z-dim=32"]
TRAIN = [*DATA, "--epochs=4", "--batch-size=64", "--T-max=4", "--save-every=3", "--quiet"]
AUGMENT = ["Digits_LT", "--epochs=6", "--batch-size=20", "--T-max=6", "--save-every=20", "--quiet"]
TWO = ["--multiprocessing-distributed", "--ngpus=2", "--dist-timeout=60"]
# name: flags of train.py, script and flags of the augmentation
SETTINGS = {
    "1 process": (["--workers=0"], "augment.py", []),
    "1 process, 2 workers, hold-out, warm-up": (
        ["--workers=2", "--val-fraction=0.3", "--warmup-epochs=1"],
        "augment_ftl.py",
        ["--workers=2"],
    ),
    "2 processes": ([*TWO, "--workers=0"], "augment_ftl.py", ["--rep-method=get_rep_nums2", "--workers=0"]),
    "2 processes, 2 workers, generative": (
        [*TWO, "--workers=2", "--generative", "--gmm-assign=label"],
        "augment.py",
        ["--workers=2"],
    ),
}
TRAIN_SHARE = 0.6  # of a chain's kills
WINDOW = 0.6  # of the time that the whole command takes: a kill comes within it
ENDS = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {143, -signal.SIGTERM}}  # the last: before it is handled
PATIENCE_S = 60.0  # for an end after a signal, and for all processes to be gone


class Setting:
    """Two commands, train and augment, and the run that they give when nobody interrupts them.

    Args:
        name: a key of `SETTINGS`.
        workplace: a folder for runs.
        moments: of the kills.
    """

    def __init__(self, name: str, workplace: Path, moments: random.Random) -> None:
        train, script, augment = SETTINGS[name]
        self.commands = [["train.py", *TRAIN, *train], [script, *AUGMENT, *augment]]
        self.whole, self.broken = workplace / "whole", workplace / "broken"
        self.said = workplace / "said.txt"
        self.moments = moments
        self.seconds = []
        shutil.rmtree(self.whole, ignore_errors=True)
        for command in self.commands:
            started = time.perf_counter()
            self._complete(command, self.whole)
            self.seconds.append(time.perf_counter() - started)

    def chain(self, signum: int, kills: int) -> list[str]:
        """Kill `kills` times in a row, continue after each, and complete; what differs from the whole run."""
        shutil.rmtree(self.broken, ignore_errors=True)
        train, augment = self.commands
        done = self._interrupted(train, signum, round(TRAIN_SHARE * kills), self.seconds[0])
        more = []
        while done < kills:
            done += self._interrupted([*augment, *more], signum, kills - done, self.seconds[1])
            more = ["--overwrite"]  # completed before the last kill: once more
        return differences(self.whole, self.broken)

    def _interrupted(self, command: list[str], signum: int, kills: int, seconds: float) -> int:
        """Run a command to its end, through at most so many kills; returns how many there were."""
        for done in range(kills):
            with self._started(command, self.broken) as process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.moments.uniform(0, WINDOW * seconds))
                if process.poll() is None:
                    whom = self.moments.choice((os.kill, os.killpg))  # the parent, or all
                    whom(process.pid, signum)
                self._await(process)
            if process.returncode == 0:  # it was faster
                return done
            if process.returncode not in ENDS[signum]:
                sys.exit(
                    f"status {process.returncode} after {signum.name}: {' '.join(command)}\n{self.said.read_text()}"
                )
            command = [word for word in command if word != "--overwrite"]
        self._complete(command, self.broken)
        return kills

    @contextlib.contextmanager
    def _started(self, command: list[str], folder: Path) -> Iterator[subprocess.Popen]:
        """Start a command in a session of its own; what is left of it ends with the block, after Ctrl-C too."""
        words = [sys.executable, *command, f"--logdir={folder}", "--resume=auto", "--no-figures"]
        with self.said.open("w") as said:
            process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _complete(self, command: list[str], folder: Path) -> None:
        with self._started(command, folder) as process:
            process.wait()
        if process.returncode:
            sys.exit(f"status {process.returncode}: {' '.join(process.args)}\n{self.said.read_text()}")

    def _await(self, process: subprocess.Popen) -> None:
        """Until the process has ended and nobody of its session is left."""
        end = time.monotonic() + PATIENCE_S
        try:
            process.wait(PATIENCE_S)
            while time.monotonic() < end:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            pass
        sys.exit(f"still there {PATIENCE_S:.0f} s after the signal: {' '.join(process.args)}\n{self.said.read_text()}")


def main() -> None:
    """Run all chains; the first thing that goes wrong ends it with status 1."""
    parser = Parser(description=__doc__)
    parser.add_argument("chains", type=count, nargs="?", default=10, help="chains of each signal (default: 10)")
    parser.add_argument("kills", type=count, nargs="?", default=10, help="kills of each chain (default: 10)")
    parser.add_argument("seed", type=seed, nargs="?", default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    workplace = Path(tempfile.mkdtemp(prefix="soak-"))
    moments = random.Random(args.seed)
    equal = dict.fromkeys(ENDS, 0)
    for number, name in list(enumerate(SETTINGS))[: args.chains]:
        setting = Setting(name, workplace, moments)
        for signum in ENDS:
            chains = len(range(number, args.chains, len(SETTINGS)))
            for _ in range(chains):
                if different := setting.chain(signum, args.kills):
                    sys.exit(f"{name}, {signum.name}: {', '.join(different)} differ; see {workplace}")
            equal[signum] += chains
            print(f"{name}: {chains} chains of {args.kills} {signum.name}, all equal to the whole run", flush=True)
    for signum, chains in equal.items():
        print(f"{signum.name}: {chains} chains, {chains * args.kills} kills, {chains} equal")
    shutil.rmtree(workplace)


if __name__ == "__main__":
    run_script(main)
