"""Where processes meet: what is wrong with a place that the environment names is one line, soon."""

import datetime
import os
import socket

import pytest

from helpers.ports import free_port
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
    """As a resolver says it; some answer every name, so it is not asked."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host != "a..b":  # which no resolver takes
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match=f"MASTER_ADDR={host} .*: there is no host {host}"):
        reach(rank, host, 4000, monkeypatch)


def test_stranger_who_listens_and_is_silent_is_not_waited_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(UserError, match=f"MASTER_PORT={port} cannot be used .*did not answer within 1 s"):
            reach(1, "127.0.0.1", port, monkeypatch)


def test_node_0_that_never_comes_is_named(monkeypatch):
    port = free_port()
    with pytest.raises(UserError, match=f"MASTER_PORT={port}: node 0 did not come within 1 s"):
        reach(1, "127.0.0.1", port, monkeypatch)


ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 0102A8C0 0003 0 0 200 00000000 0 0 0
wifi 00000000 0102A8C0 0003 0 0 600 00000000 0 0 0
eth0 0002A8C0 00000000 0001 0 0 200 00FFFFFF 0 0 0
ib0 00004D0A 00000000 0001 0 0 0 00FFFFFF 0 0 0
"""


@pytest.mark.parametrize(
    ("host", "interface"),
    [
        ("10.77.0.5", "ib0"),
        ("192.168.2.7", "eth0"),
        ("198.51.100.7", "eth0"),  # by the default route with the least metric
        ("127.0.1.1", "eth0"),  # node 0, as it knows itself
        ("a..b", None),
    ],
)
def test_interface_is_that_of_the_route_to_the_others(host, interface, tmp_path, monkeypatch):
    (tmp_path / "route").write_text(ROUTES)
    monkeypatch.setattr(rendezvous, "ROUTES", tmp_path / "route")
    assert interface_towards(host) == interface
    monkeypatch.setattr(rendezvous, "ROUTES", tmp_path / "none")
    assert interface_towards(host) is None


def test_interface_is_chosen_between_nodes_alone_and_where_nobody_has(monkeypatch):
    monkeypatch.setattr(rendezvous, "interface_towards", lambda host: f"to-{host}")
    environ = {"MASTER_ADDR": "node0", "MASTER_PORT": "1"}
    monkeypatch.setattr(os, "environ", environ)
    choose_interface(Launch(2, url="env://", local_size=2))
    assert "GLOO_SOCKET_IFNAME" not in environ
    choose_interface(Launch(4, url="env://", local_size=2))
    assert environ["GLOO_SOCKET_IFNAME"] == "to-node0"
    environ["GLOO_SOCKET_IFNAME"] = "ib0"
    choose_interface(Launch(4, url="env://", local_size=2))
    assert environ["GLOO_SOCKET_IFNAME"] == "ib0"
