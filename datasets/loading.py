"""From data sets to batches: which images make a batch, in which order, and who loads them."""

import contextlib
import multiprocessing
import multiprocessing.util
import signal
import warnings
from collections.abc import Iterator

import numpy as np
import torch
import torch.multiprocessing
from torch.utils.data import DataLoader, Sampler

from datasets.base import ImageDataset, SampleKey
from utils.errors import UserError
from utils.randomness import Stream, generator, permutation

MIN_IMAGES_PER_PROCESS = 2  # batch norm needs two
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
        rank, world: this process and the number of processes.
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
        world: int = 1,
        *,
        targets: np.ndarray | None = None,
        sampler: str = "instance",
        pairs: bool = False,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.targets, self.power = targets, SAMPLERS[sampler]
        self.rank, self.world = rank, world
        self.epoch, self.first_step = 0, 0
        sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
        sizes = [size - size % (2 * world if pairs else world) for size in sizes]
        self.sizes = [size for size in sizes if size >= MIN_IMAGES_PER_PROCESS * world]
        if not self.sizes:
            raise UserError(
                f"no training step is possible: {count} images, --batch-size {batch_size}, {world} process(es); each "
                f"process needs at least {MIN_IMAGES_PER_PROCESS} images a batch"
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
            positions = range(start + self.rank, start + size, self.world)
            yield [SampleKey(order[position], self.seed, self.epoch, position) for position in positions]

    def _order(self) -> torch.Tensor:
        """Draw the images of the epoch, (count,)."""
        if self.power == 1:
            return permutation(self.count, self.seed, Stream.ORDER, self.epoch)
        weights = np.bincount(self.targets)[self.targets] ** (self.power - 1)
        source = generator(self.seed, Stream.ORDER, self.epoch)
        return torch.multinomial(torch.from_numpy(weights), self.count, replacement=True, generator=source)


class EvaluationBatches(Sampler[list[int]]):
    """Every world-th image from `rank` on, in order: over all processes each image exactly once.

    Args:
        count: images in the data set.
        batch_size: of all processes together.
        rank, world: this process and the number of processes.

    Attributes:
        rounds: batches of the process that has the most.
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.count = count
        self.indices = range(rank, count, world)
        self.batch_size = max(batch_size // world, 1)
        self.rounds = -(-len(range(0, count, world)) // self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[start : start + self.batch_size])


class BatchLoader:
    """A DataLoader over given batches whose `UserError`s arrive as they were raised.

    Args:
        dataset: gives (image, label, index).
        batches: `TrainBatches` or `EvaluationBatches`.
        workers: processes that load; 0 loads in this one.
        pin_memory: for a fast copy to a GPU.
    """

    def __init__(self, dataset: ImageDataset, batches: Sampler, workers: int, pin_memory: bool) -> None:
        self.dataset, self.batches = dataset, batches
        with _without_advice():
            self._loader = DataLoader(
                dataset,
                batch_sampler=batches,
                num_workers=workers,
                pin_memory=pin_memory,
                persistent_workers=workers > 0,
                worker_init_fn=_live_with_the_parent,
                multiprocessing_context=_context() if workers else None,
                generator=torch.Generator(),  # of its own: a loader must not draw from the global one
            )
        if workers:
            multiprocessing.util.Finalize(None, kill_workers, exitpriority=0)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        with _without_advice():
            batches = iter(self._loader)
        try:
            yield from batches
        except (ConnectionError, EOFError) as error:  # met before torch noticed
            raise RuntimeError("a DataLoader worker is gone: it was killed, perhaps for want of memory") from error
        except UserError as error:  # from a worker it arrives with the worker's traceback around it
            raise UserError(str(error).rpartition("utils.errors.UserError: ")[2].strip()) from error


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without torch's advice on the number of workers, which runs over several lines at each start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _context() -> str | None:
    """Fork, where there is such a thing: a worker is there at once and shares the parent's memory.

    Left to itself, a process that was spawned spawns its workers too, and each imports torch and takes a data set of
    its own; so does every process in newer versions of Python.
    """
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None


def _live_with_the_parent(worker: int) -> None:
    """Workers end with their parent, at once; a signal to the whole group must not end them first."""
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def kill_workers() -> None:
    """Kill the workers, at exit or after an interruption: a process waits without end for those that still run.

    A polite SIGTERM is lost on them.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report the killed workers as a fault
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
