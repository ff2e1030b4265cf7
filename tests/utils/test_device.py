"""Precisions and compilation: refused where the machine cannot, and without a trace in the checkpoint."""

import pytest
import torch

from utils import device
from utils.device import autocast, check_device, require_compiler
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_gives_the_precision(amp, dtype):
    with autocast(CPU, amp):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_float16_needs_cuda():
    with pytest.raises(UserError, match="--amp fp16 needs CUDA"):
        check_device(CPU, "fp16")
    check_device(torch.device("cuda"), "fp16")
    check_device(CPU, "bf16")


def test_compilation_without_a_compiler_is_named(monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="--compile: there is no C\\+\\+ compiler"):
        require_compiler(CPU)
