"""Extraction of codes: the project's way over a bare forward pass of torchvision's ResNet-50 in the same precision.

The project's reads uint8 images from memory through its loader, and keeps mu and log_var of each; the bare pass has
its batch ready in float32, in the layout that the project's encoder has.
"""

import argparse

import torch
import torchvision
from torch import Tensor
from utils.training.retraining import extract

from datasets.loading import BatchLoader, EvaluationBatches
from models.dgcmm import DGCMM
from scripts.benchmarks.images import images_in_memory
from scripts.benchmarks.timing import Ratio, interleave
from utils.device import autocast
from utils.distributed.world import World

ENCODER, SIDE, CLASSES = "resnet50", 224, 15
PRECISIONS = ("off", "bf16")
TARGET = 1.05


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument("--extraction-batch", type=int, default=16, metavar="N", help="images of a batch (default: 16)")
    parser.add_argument(
        "--extraction-batches", type=int, default=2, metavar="N", help="batches of a timed pass (default: 2)"
    )


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Seconds of an extraction over those of as many bare forward passes, with each precision.

    Args:
        options: `repeats`; `extraction_batch`, `extraction_batches`, see `add_flags`.
    """
    world = World()
    world.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = DGCMM(f"{ENCODER}_vae3", CLASSES, 2048, SIDE).to(world.device)
    bare, batch = _bare(model, options.extraction_batch, world.device)
    count = options.extraction_batch * options.extraction_batches
    batches = EvaluationBatches(count, options.extraction_batch)
    loader = BatchLoader(images_in_memory(count, SIDE, CLASSES), batches, 0, pin_memory=False)

    @torch.inference_mode()
    def forward(amp: str) -> None:
        for _ in range(options.extraction_batches):
            with autocast(world.device, amp):
                bare(batch)

    def project(amp: str) -> None:
        extract(model, loader, True, None, argparse.Namespace(amp=amp, quiet=True), world)

    ratios = []
    for amp in PRECISIONS:
        timed = {"project": lambda amp=amp: project(amp), "bare": lambda amp=amp: forward(amp)}
        seconds = interleave(timed, options.repeats)
        detail = ", ".join(f"{way} {count / taken:.1f}" for way, taken in seconds.items())
        name = f"extraction: codes / bare, --amp {amp}"
        ratios.append(Ratio(name, f"{detail} images/s", seconds["project"] / seconds["bare"], TARGET, False))
    return ratios


def _bare(model: DGCMM, batch: int, device: torch.device) -> tuple[torch.nn.Module, Tensor]:
    """(ResNet in evaluation mode, a batch for it), in the layout of the model's encoder."""
    weight = model.encoder.resnet.conv1.weight
    last = weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    resnet = torchvision.models.get_model(ENCODER, weights=None).to(device).to(memory_format=layout).eval()
    return resnet, torch.randn(batch, 3, SIDE, SIDE, device=device).to(memory_format=layout)
