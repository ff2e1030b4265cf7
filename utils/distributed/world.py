"""The processes of a run, as one of them sees the others: the same calls for one process and for many."""

import contextlib
import datetime
import itertools
import logging
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils import stopping
from utils.distributed.plan import Launch
from utils.distributed.rendezvous import POLL_S, choose_interface, reach_store
from utils.distributed.waiting import failed, failure_of, signs_of_life, words_of
from utils.errors import LostRank, UserError
from utils.stopping import Stopped

log = logging.getLogger("dgcmm")

LAST_WORDS_S = 2.0  # how long the others may take to say why they are gone; `spawn` waits a little longer
T = TypeVar("T")
CONNECTION_ERRORS = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)


class World:
    """A run of one process: nothing is exchanged, everything else is as with many.

    Attributes:
        rank, size: this process and the number of processes.
        local_size: processes of its node.
        device: where this process computes.
    """

    rank, size, local_size = 0, 1, 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Nodes of the run."""
        return self.size // self.local_size

    def vote(self, *, bad: bool) -> "Vote":
        """Begin to agree with the others on whether to stop, and on whether a step was bad."""
        return Vote(stopping.received(), bad)

    def all_reduce(self, *tensors: Tensor) -> None:
        """Add up each tensor over all processes, in place."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the average of a tensor over all processes."""
        total = value.clone()
        self.all_reduce(total)
        return total / self.size

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks, in every process."""
        return [value]

    def gather_main(self, value: T) -> list[T] | None:
        """Return the values of all processes in the main one; None in the others."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        return value

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every process the main one's buffers."""

    def errors_together(self) -> contextlib.AbstractContextManager[None]:
        """Let each process work alone in a block; a `UserError` of any of them ends all, with one line."""
        return contextlib.nullcontext()

    def on_main(self, call: Callable[[], T]) -> T:
        """Return in every process what `call` returns in the main one; its `UserError` ends all."""
        return call()

    def on_each_node(self, call: Callable[[], object]) -> None:
        """Make `call` in the first process of each node; the others wait, however long. Its `UserError` ends all.

        Raises:
            LostRank: one of the first processes has failed, or given no sign of life for `--dist-timeout` seconds.
        """
        call()

    def on_each_node_first(self, call: Callable[[], T]) -> T:
        """Return what `call` returns here; the first process of each node calls it first, then the others.

        So what it leaves on the disk of a node, a cache or a download, may take as long as it takes. Its `UserError` in
        any process ends all.
        """
        return call()

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model, or several processes' DistributedDataParallel around it, which averages their gradients."""
        return model

    def leave(self) -> None:
        """Leave the others, once all have come to this point; nothing is exchanged after that."""

    def check_stop(self) -> None:
        """Raise `Stopped` in all processes if any has received a signal."""
        signum, _ = self.vote(bad=False).result()
        if signum:
            raise Stopped(signum)

    def in_rounds(self, items: Iterable[T], rounds: int) -> Iterator[T]:
        """Yield at most `rounds` of this process's items, in step with the others, which may have one more or less.

        Raises:
            Stopped: in all processes, if any has received a signal.
        """
        items = iter(items)
        for _ in range(rounds):
            self.check_stop()
            yield from itertools.islice(items, 1)


class Vote:
    """An agreement under way: (signal or 0, whether any process was bad).

    Args:
        signum, bad: this process's own.
        exchange: starts an all-reduce of the maximum, gives what to wait for.
    """

    def __init__(self, signum: int, bad: bool, exchange: Callable[[Tensor], dist.Work] | None = None) -> None:
        self._ballot = torch.tensor([signum, int(bad)])
        self._pending = exchange(self._ballot) if exchange else None

    def result(self) -> tuple[int, bool]:
        """Wait for the others; the same in every process."""
        if self._pending is not None:
            self._pending.wait()
            self._pending = None
        signum, bad = self._ballot.tolist()
        return signum, bool(bad)


