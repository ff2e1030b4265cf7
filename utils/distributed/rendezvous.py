"""The store where the processes of a run meet: who opens it, and how the others get there."""

import datetime
import socket
import time
from urllib.parse import urlsplit

import torch.distributed as dist

from utils.distributed.plan import Launch
from utils.errors import UserError

POLL_S = 0.05


def host_store(launch: Launch) -> dist.TCPStore | None:
    """Open the store where the processes meet, if this command starts rank 0.

    Raises:
        UserError: its address cannot be had.
    """
    if launch.first_rank != 0:
        return None
    host, port = _address(launch.url) if launch.url else ("127.0.0.1", 0)
    return _open(host, port, True, datetime.timedelta(seconds=launch.timeout))


def reach_store(launch: Launch, rank: int, port: int | None, timeout: datetime.timedelta) -> dist.Store:
    """Reach the store from the process `rank`, which opens it if it is rank 0 and nobody has.

    Args:
        port: of the store that `host_store` opened beside this process.

    Raises:
        UserError: its address cannot be had, or nobody answers there in time.
    """
    if launch.url == "env://":
        # torchrun's own store, with its rules of who hosts it
        return next(dist.rendezvous("env://", rank, launch.size, timeout=timeout))[0]
    if port is not None:
        return _open("127.0.0.1", port, False, timeout)
    host, number = _address(launch.url)
    return _open(host, number, rank == 0 and not launch.spawns, timeout)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port


def _open(host: str, port: int, hosting: bool, timeout: datetime.timedelta) -> dist.TCPStore:
    where = f"--dist-url tcp://{host}:{port}"
    try:  # a store that hosts itself would look for the host until its time is over
        socket.getaddrinfo(host, port)
    except socket.gaierror as error:
        raise UserError(f"{where}: there is no host {host} ({error.strerror}): mend the address") from error
    if not hosting:
        _wait_for_listener(host, port, timeout.total_seconds())
    try:
        return dist.TCPStore(host, port, is_master=hosting, timeout=timeout, wait_for_workers=False)
    except (dist.DistNetworkError, dist.DistStoreError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where} cannot be used ({reason}): give another port, or mend the address") from error


def _wait_for_listener(host: str, port: int, timeout: float) -> None:
    """Until somebody listens there; torch's own wait reports each attempt with a stack of C++ frames."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(end - time.monotonic(), POLL_S)).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"--dist-url tcp://{host}:{port}: node 0 did not come within {timeout:.0f} s "
                    f"({error.strerror or error}): start it, mend the address, or give more --dist-timeout"
                ) from error
            time.sleep(POLL_S)
