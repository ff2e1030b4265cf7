"""What a run refuses at its start."""

from pathlib import Path

import pytest
import torch

import train
from helpers.runs import run_without_folder
from utils.cli.rules import parse
from utils.errors import UserError


def test_checkpoint_without_what_this_run_keeps_is_named():
    args, _ = parse(train.build_parser(), ["Digits_LT"])
    model = torch.nn.Linear(1, 1)
    run = run_without_folder(args, model, torch.optim.SGD(model.parameters()))
    with pytest.raises(UserError, match=r"old.pth was written by another version .*lacks warmup_end, prior_started\)"):
        run.restore({}, Path("old.pth"))
