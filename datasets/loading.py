"""From data sets to batches: which images make a batch, in which order, and who loads them."""

import argparse
import math
import multiprocessing
import multiprocessing.util
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from datasets.base import ImageDataset, SampleKey
from datasets.subsets import some_of_each
from datasets.workers import (
    LoadingContext,
    collate_shared,
    kill_workers,
    live_with_the_parent,
    why_lost,
    without_advice,
)
from utils import stopping
from utils.distributed.plan import MIN_IMAGES_PER_PROCESS
from utils.distributed.world import World
from utils.errors import LostWorker, UserError
from utils.logs import progress
from utils.randomness import Stream, generator, permutation

SAMPLERS = {"instance": 1.0, "sqrt": 0.5, "balanced": 0.0}  # name -> q: a class is drawn in proportion to n_c^q


class TrainBatches(Sampler[list[SampleKey]]):
    """The batches of an epoch for one process, as a function of (seed, epoch) alone.

    Every process takes every world-th image of each global batch. The last batch is kept, cut to a multiple of the
    processes with at least two images each, else dropped; so all processes take the same number of steps.

    An epoch is as many images as the data set has, whatever the sampler. With 'instance' that is each image once; the
    others draw with replacement, first a class by its share n_c^q / sum n^q, then one of its images (q-sampling of Kang
    et al., ICLR 2020; `WeightedRandomSampler` with the weights n_c^(q-1)). An image that is drawn twice is transformed
    anew.

    Args:
        count: images in the data set.
        batch_size: of all processes together.
        seed: of the order and of the random transforms.
        rank, world_size: this process and the number of processes.
        targets: labels of the images, (count,), which all samplers but 'instance' read.
        sampler: a key of `SAMPLERS`.
        pairs: give each process an even number of images a batch, which mixup pairs.

    Raises:
        UserError: not one batch can be made.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        targets: np.ndarray | None = None,
        sampler: str = "instance",
        pairs: bool = False,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.targets, self.power = targets, SAMPLERS[sampler]
        self.rank, self.world_size = rank, world_size
        self.epoch, self.first_step = 0, 0
        sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
        sizes = [size - size % (2 * world_size if pairs else world_size) for size in sizes]
        self.sizes = [size for size in sizes if size >= MIN_IMAGES_PER_PROCESS * world_size]
        if not self.sizes:
            raise UserError(
                f"no training step is possible: {count} images, --batch-size {batch_size}, {world_size} process(es); "
                f"each process needs at least {MIN_IMAGES_PER_PROCESS} images a batch"
            )

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Make the next iteration give the batches of `epoch`, from step `first_step` on."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = self._order().tolist()
        for step, size in list(enumerate(self.sizes))[self.first_step :]:
            start = step * self.batch_size
            positions = range(start + self.rank, start + size, self.world_size)
            yield [SampleKey(order[position], self.seed, self.epoch, position) for position in positions]

    def _order(self) -> torch.Tensor:
        """Draw the images of the epoch, (count,)."""
        if self.power == 1:
            return permutation(self.count, self.seed, Stream.ORDER, self.epoch)
        weights = np.bincount(self.targets)[self.targets] ** (self.power - 1)
        source = generator(self.seed, Stream.ORDER, self.epoch)
        return torch.multinomial(torch.from_numpy(weights), self.count, replacement=True, generator=source)


class EvaluationBatches(Sampler[list[int]]):
    """Every world_size-th image from `rank` on, in order: over all processes each image exactly once.

    Args:
        count: images in the data set.
        batch_size: of all processes together.
        rank, world_size: this process and the number of processes.

    Attributes:
        at_once: images of a batch of this process.
        rounds: batches of the process that has the most.
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.count = count
        self.indices = range(rank, count, world_size)
        self.at_once = max(batch_size // world_size, 1)
        self.rounds = math.ceil(len(range(0, count, world_size)) / self.at_once)

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.at_once)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.at_once):
            yield list(self.indices[start : start + self.at_once])


