"""Batches: which images, in which order, for which process; and the loader around them."""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision import transforms as T

from datasets import loading
from datasets.base import ArrayDataset, ImageDataset, SampleKey
from datasets.loading import (
    SAMPLERS,
    BatchLoader,
    ClassPairs,
    EvaluationBatches,
    TrainBatches,
    make_loader,
    shared_batches,
)
from datasets.workers import kill_workers
from helpers.project import ROOT
from utils import stopping
from utils.distributed.world import World
from utils.errors import LostWorker, UserError
from utils.stopping import Stopped

TRANSFORM = T.Compose([T.RandomCrop(8), T.RandomHorizontalFlip(), T.PILToTensor()])

PLACES = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]  # for a process of its own


def noise(count: int, transform: Callable = TRANSFORM) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 24, 24), dtype=np.uint8)
    return ArrayDataset(images, "ab", np.arange(count) % 2, [str(row) for row in range(count)], transform)


def order_of(batches: TrainBatches, epoch: int) -> list[int]:
    batches.set_epoch(epoch)
    return [key.index for batch in batches for key in batch]


def batches_of(loader: BatchLoader, epochs: int) -> list[list[torch.Tensor]]:
    result = []
    for epoch in range(epochs):
        loader.batches.set_epoch(epoch)
        result += list(loader)
    return result


class Unreadable(ImageDataset):
    """Ten images, of which the sixth cannot be read."""

    def __init__(self, message: str) -> None:
        super().__init__("a", np.zeros(10, int), [str(row) for row in range(10)], T.PILToTensor())
        self.message = message

    def read(self, row: int) -> Image.Image:
        if row != 5:
            return Image.new("L", (4, 4))
        try:
            raise OSError("broken data stream")
        except OSError as error:
            raise UserError(self.message) from error


# ---- the batches of training


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "sizes"),
    [
        (12, 4, 1, [4, 4, 4]),
        (14, 4, 1, [4, 4, 4, 2]),  # the last is kept
        (13, 4, 1, [4, 4, 4]),  # one image is too few
        (15, 8, 2, [8, 6]),  # cut to a multiple of the processes
        (12, 8, 2, [8, 4]),
        (11, 8, 2, [8]),  # 3 would be cut to one image each
        (22, 12, 3, [12, 9]),
        (3, 256, 1, [3]),  # a set smaller than the batch
        (5, 256, 2, [4]),
    ],
)
def test_last_batch_is_kept_cut_to_a_multiple_of_the_processes_or_dropped(count, batch_size, world, sizes):
    ranks = [TrainBatches(count, batch_size, 0, rank, world) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(sizes)}
    for batches in ranks:
        assert [len(batch) * world for batch in batches] == sizes
    drawn = [key.index for batches in ranks for batch in batches for key in batch]
    assert len(set(drawn)) == len(drawn) == sum(sizes)


@pytest.mark.parametrize(
    ("count", "batch_size", "world"), [(0, 4, 1), (1, 4, 1), (100, 1, 1), (3, 8, 2), (100, 3, 2), (100, 2, 2)]
)
def test_no_step_possible_is_an_error_that_says_why(count, batch_size, world):
    with pytest.raises(UserError, match=rf"no training step .*{count} images, --batch-size {batch_size}, {world} proc"):
        TrainBatches(count, batch_size, 0, 0, world)


