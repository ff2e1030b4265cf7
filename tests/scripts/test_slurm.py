"""The batch script for Slurm, with commands that stand for Slurm's, and the training that it starts."""

import os
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

import train
from helpers.project import ROOT
from helpers.stand_ins import stand_in
from utils.cli.rules import parse
from utils.distributed.plan import plan_launch


def run_job(tmp_path: Path, *words: str, status: int = 0) -> tuple[int, list[str]]:
    """Run the batch script on two nodes of four GPUs; return its status and the words that `srun` was given."""
    told = tmp_path / "told"
    stand_in(tmp_path / "srun", f'printf "%s\\n" "$@" >{told}; exit {status}')
    stand_in(tmp_path / "scontrol", f'echo "$@" >> {tmp_path}/asked; echo node0')
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-1]"}
    job |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    job |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", ROOT / "scripts" / "slurm.sbatch", *words], env=os.environ | job)
    return done.returncode, told.read_text().splitlines()


def parsed(words: list[str]) -> Namespace:
    """What train.py takes from them on the second node."""
    return parse(train.build_parser(), [*words[words.index("train") + 1 :], "--rank=1"])[0]


@pytest.mark.parametrize("own", [(), ("--resume=auto", "--lr=0.1"), ("--resume", "auto")])
@pytest.mark.parametrize(("status", "requeued"), [(138, True), (143, False), (2, False), (0, False)])
def test_job_is_queued_again_when_its_time_was_over_and_only_then(status, requeued, own, tmp_path):
    ended, words = run_job(tmp_path, "Digits_LT", *own, status=status)
    assert ended == status
    args = parsed(words)
    plan = plan_launch(args, {})
    assert (plan.size, plan.first_rank, plan.local_size, args.resume) == (8, 4, 4, "auto")
    assert "--cpus-per-task=32" in words
    assert ("requeue 7" in (tmp_path / "asked").read_text().splitlines()) == requeued


def test_job_takes_the_checkpoint_that_it_is_given_and_does_not_begin_there_again(tmp_path):
    ended, words = run_job(tmp_path, "Digits_LT", "--resume=./begun.pth", status=138)
    assert ended == 138
    assert parsed(words).resume == "./begun.pth"
    assert "requeue" not in (tmp_path / "asked").read_text()
