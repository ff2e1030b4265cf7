"""From the flags to processes: how many there are, who starts them, and what becomes of them.

Three ways lead to several processes: `--multiprocessing-distributed` starts `--ngpus` of them here, torchrun (or
anybody with `--dist-url=env://`) describes them in the environment, and `--world-size` with `--rank` makes this
command one of them. Nothing here imports torch before a process is started.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from utils import stopping
from utils.errors import LostRank, UserError, print_error
from utils.stopping import Stopped

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # what torchrun sets, among others
GRACE_S = 3.0  # after the first failure the other ranks may say what they saw
POLL_S = 0.1


@dataclass(frozen=True)
class Launch:
    """The processes of a run, as this command sees them.

    Attributes:
        size: processes in all; 1 needs no process group.
        first_rank: rank of the first process that this command is or starts.
        local_size: processes of this node, which share `--batch-size` and `--workers`.
        local_rank: of this process in its node; 0 where this command starts the node's processes.
        spawns: whether this command starts processes.
        url: where the processes meet: tcp://host:port, env://, or None for a free port of this machine.
        backend: 'nccl' or 'gloo', as asked for.
        timeout: seconds that a process waits for another.
    """

    size: int = 1
    first_rank: int = 0
    local_size: int = 1
    local_rank: int = 0
    spawns: bool = False
    url: str | None = None
    backend: str = "nccl"
    timeout: int = 600

    @property
    def nodes(self) -> int:
        """Nodes of the run; a command that is a single process counts as one."""
        return self.size // self.local_size


def plan_launch(args: argparse.Namespace, environ: Mapping[str, str]) -> Launch:
    """What the flags and the environment ask for.

    Raises:
        UserError: they contradict each other.
    """
    by_torchrun = all(name in environ for name in TORCHRUN)
    if args.rank is not None and args.rank >= (args.world_size or 1) and not _counted_by(environ, args):
        raise UserError(f"--rank {args.rank} must be below --world-size {args.world_size or 1}: ranks start at 0")
    _check_url(args.dist_url)
    if by_torchrun and not args.multiprocessing_distributed:
        launch = _from_environment(args, environ)
    elif by_torchrun:
        raise UserError("torchrun starts the processes itself: leave --multiprocessing-distributed out")
    elif args.multiprocessing_distributed:
        launch = _spawning(args, environ)
    else:
        if args.ngpus > 1:
            raise UserError(
                f"--ngpus {args.ngpus} needs --multiprocessing-distributed, which starts that many processes"
            )
        launch = _from_environment(args, environ) if args.dist_url == "env://" else _by_hand(args)
    _check_together(args, launch)
    return launch


def _counted_by(environ: Mapping[str, str], args: argparse.Namespace) -> bool:
    return args.dist_url == "env://" and args.world_size is None and "WORLD_SIZE" in environ


def _check_url(url: str | None) -> None:
    if url in (None, "env://"):
        return
    try:
        parts = urlsplit(url)
        good = parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:
        good = False
    if not good:
        raise UserError(f"--dist-url {url}: give tcp://HOST:PORT of the first node, or env://")


def _check_together(args: argparse.Namespace, launch: Launch) -> None:
    if args.batch_size % launch.local_size:
        raise UserError(
            f"--batch-size {args.batch_size} is the node's and cannot be shared by its {launch.local_size} processes: "
            f"give a multiple of {launch.local_size}"
        )
    if launch.size > 1 and args.gpu is not None:
        raise UserError(f"--gpu {args.gpu} is for one process: {launch.size} processes take a GPU each, leave it out")


def _spawning(args: argparse.Namespace, environ: Mapping[str, str]) -> Launch:
    """`--multiprocessing-distributed`: world size and rank count nodes."""
    url, nodes, node = args.dist_url, args.world_size, args.rank
    if url == "env://":
        url = f"tcp://{_variable(environ, 'MASTER_ADDR')}:{_variable(environ, 'MASTER_PORT')}"
        _check_url(url)
        nodes = _whole(environ, "WORLD_SIZE") if nodes is None else nodes
        node = _whole(environ, "RANK") if node is None and nodes > 1 else node
    nodes, node = nodes or 1, node or 0
    if node >= nodes:
        raise UserError(f"RANK {node} must be below the number of nodes, {nodes}")
    if nodes > 1 and url is None:
        raise UserError(f"--world-size {nodes}: the nodes must know where to meet, give --dist-url=tcp://HOST:PORT")
    size = nodes * args.ngpus
    if size == 1:
        return Launch(backend=args.dist_backend, timeout=args.dist_timeout)
    meeting = {"url": url, "backend": args.dist_backend, "timeout": args.dist_timeout}
    return Launch(size, node * args.ngpus, args.ngpus, spawns=True, **meeting)


def _by_hand(args: argparse.Namespace) -> Launch:
    """`--world-size` and `--rank` alone: this command is one process of several."""
    size = args.world_size or 1
    if size == 1:
        return Launch(backend=args.dist_backend, timeout=args.dist_timeout)
    if args.rank is None:
        raise UserError(f"--world-size {size} needs --rank: which of the {size} processes this one is")
    if args.dist_url is None:
        raise UserError(f"--world-size {size}: the processes must know where to meet, give --dist-url=tcp://HOST:PORT")
    return Launch(size, args.rank, url=args.dist_url, backend=args.dist_backend, timeout=args.dist_timeout)


def _from_environment(args: argparse.Namespace, environ: Mapping[str, str]) -> Launch:
    """torchrun's variables, or the same set by another launcher."""
    size, rank = _whole(environ, "WORLD_SIZE"), _whole(environ, "RANK")
    local_size = _whole(environ, "LOCAL_WORLD_SIZE", 1)
    for flag, value, said in (("--world-size", args.world_size, size), ("--rank", args.rank, rank)):
        if value not in (None, said):
            raise UserError(f"{flag} {value} contradicts the environment, where it is {said}: leave {flag} out")
    if args.dist_url not in (None, "env://"):
        raise UserError(f"--dist-url {args.dist_url}: the environment says where the processes meet, leave it out")
    if rank >= size or size % local_size:
        raise UserError(
            f"the environment says RANK={rank}, WORLD_SIZE={size}, LOCAL_WORLD_SIZE={local_size}: no such run"
        )
    if size == 1:
        return Launch(backend=args.dist_backend, timeout=args.dist_timeout)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        _variable(environ, name)
    local_rank = _whole(environ, "LOCAL_RANK", 0)
    meeting = {"url": "env://", "backend": args.dist_backend, "timeout": args.dist_timeout}
    return Launch(size, rank, local_size, local_rank, **meeting)


