"""Evaluation: every label of a generative model, extraction of codes, and two processes."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torchvision import transforms as T

import train
from codes import extract
from datasets.base import ArrayDataset
from datasets.loading import BatchLoader, EvaluationBatches
from models.loading import all_weights, build_model
from models.scoring import Scorer
from scripts.benchmarks.setup import (
    CHESTXRAY,
    CLASSES,
    CPU,
    BareTraining,
    ReadyBatches,
    Sizes,
    train_args,
)
from scripts.benchmarks.timing import Ratio, Side, slowdown, speedup
from utils.device import autocast
from utils.distributed.plan import Launch
from utils.distributed.spawn import spawn
from utils.distributed.world import World

FEW_LABELS_TARGET, MANY_LABELS_TARGET = 1.5, 8.0
EXTRACTION_TARGET, PROCESSES_TARGET = 1.05, 1.7
PROCESS_BATCH = 8  # images at a time of each process


def generative(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare the scores of all K labels of an image with one pass of its encoder."""
    for labels, target, rounds in ((CLASSES, FEW_LABELS_TARGET, repeats), (sizes.many, MANY_LABELS_TARGET, 3)):
        for assign in ("label", "posterior"):
            scores, encoder = generative_sides(sizes, labels, assign)
            yield slowdown(f"generative: K={labels}, {assign} / encoder", scores, encoder, target, min(repeats, rounds))


def generative_sides(sizes: Sizes, labels: int, assign: str) -> tuple[Side, Side]:
    """Make both sides, of one model."""
    args = train_args(sizes, "--generative", f"--gmm-assign={assign}")
    model = build_model(World(sizes.device), args, labels).eval()
    scorer = Scorer(model, all_weights(args))
    images = torch.rand(sizes.batch, 1, sizes.side, sizes.side, device=sizes.device)

    @torch.inference_mode()
    def scores() -> None:
        scorer.probabilities(*scorer.evidence(images))

    @torch.inference_mode()
    def encoder() -> None:
        model.features(images)

    return Side(scores, sizes.batch), Side(encoder, sizes.batch)


def extraction(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare the extraction of codes with bare passes, in each precision that the device has.

    The project's side takes uint8 images to the device and keeps mu and log_var of each on the CPU; torchvision's
    ResNet, in the same layout, has its float32 images there.
    """
    for amp in sizes.precisions:
        ours, bare = extraction_sides(sizes, amp)
        yield slowdown(f"extraction: codes / bare pass, --amp {amp}", ours, bare, EXTRACTION_TARGET, repeats)


def extraction_sides(sizes: Sizes, amp: str) -> tuple[Side, Side]:
    """Make both sides."""
    args, loader = train_args(sizes, f"--amp={amp}"), ReadyBatches(sizes, sizes.batch, sizes.batches)
    model = build_model(World(sizes.device), args, CLASSES)
    bare = BareTraining(sizes, amp)
    resnet, images = bare.resnet.eval(), bare.random_images(sizes.batch)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(sizes.batches):
            with autocast(sizes.device, amp):
                resnet(images)

    count = sizes.batch * sizes.batches
    return Side(lambda: extract(model, loader, True, args, sizes.device), count), Side(forward, count)


def processes(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare evaluation on two processes with evaluation on one, on CPUs with a thread each.

    Both run in turns in the same two processes; in the one the first process works and the second waits.
    """
    launch = Launch(size=2, local_size=2, spawns=True, backend="gloo")
    with tempfile.TemporaryDirectory() as folder:
        path, on_cpu = Path(folder) / "ratio.json", dataclasses.replace(sizes, device=CPU)
        spawn(evaluate_in_turns, launch, [None, None], path, on_cpu, repeats)
        yield Ratio(**json.loads(path.read_text()))


def evaluate_in_turns(world: World, path: Path, sizes: Sizes, repeats: int) -> None:
    """Do what each of the processes does; the main one writes the ratio to `path`."""
    torch.set_num_threads(1)
    args, count = train_args(sizes), sizes.batch * sizes.batches
    model = build_model(world, args, CLASSES)
    pixels = np.random.default_rng(0).integers(0, 256, (count, sizes.side, sizes.side), dtype=np.uint8)
    ids, targets = [str(n) for n in range(count)], np.arange(count) % CLASSES
    data = ArrayDataset(pixels, CHESTXRAY.classes, targets, ids, T.PILToTensor())

    def evaluate(those: World) -> None:
        batches = EvaluationBatches(count, PROCESS_BATCH * those.size, those.rank, those.size)
        loader = BatchLoader(data, batches, workers=0, pin_memory=False)
        train.evaluate(model, loader, args, those, data.class_counts)

    def alone() -> None:
        if world.is_main:
            evaluate(World())

    def together() -> None:
        world.gather(None)  # nobody begins before all are there
        evaluate(world)

    name = "processes: evaluation, 2 processes / 1"
    ratio = speedup(name, Side(together, count), Side(alone, count), PROCESSES_TARGET, repeats)
    if world.is_main:
        path.write_text(json.dumps(ratio._asdict()))
