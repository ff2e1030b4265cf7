"""Where a run computes, and in which precision."""

import argparse
import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

import torch
from torch import nn

from utils.distributed.launch import Launch
from utils.errors import UserError

log = logging.getLogger("dgcmm")

PRECISIONS = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(args: argparse.Namespace, number: int | None = None) -> torch.device:
    """Where this process computes: the GPU `number` or `--gpu` (default: the first) if CUDA is there, else the CPU.

    Warns if a GPU was asked for and there is none. With `--deterministic`, also restricts torch to algorithms that
    repeat exactly.

    Raises:
        UserError: CUDA is there but not that GPU.
    """
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    if not torch.cuda.is_available():
        if args.gpu is not None:
            log.warning("--gpu %d: there is no CUDA here, the CPU computes", args.gpu)
        return torch.device("cpu")
    number = args.gpu or 0 if number is None else number
    if number >= torch.cuda.device_count():
        raise UserError(f"--gpu {number}: CUDA has {torch.cuda.device_count()} GPU(s) here, numbered from 0")
    return torch.device("cuda", number)


def choose_gpus(launch: Launch, environ: Mapping[str, str]) -> list[int | None]:
    """The GPU of each process that this command is or starts; None for the CPU, where there is no CUDA.

    torchrun's processes take the GPU of their local rank. Else the first ones of CUDA_VISIBLE_DEVICES if that is set,
    else those with the most free memory, which are named.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    number = launch.local_size if launch.spawns else 1
    if not torch.cuda.is_available():
        if launch.backend == "nccl":
            log.warning("--dist-backend nccl: there is no CUDA here, %d processes on the CPU use gloo", launch.size)
        return [None] * number
    have = torch.cuda.device_count()
    if launch.local_size > have:
        raise UserError(
            f"{launch.local_size} processes on this node, but CUDA has {have} GPU(s) here: lower --ngpus, or show more "
            "of them in CUDA_VISIBLE_DEVICES"
        )
    if not launch.spawns:
        return [launch.local_rank]
    if "CUDA_VISIBLE_DEVICES" in environ or number == have:
        return list(range(number))
    free = free_memory()
    chosen = sorted(sorted(range(have), key=lambda gpu: -free[gpu])[:number])
    named = ", ".join(f"{gpu} ({free[gpu] / 2**30:.0f} GiB free)" for gpu in chosen)
    log.info("GPUs with the most free memory: %s", named)
    return chosen


def free_memory() -> list[int]:
    """Free bytes of each GPU; asked for by a process of its own, which leaves nothing on them."""
    code = "import torch; print(*(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def share_cores(local_size: int, environ: Mapping[str, str]) -> None:
    """On a CPU, split its cores among the processes of a node, unless OMP_NUM_THREADS says how many each has."""
    if local_size > 1 and "OMP_NUM_THREADS" not in environ and not torch.cuda.is_available():
        torch.set_num_threads(max(torch.get_num_threads() // local_size, 1))


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The context of the forward pass for `--amp`: 'off' is plain float32, else convolutions use 16 bits."""
    return torch.autocast(device.type, dtype=PRECISIONS[amp], enabled=amp != "off")


def check_device(device: torch.device, amp: str, sync_bn: bool = False) -> None:
    """Raise a `UserError` if `device` has not the precision of `--amp`, or no batch norm over all processes."""
    if device.type == "cuda":
        return
    if amp == "fp16":
        raise UserError("--amp fp16 needs CUDA: give --amp bf16, which the CPU has too")
    if sync_bn:
        raise UserError("--sync-bn needs CUDA, the CPU has no such batch norm: leave it out")


def compile_networks(model: nn.Module) -> None:
    """Have encoder and decoder compiled by torch.compile at their first use, in place: the names of weights stay.

    Raises:
        UserError: there is no C++ compiler, which torch.compile needs on a CPU.
    """
    compiler = os.environ.get("CXX", "g++")
    if next(model.parameters()).device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"--compile: there is no C++ compiler {compiler} here: install one, or leave --compile out")
    model.encoder.resnet.compile()
    model.decoder.compile()
