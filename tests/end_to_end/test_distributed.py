"""Two gloo processes give the numbers of one, and end together, however one of them ends."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights

import train
from datasets.loading import BatchLoader, EvaluationBatches, TrainBatches
from helpers import plain_ranks, ranks
from helpers.documents import commands, replaced
from helpers.ports import free_port
from helpers.project import ROOT, SMALL_MODEL
from models.prior import ClassMoments
from models.starting import start_prior
from scripts.compare_runs import differences
from utils.cli.rules import SAME_RUN_FLAGS, parse
from utils.device import to_unit_range
from utils.distributed.plan import Launch
from utils.distributed.rendezvous import host_store
from utils.distributed.spawn import spawn
from utils.distributed.world import World
from utils.errors import LostRank, UserError
from utils.randomness import standard_normal
from utils.training.checkpoint import load_checkpoint, save_checkpoint
from utils.training.optimisation import build_optimizer

TWO = Launch(size=2, local_size=2, spawns=True, timeout=60)
SEVERAL = ["--multiprocessing-distributed", "--ngpus=2", "--dist-timeout=60"]
RUN = [
    *("Digits_LT", *SMALL_MODEL, "--epochs=2", "--batch-size=24", "--max-steps=3", "--T-max=2", "--dist-timeout=60"),
    "--no-figures",
]


def spawned(work, *arguments, launch=TWO):
    spawn(work, launch, [None] * launch.local_size, *arguments)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp("together")
    spawned(ranks.together, str(folder))
    found, moved = (torch.load(folder / f"{name}.pth", weights_only=True) for name in ("found", "moved"))
    return found | moved | {"folder": folder}


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def reference(frozen):
    """One process that cuts each batch into the two processes' parts and averages their gradients by size."""
    data, model = ranks.images(), ranks.small_model()
    if frozen:
        ranks.freeze_batch_norm(model)
    optimizer = build_optimizer(model, ranks.ARGS)
    network = [value for name, value in model.named_parameters() if not name.startswith("prior.")]
    batches = TrainBatches(len(data), ranks.BATCH, ranks.ARGS.seed, 0, 1)
    statistics = {0: {}, 1: {}}
    model.train()
    for epoch in range(ranks.EPOCHS):
        batches.set_epoch(epoch)
        for step, keys in enumerate(batches):
            keys = keys[: len(keys) // 2 * 2]
            noise = standard_normal(len(keys), 8, ranks.ARGS.seed, epoch, step)
            optimizer.zero_grad()
            for rank in (0, 1):
                images, labels = part_of(data, keys, rank)
                own = {name: statistics[rank].get(name, value.clone()) for name, value in model.named_buffers()}
                model.load_state_dict(own, strict=False)
                (model(images, labels, noise[rank::2], ranks.WEIGHTS).total * len(labels) / len(keys)).backward()
                statistics[rank] = {name: value.clone() for name, value in model.named_buffers()}
            nn.utils.clip_grad_norm_(network, ranks.ARGS.clip_grad)
            optimizer.step()
            model.prior.project()
    model.load_state_dict(statistics[0], strict=False)
    return model


def part_of(data, keys, rank):
    """What one of two processes has of a batch: images (B,C,S,S) in [0,1], labels (B,)."""
    images, labels, _ = zip(*(data[key] for key in keys[rank::2]), strict=True)
    return to_unit_range(torch.stack(images), torch.device("cpu")), torch.tensor(labels)


def start_by_parts(model, batches):
    """Start the prior in one process at the codes that two processes have in a step, each of its own part."""
    data, moments = ranks.images(), ClassMoments(model.num_classes, model.z_dim, torch.device("cpu"))
    model.train()
    for keys in batches:
        for rank in (0, 1):
            images, labels = part_of(data, keys[: len(keys) // 2 * 2], rank)
            with torch.no_grad():
                moments.add(*model.posterior(model.features(images), labels), labels)
    model.prior.start(moments.counts, *moments.means_and_variances())


def assert_same_state(state, model):
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            state[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("name", ["own statistics", "frozen"])
def test_training_equals_one_process_that_averages_the_parts(together, name):
    model = reference(frozen=name == "frozen")
    assert_same_state(together[name]["state"], model)
    start_by_parts(model, TrainBatches(ranks.COUNT, ranks.BATCH, ranks.ARGS.seed))
    assert_same_state(together[name]["prior"], model.prior)


@pytest.mark.usefixtures("_double")
def test_training_with_frozen_batch_norm_equals_one_process_outright(together):
    """As `train.py` would do it alone, on the same images: those of each batch that two processes can share."""
    data = ranks.images()
    whole = [len(batch) for batch in TrainBatches(len(data), ranks.BATCH, 0, 0, 2)]
    assert whole == [4, 4, 4, 4, 2]

    class Shared(TrainBatches):
        def __init__(self, *args):
            super().__init__(*args)
            self.sizes = [size // 2 * 2 for size in self.sizes]

    original, ranks.TrainBatches = ranks.TrainBatches, Shared
    try:
        run, loader, losses = ranks.train_together(World(), data, frozen=True)
    finally:
        ranks.TrainBatches = original
    assert_same_state(together["frozen"]["state"], run.model)
    assert together["frozen"]["losses"] == pytest.approx(losses, rel=1e-6)
    loader.batches.set_epoch(0)
    start_prior(run, loader, loader.batches.sizes)
    assert_same_state(together["frozen"]["prior"], run.model.prior)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("mode", ["plain", "generative"])
def test_evaluation_gives_each_image_once_and_what_one_process_gives(together, mode):
    data = ranks.images()
    model = ranks.small_model(generative=mode == "generative")
    loader = BatchLoader(data, EvaluationBatches(len(data), ranks.BATCH), 0, False)
    alone = train.evaluate(model, loader, ranks.ARGS, World(), data.class_counts).predictions
    indices, targets, probabilities, components = together[mode]
    assert indices.tolist() == list(range(ranks.COUNT))
    assert targets.tolist() == alone.targets.tolist()
    np.testing.assert_allclose(probabilities, alone.probabilities, atol=1e-9)
    assert components.tolist() == alone.components.tolist()


@pytest.mark.usefixtures("_double")
def test_health_and_distances_of_two_processes_are_those_of_one(together):
    model, data = ranks.small_model(), ranks.images()
    state, prior = (together["frozen"][part] for part in ("state", "prior"))
    model.load_state_dict(state | {f"prior.{name}": value for name, value in prior.items()})
    assert together["health"] == pytest.approx(ranks.measured_health(World(), model, data), rel=1e-9)
    torch.testing.assert_close(together["distances"], ranks.measured_distances(World(), model, data))


def test_every_loss_term_can_be_left_out_and_come_back(together):
    """Warm-up, its end, each weight 0: parts without a term keep their weights, nobody waits, all ranks agree."""
    absent = {"warm-up": {"decoder", "prior"}, "no classifier": {"classifier"}, "no decoder": {"decoder"}}
    absent |= {"no prior": {"prior"}, "after warm-up": set()}
    moved = together["moved"]
    assert {name: {part for part in parts if not parts[part]} for name, parts in moved.items()} == absent


def test_rank_that_raises_is_named_with_its_traceback(capfd):
    with pytest.raises(LostRank, match="rank 1 failed"):
        spawned(plain_ranks.failing, "raise")
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: a fault of rank 1" in err


def test_node_that_never_comes_is_named():
    launch = Launch(4, 0, 2, spawns=True, url=f"tcp://127.0.0.1:{free_port()}", timeout=2)
    with pytest.raises(UserError, match=r"2, 3 \(node (0, )?1\) did not come"):
        spawned(plain_ranks.failing, "never", launch=launch)


def test_port_that_is_taken_is_found_before_a_process_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="cannot be used"):
            host_store(Launch(2, local_size=2, spawns=True, url=url, timeout=2))


def test_loss_that_is_not_finite_on_one_rank_stops_both_before_a_weight_changes(tmp_path):
    log = tmp_path / "run"
    args, given = parse(train.build_parser(), [*RUN, f"--logdir={log}", "--quiet"])
    with pytest.raises(UserError, match=r"epoch 2, step 2, rank 1, images \[\d+, "):
        spawned(ranks.poisoned, args, given, str(tmp_path))
    assert [(tmp_path / f"unchanged{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    assert load_checkpoint(log / "checkpoint.pth")["epoch"] == 1


def test_baselines_of_two_processes_continued_after_a_crash_equal_uninterrupted(together):
    """All at once: a drawn sampler, mixup, LDAM before and after its re-weighting, an encoder that is frozen."""
    whole, broken = together["folder"] / "whole", together["folder"] / "broken"
    assert load_checkpoint(broken / "checkpoint.pth")["reweighted_from"] == 4
    assert differences(whole, broken) == []


# --- whole commands -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(*commands):
    """The commands, each in a session of its own; nothing of a session may be left at the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    processes = [subprocess.Popen(words, cwd=ROOT, env=environment, **pipes) for words in commands]
    try:
        yield processes
        for process in processes:
            assert nobody_left(process.pid), subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def nobody_left(session, patience_s=10.0):
    """Whether every process of a session has ended; loading processes look for their parent every few seconds."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def python(*words):
    return [sys.executable, "train.py", *map(str, words)]


def torchrun(*words):
    return [sys.executable, "-m", "torch.distributed.run", *words]


def documented(document, log):
    """The flags of the command on a page that trains on Digits_LT in two processes, made short."""
    argv = next(argv for _, *argv in commands(document) if argv[0] == "Digits_LT")
    return [*replaced(argv, logdir=log, epochs="2"), *SMALL_MODEL, "--max-steps=3", "--no-figures"]


LAUNCHERS = {  # beside what other tests train by: one command that starts its processes, torchrun on one node
    "two nodes": lambda log, port: [
        python(
            *(*RUN, f"--logdir={log}", "--multiprocessing-distributed", "--ngpus=1"),
            *("--world-size=2", f"--rank={rank}", f"--dist-url=tcp://127.0.0.1:{port}"),
        )
        for rank in (0, 1)
    ],
    "torchrun, two nodes": lambda log, port: [
        torchrun(
            *("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"),
            *(f"--node-rank={rank}", "train.py", *RUN, f"--logdir={log}"),
        )
        for rank in (0, 1)
    ],
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_way_to_launch_ends_with_one_result_and_one_set_of_files(name, tmp_path):
    commands = LAUNCHERS[name](tmp_path, free_port())
    with running(*commands) as processes:
        ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(commands), ends
    assert_one_result([out for out, _ in ends], tmp_path)


def assert_one_result(outs, folder):
    """Of the commands of a training of two epochs, by what each printed, the first alone gives the result."""
    lines = [line for out in outs for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == 1
    assert outs[0].rstrip().endswith(lines[0])
    assert sum(out.count("epoch 2/2") for out in outs) == 1
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert load_checkpoint(folder / "checkpoint.pth")["epoch"] == 2


def test_evaluation_on_two_processes_gives_the_same_predictions(tmp_path, trained_digits):
    """Also with an image for each a step, which could not be trained on; of 20 steps."""
    trained = load_checkpoint(trained_digits / "checkpoint.pth")
    trained["data_sha256"]["test"] = "that of other images"
    save_checkpoint(tmp_path / "trained.pth", trained)
    files = []
    for processes, flags in ((1, ["--batch-size=66"]), (2, [*SEVERAL, "--batch-size=2", "--max-steps=20"])):
        log = tmp_path / str(processes)
        run = [
            f"--logdir={log}",
            f"--resume={tmp_path}/trained.pth",
            "--evaluate",
            "--workers=0",
            "--no-figures",
        ]
        with running(python("Digits_LT", *run, *flags)) as (process,):
            _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert err.count("--max-steps 20: 40 of 400 test images are measured") == processes - 1  # said once
        assert err.count("not the test images of the training") == 1
        files.append([line.split(",") for line in (log / "predictions_eval.csv").read_text().splitlines()])
    (header, *alone), (same, *together) = files
    alone = {row[0]: row for row in alone}
    assert (header, len(alone), len(together)) == (same, 400, 40)
    for name, *row in together:
        assert row[:2] == alone[name][1:3]
        np.testing.assert_allclose([float(p) for p in row[2:]], [float(p) for p in alone[name][3:]], atol=1e-5)


def test_finished_run_is_told_to_all_nodes(tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    place = ["--world-size=2", f"--dist-url=tcp://127.0.0.1:{free_port()}", "--dist-timeout=60"]
    commands = [python("Digits_LT", f"--logdir={tmp_path}", "--resume=auto", f"--rank={r}", *place) for r in (0, 1)]
    with running(*commands) as processes:
        ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert "acsa" in ends[0][0]
    assert "acsa" not in ends[1][0]


IMPOSSIBLE = {
    "sync-bn": (["--sync-bn"], "--sync-bn needs CUDA"),
    "fp16": (["--amp=fp16"], "needs CUDA"),
    "run folder": (["--logdir={folder}/file/run"], "file is no folder"),
    "checkpoint": (["--resume={folder}/none.pth"], "there is no file"),
    "fp16 in two processes": (["--amp=fp16", *SEVERAL], "needs CUDA"),  # each finds it
    "batch": (["--batch-size=3", *SEVERAL], "each of the node's 2 process(es) needs at least 2 images, give 4 or more"),
    "compiler": (["--compile"], "--compile: there is no C++ compiler none-such"),
    "weights that do not exist": (["--pretrained", "--arch=resnet32"], "no ImageNet weights of resnet32"),
    "weights that are damaged": (["--pretrained", "--resume=auto"], "delete it, or put a good copy there"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_said_before_data_are_touched(name, script, tmp_path, monkeypatch):
    wrong, word = IMPOSSIBLE[name]
    (tmp_path / "file").touch()
    weights = tmp_path / "hub" / "checkpoints" / Path(ResNet50_Weights.IMAGENET1K_V1.url).name
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"cut short")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "none-such")
    argv = [flag.format(folder=tmp_path) for flag in ["--batch-size=24", "--logdir={folder}/run", *wrong]]
    data = tmp_path / "data"
    done = script("train", "ChestXray", f"--datadir={data}", *argv)
    assert done.status == 2, done.err
    assert word in done.err
    assert not data.exists()
    assert not (tmp_path / "run").exists()


def test_first_of_a_node_prepares_and_the_others_wait_without_a_time_limit(together):
    found = {path.name for path in together["folder"].iterdir() if " by " in path.name}
    assert found == {"prepared by 0", "seen by 0", "seen by 1"}


def test_error_that_only_a_process_finds_is_one_line(script, tmp_path, chest_folder):
    """An image that cannot be read, met by a rank in the middle of an epoch."""
    folder = tmp_path / "data"
    shutil.copytree(chest_folder, folder)
    name = (folder / "train_val_list.txt").read_text().split()[7]
    (folder / "images" / name).write_bytes((folder / "images" / name).read_bytes()[:300])
    flags = [f"--datadir={folder}", f"--logdir={tmp_path / 'log'}", "--epochs=1", "--workers=2", "--batch-size=8"]
    small = ["--no-figures", *(flag for flag in SMALL_MODEL if "workers" not in flag)]
    done = script("train", "ChestXray", *small, *flags, *SEVERAL)
    assert done.status == 2, done.err
    assert name in done.error


def test_rank_killed_in_training_ends_the_job(tmp_path):
    small = ["--no-figures", *(flag for flag in SMALL_MODEL if "workers" not in flag)]
    flags = ["--epochs=50", "--batch-size=16", "--workers=2", "--print-freq=1", f"--logdir={tmp_path}"]
    with running(python("Digits_LT", *small, *flags, *SEVERAL)) as (process,):
        for line in process.stdout:
            if "step 2/" in line:
                break
        victim = max(children(process.pid), key=lambda pid: len(children(pid)))  # a rank, not the resource tracker
        os.kill(victim, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert re.search(r"rank [01] was killed by SIGKILL", err)


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(word) for word in file.read().split()]
    return found


def test_ctrl_c_while_the_processes_start_is_one_line(tmp_path):
    """They import torch for seconds before they can handle a signal."""
    with running(python("Digits_LT", *SMALL_MODEL, f"--logdir={tmp_path}", *SEVERAL)) as (process,):
        while not any(importing_torch(pid) for pid in children(process.pid)) and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "stopped by SIGINT"
    assert "Traceback" not in err


def importing_torch(pid):
    """Whether pid is a rank that imports torch: not ldconfig, which the imports of the launcher itself fork."""
    process = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        return "spawn_main" in (process / "cmdline").read_text() and "libtorch_cpu" in (process / "maps").read_text()
    return False


MOMENTS = (  # signal, whom it reaches, after which line
    (signal.SIGKILL, os.kill, "epoch 1, step 3/"),
    (signal.SIGTERM, os.killpg, "epoch 2, step 1/"),  # as from a scheduler, or Ctrl-C: loading processes get it too
)


def test_run_of_two_killed_and_stopped_in_turn_equals_uninterrupted_by_torchrun(tmp_path):
    """The command of the README, a process loads for each of the two, and nobody is left after any end.

    What is uninterrupted is the command of docs/distributed.md. After a warm-up the prior starts in both processes, and
    both measure the best epoch on the test set.
    """
    flags = ["--epochs=2", "--batch-size=24", "--T-max=2", "--max-steps=4", "--save-every=2", "--print-freq=1"]
    flags += ["--warmup-epochs=1", "--val-per-class=4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = [*documented("docs/distributed.md", whole), *flags]
    with running(torchrun("--nproc-per-node=2", "train.py", *words)) as (process,):
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_one_result([out], whole)
    words = [*documented("README.md", broken), *flags, "--dist-timeout=60"]
    again = python(*words, "--resume=auto", "--workers=2")
    for signum, whom, line in MOMENTS:
        with running(again) as (process,):
            assert any(line in said for said in process.stdout)
            whom(process.pid, signum)
            _, err = process.communicate(timeout=30)  # a hang would be the 60 s of --dist-timeout
        found = load_checkpoint(broken / "checkpoint.pth")
        if signum == signal.SIGKILL:
            assert (process.returncode, found["epoch"], found["step"]) == (-signum, 0, 2)
        else:
            assert process.returncode == 128 + signum, err
            (last,) = (said for said in err.splitlines() if "stopped" in said)
            assert last.startswith(f"stopped by {signum.name}: saved after epoch"), err
            assert "leaked" not in err
            assert (found["epoch"], found["step"]) >= (int(line[6]) - 1, 1)
    with running(again) as (process,):
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert differences(whole, broken) == ["checkpoint.pth: args", "model_best.pth: args"]
    one, other = (load_checkpoint(folder / "checkpoint.pth")["args"] for folder in (whole, broken))
    launch = {"multiprocessing_distributed", "ngpus"}
    assert {name for name in one if one[name] != other[name]} - {*SAME_RUN_FLAGS} <= launch


def test_loading_process_that_is_killed_ends_the_run(tmp_path):
    small = ["--no-figures", *(flag for flag in SMALL_MODEL if "workers" not in flag)]
    flags = ["--epochs=50", "--batch-size=16", "--workers=2", "--print-freq=1", f"--logdir={tmp_path}"]
    with running(python("Digits_LT", *small, *flags)) as (process,):
        assert any("step 2/" in line for line in process.stdout)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert "killed, perhaps for want of memory" in line
    assert "--workers" in line
    assert "Traceback" not in err


def test_second_signal_ends_a_run_at_once_that_does_not_stop():
    code = (
        "import os, signal, sys, time\n"
        "from utils import stopping\n"
        "from utils.errors import run_script\n"
        "def main():\n"
        "    with stopping.held():\n"
        "        print('held', flush=True)\n"
        "        while True: time.sleep(0.01)\n"
        "run_script(main)\n"
    )
    with running([sys.executable, "-c", code]) as (process,):
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert process.returncode == 143


def test_process_that_has_other_images_than_the_first_ends_with_one_line(script, tmp_path, monkeypatch):
    broadcast = World.broadcast

    def as_rank_0_has_them(self: World, value: object) -> object:
        other = isinstance(value, dict) and "train" in value
        return value | {"train": "0" * 64} if other else broadcast(self, value)

    words = ["Digits_LT", *SMALL_MODEL, "--epochs=1", "--max-steps=1", f"--logdir={tmp_path}", "--no-figures"]
    assert script("train", *words).status == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(World, "broadcast", as_rank_0_has_them)
    done = script("train", *words, "--overwrite")
    assert done.status == 2
    assert "the train images are not those of rank 0" in done.error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