class BatchLoader:
    """A DataLoader over given batches whose errors are the user's where the user can mend them.

    Args:
        dataset: gives (image, label, index) or the like, the image first.
        batches: `TrainBatches`, `EvaluationBatches`, or indices of each batch.
        workers: processes that load; 0 loads in this one.
        pin_memory: for a fast copy to a GPU.
    """

    def __init__(
        self, dataset: Dataset, batches: Sampler | Sequence[Sequence[int]], workers: int, pin_memory: bool
    ) -> None:
        self.dataset, self.batches, self.workers = dataset, batches, workers
        self._processes: list[BaseProcess] = []
        with without_advice():
            self._loader = DataLoader(
                dataset,
                batch_sampler=batches,
                num_workers=workers,
                pin_memory=pin_memory,
                persistent_workers=workers > 0,
                collate_fn=collate_shared if workers else None,
                worker_init_fn=live_with_the_parent,
                multiprocessing_context=LoadingContext() if workers else None,
                generator=torch.Generator(),  # of its own: a loader must not draw from the global one
            )
        if workers:
            multiprocessing.util.Finalize(None, kill_workers, exitpriority=0)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list]:
        """Give images, labels and indices of each batch, or what else an item has; images must not be kept.

        Raises:
            UserError: as the data set raised it.
            LostWorker: a worker was killed, or cannot hand over what it has loaded.
        """
        try:
            batches = self._start() if self.workers else self._loader
            for images, *others in batches:
                yield [images, *map(kept, others)]
        except UserError as error:  # from a worker it arrives with the worker's traceback around it
            raise UserError(str(error).rpartition("utils.errors.UserError: ")[2].strip()) from error
        except (OSError, EOFError, RuntimeError) as error:
            if not (reason := why_lost(error, [process.exitcode for process in self._processes])):
                raise
            raise LostWorker(f"the loading processes ended: {reason}, or give fewer --workers (0: none)") from error

    def close(self) -> None:
        """End the workers. Left to Python, that happens where an exception is lost, and with it a signal to stop."""
        if self.workers:
            with stopping.blocked():
                self._loader = None

    def _start(self) -> Iterator[list[Tensor]]:
        """Begin an epoch; the first one starts the workers."""
        before = multiprocessing.active_children()
        try:
            with without_advice():
                batches = iter(self._loader)
        finally:
            # torch's handler would raise in whatever this process does; where it waits for a batch is early enough
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._processes += [child for child in multiprocessing.active_children() if child not in before]
        return batches


def kept(part: object) -> object:
    """Copy what a worker has loaded: it is shared memory, an open file as long as it is held."""
    return part.clone() if isinstance(part, Tensor) and part.is_shared() else part


class ClassPairs:
    """Class by class, training images and images of a split that is measured, as the evaluation transforms both.

    Of each no more than `limit`, spread over the class's list. The processes share the classes that are measured.

    Args:
        train, measured: the splits.
        limit: training images of a class, and measured ones.
        rank, world_size: this process and the number of processes.
        workers, pin_memory: as in `BatchLoader`.

    Attributes:
        rounds: classes of the process that has the most.
    """

    def __init__(
        self,
        train: ImageDataset,
        measured: ImageDataset,
        limit: int,
        rank: int,
        world_size: int,
        workers: int,
        pin_memory: bool,
    ) -> None:
        known, asked = some_of_each(train.targets, limit), some_of_each(measured.targets, limit)
        labels = sorted(asked)
        self.rounds = math.ceil(len(labels) / world_size)
        both = ConcatDataset([train.subset(np.arange(len(train)), measured.transform), measured])
        batches = [rows for label in labels[rank::world_size] for rows in (known[label], len(train) + asked[label])]
        self._loader = BatchLoader(both, batches, workers, pin_memory)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give, of each class, training images (B,C,S,S), measured ones (B',C,S,S), both uint8, and their labels."""
        batches = iter(self._loader)
        for (examples, *_), (images, labels, _) in zip(batches, batches, strict=True):
            yield examples, images, labels


def shared_batches(loader: BatchLoader, args: argparse.Namespace, world: World, what: str) -> Iterator[list[Tensor]]:
    """Yield this process's batches of an evaluation, to the end of all processes; `what` is on the progress bar.

    Raises:
        Stopped: by a signal.
    """
    steps = min(loader.batches.rounds, args.max_steps or loader.batches.rounds)
    with progress(what, total=loader.batches.count, unit="img", quiet=args.quiet) as bar:
        for batch in world.in_rounds(loader, steps):
            yield batch
            bar.update(len(batch[0]) * world.size)


def make_loader(world: World, args: argparse.Namespace, dataset: ImageDataset, train: bool = False) -> BatchLoader:
    """Make this process's share of the batches of a data set, in training order or to evaluate it."""
    images = args.batch_size * world.nodes
    if train:
        batches = TrainBatches(
            len(dataset),
            images,
            args.seed,
            world.rank,
            world.size,
            targets=dataset.targets,
            sampler=args.sampler,
            pairs=bool(args.mixup),
        )
    else:
        batches = EvaluationBatches(len(dataset), images, world.rank, world.size)
    workers = math.ceil(args.workers / world.local_size)
    return BatchLoader(dataset, batches, workers, pin_memory=world.device.type == "cuda")
