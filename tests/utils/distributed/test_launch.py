"""From flags and environment to processes; which GPUs they take, with CUDA's answers made up."""

import subprocess
import types

import pytest
import torch

import train
from utils.cli.rules import parse
from utils.distributed.launch import ASK_FREE_MEMORY, choose_gpus, launch
from utils.distributed.plan import Launch, check_batch_size, plan_launch, spare_rank
from utils.errors import UserError

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "2345"}
POD = {name: value for name, value in TORCHRUN.items() if not name.startswith("LOCAL")}  # of Kubernetes' operators
MP = "--multiprocessing-distributed"
URL = "--dist-url=tcp://10.0.0.1:4000"


def planned(*flags, environ=()):
    args, _ = parse(train.build_parser(), ["Digits_LT", *flags])
    return plan_launch(args, dict(environ))


@pytest.mark.parametrize(
    ("flags", "environ", "size", "first", "local_size", "spawns"),
    [
        ([], {}, 1, 0, 1, False),
        ([MP], {}, 1, 0, 1, False),
        ([MP, "--world-size=1", "--rank=0", URL], {}, 1, 0, 1, False),
        ([MP, "--ngpus=3", "--batch-size=180"], {}, 3, 0, 3, True),
        ([MP, "--ngpus=4", "--world-size=2", "--rank=1", URL], {}, 8, 4, 4, True),
        (["--world-size=2", "--rank=1", URL], {}, 2, 1, 1, False),
        ([], TORCHRUN, 4, 3, 2, False),
        (["--dist-url=env://", "--world-size=4"], TORCHRUN, 4, 3, 2, False),
        (["--dist-url=env://"], TORCHRUN | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, 4, 3, 1, False),
        ([MP, "--ngpus=2", "--dist-url=env://"], {**TORCHRUN, "LOCAL_RANK": None}, 8, 6, 2, True),
        ([], POD, 4, 3, 1, False),
        (["--rank=3"], POD, 4, 3, 1, False),
        ([MP, "--ngpus=2"], POD, 8, 6, 2, True),
        ([], {"RANK": "0", "WORLD_SIZE": "1"}, 1, 0, 1, False),
        ([], dict.fromkeys(TORCHRUN, ""), 1, 0, 1, False),
        ([MP, "--world-size=1", "--rank=0", URL], POD, 1, 0, 1, False),
    ],
)
def test_processes(flags, environ, size, first, local_size, spawns):
    environ = {name: value for name, value in dict(environ).items() if value is not None}
    plan = planned(*flags, "--dist-timeout=7", "--dist-backend=gloo", environ=environ)
    found = (plan.size, plan.first_rank, plan.local_size, plan.spawns)
    assert found == (size, first, local_size, spawns)
    assert plan.nodes == size // local_size
    assert (plan.timeout, plan.backend) == (7, "gloo")


def test_environment_of_a_launcher_becomes_an_address():
    environ = {name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"}
    flags = (MP, "--ngpus=2", "--dist-url=env://")
    assert planned(*flags, environ=environ).url == "tcp://127.0.0.1:2345"
    assert planned(*flags, environ=environ | {"MASTER_ADDR": "fd00::1"}).url == "tcp://[fd00::1]:2345"


@pytest.mark.parametrize(
    ("flags", "environ", "word"),
    [
        (["--rank=1"], {}, "--rank 1 must be below --world-size 1"),
        (["--world-size=2", "--rank=2", URL], {}, "--rank 2"),
        (["--world-size=2", URL], {}, "needs --rank"),
        (["--world-size=2", "--rank=0"], {}, "give --dist-url"),
        ([MP, "--world-size=2", "--rank=0"], {}, "give --dist-url"),
        (["--ngpus=2"], {}, "needs --multiprocessing-distributed"),
        ([MP, "--ngpus=2", "--gpu=0"], {}, "--gpu 0"),
        (["--ngpus=4"], TORCHRUN, "--ngpus 4: torchrun starts the processes itself, see its --nproc-per-node"),
        ([URL], {}, "--dist-url tcp://10.0.0.1:4000 needs --world-size: how many processes meet there"),
        (["--dist-url=10.0.0.1:4000"], {}, "--dist-url 10.0.0.1:4000"),
        (["--dist-url=tcp://10.0.0.1"], {}, "tcp://HOST:PORT"),
        (["--dist-url=tcp://10.0.0.1:99999"], {}, "tcp://HOST:PORT"),
        (["--dist-url=file:///tmp/x"], {}, "tcp://HOST:PORT"),
        (["--dist-url=tcp://10.0.0.1:4000?rank=1"], {}, "tcp://HOST:PORT"),
        (["--dist-url=env://"], {}, "WORLD_SIZE"),
        ([MP], TORCHRUN, "leave --multiprocessing-distributed out"),
        (["--world-size=3"], TORCHRUN, "--world-size 3 contradicts"),
        (["--world-size=9", "--rank=1"], TORCHRUN, "contradicts"),
        ([URL], TORCHRUN, "leave it out"),
        ([], TORCHRUN | {"RANK": "4"}, "no such run"),
        ([], TORCHRUN | {"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE=0: no such run"),
        ([], TORCHRUN | {"LOCAL_RANK": "2"}, "LOCAL_RANK=2, LOCAL_WORLD_SIZE=2: no such run"),
        ([], TORCHRUN | {"WORLD_SIZE": "four"}, "WORLD_SIZE=four"),
        ([], {"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        ([], POD | {"MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
        ([MP, "--ngpus=2", "--dist-url=env://"], POD | {"RANK": "4"}, "RANK 4 must be below the number of nodes, 4"),
        ([MP, "--world-size=1"], POD, "--world-size 1 contradicts the environment, where WORLD_SIZE is 4"),
    ],
)
def test_what_contradicts_itself_is_named(flags, environ, word):
    with pytest.raises(UserError, match=word):
        planned(*flags, environ=environ)


@pytest.mark.parametrize(("flags", "environ"), [(["--world-size=1", URL], POD), ([], {"WORLD_SIZE": "4"})])
def test_processes_of_the_environment_that_are_left_out_are_said(flags, environ, monkeypatch, caplog):
    worlds = []
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    launch(planned(*flags, environ=environ), None, worlds.append)
    assert worlds[0].size == 1
    assert caplog.messages == ["the environment speaks of 4 processes (WORLD_SIZE), the flags of 1: the flags count"]


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, 0),
        (TORCHRUN, 3),
        (POD, 3),
        (POD | {"RANK": "0"}, 0),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 0),
        ({"WORLD_SIZE": "", "RANK": ""}, 0),
    ],
)
def test_script_for_one_process_knows_those_that_are_spare(environ, rank):
    assert spare_rank(environ) == rank


