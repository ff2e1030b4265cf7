"""What a run refuses at its start, and what it says at its end."""

import os
from pathlib import Path

import pytest
import torch

import train
from helpers.runs import run_without_folder
from utils.cli.rules import parse
from utils.errors import UserError
from utils.training.run import print_result


def test_result_that_nobody_reads_is_no_fault(monkeypatch, caplog):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as unread:
        monkeypatch.setattr("sys.stdout", unread)
        print_result({"acc": 0.5})
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    assert caplog.messages == ["standard output takes no more (Broken pipe); the result is in the run folder"]


def test_checkpoint_without_what_this_run_keeps_is_named():
    args, _ = parse(train.build_parser(), ["Digits_LT"])
    model = torch.nn.Linear(1, 1)
    run = run_without_folder(args, model, torch.optim.SGD(model.parameters()))
    with pytest.raises(UserError, match=r"old.pth was written by another version .*lacks warmup_end, prior_started\)"):
        run.restore({}, Path("old.pth"))
