"""How time and memory grow with the number of classes and of codes; `fig/draw_scale.py` draws what this measures.

    python -m scripts.benchmarks.scale --json=results/benchmark/scale.json

Mixture term: forward and backward, a batch of 256 codes of length 2048, for each number of components. Re-training:
Case 2 with as many codes of every class, for each number of codes and two lengths of a code; the time of an epoch is
that of its plan and of 100 steps, times the steps of the epoch over 100. Codes of length 2048 are measured up to
--most-bytes and no further. Memory is the peak of a process of its own above what it had after its imports (Linux
only). Let nothing else run meanwhile.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import augment
from scripts.benchmarks.retraining import BATCH, make_codes, make_run, steps_of
from scripts.benchmarks.setup import CPU, Sizes
from scripts.benchmarks.timing import measured_on, turns
from scripts.benchmarks.training import mixture_term
from utils.cli.common import Parser
from utils.cli.types import count, positive
from utils.errors import UserError, run_script
from utils.files import write_text, writing

COMPONENTS = (10, 30, 100, 300, 1000)
CODES = (10_000, 40_000, 160_000, 640_000, 1_280_000)
DIMS, CLASSES, MIXTURE_BATCH, STEPS = (256, 2048), 20, 256, 100
Point = dict[str, float]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line: where to write, and how much to measure."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--json", required=True, metavar="FILE", help="what was measured is written there")
    add("--repeats", type=count, default=3, metavar="N", help="timed calls of each (default: %(default)s)")
    text = "memory that codes may take, in bytes; larger sets are left out (default: %(default)g)"
    add("--most-bytes", type=positive, default=3e9, metavar="B", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all points and write them."""
    options = build_parser().parse_args(argv)
    file = Path(options.json)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "measured_on": measured_on(),
        "mixture": [mixture_point(number, options.repeats) for number in COMPONENTS],
        "codes": [codes_point(*size, options.repeats) for size in sizes(options.most_bytes)],
    }
    write_text(file, json.dumps(found, indent=1) + "\n")


def sizes(most_bytes: float) -> Iterable[tuple[int, int]]:
    """Give (number, length) of the codes that are measured; mu and sigma take 8 bytes a number."""
    return ((number, dim) for dim in DIMS for number in CODES if 8 * number * dim <= most_bytes)


def mixture_point(components: int, repeats: int) -> Point:
    """Measure the mixture term with its backward pass; the components are part of its memory."""
    taken = median_seconds(mixture_term(components, MIXTURE_BATCH, max(DIMS), CPU), repeats)
    return shown({"components": components, "seconds": taken, "bytes": peak_of(compute_mixture, components)})


def compute_mixture(components: int) -> None:
    """Compute it once, in a process of its own."""
    mixture_term(components, MIXTURE_BATCH, max(DIMS), CPU)()


def codes_point(number: int, dim: int, repeats: int) -> Point:
    """Measure an epoch of a re-training on so many codes of length `dim`."""
    planning, steps = prepare(number, dim)
    epoch = median_seconds(planning, repeats) + median_seconds(steps, repeats) * number / (STEPS * BATCH)
    return shown({"codes": number, "dim": dim, "seconds": epoch, "bytes": peak_of(plan_and_train, number, dim)})


def prepare(number: int, dim: int) -> tuple[Callable[[], object], Callable[[], None]]:
    """Make (a call that plans an epoch, one that takes STEPS steps of it), on codes of classes of one size."""
    size = Sizes(arch="resnet18_vae3", dim=dim, side=224, counts=(number // CLASSES,) * CLASSES, code_steps=STEPS)
    run, sampler = make_run(size, make_codes(size.counts, dim, CPU), augment.posterior_sampler)
    planning = sampler.plan
    plan = tuple(part[: STEPS * BATCH] for part in planning(0))
    return lambda: planning(0), steps_of(run, sampler, plan)


def plan_and_train(number: int, dim: int) -> None:
    """Plan an epoch and take some steps, in a process of its own."""
    _, steps = prepare(number, dim)
    steps()


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Time a call: the median."""
    return statistics.median(taken for (taken,) in turns(repeats, call))


def shown(point: Point) -> Point:
    """Print the point."""
    print(json.dumps(point), flush=True)
    return point


def peak_of(call: Callable[..., object], *args: int) -> int:
    """Measure the peak of resident memory of `call(*args)`, in bytes above a new process after its imports.

    Args:
        call: a module-level function.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=report_peak, args=(sender, call, args))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        raise UserError("a measuring process was killed, perhaps for want of memory: lower --most-bytes") from error
    finally:
        child.join()


def report_peak(sender: Connection, call: Callable[..., object], args: tuple[int, ...]) -> None:
    """Make the call in this process, and send what it needed."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    call(*args)
    sender.send(resident("VmHWM") - before)


def resident(name: str) -> int:
    """Read a line of /proc/self/status, in bytes. getrusage's peak would be at least the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name + ":")).split()[1])


if __name__ == "__main__":
    run_script(main)
