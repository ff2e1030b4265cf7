"""Standard normal numbers for the steps of an epoch, drawn on the CPU before they are needed.

torch draws on one thread, and the numbers of a batch of codes take longer than the classifier's step on them. Here
threads of their own draw for the steps to come while the others compute. What is drawn for a step is a function of
(seed, epoch, step) alone, whatever the number of threads.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from utils.randomness import Stream, generator

AHEAD = 4  # steps that each thread draws in advance


def draw(count: int, dim: int, seed: int, epoch: int, step: int, device: torch.device | str = "cpu") -> Tensor:
    """The numbers of one step, (count,dim), on `device`."""
    source = generator(seed, Stream.CODE_NOISE, epoch, step, device=device)
    return torch.randn(count, dim, generator=source, device=device)


def draw_ahead(sizes: Sequence[int], dim: int, seed: int, epoch: int, first: int, workers: int) -> Iterator[Tensor]:
    """The numbers of each step of an epoch from step `first` on, as `draw` gives them, on the CPU.

    Args:
        sizes: codes of every step of the epoch.
        dim: length D of a code.
        workers: threads that draw; with 0 each step's numbers are drawn when they are asked for.
    """
    steps = iter(range(first, len(sizes)))
    if workers == 0:
        yield from (draw(sizes[step], dim, seed, epoch, step) for step in steps)
        return
    with ThreadPoolExecutor(workers) as pool:
        drawing = deque()
        try:
            for step in steps:
                drawing.append(pool.submit(draw, sizes[step], dim, seed, epoch, step))
                if len(drawing) > AHEAD * workers:
                    yield drawing.popleft().result()
            while drawing:
                yield drawing.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
