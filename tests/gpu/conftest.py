"""Tests that need a GPU. They are skipped, and no GPU is seen, unless the environment variable GPU_TESTS is set.

GPU_TESTS=cuda python -m pytest tests/gpu     runs them on the first GPU, and no other test
GPU_TESTS=cpu python -m pytest tests/gpu      tries on the CPU what of them can run there
"""

import os
from pathlib import Path

import pytest
import torch

WANTED = os.environ.get("GPU_TESTS", "")
if WANTED == "cuda":  # a process that has computed before can no longer choose to repeat exactly
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say why these tests are skipped, or run them alone: the others assume that there is no GPU."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = ""
    if not WANTED:
        reason = "needs a GPU: GPU_TESTS=cuda runs it"
    elif WANTED == "cuda" and not torch.cuda.is_available():
        reason = "GPU_TESTS=cuda, but CUDA has no GPU here"
    for item in ours if reason else ():
        item.add_marker(pytest.mark.skip(reason))
    if WANTED:
        config.hook.pytest_deselected(items=[item for item in items if item not in ours])
        items[:] = ours


@pytest.fixture
def device() -> torch.device:
    """Where a test computes: the GPU, or the CPU where its logic is tried."""
    return torch.device("cuda", 0) if WANTED == "cuda" else torch.device("cpu")


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The GPU, for what the CPU has not."""
    if device.type != "cuda":
        pytest.skip("needs CUDA itself")
    return device


@pytest.fixture
def full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32 proper, not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
