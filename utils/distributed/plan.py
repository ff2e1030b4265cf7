"""From the flags to processes: how many there are, and who starts them.

Three ways lead to several processes: `--multiprocessing-distributed` starts `--ngpus` of them here, torchrun or a
cluster's operator describes them in the environment, and `--world-size` with `--rank` and `--dist-url` makes this
command one of them. Nothing here imports torch.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from utils.errors import UserError

ENVIRONMENT = "env://"  # as the place where processes meet: what MASTER_ADDR and MASTER_PORT say
HIGHEST_PORT = 65535
MIN_IMAGES_PER_PROCESS = 2  # of a training step: batch norm needs two
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # what torchrun sets, among others


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

    def rank_of(self, local_rank: int) -> int:
        """Rank of the process of this node with that number, which this command is or starts."""
        return self.first_rank + (local_rank if self.spawns else 0)


def plan_launch(args: argparse.Namespace, environ: Mapping[str, str]) -> Launch:
    """Plan the processes that flags and environment ask for.

    Where only the environment says where they meet, `args.dist_url` says so too from now on.

    Raises:
        UserError: they contradict each other.
    """
    environ = _set_in(environ)
    by_torchrun = all(name in environ for name in TORCHRUN)
    if args.dist_url is None and "RANK" in environ and environ.get("WORLD_SIZE", "1") != "1":
        args.dist_url = ENVIRONMENT  # as Kubernetes' operators describe it, without LOCAL_RANK
    if args.rank is not None and args.rank >= (args.world_size or 1) and not _counted_by(environ, args):
        raise UserError(f"--rank {args.rank} must be below --world-size {args.world_size or 1}: ranks start at 0")
    _check_url(args.dist_url)
    if by_torchrun and args.multiprocessing_distributed:
        raise UserError("torchrun starts the processes itself: leave --multiprocessing-distributed out")
    if by_torchrun:
        if args.ngpus > 1:
            raise UserError(f"--ngpus {args.ngpus}: torchrun starts the processes itself, see its --nproc-per-node")
        launch = _from_environment(args, environ)
    elif args.multiprocessing_distributed:
        launch = _spawning(args, environ)
    else:
        if args.ngpus > 1:
            raise UserError(
                f"--ngpus {args.ngpus} needs --multiprocessing-distributed, which starts that many processes"
            )
        launch = _from_environment(args, environ) if args.dist_url == ENVIRONMENT else _by_hand(args)
    if launch.size > 1 and args.gpu is not None:
        raise UserError(
            f"--gpu {args.gpu} is for one process: {launch.size} processes take a GPU each, leave it out (one that "
            "knows no LOCAL_RANK takes the first that CUDA_VISIBLE_DEVICES shows it)"
        )
    return replace(launch, backend=args.dist_backend, timeout=args.dist_timeout)


def spare_rank(environ: Mapping[str, str]) -> int:
    """Rank of a process that has nothing to do in a script for one process, as its environment says; else 0.

    Raises:
        UserError: the environment contradicts itself.
    """
    environ = _set_in(environ)
    return _whole(environ, "RANK", 0) if _whole(environ, "WORLD_SIZE", 1) > 1 else 0


def _set_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Take the variables that are not empty: `export RANK=$RANK` makes an empty one where none was."""
    return {name: value for name, value in environ.items() if value}


def _counted_by(environ: Mapping[str, str], args: argparse.Namespace) -> bool:
    return args.dist_url == ENVIRONMENT and args.world_size is None and "WORLD_SIZE" in environ


def _check_url(url: str | None) -> None:
    if url in (None, ENVIRONMENT):
        return
    try:
        parts = urlsplit(url)
        good = parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path.strip("/") and not parts.query
    except ValueError:
        good = False
    if not good:
        raise UserError(f"--dist-url {url}: give tcp://HOST:PORT of the first node, or env://")


def check_batch_size(args: argparse.Namespace, processes: int) -> None:
    """Raise a `UserError` if the processes of a node cannot share a step: too few images, or not evenly."""
    least = MIN_IMAGES_PER_PROCESS * processes
    if args.batch_size < least:
        raise UserError(
            f"--batch-size {args.batch_size} is too small for a training step: each of the node's {processes} "
            f"process(es) needs at least {MIN_IMAGES_PER_PROCESS} images, give {least} or more"
        )
    if args.batch_size % processes:
        raise UserError(
            f"--batch-size {args.batch_size} is the node's and cannot be shared by its {processes} processes: give a "
            f"multiple of {processes}"
        )
    if args.mixup and args.batch_size % (2 * processes):
        raise UserError(
            f"--batch-size {args.batch_size}: --mixup pairs the images of each of the node's {processes} process(es): "
            f"give a multiple of {2 * processes}"
        )