def _variable(environ: Mapping[str, str], name: str) -> str:
    if name not in environ:
        raise UserError(f"--dist-url env:// needs the environment variable {name}: set it, or give tcp://HOST:PORT")
    return environ[name]


def _whole(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, default) if default is not None else _variable(environ, name)
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise UserError(f"the environment variable {name}={text} is not a whole number")
    return value


def spawn(work: Callable, launch: Launch, devices: Sequence[int | None], *arguments: Any) -> None:
    """Start this node's processes and stay until all have ended.

    Signals are passed on to them; the first failure ends them all.

    Args:
        work: called in each process as `work(world, *arguments)`; picklable.
        devices: GPU number of each process, None for the CPU.

    Raises:
        UserError: a process ended with one.
        LostRank: a process was killed, or lost one of another node.
        Stopped: a signal ended them all in good order.
    """
    import torch.multiprocessing as mp

    from utils.distributed import host_store

    store = host_store(launch)  # kept alive here: it outlives any process that may fail
    port = store.port if store is not None else None
    with tempfile.TemporaryDirectory(prefix="dgcmm-") as folder, stopping.held():
        context = mp.start_processes(
            _rank_main,
            args=(launch, devices, port, folder, work, arguments),
            nprocs=launch.local_size,
            join=False,
            start_method="spawn",
        )
        try:
            _wait(context.processes)
        finally:
            killed = _end(context.processes)
        _judge(launch, context.processes, killed, Path(folder))


def _wait(processes: Sequence[Any]) -> None:
    """Until all processes have ended well, or one has not; a signal is passed on."""
    passed_on = False
    while any(process.is_alive() for process in processes):
        connection.wait([process.sentinel for process in processes if process.is_alive()], timeout=POLL_S)
        if stopping.received() and not passed_on:
            passed_on = True
            for process in processes:
                if process.is_alive():
                    os.kill(process.pid, stopping.received())
        if any(process.exitcode not in (None, 0) for process in processes):
            return


