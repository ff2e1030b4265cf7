"""Where processes meet: what is wrong with a place that the environment names is one line, soon."""

import contextlib
import datetime
import os
import socket

import pytest

from utils.distributed import rendezvous
from utils.distributed.plan import Launch
from utils.distributed.rendezvous import choose_interface, interface_towards, reach_store
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


@pytest.mark.parametrize(
    ("routes", "interface"),
    [
        ({"node0": "10.1.2.3"}, "eth7"),
        ({"node0": "127.0.0.1", rendezvous.ELSEWHERE: "10.1.2.3"}, "eth7"),  # this is node 0
        ({"node0": "127.0.0.1"}, None),
        ({"node0": "192.168.0.9"}, None),
    ],
)
def test_interface_is_the_one_that_leads_to_the_others(routes, interface, monkeypatch):
    """A machine with two, on which nothing is sent."""
    addresses = {"lo": "127.0.0.1", "eth7": "10.1.2.3"}

    class Socket(contextlib.AbstractContextManager):
        def connect(self, place):
            if place[0] not in routes:
                raise OSError("no route")
            self.own = routes[place[0]]

        def getsockname(self):
            return self.own, 1

        def __exit__(self, *_):
            return None

    def address_of(_, request, packed):
        name = packed.rstrip(b"\0").decode()
        if name not in addresses:
            raise OSError("no address")
        return packed[:20] + socket.inet_aton(addresses[name]) + packed[24:]

    monkeypatch.setattr(rendezvous.socket, "socket", lambda *_: Socket())
    monkeypatch.setattr(rendezvous.socket, "if_nameindex", lambda: [(1, "lo"), (2, "down0"), (3, "eth7")])
    monkeypatch.setattr(rendezvous.fcntl, "ioctl", address_of)
    assert interface_towards("node0") == interface


def test_interface_is_chosen_between_nodes_alone_and_where_nobody_has(monkeypatch):
    monkeypatch.setattr(rendezvous, "interface_towards", lambda host: f"to-{host}")
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    choose_interface(Launch(2, url="env://", local_size=2))
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    choose_interface(Launch(4, url="env://", local_size=2))
    assert os.environ["GLOO_SOCKET_IFNAME"] == "to-node0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    choose_interface(Launch(4, url="env://", local_size=2))
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
