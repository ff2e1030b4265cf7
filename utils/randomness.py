"""Randomness without state: every draw is a function of (seed, what it is for, epoch, step or position).

Nothing has to be saved to resume a run, and neither the number of workers nor of processes changes a draw.
"""

import contextlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a draw is for. Streams of one seed are independent of each other; the numbers must never change."""

    ORDER = 1
    TRANSFORM = 2
    CODE_NOISE = 3
    SUBSET = 4
    HOLD_OUT = 5
    INITIALISATION = 6
    DUMMY_IMAGE = 7
    AUGMENTATION_PLAN = 8
    MIXUP = 9
    SAMPLES = 10
    CORRUPTION = 11


def derive_seed(seed: int, stream: Stream, *keys: int) -> int:
    """Derive a 63-bit seed by numpy's `SeedSequence`: equal keys give equal seeds, and (1,) is not (1, 0).

    A generator of torch on a CPU reads the lower 32 bits, so among many thousands some draws are the same.
    """
    low, high = np.random.SeedSequence(seed, spawn_key=(int(stream), *keys)).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)


def generator(seed: int, stream: Stream, *keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a torch generator for one draw, on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, stream, *keys))


def standard_normal(
    count: int, dim: int, seed: int, epoch: int, step: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw the noise of the codes of one training step on `device`, (count,dim)."""
    source = generator(seed, Stream.CODE_NOISE, epoch, step, device=device)
    return torch.randn(count, dim, generator=source, device=device)


def mixing_share(alpha: float, seed: int, epoch: int, step: int) -> float:
    """Draw the share of mixup of one training step, from Beta(alpha, alpha); the same in all processes."""
    return float(np.random.default_rng(derive_seed(seed, Stream.MIXUP, epoch, step)).beta(alpha, alpha))


def permutation(count: int, seed: int, stream: Stream, *keys: int) -> torch.Tensor:
    """Draw a random order of range(count): (count,) int64, on the CPU."""
    return torch.randperm(count, generator=generator(seed, stream, *keys))


@contextlib.contextmanager
def global_seed(seed: int, stream: Stream, *keys: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block and put it back after.

    For code that can draw from nowhere else: torchvision's transforms, the initialisation of layers.
    """
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(derive_seed(seed, stream, *keys))
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