def _end(processes: Sequence[Any]) -> set[int]:
    """Wait a little for the processes that are left, then kill them; returns the indices of those."""
    end = time.monotonic() + (GRACE_S if not stopping.received() else 10 * GRACE_S)
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
    killed = {index for index, process in enumerate(processes) if process.is_alive()}
    for index in killed:
        processes[index].kill()
        processes[index].join()
    return killed


def _judge(launch: Launch, processes: Sequence[Any], killed: set[int], folder: Path) -> None:
    """Raise what the ends of the processes amount to."""
    codes = [process.exitcode for process in processes]
    stops = {code - 128 for code in codes if code in {128 + signum for signum in stopping.SIGNALS}}
    if stops and not killed and all(code == 0 or code - 128 in stops for code in codes):
        raise Stopped(stops.pop())
    signalled = [index for index, code in enumerate(codes) if code < 0 and index not in killed]
    for index in signalled:
        name = signal.Signals(-codes[index]).name
        raise LostRank(f"rank {launch.first_rank + index} was killed by {name}: all were ended; --resume=auto goes on")
    reports = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    if not reports:
        failed = [index for index, code in enumerate(codes) if code != 0]
        if failed:
            raise LostRank(f"rank {launch.first_rank + failed[0]} ended with status {codes[failed[0]]} without a word")
        return
    first = min(reports, key=lambda report: (report["kind"] == "lost", report["time"]))
    if first["kind"] == "user":
        raise UserError(first["text"])
    if first["kind"] == "lost":
        raise LostRank(first["text"])
    print(first["text"], end="", file=sys.stderr)
    raise LostRank(f"rank {first['rank']} failed with the traceback above; all were ended")


def _rank_main(
    index: int,
    launch: Launch,
    devices: Sequence[int | None],
    port: int | None,
    folder: str,
    work: Callable,
    rest: tuple,
) -> None:
    """One process that `spawn` started; how it failed is left in `folder`."""
    import torch.multiprocessing as mp

    mp._prctl_pr_set_pdeathsig(signal.SIGKILL)  # a parent that is gone can pass no signal on
    rank = launch.first_rank + index
    with stopping.handled(repeat_kills=False):
        status, kind, text = run_rank(launch, index, devices[index], port, work, *rest)
    if kind:
        report = {"time": time.monotonic(), "rank": rank, "kind": kind, "text": text}
        Path(folder, f"{rank}.json").write_text(json.dumps(report))
    sys.exit(status)


def run_member(launch: Launch, gpu: int | None, work: Callable, *arguments: Any) -> None:
    """Be one process of a run whose processes are started by others (torchrun, a scheduler, a hand).

    Raises:
        SystemExit: it failed, or was stopped; what there is to say has been printed.
    """
    with stopping.handled(repeat_kills=False):
        status, kind, text = run_rank(launch, launch.local_rank, gpu, None, work, *arguments)
    if kind == "fault":
        print(f"rank {launch.first_rank}: {text}", end="", file=sys.stderr)
    elif kind:
        print_error(text)
    if status:
        raise SystemExit(status)


def run_rank(
    launch: Launch, local_rank: int, gpu: int | None, port: int | None, work: Callable, *arguments: Any
) -> tuple[int, str | None, str]:
    """Join the process group, call `work(world, *arguments)` and leave the group again.

    Returns:
        Exit status; 'user', 'lost' or 'fault' if it failed, else None; what there is to say.
    """
    from utils.distributed import Member, is_connection_error

    world = None
    try:
        world = Member.join(launch, local_rank, gpu, port)
        work(world, *arguments)
        world.leave()
    except UserError as error:
        _tell(world, str(error))
        return 2, "user", str(error)
    except Stopped as stop:
        if launch.first_rank + (local_rank if launch.spawns else 0) == 0:
            print(stop, file=sys.stderr)
        return stop.status, None, ""
    except Exception as error:
        if world is not None and is_connection_error(error):
            return 1, "lost", world.who_is_lost()
        _tell(world, f"{type(error).__name__}: {error}")
        return 1, "fault", traceback.format_exc()
    return 0, None, ""


def _tell(world: Any, text: str) -> None:
    if world is not None:
        world.post_failure(text)
