"""Where processes meet: what is wrong with a place that the environment names is one line, soon."""

import datetime
import socket

import pytest

from utils.distributed.plan import Launch
from utils.distributed.rendezvous import reach_store
from utils.errors import UserError

BY_ENVIRONMENT = Launch(2, url="env://", timeout=1)


def reach(rank, host, port, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", str(port))
    reach_store(BY_ENVIRONMENT, rank, None, datetime.timedelta(seconds=1))


def test_port_in_use_is_named(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"MASTER_ADDR=127.0.0.1 and MASTER_PORT={port} cannot be used .*in use"):
            reach(0, "127.0.0.1", port, monkeypatch)


@pytest.mark.parametrize(("rank", "host"), [(0, "no-such-host.invalid"), (1, "no-such-host.invalid"), (1, "a..b")])
def test_unknown_host_is_named(rank, host, monkeypatch):
    with pytest.raises(UserError, match=f"MASTER_ADDR={host} .*: there is no host {host}"):
        reach(rank, host, 4000, monkeypatch)


def test_stranger_who_listens_and_is_silent_is_not_waited_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(UserError, match=f"MASTER_PORT={port} cannot be used .*did not answer within 1 s"):
            reach(1, "127.0.0.1", port, monkeypatch)


def test_node_0_that_never_comes_is_named(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=f"MASTER_PORT={port}: node 0 did not come within 1 s"):
        reach(1, "127.0.0.1", port, monkeypatch)
