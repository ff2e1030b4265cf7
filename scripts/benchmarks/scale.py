"""How time and memory grow with the number of classes and of codes; `fig/draw_scale.py` draws what this measures.

    python -m scripts.benchmarks.scale --json=results/benchmark/scale.json

Mixture term: forward and backward, a batch of 256 codes of length 2048, for each number of components. Re-training:
Case 2 with as many codes of every class, for each number of codes and two lengths of a code; the time of an epoch is
that of its plan and of 100 steps, times the steps of the epoch over 100. Codes of length 2048 are measured up to
--most-bytes and no further. Memory is the peak of a process of its own above what it had after its imports. Let
nothing else run meanwhile.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from utils.training.engine import Position

from scripts.benchmark import measured_on
from scripts.benchmarks import retraining
from scripts.benchmarks.memory import peak_of
from scripts.benchmarks.mixture import term
from scripts.benchmarks.timing import interleave
from utils.distributed.world import World

COMPONENTS = (10, 30, 100, 300, 1000)
CODES = (10_000, 40_000, 160_000, 640_000, 1_280_000)
DIMS, CLASSES, BATCH, STEPS = (256, 2048), 20, 256, 100
Point = dict[str, Any]


def build_parser() -> argparse.ArgumentParser:
    """Where to write, and how much to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, metavar="FILE", help="what was measured is written there")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed calls of each (default: 3)")
    parser.add_argument(
        *("--most-bytes",),
        **{"type": float, "default": 3e9, "metavar": "B"},
        help="memory that codes may take, in bytes; larger sets are left out (default: 3e9)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Measure all points and write them."""
    options = build_parser().parse_args(argv)
    found = {
        "measured_on": measured_on(),
        "mixture": [mixture_point(count, options.repeats) for count in COMPONENTS],
        "codes": [codes_point(*size, options.repeats) for size in sizes(options.most_bytes)],
    }
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


def sizes(most_bytes: float) -> Iterable[tuple[int, int]]:
    """(number, length) of the codes that are measured; mu and sigma take 8 bytes a number."""
    return ((count, dim) for dim in DIMS for count in CODES if 8 * count * dim <= most_bytes)


def mixture_point(components: int, repeats: int) -> Point:
    """Time and memory of the mixture term with its backward pass; its inputs are not counted as memory."""
    call = term(components, BATCH, max(DIMS))
    return shown({"components": components, "seconds": seconds(call, repeats), "bytes": peak_of(mixture, components)})


def mixture(components: int) -> None:
    """One such step, in a process of its own; the components themselves are part of its memory."""
    term(components, BATCH, max(DIMS))()


def codes_point(count: int, dim: int, repeats: int) -> Point:
    """Time of an epoch and memory of a re-training on `count` codes of length `dim`."""
    run = prepare(count, dim)
    taken, _ = retraining.planning(run.sampler)
    plan = tuple(part[: STEPS * retraining.BATCH] for part in run.sampler.plan(0))
    run.sampler.plan = lambda epoch: plan
    epoch = taken + seconds(lambda: take(run), repeats) * count / (STEPS * retraining.BATCH)
    return shown({"codes": count, "dim": dim, "seconds": epoch, "bytes": peak_of(retrain, count, dim)})


def prepare(count: int, dim: int) -> Any:
    """A re-training on codes of CLASSES classes of one size."""
    codes = retraining.make_codes([count // CLASSES] * CLASSES, torch.device("cpu"), dim)
    return retraining.make_run(2, codes, CLASSES, STEPS, World(), "resnet18_vae3")


def take(run: Any) -> None:
    """STEPS steps of an epoch."""
    run.position = Position()
    list(run.train_steps())


def retrain(count: int, dim: int) -> None:
    """Plan an epoch and take some steps, in a process of its own."""
    take(prepare(count, dim))


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call."""
    return interleave({"": call}, repeats)[""]


def shown(point: Point) -> Point:
    """The point, which is printed."""
    print(json.dumps(point), flush=True)
    return point


if __name__ == "__main__":
    main()
