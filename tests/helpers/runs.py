"""A run whose loops are tested, which has no folder, so nothing is saved; and the age of what others have left."""

import argparse
from pathlib import Path

from torch import nn
from torch.optim import SGD, Optimizer

import train
from utils.cli.rules import parse
from utils.distributed.world import World
from utils.training.run import Run


def run_without_folder(
    args: argparse.Namespace, model: nn.Module, optimizer: Optimizer, world: World | None = None, kind: str = "train"
) -> Run:
    """Make a run that can take steps, at the start of its first epoch."""
    state = {"warmup_end": 0, "prior_started": False}
    return Run(kind, args, model, optimizer, None, "test", {}, world or World(), state=state)


def some_run() -> Run:
    """Make a run of the default flags that trains one weight and one bias."""
    args, _ = parse(train.build_parser(), ["Digits_LT"])
    model = nn.Linear(1, 1)
    return run_without_folder(args, model, SGD(model.parameters()))


def make_older(folder: Path) -> None:
    """Let TensorBoard's files in a folder be of an earlier second than the next ones: it reads them in this order."""
    for path in folder.glob("events.*"):
        path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0")))
