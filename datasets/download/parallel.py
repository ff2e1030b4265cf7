"""Several jobs at once in threads, which end when the main thread is interrupted or one of them fails."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

TICK_S = 0.2
LONGEST_END_S = 2.0  # how long threads are waited for; as daemons they do not outlive the process


class Cancelled(Exception):
    """The job shall end; what it has on disk so far is good to go on from."""


class Cancel:
    """Tells jobs to end, also those that wait for a server or sleep."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._responses: set[Any] = set()

    def __call__(self) -> None:
        """From now on `check` and `pause` raise, and what is read from watched connections ends."""
        self._event.set()
        with self._lock:
            for response in self._responses:
                _shut(response)

    def check(self) -> None:
        """Raise `Cancelled` if the job shall end."""
        if self._event.is_set():
            raise Cancelled

    def pause(self, seconds: float) -> None:
        """Sleep; raises `Cancelled` as soon as the job shall end."""
        if self._event.wait(seconds):
            raise Cancelled

    @contextlib.contextmanager
    def watching(self, response: Any) -> Iterator[None]:
        """While the block runs, the end of all jobs also ends the connection of an HTTP response."""
        with self._lock:
            self._responses.add(response)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._responses.discard(response)


def _shut(response: Any) -> None:
    """End a connection from another thread: whoever waits for its bytes sees their end.

    A response that is read to its end has no connection any more (AttributeError).
    """
    with contextlib.suppress(AttributeError, OSError, ValueError), socket.socket(fileno=response.fileno()) as same:
        try:
            same.shutdown(socket.SHUT_RDWR)
        finally:
            same.detach()  # the descriptor belongs to the response


def run_jobs(tasks: Sequence[Callable[[], None]], threads: int, cancel: Cancel, tick: Callable[[], None]) -> None:
    """Run `tasks`, at most `threads` at a time, and call `tick` a few times a second.

    The first exception of a task, or one that a signal raises in this thread, cancels the others and is raised when
    they have ended, or after 2 s.

    Args:
        cancel: the tasks look at it often.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    ended: queue.SimpleQueue = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                task = waiting.get_nowait()
                try:
                    cancel.check()
                    task()
                    ended.put(None)
                except BaseException as error:  # raised in the main thread
                    ended.put(error)
                    return

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(tasks)))]
    try:
        for worker in workers:
            worker.start()
        _wait(ended, len(tasks), tick)
    except BaseException:
        cancel()
        raise
    finally:
        until = time.monotonic() + LONGEST_END_S
        for worker in workers:
            if worker.ident:
                worker.join(max(until - time.monotonic(), 0))


def _wait(ended: queue.SimpleQueue, count: int, tick: Callable[[], None]) -> None:
    while count:
        try:
            error = ended.get(timeout=TICK_S)
        except queue.Empty:
            tick()
            continue
        if error is not None:
            raise error
        count -= 1
        tick()
