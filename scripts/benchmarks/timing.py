"""What the benchmarks share: a ratio with its target, and times that are taken in turns."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """A measured ratio and what it shall be at least, or at most.

    Attributes:
        name: of the row, short.
        detail: the measured figures behind the ratio, with their units.
    """

    name: str
    detail: str
    ratio: float
    target: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def interleave(timed: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of a call of each, called in turns, so that all see the same machine; the first does not count."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, call in timed.items():
            started = time.perf_counter()
            call()
            synchronise()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def synchronise() -> None:
    """Wait until a GPU has done what it was asked to; a CPU has."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
