"""Where a run computes, and in which precision."""

import argparse
import contextlib
import logging
import os

import torch

from utils.errors import UserError

log = logging.getLogger("dgcmm")


def choose_device(args: argparse.Namespace) -> torch.device:
    """The GPU `--gpu` (default: the first) if CUDA is there, else the CPU, with a warning if a GPU was asked for.

    With `--deterministic`, also restrict torch to algorithms that repeat exactly.

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
    number = args.gpu or 0
    if number >= torch.cuda.device_count():
        raise UserError(f"--gpu {number}: CUDA has {torch.cuda.device_count()} GPU(s) here, numbered from 0")
    return torch.device("cuda", number)


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The context of the forward pass for `--amp`: 'off' is plain float32, 'bf16' lets convolutions use bfloat16."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16")