def test_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(1)
    first = {(seed, epoch): order_of(TrainBatches(50, 8, seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    torch.manual_seed(2)
    backwards = TrainBatches(50, 8, 0)
    assert [order_of(backwards, epoch) for epoch in (2, 1, 0)] == [first[0, epoch] for epoch in (2, 1, 0)]
    assert len({tuple(order) for order in first.values()}) == 6
    assert all(sorted(order) == list(range(50)) for order in first.values())


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one_process(world):
    whole = TrainBatches(48, 12, 5)
    ranks = [TrainBatches(48, 12, 5, rank, world) for rank in range(world)]
    for batches in (whole, *ranks):
        batches.set_epoch(3)
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert sorted(batch) == sorted(key for part in parts for key in part)
        assert {len(part) for part in parts} == {12 // world}


def test_position_counts_through_the_epoch():
    batches = TrainBatches(20, 8, 7)
    batches.set_epoch(4)
    keys = [key for batch in batches for key in batch]
    assert [key.position for key in keys] == list(range(20))
    assert {(key.seed, key.epoch) for key in keys} == {(7, 4)}


COUNTS = (900, 90, 10)
TARGETS = np.repeat(np.arange(3), COUNTS)


def test_what_a_seed_draws_never_changes():
    """A published number must stay reproducible."""
    assert order_of(TrainBatches(8, 4, 7), 0) == [7, 4, 5, 0, 1, 3, 2, 6]
    targets = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    balanced = TrainBatches(8, 4, 7, targets=targets, sampler="balanced")
    assert order_of(balanced, 1) == [2, 5, 7, 5, 6, 6, 7, 6]


def sampled(sampler: str, seed: int = 0, rank: int = 0, world: int = 1) -> TrainBatches:
    return TrainBatches(1000, 100, seed, rank, world, targets=TARGETS, sampler=sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_draws_classes_by_their_counts_to_the_power_q(sampler):
    batches = sampled(sampler)
    drawn = np.concatenate([order_of(batches, epoch) for epoch in range(20)])
    shares = np.array(COUNTS) ** SAMPLERS[sampler]
    expected = 20 * 1000 * shares / shares.sum()
    found = np.bincount(TARGETS[drawn], minlength=3)
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()
    per_image = np.bincount(drawn, minlength=1000)  # within a class each image like any other
    assert per_image[:900].std() <= (0 if sampler == "instance" else 1.2 * np.sqrt(per_image[:900].mean()))
    assert (per_image[990:] > 0).all()


@pytest.mark.parametrize("sampler", ["sqrt", "balanced"])
def test_sampled_order_is_a_function_of_seed_and_epoch_of_the_length_of_the_data(sampler):
    orders = {(seed, epoch): order_of(sampled(sampler, seed), epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert {len(order) for order in orders.values()} == {1000}
    backwards = sampled(sampler)
    assert [order_of(backwards, epoch) for epoch in (1, 0)] == [orders[0, 1], orders[0, 0]]


@pytest.mark.parametrize("sampler", ["sqrt", "balanced"])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_what_a_sampler_draws_for_one(world, sampler):
    whole = sampled(sampler)
    ranks = [sampled(sampler, rank=rank, world=world) for rank in range(world)]
    for batches in (whole, *ranks):
        batches.set_epoch(3, first_step=4)  # as a resumed run begins
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert [key for together in zip(*parts, strict=True) for key in together] == batch


@pytest.mark.parametrize(("world", "sizes"), [(1, [12, 12, 6]), (2, [12, 12, 4]), (3, [12, 12, 6])])
def test_pairs_give_each_process_an_even_number_of_images(world, sizes):
    ranks = [TrainBatches(31, 12, 0, rank, world, pairs=True) for rank in range(world)]
    for batches in ranks:
        assert [len(batch) * world for batch in batches] == batches.sizes == sizes
        assert all(len(batch) % 2 == 0 for batch in batches)


# ---- the batches of evaluation


@pytest.mark.parametrize("count", [0, 1, 5, 16, 17])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_processes_evaluate_each_image_exactly_once(count, world, batch_size):
    ranks = [EvaluationBatches(count, batch_size, rank, world) for rank in range(world)]
    shards = [[index for batch in batches for index in batch] for batches in ranks]
    assert sorted(itertools.chain(*shards)) == list(range(count))
    assert all(shard == sorted(shard) for shard in shards)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    for batches in ranks:
        sizes = [len(batch) for batch in batches]
        assert len(batches) == len(sizes)
        assert all(0 < size <= max(batch_size // world, 1) for size in sizes)


@pytest.mark.parametrize(("rank", "own"), [(0, 3), (1, 2)])
def test_process_with_a_batch_less_takes_part_in_every_round(rank, own):
    """It would keep the others waiting, who agree in each on whether to stop."""
    votes = []
    world = World()
    world.size, world.check_stop = 2, lambda: votes.append(1)
    args = SimpleNamespace(max_steps=None, quiet=True)
    loader = BatchLoader(noise(9, T.PILToTensor()), EvaluationBatches(9, 4, rank, 2), 0, pin_memory=False)
    assert len(list(shared_batches(loader, args, world, "evaluation"))) == own
    assert len(votes) == 3


# ---- the loader


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_batch_and_no_draw_over_epochs(workers):
    data = noise(22)
    alone, helped = (
        batches_of(BatchLoader(data, TrainBatches(22, 8, 0), number, pin_memory=False), epochs=3)
        for number in (0, workers)
    )
    assert len(alone) == len(helped) == 9
    for batch, other in zip(alone, helped, strict=True):
        assert all(torch.equal(part, same) for part, same in zip(batch, other, strict=True))


def test_batches_are_of_all_nodes_by_the_flags():
    """The second of two nodes of one process each; batches of 14, of which mixup gives each an even number."""
    world = SimpleNamespace(rank=1, size=2, local_size=1, nodes=2, device=torch.device("cpu"))
    args = argparse.Namespace(batch_size=7, seed=3, sampler="sqrt", mixup=1.0, workers=0)
    batches = make_loader(world, args, noise(90), train=True).batches
    assert (batches.sizes, batches.power, batches.seed) == ([12] * 6 + [4], 0.5, 3)
    assert (batches.rank, batches.world_size, batches.targets.tolist()) == (1, 2, [0, 1] * 45)
    args.sampler, args.mixup = "instance", 0.0
    batches = make_loader(world, args, noise(90), train=True).batches
    assert (batches.sizes, batches.power) == ([14] * 6 + [6], 1.0)
    batches = make_loader(world, args, noise(90)).batches
    assert (batches.at_once, list(batches.indices)) == (7, list(range(1, 90, 2)))


@pytest.mark.parametrize(("workers", "own"), [(0, 0), (1, 1), (3, 2), (4, 2)])
def test_workers_are_divided_among_the_processes_of_a_node_and_rounded_up(workers, own):
    world = SimpleNamespace(rank=3, size=4, local_size=2, nodes=2, device=torch.device("cpu"))
    args = argparse.Namespace(batch_size=8, workers=workers)
    assert make_loader(world, args, noise(90)).workers == own


def test_batch_is_images_labels_and_indices():
    data = noise(6)
    images, labels, indices = next(iter(BatchLoader(data, EvaluationBatches(6, 4), 0, pin_memory=False)))
    assert (images.shape, images.dtype) == ((4, 1, 8, 8), torch.uint8)
    assert labels.tolist() == [0, 1, 0, 1]
    assert indices.tolist() == [0, 1, 2, 3]


def test_image_drawn_twice_is_augmented_differently():
    class Twice(TrainBatches):
        def __iter__(self):
            yield [SampleKey(3, self.seed, self.epoch, position) for position in range(8)]

    images, _, indices = next(iter(BatchLoader(noise(8), Twice(8, 8, 0), 0, pin_memory=False)))
    assert set(indices.tolist()) == {3}
    assert len({image.numpy().tobytes() for image in images}) == 8


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batches", [TrainBatches(8, 4, 0), EvaluationBatches(8, 4)], ids=["train", "evaluation"])
def test_loader_draws_nothing_from_the_global_generator(batches, workers):
    data = noise(8) if isinstance(batches, TrainBatches) else noise(8, T.PILToTensor())
    before = torch.random.get_rng_state()
    list(BatchLoader(data, batches, workers, pin_memory=False))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_that_is_left_early_does_not_leak_into_the_next(workers):
    loader = BatchLoader(noise(16), TrainBatches(16, 4, 0), workers, pin_memory=False)
    for _ in loader:
        break
    loader.batches.set_epoch(1)
    indices = [index for batch in loader for index in batch[2].tolist()]
    assert indices == order_of(TrainBatches(16, 4, 0), 1)


def test_signal_while_the_workers_end_is_heard_when_they_have(monkeypatch):
    """Raised in the midst of it, the exception would be lost where Python deletes the loader."""
    loader, ended = BatchLoader(noise(16), EvaluationBatches(16, 4), 1, pin_memory=False), []
    list(loader)
    end = _MultiProcessingDataLoaderIter._shutdown_workers

    def interrupted(batches: _MultiProcessingDataLoaderIter) -> None:
        signal.raise_signal(signal.SIGTERM)
        end(batches)
        ended.append(multiprocessing.active_children())

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", interrupted)
    with stopping.handled(), pytest.raises(Stopped, match="stopped by SIGTERM"):
        loader.close()
    assert ended == [[]]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "message",
    ["x/5.png cannot be read (cut off): replace it", "utils: a: b", "two\nlines"],
    ids=["image", "colons", "two lines"],
)
def test_user_error_arrives_as_it_was_raised(message, workers):
    loader = BatchLoader(Unreadable(message), EvaluationBatches(10, 2), workers, pin_memory=False)
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(caught.value) == message


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_signal_to_the_whole_group_ends_no_worker(number):
    parent = os.getpid()

    def signalled(image: Image.Image) -> torch.Tensor:
        assert os.getpid() != parent
        os.kill(os.getpid(), number)
        return T.functional.pil_to_tensor(image)

    loader = BatchLoader(noise(4, signalled), EvaluationBatches(4, 2), 1, pin_memory=False)
    assert len(list(loader)) == 2


def test_number_of_workers_brings_no_advice(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(list(BatchLoader(noise(4), EvaluationBatches(4, 2), 2, pin_memory=False))) == 2


def test_labels_that_are_kept_hold_no_open_file():
    """An evaluation keeps those of all batches; a file each would be too many after some hundreds."""
    kept, files = [], []
    for _, labels, indices in BatchLoader(noise(80), EvaluationBatches(80, 1), 1, pin_memory=False):
        kept.append((labels.numpy(), indices.numpy()))
        files.append(len(os.listdir("/proc/self/fd")))
    assert len(kept) == 80
    assert max(files) - files[0] < 20


def raising(error: Exception) -> Callable[[Image.Image], torch.Tensor]:
    def transform(_: Image.Image) -> torch.Tensor:
        raise error

    return transform


def test_want_of_shared_memory_is_one_line_with_remedies():
    full = RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)")
    loader = BatchLoader(noise(8, raising(full)), EvaluationBatches(8, 2), 1, pin_memory=False)
    with pytest.raises(LostWorker, match=r"shared memory \(/dev/shm\) is too small.*--shm-size.*--workers"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_fault_in_a_data_set_keeps_its_traceback(workers):
    loader = BatchLoader(noise(8, raising(RuntimeError("a fault"))), EvaluationBatches(8, 2), workers, pin_memory=False)
    with pytest.raises(RuntimeError, match="a fault"):
        list(loader)


def test_worker_that_dies_disturbs_this_process_only_where_it_waits_for_a_batch():
    before = multiprocessing.active_children()
    batches = iter(BatchLoader(noise(20), EvaluationBatches(20, 1), 1, pin_memory=False))
    next(batches)
    (worker,) = (child for child in multiprocessing.active_children() if child not in before)
    worker.kill()
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(LostWorker, match="one was killed, perhaps for want of memory"):
        list(batches)


def fail_in_worker() -> None:
    list(BatchLoader(Unreadable("x/5.png cannot be read: replace it"), EvaluationBatches(10, 2), 2, pin_memory=False))


def fail_beside_workers() -> None:
    for _ in BatchLoader(noise(4), EvaluationBatches(4, 2), 2, pin_memory=False):
        raise ValueError("a fault of the program")


def kill_workers_and_exit() -> None:
    for _ in BatchLoader(noise(4), EvaluationBatches(4, 2), 2, pin_memory=False):
        workers = multiprocessing.active_children()
        kill_workers()
        for worker in workers:
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # left for torch's handler to find
        os._exit(0)


@pytest.mark.parametrize(("run", "status"), [(fail_in_worker, 1), (fail_beside_workers, 1), (kill_workers_and_exit, 0)])
def test_process_neither_waits_for_its_workers_nor_calls_their_end_a_fault(run, status, monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 300)  # which is how long torch waits
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(timeout=60)
    process.kill()  # for a process that hangs
    assert process.exitcode == status


def test_script_that_fails_in_a_worker_ends_with_one_line_and_status_2():
    code = (
        f"import sys; sys.path[:0] = {PLACES!r}\n"
        "from test_loading import fail_in_worker\n"
        "from utils.errors import run_script\n"
        "run_script(fail_in_worker)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (2, "error: x/5.png cannot be read: replace it\n")


def grey_of_rows(targets: Sequence[int], transform: Callable) -> ArrayDataset:
    """Images that are as bright as their row."""
    images = np.arange(len(targets), dtype=np.uint8)[:, None, None].repeat(4, axis=1).repeat(4, axis=2)
    return ArrayDataset(images, "abcd", targets, range(len(targets)), transform)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (3, 0)])
def test_pairs_are_of_each_measured_class_once_spread_over_its_list_and_not_augmented(world, workers):
    fails_if_random = T.Lambda(lambda image: pytest.fail("a random transform"))
    train = grey_of_rows([0, 1, 1, 1, 1, 1, 1, 2, 3, 3], fails_if_random)
    measured = grey_of_rows([3, 0, 0, 1, 3, 3, 3], T.PILToTensor())
    shares = [ClassPairs(train, measured, 3, rank, world, workers, pin_memory=False) for rank in range(world)]
    assert {share.rounds for share in shares} == {-(-3 // world)}
    found = {}
    for share in shares:
        for examples, images, labels in share:
            (label,) = set(labels.tolist())
            assert label not in found
            assert images.shape == (len(labels), 1, 4, 4)
            found[label] = examples[:, 0, 0, 0].tolist(), images[:, 0, 0, 0].tolist()
    assert found == {0: ([0], [1, 2]), 1: ([1, 3, 5], [3]), 3: ([8, 9], [0, 4, 5])}


def test_workers_stay_from_epoch_to_epoch():
    loader, seen = BatchLoader(noise(8), EvaluationBatches(8, 4), 2, False), []
    for _ in range(2):
        list(loader)
        seen.append({child.pid for child in multiprocessing.active_children()})
    assert seen[0] == seen[1] != set()


def test_bar_counts_the_images_of_all_processes(monkeypatch):
    counts: list[int] = []
    bar = SimpleNamespace(update=counts.append)
    monkeypatch.setattr(loading, "progress", lambda *_, **__: contextlib.nullcontext(bar))
    world = World()
    world.size = 2
    loader = BatchLoader(noise(8), EvaluationBatches(8, 4, 0, 2), 0, False)
    list(shared_batches(loader, argparse.Namespace(max_steps=None, quiet=True), world, "evaluation"))
    assert sum(counts) == 8