class Member(World):
    """One process of several, in a process group.

    Small things (votes, results) travel over a gloo group of their own, so that no GPU has to be waited for.
    """

    def __init__(self, launch: Launch, local_rank: int, gpu: int | None, store: dist.Store) -> None:
        super().__init__("cpu" if gpu is None else f"cuda:{gpu}")
        self.rank, self.size, self.local_size = launch.rank_of(local_rank), launch.size, launch.local_size
        self.store, self.timeout = store, launch.timeout
        self.control: dist.ProcessGroup | None = None
        self._node_calls = 0

    @classmethod
    def join(cls, launch: Launch, local_rank: int, gpu: int | None, port: int | None) -> "Member":
        """Meet the other processes.

        Args:
            port: of the store that `host_store` opened, for processes that `spawn` started beside it.

        Raises:
            UserError: some did not come in time; names them.
            LostRank: the process that they meet at is gone, or they have met and cannot connect to each other.
        """
        rank = launch.rank_of(local_rank)
        timeout = datetime.timedelta(seconds=launch.timeout)
        world = cls(launch, local_rank, gpu, reach_store(launch, rank, port, timeout))
        try:
            world._wait_for_all(launch)
        except RuntimeError as error:
            if not is_connection_error(error):
                raise
            raise LostRank(
                f"rank {rank}: the process that all meet at ended before all had come: see the output of node 0"
            ) from error
        backend = "nccl" if launch.backend == "nccl" and gpu is not None else "gloo"
        if gpu is not None:
            torch.cuda.set_device(gpu)
        prefixed = dist.PrefixStore("group", world.store)
        choose_interface(launch)
        try:
            dist.init_process_group(backend, store=prefixed, rank=rank, world_size=launch.size, timeout=timeout)
            world.control = dist.new_group(backend="gloo", timeout=timeout)
        except RuntimeError as error:
            if not is_connection_error(error):
                raise
            raise LostRank(
                f"rank {rank} has met the others, and cannot connect to them or they are gone "
                f"({str(error).splitlines()[0]}): if that comes again, name the nodes' network interface, "
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
            ) from error
        return world

    def _wait_for_all(self, launch: Launch) -> None:
        self.store.set(f"here/{self.rank}", socket.gethostname())
        end = time.monotonic() + launch.timeout
        missing = list(range(self.size))
        while missing := [rank for rank in missing if not self.store.check([f"here/{rank}"])]:
            if time.monotonic() > end:
                nodes = sorted({rank // self.local_size for rank in missing})
                raise UserError(
                    f"rank {', '.join(map(str, missing))} (node {', '.join(map(str, nodes))}) did not come within "
                    f"{launch.timeout} s: start it, or give more --dist-timeout"
                )
            time.sleep(POLL_S)

    def leave(self) -> None:
        if self.control is not None:
            dist.barrier(group=self.control)
            dist.destroy_process_group()
            self.control = None

    def vote(self, *, bad: bool) -> Vote:
        def exchange(ballot: Tensor) -> dist.Work:
            return dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self.control, async_op=True)

        return Vote(stopping.received(), bad, exchange)

    def all_reduce(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            dist.all_reduce(tensor)

    def gather(self, value: T) -> list[T]:
        values: list[T] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def gather_main(self, value: T) -> list[T] | None:
        values: list[T] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self.control)
        return values

    def broadcast(self, value: T) -> T:
        box = [value if self.is_main else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def broadcast_buffers(self, model: nn.Module) -> None:
        with torch.no_grad():
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    @contextlib.contextmanager
    def errors_together(self) -> Iterator[None]:
        error = None
        try:
            yield
        except UserError as raised:
            error = str(raised)
        self._agree(self.gather(error))

    def on_main(self, call: Callable[[], T]) -> T:
        value, error = None, None
        if self.is_main:
            try:
                value = call()
            except UserError as raised:
                error = str(raised)
        value, error = self.broadcast((value, error))
        self._agree([error])
        return value

    def on_each_node(self, call: Callable[[], object]) -> None:
        # by way of the store, not of a collective: a download takes longer than --dist-timeout
        self._node_calls += 1
        firsts = range(0, self.size, self.local_size)
        keys = {rank: f"node call {self._node_calls}/{rank}" for rank in firsts}
        if self.rank not in keys:
            errors = words_of(self.store, keys, self.timeout)
            for rank, error in errors.items():
                if error and rank:  # the main process, which says its own, may be at work: it ends with this one
                    raise UserError(f"rank {rank}: {error}")
        else:
            with signs_of_life(self.store, self.rank, self.timeout):
                error = ""
                try:
                    call()
                except UserError as raised:
                    error = str(raised)
                self.store.set(keys[self.rank], error)
                errors = words_of(self.store, keys, self.timeout)
        self._agree([errors.get(rank) for rank in range(self.size)])

    def on_each_node_first(self, call: Callable[[], T]) -> T:
        made: list[T] = []
        self.on_each_node(lambda: made.append(call()))
        with self.errors_together():
            return made[0] if made else call()

    def parallel(self, model: nn.Module) -> nn.Module:
        # each parameter asks for a gradient that comes, so no search for unused ones is needed; the statistics of batch
        # norm are not exchanged in each step, `broadcast_buffers` shares the main process's before they are used
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")  # renamed in the newest versions only
            return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def _agree(self, errors: list[str | None]) -> None:
        """End all processes with status 2 where there is an error; the main one says why."""
        found = [(rank, error) for rank, error in enumerate(errors) if error]
        if not found:
            return
        if not self.is_main:
            raise SystemExit(2)
        rank, error = found[0]
        raise UserError(f"rank {rank}: {error}" if rank else error)

    def post_failure(self, text: str) -> None:
        """Leave a word for the others on why this process ends."""
        try:
            self.store.set(failed(self.rank), text)
        except RuntimeError:
            log.debug("the store is gone too")

    def who_is_lost(self, error: Exception) -> str:
        """After an error of the connection: what can be found out about who is gone; if all are there, the error."""
        try:
            self.store.set(f"alive/{self.rank}", "")
            end = time.monotonic() + LAST_WORDS_S
            while time.monotonic() < end:
                for rank in range(self.size):
                    if failure := failure_of(self.store, rank):
                        return failure
                time.sleep(POLL_S)
            silent = [rank for rank in range(self.size) if not self.store.check([f"alive/{rank}"])]
        except RuntimeError:
            return f"rank {self.rank} lost the others: the process that they meet at is gone, see its output"
        if not silent:
            return f"rank {self.rank}: {type(error).__name__}: {' '.join(str(error).split())}"
        names = ", ".join(map(str, silent))
        return f"rank {self.rank} lost the connection to rank {names}, which ended without a word (killed?)"


def is_connection_error(error: BaseException) -> bool:
    """Tell whether an exception means that another process, or the way to it, is gone."""
    if isinstance(error, CONNECTION_ERRORS):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl", "tcpstore"))
