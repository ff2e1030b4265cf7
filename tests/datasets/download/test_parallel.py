"""Jobs in threads: all run, a few at a time, and all end with the first failure or an interruption."""

import os
import signal
import threading

import pytest

from datasets.download.parallel import Cancel, Cancelled, run_jobs
from utils.errors import UserError


def test_jobs_run_all_tasks():
    done = []
    run_jobs([lambda number=number: done.append(number) for number in range(7)], 3, Cancel())
    assert sorted(done) == list(range(7))


@pytest.mark.parametrize("interrupt", [True, False], ids=["interruption", "failure"])
def test_first_failure_or_an_interruption_ends_all_jobs(interrupt):
    cancel, begun, ended = Cancel(), threading.Barrier(3), threading.Semaphore(0)

    def wait() -> None:
        begun.wait(60)
        try:
            cancel.pause(60)
        finally:
            ended.release()

    def fail() -> None:
        begun.wait(60)
        raise UserError("no")

    def press_ctrl_c() -> None:
        begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt if interrupt else UserError):
        run_jobs([wait, wait, press_ctrl_c if interrupt else fail, wait], 3, cancel)
    assert all(ended.acquire(timeout=10) for _ in range(2))
    with pytest.raises(Cancelled):
        cancel.check()


def test_no_more_jobs_at_a_time_than_asked_for():
    together = threading.Barrier(3)
    with pytest.raises(threading.BrokenBarrierError):
        run_jobs([lambda: together.wait(0.2)] * 3, 2, Cancel())
    together.reset()
    run_jobs([lambda: together.wait(60)] * 3, 3, Cancel())


def test_tasks_after_a_failure_are_not_begun():
    begun = []

    def fail() -> None:
        raise UserError("no")

    with pytest.raises(UserError):
        run_jobs([fail, *[lambda: begun.append(1)] * 1000], 1, Cancel())
    assert not begun
