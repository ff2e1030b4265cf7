"""Where the time of a training step on a GPU goes: how long the host and the device are busy, and with what.

    python -m scripts.benchmarks.profile                     64 images, --amp bf16
    python -m scripts.benchmarks.profile --images=180 --amp=off

A device that is busy for less than a step waits for the host, which then launches too many kernels, or too slowly. The
same two lines of torchvision's bare step come after, to compare with. Without a GPU the tables are the CPU's.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList
from torch.profiler import profile, supported_activities

from scripts.benchmarks.setup import BareTraining, ReadyBatches, Sizes, default_sizes, train_args
from scripts.benchmarks.timing import measured_on, seconds
from scripts.benchmarks.training import project
from utils.cli.common import Parser
from utils.cli.types import count
from utils.device import PRECISIONS
from utils.errors import run_script

STEPS, ROWS = 10, 25


class Found(NamedTuple):
    """What profiled steps cost: seconds without the profiler, those that the device was busy, kernels, all events."""

    seconds: float
    busy: float
    kernels: int
    averages: EventList


def build_parser() -> argparse.ArgumentParser:
    """Build the command line: which step."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--images", type=count, default=64, metavar="N", help="images of a step (default: %(default)s)")
    add("--amp", choices=tuple(PRECISIONS), default="bf16", help="precision, as of train.py (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None, sizes: Sizes | None = None, steps: int = STEPS) -> None:
    """Print what a step costs, and the table of its kernels and operations."""
    options, sizes = build_parser().parse_args(argv), sizes or default_sizes()
    print(f"{measured_on()}\n{options.images} images, --amp {options.amp}")
    batches = ReadyBatches(sizes, options.images, steps)
    ours = _profiled(project(sizes, train_args(sizes, f"--amp={options.amp}"), batches))
    bare = _profiled(BareTraining(sizes, options.amp).steps(options.images, steps))
    for name, found in (("train.py", ours), ("bare", bare)):
        rate = options.images * steps / found.seconds
        print(f"{name}: a step takes {1e3 * found.seconds / steps:.2f} ms, {rate:,.0f} images/s")
        busy, kernels = 1e3 * found.busy / steps, found.kernels / steps
        print(f"  the device is busy for {busy:.2f} ms of it, with {kernels:,.0f} kernels and copies")
    if ours.kernels:
        print(ours.averages.table(sort_by="self_cuda_time_total", row_limit=ROWS, max_name_column_width=80))
    print(ours.averages.table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=80))


def _profiled(call: Callable[[], None]) -> Found:
    """Time a call, then profile another one; the first of all does not count."""
    call()
    unprofiled = seconds(call)
    with profile(activities=supported_activities()) as found:
        seconds(call)
    on_device = [event for event in found.events() if event.device_type == DeviceType.CUDA]
    kernels = [event for event in on_device if not event.is_user_annotation]  # which span kernels
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
    return Found(unprofiled, busy, len(kernels), found.key_averages())


if __name__ == "__main__":
    run_script(main)