def _spawning(args: argparse.Namespace, environ: Mapping[str, str]) -> Launch:
    """`--multiprocessing-distributed`: world size and rank count nodes."""
    url, nodes, node = args.dist_url, args.world_size, args.rank
    if url == ENVIRONMENT:
        host, port = _address(environ)
        url = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"  # the first is of IPv6
        nodes = _agreed("--world-size", nodes, environ, "WORLD_SIZE")
        node = _agreed("--rank", node, environ, "RANK") if nodes > 1 else node
    nodes, node = nodes or 1, node or 0
    if node >= nodes:
        raise UserError(f"RANK {node} must be below the number of nodes, {nodes}")
    if nodes > 1 and url is None:
        raise UserError(f"--world-size {nodes}: the nodes must know where to meet, give --dist-url=tcp://HOST:PORT")
    size = nodes * args.ngpus
    return Launch(size, node * args.ngpus, args.ngpus, spawns=True, url=url) if size > 1 else Launch()


def _by_hand(args: argparse.Namespace) -> Launch:
    """`--world-size` and `--rank` alone: this command is one process of several."""
    if args.dist_url is not None and args.world_size is None:
        raise UserError(f"--dist-url {args.dist_url} needs --world-size: how many processes meet there")
    size = args.world_size or 1
    if size == 1:
        return Launch()
    if args.rank is None:
        raise UserError(f"--world-size {size} needs --rank: which of the {size} processes this one is")
    if args.dist_url is None:
        raise UserError(f"--world-size {size}: the processes must know where to meet, give --dist-url=tcp://HOST:PORT")
    return Launch(size, args.rank, url=args.dist_url)


def _from_environment(args: argparse.Namespace, environ: Mapping[str, str]) -> Launch:
    """torchrun's variables, or the same set by another launcher."""
    size = _agreed("--world-size", args.world_size, environ, "WORLD_SIZE")
    rank = _agreed("--rank", args.rank, environ, "RANK")
    local_size = _whole(environ, "LOCAL_WORLD_SIZE", 1)
    if args.dist_url not in (None, ENVIRONMENT):
        raise UserError(f"--dist-url {args.dist_url}: the environment says where the processes meet, leave it out")
    local_rank = _whole(environ, "LOCAL_RANK", 0)
    outside = "LOCAL_WORLD_SIZE" in environ and local_rank >= local_size  # other launchers set LOCAL_RANK alone
    if rank >= size or local_size == 0 or size % local_size or outside:
        raise UserError(
            f"the environment says RANK={rank}, WORLD_SIZE={size}, LOCAL_RANK={local_rank}, "
            f"LOCAL_WORLD_SIZE={local_size}: no such run"
        )
    if size == 1:
        return Launch()
    _address(environ)
    return Launch(size, rank, local_size, local_rank, url=ENVIRONMENT)


def _agreed(flag: str, value: int | None, environ: Mapping[str, str], name: str) -> int:
    """What flag and environment say of the processes: either may be silent, but they must not contradict each other."""
    if value is not None and name not in environ:
        return value
    said = _whole(environ, name)
    if value not in (None, said):
        raise UserError(f"{flag} {value} contradicts the environment, where {name} is {said}: leave {flag} out")
    return said


def _address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port where the environment lets processes meet."""
    host, port = _variable(environ, "MASTER_ADDR"), _whole(environ, "MASTER_PORT")
    if not 0 < port <= HIGHEST_PORT:
        raise UserError(f"the environment variable MASTER_PORT={port} is no port: give one from 1 to {HIGHEST_PORT}")
    return host, port


def _variable(environ: Mapping[str, str], name: str) -> str:
    if name not in environ:
        raise UserError(
            f"the environment variable {name} is not set, which --dist-url env://, or RANK and WORLD_SIZE in the "
            "environment, rely on: set it, or give --dist-url=tcp://HOST:PORT"
        )
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
