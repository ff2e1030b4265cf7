"""Where a run computes, and in which precision."""

import contextlib
import errno
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import UserError

log = logging.getLogger("dgcmm")

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")  # as torch says it
PRECISIONS = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(number: int | None = None) -> torch.device:
    """Return the GPU `number` (default: the first) if CUDA is there, else the CPU, with a warning if one was named.

    That GPU is then CUDA's current one, on which pinned memory and events come to be.

    Raises:
        UserError: CUDA is there but not that GPU.
    """
    if not torch.cuda.is_available():
        if number is not None:
            log.warning("--gpu %d: there is no CUDA here, the CPU computes", number)
        return torch.device("cpu")
    if (number or 0) >= torch.cuda.device_count():
        raise UserError(f"--gpu {number}: CUDA has {torch.cuda.device_count()} GPU(s) here, numbered from 0")
    device = torch.device("cuda", number or 0)
    torch.cuda.set_device(device)
    return device


def machine() -> dict[str, str | int | None]:
    """Say what this process computes on; where any of it differs, the same run may have other last digits.

    Returns:
        'processor', 'instructions' (the widest that torch uses: AVX2, AVX512, ...), 'threads', and 'gpu', CUDA's
        current one or None.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    instructions = torch.backends.cpu.get_cpu_capability()
    return {"processor": _processor(), "instructions": instructions, "threads": torch.get_num_threads(), "gpu": gpu}


def machine_of(device: torch.device) -> dict[str, str | int]:
    """Say the part of `machine` that the numbers of a run on a device depend on, and the version of torch."""
    names = ("gpu",) if device.type == "cuda" else ("processor", "instructions", "threads")
    found = machine()
    return {name: found[name] for name in names} | {"torch": str(torch.__version__)}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor()


def repeat_exactly() -> None:
    """Restrict torch to algorithms that give the same numbers in every run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def usable_cores() -> int:
    """Count the cores that this process may use; where the system does not tell (macOS), all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(local_size: int, environ: Mapping[str, str]) -> None:
    """On a CPU, split its cores among the processes of a node, unless OMP_NUM_THREADS says how many each has."""
    if local_size > 1 and "OMP_NUM_THREADS" not in environ and not torch.cuda.is_available():
        torch.set_num_threads(max(torch.get_num_threads() // local_size, 1))


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """Give the context of a forward pass under `--amp`: 'off' changes nothing, else products are of 16 bits."""
    return torch.autocast(device.type, dtype=PRECISIONS[amp], enabled=amp != "off")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether `device` has instructions for bfloat16; without them `--amp bf16` is many times slower than float32.

    A CPU that does not list its instructions in /proc/cpuinfo is taken to have them.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return True
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)  # the last one is Arm's


def available_amp(amp: str, device: torch.device) -> str:
    """Return the precision to measure a model with that was trained under `amp`: 'off' where `device` lacks it."""
    if amp == "fp16" and device.type != "cuda":
        log.warning("trained with --amp fp16, which needs CUDA: float32 is used, the last digits may differ")
        return "off"
    return amp


def check_device(device: torch.device, amp: str, sync_bn: bool = False) -> None:
    """Raise a `UserError` if `device` has not the precision of `--amp`, or no batch norm over all processes.

    Warns where it has the precision, but no instructions for it.
    """
    if amp == "bf16" and not has_fast_bfloat16(device):
        slow = (
            "this GPU (compute capability below 8.0) has no bfloat16 instructions: start a run with --amp fp16"
            if device.type == "cuda"
            else "no bfloat16 instructions here, it may take 8 times as long as float32: start a run with --amp=off"
        )
        log.warning("--amp bf16: %s", slow)
    if device.type == "cuda":
        return
    if amp == "fp16":
        raise UserError("--amp fp16 needs CUDA, also to continue what was trained with it")
    if sync_bn:
        raise UserError("--sync-bn needs CUDA, also to continue what was trained with it")


ROOM_FOR_MODEL = "a GPU that holds the model (--gpu), or none (CUDA_VISIBLE_DEVICES=)"


@contextlib.contextmanager
def memory_watched(continuation: str = "", remedy: str = "a smaller --batch-size") -> Iterator[None]:
    """Raise as a `UserError` that the memory of the GPU or of the machine is used up.

    Args:
        continuation: how to go on after that, if there is a checkpoint yet; '' if there is nothing to go on with.
        remedy: what to give.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = ". ".join(first.split(". ")[:2])  # what happened, and how much was asked for
        then = f"; {continuation} goes on from the last checkpoint with it, if there is one" if continuation else ""
        raise UserError(f"the memory is used up ({reason}): give {remedy}{then}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that the memory of the GPU or of the machine is used up."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return known or any(words in str(error).lower() for words in OUT_OF_MEMORY)


def require_compiler(device: torch.device) -> None:
    """Raise a `UserError` if there is no compiler for torch.compile: on a CPU of C++, on CUDA of C, for Triton."""
    if device.type == "cpu":
        language, compilers = "C++", [os.environ.get("CXX", "g++")]
    else:
        language, compilers = "C", [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        names = " or ".join(compilers)
        raise UserError(f"--compile: there is no {language} compiler {names} here: install one, or start without it")


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Bring uint8 images (B,C,S,S) to `device`, as torch's default type (float32) in [0,1]."""
    return images.to(device, non_blocking=True).to(torch.get_default_dtype()).div_(255)
