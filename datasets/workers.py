"""The processes that load images for another one: how they start, live and end, and what an untimely end means."""

import contextlib
import errno
import multiprocessing
import signal
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext, ForkContext

import torch.multiprocessing
from torch import Tensor
from torch.utils.data import default_collate

from utils import stopping


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Without torch's advice on the number of workers, which runs over several lines at each start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


class Flag:
    """An event without a lock: a worker that is killed while it looks cannot leave it locked.

    The one that multiprocessing brings is locked by whoever asks for it. Workers ask after each batch, and the process
    that finds one of them dead asks too: it would wait for ever, and so would its other workers.
    """

    def __init__(self, context: BaseContext) -> None:
        self._raised = context.RawValue("b", 0)

    def set(self) -> None:
        """Raise it, in all processes."""
        self._raised.value = 1

    def is_set(self) -> bool:
        """Tell whether it is raised."""
        return bool(self._raised.value)


class LoadingContext(ForkContext):
    """How workers start: by a fork, which is there at once and shares the parent's memory.

    Left to itself, a process that was spawned spawns its workers too, and each imports torch and takes a data set of
    its own; so does every process in newer versions of Python.
    """

    def Event(self) -> Flag:
        """Make the event by which torch's DataLoader ends its workers."""
        return Flag(self)


def collate_shared(items: Sequence) -> Sequence:
    """Make a batch in a worker, all of it in shared memory: where there is too little, that is an error of the worker.

    The thread that hands batches over would share what is not yet, and drop the batch without a word if it cannot.
    """
    batch = default_collate(items)
    for part in batch:
        if isinstance(part, Tensor):
            part.share_memory_()
    return batch


def live_with_the_parent(worker: int) -> None:
    """Workers end with their parent, at once; a signal to the whole group must not end them first."""
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    for signum in stopping.SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def kill_workers() -> None:
    """Kill the workers, at exit or after an interruption: a process waits without end for those that still run.

    A polite SIGTERM is lost on them.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def why_lost(error: Exception, exit_codes: Sequence[int | None]) -> str | None:
    """Say what ended the work of loading processes and what helps, or None where that is a fault of the program.

    Args:
        error: what the process that waits for them met.
        exit_codes: of the loading processes; None for one that lives.
    """
    text, number = str(error), getattr(error, "errno", None)
    signals = [-code for code in exit_codes if code]
    if signal.SIGBUS in signals or "shared memory" in text or number == errno.ENOSPC:
        return "the shared memory (/dev/shm) is too small for them; give it more (docker: --shm-size=8g)"
    pinning = "Pin memory thread" in text and not signals  # it receives the workers' files, and dies of too many
    if "Too many open files" in text or number == errno.EMFILE or pinning:
        return "too many files are open; allow more (ulimit -n 65536)"
    if signals and signal.SIGKILL not in signals:
        return f"one ended with status {-signals[0]}; see what it said"
    if signals or (isinstance(error, ConnectionError) and number) or (isinstance(error, EOFError) and not text):
        return "one was killed, perhaps for want of memory; see to more memory"  # the last two: met before its end
    return f"they cannot be started ({error.strerror}); see to more memory" if number else None
