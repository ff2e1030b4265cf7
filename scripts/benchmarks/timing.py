"""Times that are taken in turns, the ratio of two of them with its target, and what they are measured on."""

import gc
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision

from utils.device import machine
from utils.versions import code_version


class Side(NamedTuple):
    """One of the two things that are compared: a call, and how many images or codes it deals with."""

    call: Callable[[], object]
    count: int


class Ratio(NamedTuple):
    """A measured ratio, and what it shall be at least, or at most.

    Attributes:
        name: of the row, short.
        detail: the rates behind the ratio, with their unit.
        rate: images or codes a second of the project's side.
        memory: bytes of a GPU that the project's side takes at most, where that is measured.
    """

    name: str
    ratio: float
    target: float
    at_least: bool
    detail: str
    rate: float = 0.0
    memory: int | None = None

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def slowdown(name: str, ours: Side, other: Side, at_most: float, repeats: int, unit: str = "images/s") -> Ratio:
    """Measure how much longer ours takes for an image: time over time, which shall be at most so much."""
    ratio, rate, detail = _compare(ours, other, repeats, unit)
    return Ratio(name, ratio, at_most, False, detail, rate)


def speedup(name: str, ours: Side, other: Side, at_least: float, repeats: int, unit: str = "images/s") -> Ratio:
    """Measure how much faster ours is: rate over rate, which shall be at least so much."""
    ratio, rate, detail = _compare(ours, other, repeats, unit)
    return Ratio(name, 1 / ratio, at_least, True, detail, rate)


def _compare(ours: Side, other: Side, repeats: int, unit: str) -> tuple[float, float, str]:
    """Give (the median over the rounds of time over time, for one image each; our median rate; both in words)."""
    rounds = [(a / ours.count, b / other.count) for a, b in turns(repeats, ours.call, other.call)]
    rates = [1 / statistics.median(column) for column in zip(*rounds, strict=True)]
    return statistics.median(a / b for a, b in rounds), rates[0], f"{rates[0]:,.1f} and {rates[1]:,.1f} {unit}"


def peak_memory(call: Callable[[], object]) -> int | None:
    """Make a call and give the most bytes that torch held on the GPU meanwhile; None without one."""
    if not torch.cuda.is_initialized():
        return None
    gc.collect()  # what earlier rows have left
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def turns(repeats: int, *calls: Callable[[], object]) -> list[list[float]]:
    """Time calls in turns, every second round backwards, so that all see the same machine.

    Returns:
        Seconds of each call in each of `repeats` rounds; one more round comes first and does not count.
    """
    rounds = []
    for number in range(repeats + 1):
        taken = [0.0] * len(calls)
        for index in range(len(calls))[:: -1 if number % 2 else 1]:
            taken[index] = seconds(calls[index])
        rounds.append(taken)
    return rounds[1:]


def seconds(call: Callable[[], object]) -> float:
    """Time a call, with all that it has queued on a GPU."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measured_on() -> str:
    """Say what the numbers are measured on: the code's commit, processor, threads, GPU, versions."""
    code = code_version()
    here = machine()
    computes = f"{here['processor']}, {here['threads']} threads, {here['gpu'] or 'no GPU'}"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    commit = f"commit {code['commit']}{', changed since' if code['dirty'] else ''}" if code["commit"] else "no commit"
    return f"{commit}; {computes}; {versions}"
