"""The signals that mean "stop": how a process learns that it shall stop, and when it does.

They are SIGTERM, Ctrl-C, SIGHUP (a terminal that is closed) and SIGUSR1 (a scheduler before the time is over). Signal
handlers belong to a process as a whole, and so does the one object here. Outside of `held()` a signal raises `Stopped`
in the main thread at once; inside, where there is something to save first, it is remembered, and the code asks
`received()` at the places where it can stop. A second SIGTERM or Ctrl-C ends the process at once.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

URGENT = (signal.SIGTERM, signal.SIGINT)  # the others come twice by themselves, or beside one of these
SIGNALS = (*URGENT, signal.SIGHUP, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal ends the work; what had to be saved is saved. No fault, so not an `Exception`.

    Args:
        signum: the signal.
        note: what the user should know, for the last line.
    """

    def __init__(self, signum: int, note: str = "") -> None:
        super().__init__(signum, note)
        self.signum, self.note = signum, note

    @property
    def status(self) -> int:
        """Exit status, 128 and the number of the signal: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP."""
        return 128 + self.signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}" + (f": {self.note}" if self.note else "")


class _StopSignals:
    """The state behind the functions of this module."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.urged = False
        self.holds = 0
        self.repeat_kills = True

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if signum in URGENT:
            if self.urged and self.repeat_kills:
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(128 + signum)
            self.urged = True
        if self.signum is not None:
            return
        self.signum = signum
        if not self.holds:
            raise Stopped(signum)


_signals = _StopSignals()


@contextlib.contextmanager
def handled(repeat_kills: bool = True) -> Iterator[None]:
    """Handle `SIGNALS` inside the block as this module says, and as before after it.

    A SIGHUP that is ignored at the start, as under nohup, stays ignored.

    Args:
        repeat_kills: a second SIGTERM or Ctrl-C ends the process at once. Not so in a rank that its launcher looks
            after: one that is signalled with its whole group gets each signal twice.
    """
    handled_here = [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, _signals.handle) for signum in handled_here}
    _signals.signum, _signals.urged, _signals.holds, _signals.repeat_kills = None, False, 0, repeat_kills
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _signals.signum, _signals.urged = None, False


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Remember a signal instead of raising `Stopped`; the block asks `received()` where it can stop.

    One that came too late for that is forgotten where the outermost such block ends well, and the next one counts.
    """
    _signals.holds += 1
    try:
        yield
        if _signals.holds == 1:
            _signals.signum, _signals.urged = None, False
    finally:
        _signals.holds -= 1


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Hold signals back inside the block, and in the processes that it starts until they call `unblock`."""
    resource_tracker.ensure_running()  # it lets some of them through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """Let signals through that `blocked` holds back; one that has come meanwhile is handled now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def received() -> int:
    """Return the signal that has come, 0 for none."""
    return _signals.signum or 0
