"""Several jobs at once in threads, which end when the main thread is interrupted or one of them fails."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed


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


def run_jobs(tasks: Sequence[Callable[[], None]], threads: int, cancel: Cancel) -> None:
    """Run `tasks`, at most `threads` at a time.

    The first exception of a task, or one that a signal raises in this thread, cancels the others, and is raised when
    they have ended.

    Args:
        cancel: the tasks look at it often.
    """

    def run(task: Callable[[], None]) -> None:
        cancel.check()
        try:
            task()
        except BaseException:
            cancel()  # before this thread begins another task
            raise

    pool = ThreadPoolExecutor(threads)
    try:
        for job in as_completed([pool.submit(run, task) for task in tasks]):
            with contextlib.suppress(Cancelled):  # the exception that it was cancelled for is another job's
                job.result()
    except BaseException:
        cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
