"""How long a library that takes no timeout may wait for a server."""

import contextlib
import socket
from collections.abc import Iterator

DOWNLOAD_TIMEOUT_S = 20


@contextlib.contextmanager
def download_timeout() -> Iterator[None]:
    """Give up a connection after `DOWNLOAD_TIMEOUT_S` seconds without a byte, with a `TimeoutError`.

    It holds for all new sockets of this process until the block ends, or the function that this decorates.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
