"""The store where the processes of a run meet: who opens it, and how the others get there."""

import contextlib
import datetime
import ipaddress
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch.distributed as dist

from utils.distributed.plan import ENVIRONMENT, Launch
from utils.errors import UserError

POLL_S = 0.05
INTERFACE = "GLOO_SOCKET_IFNAME"
ROUTES = Path("/proc/net/route")  # of Linux: names, and numbers in hexadecimal, the lowest byte first
ELSEWHERE = ipaddress.ip_address("203.0.113.1")  # of no machine (RFC 5737)


def host_store(launch: Launch) -> dist.TCPStore | None:
    """Open the store where the processes meet, if this command starts rank 0.

    Raises:
        UserError: its address cannot be had.
    """
    if launch.first_rank != 0:
        return None
    place = _place(launch) if launch.url else _Place("127.0.0.1", 0, "a free port of this machine")
    return _open(place, True, datetime.timedelta(seconds=launch.timeout))


def reach_store(launch: Launch, rank: int, port: int | None, timeout: datetime.timedelta) -> dist.Store:
    """Reach the store from the process `rank`, which opens it if it is rank 0 and nobody has.

    Args:
        port: of the store that `host_store` opened beside this process.

    Raises:
        UserError: its address cannot be had, or nobody answers there in time.
    """
    if port is not None:
        return _open(_Place("127.0.0.1", port, "the port of the command that started this process"), False, timeout)
    place = _place(launch)
    if launch.url == ENVIRONMENT and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        with _usable(place, False, timeout):  # torchrun hosts it, and knows how to tell a restarted run from the first
            return next(dist.rendezvous(ENVIRONMENT, rank, launch.size, timeout=timeout))[0]
    return _open(place, rank == 0 and not launch.spawns, timeout)


def choose_interface(launch: Launch) -> None:
    """Have gloo use the network interface that leads to where the nodes meet, unless the environment names one.

    By itself it takes the address of the node's own name. Debian's /etc/hosts says that this is 127.0.1.1, where no
    other node gets.
    """
    if launch.nodes > 1 and INTERFACE not in os.environ and (name := interface_towards(_place(launch).host)):
        os.environ[INTERFACE] = name


def interface_towards(host: str) -> str | None:
    """Name the network interface of the IPv4 route to a host, or to the world if that is this machine itself.

    None if there is none, or the machine does not say.
    """
    try:
        address = ipaddress.ip_address(socket.gethostbyname(host))
        lines = ROUTES.read_text().splitlines()[1:]
    except (OSError, UnicodeError):
        return None
    wanted = int.from_bytes((ELSEWHERE if address.is_loopback else address).packed, "little")
    found = []
    for name, destination, _, _, _, _, metric, mask, *_ in map(str.split, lines):
        if wanted & int(mask, 16) == int(destination, 16):
            found.append((int(mask, 16).bit_count(), -int(metric), name))
    return max(found)[2] if found else None  # the most specific one, of these the one with the least metric


@dataclass(frozen=True)
class _Place:
    """Where processes meet, and how the user has said so."""

    host: str
    port: int
    said: str


def _place(launch: Launch) -> _Place:
    if launch.url == ENVIRONMENT:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return _Place(host, port, f"the environment's MASTER_ADDR={host} and MASTER_PORT={port}")
    parts = urlsplit(launch.url)
    return _Place(parts.hostname, parts.port, f"--dist-url {launch.url}")


def _open(place: _Place, hosting: bool, timeout: datetime.timedelta) -> dist.TCPStore:
    def open_store() -> dist.TCPStore:
        return dist.TCPStore(place.host, place.port, is_master=hosting, timeout=timeout, wait_for_workers=False)

    with _usable(place, hosting, timeout):
        return open_store() if hosting else _answered(place, open_store, timeout.total_seconds())


def _answered(place: _Place, reach: Callable[[], dist.TCPStore], timeout: float) -> dist.TCPStore:
    """Reach the store of a place; a stranger who listens there may be silent for ever, and torch would wait as long."""
    answers: queue.SimpleQueue[dist.TCPStore | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(reach())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty as error:
        reason = f"what listens there did not answer within {timeout:.0f} s"
        raise UserError(f"{place.said} cannot be used ({reason}): give another port, or mend the address") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextlib.contextmanager
def _usable(place: _Place, hosting: bool, timeout: datetime.timedelta) -> Iterator[None]:
    """Make sure of a place before the block opens or reaches a store there; its failure is the user's to mend."""
    try:  # a store that hosts itself would look for the host until its time is over
        socket.getaddrinfo(place.host, place.port)
    except (socket.gaierror, UnicodeError) as error:  # the second: of a name that has no form of one, like a..b
        reason = f"there is no host {place.host} ({getattr(error, 'strerror', None) or error})"
        raise UserError(f"{place.said}: {reason}: mend the address") from error
    if not hosting:
        _wait_for_listener(place, timeout.total_seconds())
    try:
        yield
    except (dist.DistNetworkError, dist.DistStoreError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{place.said} cannot be used ({reason}): give another port, or mend the address") from error


def _wait_for_listener(place: _Place, timeout: float) -> None:
    """Until somebody listens there; torch's own wait reports each attempt with a stack of C++ frames."""
    end = time.monotonic() + timeout
    while True:
        try:
            seconds = max(end - time.monotonic(), POLL_S)
            socket.create_connection((place.host, place.port), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"{place.said}: node 0 did not come within {timeout:.0f} s ({error.strerror or error}): start it, "
                    "mend the address, or give more --dist-timeout"
                ) from error
            time.sleep(POLL_S)
