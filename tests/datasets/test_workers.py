"""What an untimely end of the loading processes means for the user."""

import errno
import signal
import threading
import time

import pytest

from datasets.workers import LoadingContext, why_lost

DIED = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")


@pytest.mark.parametrize(
    ("error", "exit_codes", "said"),
    [
        (DIED, [None, -signal.SIGKILL], "killed, perhaps for want of memory"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), [-signal.SIGKILL], "killed, perhaps for want of memory"),
        (
            ConnectionResetError(errno.ECONNRESET, "reset"),
            [None],
            "killed, perhaps for want of memory",
        ),  # noticed early
        (EOFError(), [None], "killed, perhaps for want of memory"),
        (EOFError("Caught EOFError in DataLoader worker process 0."), [None], None),  # of a file that it reads
        (ConnectionResetError("Caught ConnectionResetError in DataLoader worker process 0."), [None], None),
        (DIED, [None, -signal.SIGBUS], "shared memory"),
        (OSError(errno.ENOSPC, "No space left on device"), [], "shared memory"),  # at the start, for its queues
        (RuntimeError("Too many open files. Communication ..."), [None], "ulimit -n"),
        (OSError(errno.EMFILE, "Too many open files"), [], "ulimit -n"),
        (RuntimeError("Pin memory thread exited unexpectedly"), [None], "ulimit -n"),
        (RuntimeError("Pin memory thread exited unexpectedly"), [-signal.SIGKILL], "killed, perhaps"),
        (DIED, [-signal.SIGSEGV], "status -11"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), [], "cannot be started (Cannot allocate memory)"),
        (RuntimeError("a fault of the program"), [None, 0], None),
    ],
)
def test_reason_names_what_helps(error, exit_codes, said):
    reason = why_lost(error, exit_codes)
    assert (said in reason) if said else reason is None


def look_without_end(flag) -> None:
    while True:
        flag.is_set()


def test_workers_killed_while_they_look_whether_to_end_leave_no_lock():
    context = LoadingContext()
    flag = context.Event()
    for _ in range(20):
        worker = context.Process(target=look_without_end, args=(flag,), daemon=True)
        worker.start()
        time.sleep(0.01)
        worker.kill()
        worker.join()
    asks = threading.Thread(target=flag.set, daemon=True)
    asks.start()
    asks.join(timeout=10)
    assert not asks.is_alive()
    assert flag.is_set()
