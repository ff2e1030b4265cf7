"""A checkpoint found for a command is that of its run, or the user hears what differs."""

import shutil

import pytest

import train
from utils.cli.rules import parse
from utils.errors import UserError
from utils.training.folder import RunFolder
from utils.training.resume import find_checkpoint


@pytest.mark.parametrize(("nodes", "batch_size"), [(1, 64), (2, 32), (64, 1)])
def test_batch_of_a_node_follows_from_the_number_of_nodes(nodes, batch_size, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}"])
    assert find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes)["epoch"] == 2
    assert args.batch_size == batch_size


def test_steps_that_nodes_cannot_share_are_named(tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}"])
    with pytest.raises(UserError, match="64 images a step, which 3 nodes cannot share"):
        find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes=3)
