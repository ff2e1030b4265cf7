"""Several processes: evaluation on two over evaluation on one, and what agreeing in each step costs.

Both evaluations run in turns in the same two processes, with a thread each and batches of one size: in the one the
first process works and the second waits. An agreement is the all-reduce of `World.vote`, over gloo, which every
training step has one of; it is compared with the fastest training step of ResNet-50 that the CPU has, bfloat16 in the
layout channels_last.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from utils.threads import threads
from utils.training.engine import evaluate

from datasets.base import ArrayDataset
from datasets.loading import BatchLoader, EvaluationBatches
from models.dgcmm import DGCMM, LossWeights
from scripts.benchmarks.images import images_in_memory
from scripts.benchmarks.step import bare_step
from scripts.benchmarks.timing import Ratio, interleave
from utils.distributed.plan import Launch
from utils.distributed.spawn import spawn
from utils.distributed.world import World

PROCESSES, BATCH, CLASSES, VOTES = 2, 16, 15, 500
ARCH, SIDE = "resnet50_vae3", 224
TARGETS = {"evaluation": 1.7, "vote": 0.01}
WEIGHTS = LossWeights(10.0, 0.1, 0.001)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument(
        "--distributed-images", type=int, default=32, metavar="N", help="images of an evaluation (default: 32)"
    )


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Images a second on two processes over one, on CPUs; seconds of an agreement over those of a training step.

    Args:
        options: `repeats`; `distributed_images`, see `add_flags`.
    """
    launch = Launch(PROCESSES, 0, PROCESSES, 0, spawns=True, backend="gloo")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        spawn(work, launch, [None] * PROCESSES, str(path), options.distributed_images, options.repeats)
        seconds = json.loads(path.read_text())
    bare = bare_step(ARCH, BATCH, SIDE, "bf16", torch.channels_last, torch.device("cpu"))
    step = interleave({"step": bare}, min(options.repeats, 3))["step"]
    rates = [options.distributed_images / seconds[name] for name in ("together", "alone")]
    return [
        Ratio(
            "distributed: evaluation, 2 processes / 1",
            f"{rates[0]:.1f} and {rates[1]:.1f} images/s, {ARCH}, a thread each",
            *(rates[0] / rates[1], TARGETS["evaluation"], True),
        ),
        Ratio(
            "distributed: agreement / training step",
            f"{seconds['vote'] * 1e6:.0f} us and {step * 1e3:.0f} ms, batch {BATCH}",
            *(seconds["vote"] / step, TARGETS["vote"], False),
        ),
    ]


def work(world: World, path: str, images: int, repeats: int) -> None:
    """What each process does; the main one writes median seconds of each thing to `path`."""
    args = argparse.Namespace(amp="off", quiet=True, max_steps=None)
    model, data = DGCMM(ARCH, CLASSES, 2048, SIDE), images_in_memory(images, SIDE, CLASSES)
    taken: dict[str, list[float]] = {"alone": [], "together": [], "vote": []}
    with threads(1):
        for _ in range(repeats + 1):
            if world.is_main:
                taken["alone"].append(_evaluation(model, data, args, World()))
            taken["together"].append(_evaluation(model, data, args, world))
            world.gather(None)
            started = time.perf_counter()
            for _ in range(VOTES):
                world.vote(bad=False).result()
            taken["vote"].append((time.perf_counter() - started) / VOTES)
    if world.is_main:
        Path(path).write_text(json.dumps({name: statistics.median(times[1:]) for name, times in taken.items()}))


def _evaluation(model: DGCMM, data: ArrayDataset, args: argparse.Namespace, world: World) -> float:
    """Seconds from when all processes are there to when the main one has the predictions."""
    batches = EvaluationBatches(len(data), BATCH // PROCESSES * world.size, world.rank, world.size)
    loader = BatchLoader(data, batches, 0, pin_memory=False)
    world.gather(None)
    started = time.perf_counter()
    evaluate(model, loader, WEIGHTS, args, world)
    return time.perf_counter() - started
