"""A run whose loops are tested; it has no folder, so nothing is saved."""

import argparse

from torch import nn
from torch.optim import Optimizer

from utils.distributed.world import World
from utils.training.run import Run


def run_without_folder(
    args: argparse.Namespace, model: nn.Module, optimizer: Optimizer, world: World | None = None, kind: str = "train"
) -> Run:
    """Make a run that can take steps, at the start of its first epoch."""
    state = {"warmup_end": 0, "prior_started": False}
    return Run(kind, args, model, optimizer, None, "test", {}, world or World(), state=state)
