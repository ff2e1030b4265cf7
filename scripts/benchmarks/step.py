"""A training step of the whole model over the bare step of its encoder, and what bfloat16 and the layout bring.

    bare      torchvision's ResNet with its linear layer: cross-entropy, backward, SGD; in the layout channels_last
    plain     the same in float32 and torch's default layout
    model     `take_steps` of a DGCMM: all three loss terms, the noise, the guard, SGD and the prior's limits

The last row compares the mean loss of the first steps in bfloat16 with that in float32, on a small model.
"""

import argparse
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from utils.training.engine import Position, forward_passes, take_steps

from datasets.loading import BatchLoader, TrainBatches
from models.dgcmm import DGCMM, LossWeights
from models.encoder import ARCHITECTURES
from scripts.benchmarks.images import images_in_memory
from scripts.benchmarks.timing import Ratio, interleave
from utils.device import autocast
from utils.distributed.world import World
from utils.training.optimisation import build_optimizer

CLASSES, DIM = 15, 2048
TARGETS = {"off": 1.05, "bf16": 1.10, "plain": 0.45, "loss": 0.02}
WEIGHTS = LossWeights(10.0, 0.1, 0.001)
SMALL = {"arch": "resnet18_vae3", "size": 64, "batch": 32}
LOSS_STEPS = 50


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    add = parser.add_argument
    add("--step-arch", default="resnet_vae3", metavar="ARCH", help="architecture (default: resnet_vae3)")
    add("--step-batch", type=int, default=16, metavar="B", help="images of a step (default: 16)")
    add("--step-size", type=int, default=224, metavar="PX", help="side of the images (default: 224)")


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Times over the bare step in float32 and bfloat16, over the plain layout, and losses over float32's.

    Args:
        options: `repeats`; the sizes, see `add_flags`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arch, batch, size = options.step_arch, options.step_batch, options.step_size
    steps = {"plain": bare_step(arch, batch, size, "off", torch.contiguous_format, device)}
    for amp in ("off", "bf16"):
        steps[f"bare {amp}"] = bare_step(arch, batch, size, amp, torch.channels_last, device)
        steps[f"model {amp}"] = _one_by_one(arch, batch, size, amp, device)
    milliseconds = {way: 1000 * taken for way, taken in interleave(steps, options.repeats).items()}
    ratios = [_ratio(milliseconds, f"model {amp}", f"bare {amp}", TARGETS[amp]) for amp in ("off", "bf16")] + [
        _ratio(milliseconds, "model bf16", "plain", TARGETS["plain"])
    ]
    losses = [mean_loss(amp, LOSS_STEPS, device) for amp in ("off", "bf16")]
    detail = f"{losses[1]:.3f} and {losses[0]:.3f}, {LOSS_STEPS} steps of {SMALL['arch']} at {SMALL['size']}"
    off = abs(losses[1] / losses[0] - 1)
    return [*ratios, Ratio("step: loss of bf16 / off, less 1", detail, off, TARGETS["loss"], False)]


def _ratio(milliseconds: dict[str, float], ours: str, other: str, target: float) -> Ratio:
    detail = f"{milliseconds[ours]:.0f} and {milliseconds[other]:.0f} ms"
    return Ratio(f"step: {ours} / {other}", detail, milliseconds[ours] / milliseconds[other], target, False)


def bare_step(
    arch: str, batch: int, size: int, amp: str, layout: torch.memory_format, device: torch.device
) -> Callable[[], None]:
    """A step of the encoder's own network."""
    resnet = torchvision.models.get_model(ARCHITECTURES[arch], weights=None, num_classes=CLASSES)
    resnet = resnet.to(device, memory_format=layout)
    optimizer = torch.optim.SGD(resnet.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    labels = torch.arange(batch, device=device) % CLASSES

    def step() -> None:
        with autocast(device, amp):
            loss = F.cross_entropy(resnet(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _one_by_one(arch: str, batch: int, size: int, amp: str, device: torch.device) -> Callable[[], None]:
    """Each call is an epoch of one step."""
    epochs, train = itertools.count(), model_steps(arch, batch, size, amp, device, 1)
    return lambda: train(next(epochs))


def mean_loss(amp: str, steps: int, device: torch.device) -> float:
    """The mean loss of the first steps of a small model, which both precisions start from the same weights."""
    train = model_steps(SMALL["arch"], SMALL["batch"], SMALL["size"], amp, device, steps)
    position = train(0)
    return position.totals[0] / position.seen


def model_steps(
    arch: str, batch: int, size: int, amp: str, device: torch.device, steps: int
) -> Callable[[int], Position]:
    """Takes the steps of an epoch of a DGCMM, whose number it is given."""
    args = argparse.Namespace(
        **{"lr": 1e-3, "prior_lr": 1.0, "momentum": 0.9, "wd": 1e-4, "clip_grad": 0.0, "seed": 0, "amp": amp},
        **{"max_steps": None, "print_freq": 10**9, "save_every": 0, "quiet": True},
    )
    world = World()
    world.device = device
    torch.manual_seed(0)
    model = DGCMM(arch, CLASSES, DIM, size).to(device)
    optimizer = build_optimizer(model, args)
    data = images_in_memory(batch * steps, size, CLASSES)
    loader = BatchLoader(data, TrainBatches(len(data), batch, 0), 0, pin_memory=device.type == "cuda")

    def train(epoch: int) -> Position:
        place = (epoch, Position(), args, world)
        passes = forward_passes(model, loader, WEIGHTS, *place)
        list(take_steps(passes, loader.batches.sizes, model, optimizer, *place, model.prior.project))
        return place[1]

    return train
