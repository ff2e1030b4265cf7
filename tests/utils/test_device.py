"""Precisions and compilation: refused where the machine cannot, and without a trace in the checkpoint."""

import errno
import os
from pathlib import Path

import pytest
import torch

from utils import device
from utils.cli.types import AMP
from utils.device import (
    autocast,
    available_amp,
    check_device,
    choose_device,
    has_fast_bfloat16,
    machine,
    memory_watched,
    repeat_exactly,
    require_compiler,
    share_cores,
    usable_cores,
)
from utils.errors import UserError

CPU = torch.device("cpu")


def absent(path: Path) -> str:
    """Stand for `Path.read_text` where there is no such file."""
    raise FileNotFoundError(path)


def test_chosen_gpu_becomes_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device(1) == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 1)]


def test_command_line_offers_every_precision():
    assert tuple(device.PRECISIONS) == AMP


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
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match="--compile: there is no C compiler gcc or clang here"):
        require_compiler(torch.device("cuda"))
    monkeypatch.setattr(device.shutil, "which", lambda name: name if name == "clang" else None)
    require_compiler(torch.device("cuda"))


@pytest.mark.parametrize(
    ("flags", "fast"), [("fpu avx512_bf16", True), ("fpu amx_bf16", True), ("fp asimd bf16", True), ("fpu avx2", False)]
)
def test_bfloat16_without_instructions_for_it_is_warned_of(flags, fast, monkeypatch, caplog):
    monkeypatch.setattr(Path, "read_text", lambda path: f"model name\t: some CPU\nflags\t\t: {flags}\n")
    assert has_fast_bfloat16(CPU) == fast
    check_device(CPU, "bf16")
    assert ("--amp bf16: no bfloat16 instructions here" in caplog.text) == (not fast)
    check_device(CPU, "off")
    assert len(caplog.records) == (not fast)


def test_a_cpu_that_lists_no_instructions_is_not_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(Path, "read_text", absent)
    check_device(CPU, "bf16")
    assert not caplog.text


def test_exact_repetition_restricts_torch(monkeypatch):
    environ: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(False)
    repeat_exactly()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert environ == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


@pytest.mark.parametrize("gpu", [None, "some GPU"])
def test_machine_is_told_by_processor_instructions_threads_and_gpu(gpu, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\nmodel name\t: some CPU: 2 GHz\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpu))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9")
    assert machine() == {"processor": "some CPU: 2 GHz", "instructions": "AVX9", "threads": 3, "gpu": gpu}


def test_processor_is_told_by_the_system_where_there_is_no_list(monkeypatch):
    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(device.platform, "processor", lambda: "arm")
    assert machine()["processor"] == "arm"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["CUDA", "CPU", "cuDNN", "Python", "fork"],
)
def test_memory_that_is_used_up_is_one_line_that_names_the_batch_size(error):
    with pytest.raises(UserError) as raised, memory_watched("--resume=auto"):
        raise error
    line = str(raised.value)
    assert line.startswith("the memory is used up (")
    then = "--resume=auto goes on from the last checkpoint with it, if there is one"
    assert line.endswith(f"): give a smaller --batch-size; {then}")
    assert "\n" not in line
    with pytest.raises(UserError, match="smaller --batch-size$"), memory_watched():
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2"), OSError(errno.EIO, "I/O"), UserError("x"), KeyError()]
)
def test_other_faults_keep_their_traceback(error):
    with pytest.raises(type(error)) as raised, memory_watched("--resume=auto"):
        raise error
    assert raised.value is error


def test_system_that_does_not_tell_the_usable_cores_has_all(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert usable_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("processes", "environ", "cuda", "threads"),
    [
        (3, {}, False, [2]),
        (16, {}, False, [1]),
        (1, {}, False, []),
        (3, {"OMP_NUM_THREADS": "5"}, False, []),
        (3, {}, True, []),
    ],
    ids=["shared", "more processes than cores", "one process", "told", "GPU"],
)
def test_processes_of_a_cpu_share_its_cores_unless_they_are_told(processes, environ, cuda, threads, monkeypatch):
    found = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    share_cores(processes, environ)
    assert found == threads


def test_what_was_trained_in_float16_is_measured_in_float32_on_a_cpu(caplog):
    assert available_amp("fp16", CPU) == "off"
    assert "trained with --amp fp16, which needs CUDA: float32 is used" in caplog.text
    assert [available_amp("fp16", torch.device("cuda")), available_amp("bf16", CPU)] == ["fp16", "bf16"]


def test_gpu_without_bfloat16_is_told_of_float16(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    check_device(torch.device("cuda"), "bf16")
    assert caplog.messages == [
        "--amp bf16: this GPU (compute capability below 8.0) has no bfloat16 instructions: start a run with --amp fp16"
    ]
