"""What a process says of an error of its connection to the others."""

import pytest
import torch.distributed as dist

from utils.distributed import world as world_module
from utils.distributed.plan import Launch
from utils.distributed.world import Member


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
