"""Draws for the steps of an epoch, made before they are needed.

torch draws on one thread of a CPU, and the numbers of a batch of codes take longer than the classifier's step on them.
Here threads of their own draw for the steps to come while the others compute, and the one that would wait for them
helps. What is drawn for a step is a function of (seed, epoch, step) alone, whoever draws it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

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
        make: is called once for each step, on a thread of its own that computes with no others, or by the caller when
            the threads do not keep up.
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
                making.append((step, pool.submit(make, step)))
                if len(making) > AHEAD * workers:
                    yield _oldest(making, make)
            while making:
                yield _oldest(making, make)
        finally:
            pool.shutdown(cancel_futures=True)


def _oldest(making: deque[tuple[int, Future]], make: Callable[[int], Tensor]) -> Tensor:
    """Take the oldest of the (step, result to come); until it is there, make what no thread has begun."""
    while not making[0][1].done():
        place = next((place for place, (_, result) in enumerate(making) if result.cancel()), None)
        if place is None:
            break
        step, made = making[place][0], Future()
        made.set_result(make(step))
        making[place] = (step, made)
    return making.popleft()[1].result()
