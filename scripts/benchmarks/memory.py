"""Memory that a call needs, measured in a process of its own. Linux only."""

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def peak_above(prepare: Callable[..., Callable[[], Any]], *args: Any) -> int:
    """Bytes of resident memory at the peak of a call, above what is resident when it begins.

    Args:
        prepare: a module-level function; `prepare(*args)` makes the inputs and whatever has to be warm, and returns the
            call that is measured. It runs in a new process, so that the call finds no memory that was freed before.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(sender, prepare, args))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        child.join()


def peak_of(call: Callable[..., Any], *args: Any) -> int:
    """Bytes of resident memory at the peak of `call(*args)`, above a new process after its imports.

    Args:
        call: a module-level function.
    """
    return peak_above(partial, call, *args)


def _report(sender: Any, prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    call = prepare(*args)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _status("VmRSS")
    call()
    sender.send(_status("VmHWM") - before)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes. getrusage's peak would be at least the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name + ":")).split()[1])
