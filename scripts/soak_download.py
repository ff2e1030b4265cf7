"""Kills and repeats `python -m datasets.chestxray`; see soak_download.sh, which runs it."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from helpers.mirror import Mirror, packed, write_data_set
from utils.cli.common import Parser
from utils.cli.types import count, seed
from utils.errors import run_script

COMMAND = [sys.executable, "-m", "datasets.chestxray", "--quiet"]
CACHE_SIZE = 64  # pixels
IMAGES, SIDE, ARCHIVES = 600, 96, 6
PIECE_S = 0.01  # between pieces of 16 KB, so that a download takes seconds


class Soak:
    """One data set on one server, killed again and again.

    Args:
        workplace: a folder for everything.
        mirror: that gives the data set.
        original: folder of the same data set, to compare with.
        seed: of the moments.
    """

    def __init__(self, workplace: Path, mirror: Mirror, original: Path, seed: int) -> None:
        self.mirror, self.original = mirror, original
        self.random = random.Random(seed)
        self.manifest = mirror.manifest(workplace / "manifest.json")
        self.folder = workplace / "data"

    def phase(self, name: str, rounds: int, flags: list[str], start: Path | None, measure: Callable, most: int) -> None:
        """Kill `rounds` times when `measure()` has passed a random part of `most`, and complete each time."""
        kills = 0
        while kills < rounds:
            shutil.rmtree(self.folder, ignore_errors=True)
            if start:
                shutil.copytree(start, self.folder)
            kills += self._kill(flags, measure, self.random.uniform(0, most))
            self.complete(flags)
        print(f"{name}: killed {kills} times, completed {kills} times", flush=True)

    def _start(self, flags: list[str]) -> subprocess.Popen:
        words = [*COMMAND, f"--datadir={self.folder}", f"--dataset-manifest={self.manifest}", *flags]
        return subprocess.Popen(words, env=os.environ | {"no_proxy": "127.0.0.1"})

    def _kill(self, flags: list[str], measure: Callable, target: float) -> bool:
        """Kill the command; tell whether it was still at work when `measure()` passed the target."""
        before = measure()
        with self._start(flags) as command:
            while command.poll() is None and measure() - before < target:
                time.sleep(0.0005)
            if command.poll() is None:
                command.kill()
        return command.returncode == -9

    def complete(self, flags: list[str]) -> None:
        """Give the same command again: it ends well, and the folder holds what it shall."""
        with self._start(flags) as command:
            command.wait()
        if command.returncode:
            sys.exit(f"the same command ended with status {command.returncode}; see {self.folder}")
        expected = {path.name: path.read_bytes() for path in self.original.rglob("*") if path.is_file()}
        if "--download-only" in flags:
            expected = self.mirror.files
        found = {path.name: path for path in self.folder.rglob("*") if path.is_file()}
        wrong = [name for name, content in expected.items() if name not in found or found[name].read_bytes() != content]
        halves = [name for name in found if name.endswith((".part", ".part.json", ".unpacking"))]
        if wrong or halves:
            sys.exit(f"{len(wrong)} files are wrong, {len(halves)} half done; see {self.folder}")

    def unpacked(self) -> int:
        """Images that lie in the folder, in a half-done part of it or not."""
        return sum(name.endswith(".png") for _, _, names in os.walk(self.folder) for name in names)


def main() -> None:
    """Run all phases; the first thing that goes wrong ends it with status 1."""
    parser = Parser(description=__doc__)
    parser.add_argument("rounds", type=count, nargs="?", default=20, help="kills in each phase (default: 20)")
    parser.add_argument("seed", type=seed, nargs="?", default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    workplace = Path(tempfile.mkdtemp(prefix="soak-"))
    original, archives, complete = workplace / "original", workplace / "archives", workplace / "complete"
    write_data_set(original, IMAGES, SIDE)
    unhurried = threading.Event()
    with Mirror(packed(original, ARCHIVES), before_piece=lambda: unhurried.wait(PIECE_S)) as mirror:
        soak = Soak(workplace, mirror, original, args.seed)
        total = sum(len(content) for content in mirror.files.values())
        soak.phase("download", args.rounds, ["--download-only"], None, mirror.sent.total, total)
        soak.folder.rename(archives)
        soak.phase("unpacking", args.rounds, [], archives, soak.unpacked, IMAGES)
        soak.folder.rename(complete)
        flags = [f"--cache-size={CACHE_SIZE}"]
        shutil.copytree(complete, soak.folder)
        started = time.perf_counter()
        soak.complete(flags)
        soak.phase("cache", args.rounds, flags, complete, time.perf_counter, time.perf_counter() - started)
    shutil.rmtree(workplace)


if __name__ == "__main__":
    run_script(main)
