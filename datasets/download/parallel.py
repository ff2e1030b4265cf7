"""Several jobs at once in threads, which end when the main thread is interrupted or one of them fails."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

TICK_S = 0.2


class Cancelled(Exception):
    """The job shall end; what it has on disk so far is good to go on from."""


class Cancel:
    """Tells jobs to end: they look at it often, and wait for nothing else for longer than some seconds."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> None:
        """Have `check` and `pause` raise from now on."""
        self._event.set()

    def check(self) -> None:
        """Raise `Cancelled` if the job shall end."""
        self.pause(0)

    def pause(self, seconds: float) -> None:
        """Sleep; raise `Cancelled` as soon as the job shall end."""
        if self._event.wait(seconds):
            raise Cancelled


def run_jobs(tasks: Sequence[Callable[[], None]], threads: int, cancel: Cancel, tick: Callable[[], None]) -> None:
    """Run `tasks`, at most `threads` at a time, and call `tick` a few times a second.

    The first exception of a task, or one that a signal raises in this thread, cancels the others, and is raised when
    they have ended.

    Args:
        cancel: the tasks look at it often.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        left = {pool.submit(task) for task in tasks}
        while left:
            done, left = wait(left, TICK_S, FIRST_COMPLETED)
            tick()
            for job in done:
                job.result()
    except BaseException:
        cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
