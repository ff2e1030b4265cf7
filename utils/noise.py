"""Draws for the steps of an epoch, made before they are needed.

torch draws on one thread of a CPU, and the numbers of a batch of codes take longer than the classifier's step on them.
Here threads of their own draw for the steps to come while the others compute. What is drawn for a step is a function
of (seed, epoch, step) alone, whatever the number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from utils.randomness import Stream, generator

AHEAD = 4  # steps that each thread draws in advance


def draw(count: int, dim: int, seed: int, epoch: int, step: int, device: torch.device | str = "cpu") -> Tensor:
    """The standard normal numbers of one step, (count,dim), on `device`."""
    source = generator(seed, Stream.CODE_NOISE, epoch, step, device=device)
    return torch.randn(count, dim, generator=source, device=device)


def ahead(make: Callable[[int], Tensor], steps: Iterable[int], workers: int) -> Iterator[Tensor]:
    """`make(step)` of each step in turn.

    Args:
        make: is called once for each step, on a thread of its own that computes with no others.
        steps: their numbers.
        workers: such threads; with 0 each call is made when its result is asked for.
    """
    if workers == 0:
        yield from map(make, steps)
        return
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        making = deque()
        try:
            for step in steps:
                making.append(pool.submit(make, step))
                if len(making) > AHEAD * workers:
                    yield making.popleft().result()
            while making:
                yield making.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
