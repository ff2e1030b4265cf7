"""What a process averages with the others, and what it does, and says, when they are silent or gone."""

import contextlib
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from utils import stopping
from utils.distributed import world as world_module
from utils.distributed.plan import Launch
from utils.distributed.world import Member, World
from utils.errors import LostRank, UserError
from utils.stopping import Stopped


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ({"alive/1": ""}, "rank 0: RuntimeError: NCCL error: Duplicate GPU detected"),  # all are there
        ({}, "rank 0 lost the connection to rank 1, which ended without a word (killed?)"),
        ({"failed/1": "no space"}, "rank 1 failed: no space"),
    ],
)
def test_who_is_lost_or_what_went_wrong(left, said, monkeypatch):
    monkeypatch.setattr(world_module, "LAST_WORDS_S", 0.3)
    store = dist.HashStore()
    for key, value in left.items():
        store.set(key, value)
    member = Member(Launch(2, local_size=2, spawns=True), 0, None, store)
    assert member.who_is_lost(RuntimeError("NCCL error:\nDuplicate GPU detected")) == said


def test_meeting_place_that_is_gone_before_all_have_come_is_a_line(monkeypatch):
    """As for those who came later than node 0, which waits the shortest."""

    def gone(keys: list[str]) -> bool:
        raise dist.DistNetworkError("Failed to recv, got 0 bytes")

    store = SimpleNamespace(set=lambda key, value: None, check=gone)
    monkeypatch.setattr(world_module, "reach_store", lambda *_: store)
    with pytest.raises(LostRank, match="^rank 1: the process that all meet at ended before all had come: see the outp"):
        Member.join(Launch(3, first_rank=1, url="tcp://127.0.0.1:1"), 0, None, None)


def two_nodes(timeout: int) -> list[Member]:
    """Two processes, each the first of its node, that share a store in this process."""
    store = dist.HashStore()
    return [Member(Launch(2, spawns=False, first_rank=rank, timeout=timeout), 0, None, store) for rank in (0, 1)]


def test_node_that_is_gone_while_it_prepares_is_not_waited_for():
    first, _ = two_nodes(timeout=1)
    with pytest.raises(LostRank, match="rank 1, the first of a node, has given no sign of life for 1 s"):
        first.on_each_node(lambda: None)


def test_node_that_has_failed_is_named_at_once_with_what_it_said():
    first, second = two_nodes(timeout=2)
    second.store.set("failed/1", "ZeroDivisionError: division by zero")
    with pytest.raises(LostRank, match="^rank 1 failed: ZeroDivisionError: division by zero$"):
        first.on_each_node(lambda: None)


def test_node_that_prepares_for_longer_than_the_time_limit_is_waited_for():
    (first, second), prepared = two_nodes(timeout=1), []

    def prepare():
        time.sleep(1.5)
        prepared.append(1)

    thread = threading.Thread(target=lambda: second.on_each_node(prepare))
    thread.start()
    first.on_each_node(lambda: None)
    assert prepared == [1]
    thread.join()


def test_mean_is_over_all_processes_and_leaves_the_own_value_as_it_was():
    class Pair(World):
        size = 2

        def all_reduce(self, *tensors):
            for tensor in tensors:
                tensor += 3.0

    own = torch.tensor(1.0)
    assert Pair().mean(own).item() == 2.0
    assert own.item() == World().mean(own).item() == 1.0


def test_error_of_a_node_ends_those_that_wait_for_a_third():
    """Which is at work, and gives signs of life."""
    store = dist.HashStore()
    first, second = (Member(Launch(3, first_rank=rank, timeout=60), 0, None, store) for rank in (0, 1))

    def refused():
        raise UserError("no space")

    for member, call, end in ((second, refused, SystemExit), (first, lambda: None, UserError)):
        with pytest.raises(end):
            member.on_each_node(call)
    alone = Member(Launch(2, local_size=2, spawns=True), 0, None, dist.HashStore())
    with pytest.raises(UserError, match="^no space$"):
        alone.on_each_node(refused)


def test_error_of_another_node_is_told_by_a_process_whose_first_is_still_at_work():
    member = Member(Launch(4, local_size=2, spawns=True), 1, None, dist.HashStore())
    member.store.set("node call 1/2", "no space")
    with pytest.raises(UserError, match="^rank 2: no space$"):
        member.on_each_node(lambda: None)


def test_first_of_each_node_makes_a_call_alone_and_then_all_make_it(monkeypatch):
    (member, other), calls = two_nodes(timeout=60), []
    monkeypatch.setattr(Member, "errors_together", lambda self: contextlib.nullcontext())
    other.store.set("node call 1/1", "")
    assert member.on_each_node_first(lambda: calls.append(1) or len(calls)) == 1
    beside = Member(Launch(4, local_size=2, spawns=True), 1, None, dist.HashStore())
    for rank in (0, 2):
        beside.store.set(f"node call 1/{rank}", "")
    assert beside.on_each_node_first(lambda: calls.append(1) or len(calls)) == 2
    one_node = Launch(2, local_size=2, spawns=True)
    first = Member(one_node, 0, None, dist.HashStore())
    assert first.on_each_node_first(lambda: calls.append(1) or len(calls)) == 3
    second = Member(one_node, 1, None, first.store)
    second.store.set("node call 1/0", "no space")
    with pytest.raises(SystemExit):  # the first, which says why, has not made it
        second.on_each_node_first(lambda: calls.append(1))
    assert len(calls) == 3


def test_process_that_prepares_ends_when_the_store_is_gone(monkeypatch):
    first, _ = two_nodes(timeout=1)

    def gone(*_):
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(first, "store", SimpleNamespace(add=gone))
    with stopping.handled(), pytest.raises(Stopped):
        first.on_each_node(lambda: time.sleep(30))


def test_silence_of_the_others_ends_after_the_timeout_that_was_asked_for(monkeypatch):
    """In the group of the gradients as in that of the messages; gloo's own is half an hour."""
    waits = []

    def group(*_, timeout, **__):
        waits.append(timeout.total_seconds())

    monkeypatch.setattr(world_module, "reach_store", lambda *_: dist.HashStore())
    monkeypatch.setattr(dist, "init_process_group", group)
    monkeypatch.setattr(dist, "new_group", group)
    Member.join(Launch(1, local_size=1, timeout=7), 0, None, None)
    assert waits == [7, 7]


def test_processes_that_meet_and_cannot_connect_are_told_of_the_network_interface(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Gloo connectFullMesh failed\nwith a long story")

    monkeypatch.setattr(world_module, "reach_store", lambda *_: dist.HashStore())
    monkeypatch.setattr(dist, "init_process_group", fail)
    with pytest.raises(LostRank, match=r"cannot connect to them .*connectFullMesh failed\): .* GLOO_SOCKET_IFNAME"):
        Member.join(Launch(1, local_size=1), 0, None, None)
