"""Memory, measured in a process of its own."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def peak_of(call: Callable[..., Any], *arguments: Any) -> int:
    """Bytes of resident memory that `call(*arguments)` needed at its peak, above the process after its imports.

    The figures are Linux's VmHWM and VmRSS, of a new process; getrusage's would begin with those of this one.

    Args:
        call: picklable, a function of a module; the module's imports are done before.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, call, arguments).result()


def _measured(call: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    call(*arguments)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    text = Path(f"/proc/{os.getpid()}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) * 1024