def test_batch_is_shared_evenly_or_not_at_all():
    args, _ = parse(train.build_parser(), ["Digits_LT", "--batch-size=6"])
    for processes in (1, 2, 3):
        check_batch_size(args, processes)
    args.batch_size = 10
    with pytest.raises(UserError, match="--batch-size 10 .*: give a multiple of 4"):
        check_batch_size(args, 4)


def test_batch_norm_needs_two_images_in_each_process():
    args, _ = parse(train.build_parser(), ["Digits_LT", "--batch-size=6"])
    with pytest.raises(UserError, match=r"--batch-size 6 is too small .* 4 process\(es\) needs .* give 8 or more"):
        check_batch_size(args, 4)


def cuda(monkeypatch, free_gib):
    """A machine with GPUs of which so much memory is free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free_gib))
    answer = types.SimpleNamespace(stdout=" ".join(str(gib * 2**30) for gib in free_gib))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)


def test_gpus_with_the_most_free_memory_are_taken_and_named(monkeypatch, caplog):
    cuda(monkeypatch, [1, 30, 2, 40])
    caplog.set_level("INFO", "dgcmm")
    assert choose_gpus(Launch(2, local_size=2, spawns=True), {}) == [1, 3]
    assert "1 (30 GiB free), 3 (40 GiB free)" in caplog.text


def test_a_gpu_that_cannot_be_asked_has_no_free_memory(monkeypatch, capsys):
    def mem_get_info(gpu):
        if gpu == 1:
            raise RuntimeError("CUDA error: out of memory")
        return gpu + 5, 10

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    exec(ASK_FREE_MEMORY)
    assert capsys.readouterr().out.split() == ["5", "0", "7"]


def test_visible_devices_are_respected(monkeypatch):
    cuda(monkeypatch, [1, 30, 2])
    assert choose_gpus(Launch(2, local_size=2, spawns=True), {"CUDA_VISIBLE_DEVICES": "5,6,7"}) == [0, 1]


def test_member_takes_the_gpu_of_its_local_rank(monkeypatch):
    cuda(monkeypatch, [1, 1, 1, 1])
    assert choose_gpus(Launch(8, 6, local_size=4, local_rank=2, url="env://"), {}) == [2]


def test_process_that_is_shown_a_gpu_of_its_own_takes_it(monkeypatch):
    cuda(monkeypatch, [1])
    shown = {"CUDA_VISIBLE_DEVICES": "2"}
    for local_size in (1, 4):  # a launcher may tell it or not
        assert choose_gpus(Launch(8, 6, local_size, local_rank=2, url="env://"), shown) == [0]
    with pytest.raises(UserError, match="4 processes on this node, but CUDA has 1"):  # torchrun shows all the same
        choose_gpus(Launch(8, 6, local_size=4, local_rank=2, url="env://"), shown | {"TORCHELASTIC_RUN_ID": "none"})


@pytest.mark.parametrize("plan", [Launch(3, local_size=3, spawns=True), Launch(4, 2, local_rank=2, url="env://")])
def test_fewer_gpus_than_processes(plan, monkeypatch):
    cuda(monkeypatch, [1, 1])
    with pytest.raises(UserError, match="3 processes on this node, but CUDA has 2"):
        choose_gpus(plan, {})


def test_mixup_needs_pairs_in_each_process():
    args = types.SimpleNamespace(batch_size=24, mixup=0.2)
    check_batch_size(args, 4)
    with pytest.raises(UserError, match="--mixup pairs the images of each of the node's 8 .*: give a multiple of 16"):
        check_batch_size(args, 8)
