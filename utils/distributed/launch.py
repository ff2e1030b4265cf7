"""Run the work of a script as its plan says: here, in processes that are started here, or as one of others'."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import torch

from utils.device import choose_device
from utils.distributed.plan import Launch
from utils.distributed.spawn import run_member, spawn
from utils.distributed.world import World
from utils.errors import UserError

log = logging.getLogger("dgcmm")

ASK_FREE_MEMORY = """
import torch
for gpu in range(torch.cuda.device_count()):
    try:
        print(torch.cuda.mem_get_info(gpu)[0])
    except RuntimeError:  # full, or another process's alone
        print(0)
"""


def launch(plan: Launch, gpu: int | None, work: Callable[..., None], *arguments: object) -> None:
    """Call `work(world, *arguments)` in each process that this command is or starts, and stay until all have ended.

    Args:
        plan: what flags and environment ask for.
        gpu: number of the GPU of a run of one process; default: the first.
        work: all that one process does; picklable.

    Raises:
        UserError: a GPU that is asked for is not there, or `work` raised one in any process.
        LostRank, Stopped: as in `spawn`.
    """
    said = os.environ.get("WORLD_SIZE") or "1"
    if said not in ("1", str(plan.size), str(plan.nodes)):
        log.warning(
            "the environment speaks of %s processes (WORLD_SIZE), the flags of %d: the flags count", said, plan.size
        )
    if plan.size == 1:
        work(World(choose_device(gpu)), *arguments)
        return
    gpus = choose_gpus(plan, os.environ)
    if plan.spawns:
        spawn(work, plan, gpus, *arguments)
    else:
        run_member(plan, gpus[0], work, *arguments)


def choose_gpus(plan: Launch, environ: Mapping[str, str]) -> list[int | None]:
    """Choose the GPU of each process that this command is or starts; None for the CPU, where there is no CUDA.

    torchrun's processes take the GPU of their local rank. Else the first ones of CUDA_VISIBLE_DEVICES if that is set,
    else those with the most free memory, which are named.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    number = plan.local_size if plan.spawns else 1
    if not torch.cuda.is_available():
        if plan.backend == "nccl":
            log.warning("--dist-backend nccl: there is no CUDA here, %d processes on the CPU use gloo", plan.size)
        return [None] * number
    have = torch.cuda.device_count()
    needed = max(plan.local_size, plan.local_rank + 1)  # some launchers tell the local rank alone
    own = not plan.spawns and have == 1 and "CUDA_VISIBLE_DEVICES" in environ and "TORCHELASTIC_RUN_ID" not in environ
    if own:  # srun's --gpus-per-task and such show each process a GPU of its own; torchrun does not
        return [0]
    if needed > have:
        raise UserError(
            f"{needed} processes on this node, but CUDA has {have} GPU(s) here: lower --ngpus, or show more "
            "of them in CUDA_VISIBLE_DEVICES"
        )
    if not plan.spawns:
        return [plan.local_rank]
    if "CUDA_VISIBLE_DEVICES" in environ or number == have:
        return list(range(number))
    free = free_memory()
    chosen = sorted(sorted(range(have), key=lambda gpu: -free[gpu])[:number])
    named = ", ".join(f"{gpu} ({free[gpu] / 2**30:.0f} GiB free)" for gpu in chosen)
    log.info("GPUs with the most free memory: %s", named)
    return chosen


def free_memory() -> list[int]:
    """Return the free bytes of each GPU, 0 of one that cannot be used."""
    # in a process of its own, as to ask takes some of the memory until the process ends
    done = subprocess.run([sys.executable, "-c", ASK_FREE_MEMORY], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]
