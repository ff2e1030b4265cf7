"""Waiting for processes that are at work for nobody knows how long: they give signs of life by a store."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping

import torch.distributed as dist

from utils.distributed.rendezvous import POLL_S
from utils.errors import LostRank

log = logging.getLogger("dgcmm")

HEARTBEAT_S = 5.0  # between two signs of life, or a quarter of --dist-timeout


@contextlib.contextmanager
def signs_of_life(store: dist.Store, rank: int, timeout: float) -> Iterator[None]:
    """Let the others see, from a thread, that this process is there while it is at work in the block.

    If the store is gone, so is the run, and the process gets a SIGTERM.

    Args:
        rank: of this process.
        timeout: seconds after which the others give it up.
    """
    ended = threading.Event()

    def count() -> None:
        try:
            while not ended.wait(min(HEARTBEAT_S, timeout / 4)):
                store.add(_signs_of(rank), 1)
        except RuntimeError:
            if not ended.is_set():
                log.warning("the process that all meet at is gone, and so this one ends")
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def words_of(store: dist.Store, keys: Mapping[int, str], timeout: float) -> dict[int, str]:
    """Wait until every process has left its word, or one of them a word that is not empty: an error.

    Args:
        keys: of the words in the store, by the ranks of the processes, which give `signs_of_life`.
        timeout: seconds without such a sign after which a process is given up.

    Returns:
        The words that are there, by rank.

    Raises:
        LostRank: a process has failed, or been given up.
    """
    words: dict[int, str] = {}
    signs: dict[int, int] = {}
    heard: dict[int, float] = {}
    while True:
        for rank in keys.keys() - words.keys():
            if store.check([keys[rank]]):
                words[rank] = store.get(keys[rank]).decode()
            elif failure := failure_of(store, rank):
                raise LostRank(failure)
        if any(words.values()) or len(words) == len(keys):
            return words
        for rank in keys:
            sign = store.add(_signs_of(rank), 0)
            if sign != signs.get(rank):
                signs[rank], heard[rank] = sign, time.monotonic()
            elif time.monotonic() - heard[rank] > timeout:
                raise LostRank(f"rank {rank}, the first of a node, has given no sign of life for {timeout} s")
        time.sleep(POLL_S)


def failure_of(store: dist.Store, rank: int) -> str:
    """Say that a process has failed and why, as it has left word in the store; '' if it has not."""
    key = failed(rank)
    return f"rank {rank} failed: {store.get(key).decode()}" if store.check([key]) else ""


def failed(rank: int) -> str:
    """Name the key of that word."""
    return f"failed/{rank}"


def _signs_of(rank: int) -> str:
    return f"signs of life/{rank}"
