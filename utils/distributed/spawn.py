"""The processes of a run, as the command that starts them, or is one of them, sees them."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple, NoReturn

import torch.multiprocessing as mp

from utils import stopping
from utils.device import share_cores
from utils.distributed.plan import Launch
from utils.distributed.rendezvous import host_store
from utils.distributed.world import Member, is_connection_error
from utils.errors import LostRank, LostWorker, UserError, print_error
from utils.logs import go_on_from, said_so_far
from utils.stopping import Stopped
from utils.streams import say

GRACE_S = 3.0  # after the first failure the other ranks may say what they saw
POLL_S = 0.1
MOST_SAID = 10_000  # characters of a report: a pipe takes as many, though nobody reads it yet


class Report(NamedTuple):
    """How a process ended that did not end well.

    Attributes:
        rank: of the process.
        kind: 'user', 'lost', 'fault' or 'stopped', as `run_rank` has it.
        text: what there is to say.
        time: when that was known, in seconds of this machine's monotonic clock.
    """

    rank: int
    kind: str
    text: str
    time: float


def spawn(work: Callable, launch: Launch, devices: Sequence[int | None], *arguments: object) -> None:
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
    store = host_store(launch)  # kept alive here: it outlives any process that may fail
    port = store.port if store is not None else None
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(launch.local_size)]  # no file: the disk may be full
    with stopping.held():
        with stopping.blocked():  # in the processes too, until they can handle a signal: `run_rank`
            context = mp.start_processes(
                _rank_main,
                args=(launch, devices, port, [writer for _, writer in pipes], said_so_far(), work, arguments),
                nprocs=launch.local_size,
                join=False,
                start_method="spawn",
            )
        try:
            _wait(context.processes)
        finally:
            killed = _end(context.processes)
        _judge(launch, context.processes, killed, _reports(pipes))


def _wait(processes: Sequence[BaseProcess]) -> None:
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


def _end(processes: Sequence[BaseProcess]) -> set[int]:
    """Wait a little for the processes that are left, then kill them; returns the indices of those."""
    # after a signal all end together, when the main process has saved
    end = time.monotonic() + (GRACE_S if not stopping.received() else 10 * GRACE_S)
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
    killed = {index for index, process in enumerate(processes) if process.is_alive()}
    for index in killed:
        processes[index].kill()
        processes[index].join()
    return killed


def _reports(pipes: Sequence[tuple[connection.Connection, connection.Connection]]) -> list[Report]:
    """Read what processes that have ended have left in their pipes, of which each is (reader, writer)."""
    reports = []
    for reader, writer in pipes:
        writer.close()
        with contextlib.suppress(EOFError, OSError), reader:  # nothing was said, or not to its end
            if reader.poll():  # loading processes that are still ending may keep it open
                reports.append(reader.recv())
    return reports


def _judge(launch: Launch, processes: Sequence[BaseProcess], killed: set[int], said: Sequence[Report]) -> None:
    """Raise what the ends of the processes amount to."""
    codes = [process.exitcode for process in processes]
    if stopping.received():  # one that had not come so far as to handle the signal was ended by it
        codes = [128 - code if code < 0 and -code in stopping.SIGNALS else code for code in codes]
    stops = {code - 128 for code in codes if code in {128 + signum for signum in stopping.SIGNALS}}
    if stops and not killed and all(code == 0 or code - 128 in stops for code in codes):
        raise Stopped(stops.pop(), "".join(report.text for report in said if report.kind == "stopped"))
    reports = [report for report in said if report.kind != "stopped"]
    signalled = [index for index, code in enumerate(codes) if code < 0 and index not in killed]
    if signalled:
        rank, name = launch.first_rank + signalled[0], signal.Signals(-codes[signalled[0]]).name
        raise LostRank(f"rank {rank} was killed by {name}: all were ended; a training goes on with --resume=auto")
    if not reports:
        failed = [index for index, code in enumerate(codes) if code != 0]
        if failed and launch.first_rank and codes[failed[0]] == 2:
            raise UserError("an error in another process ended the run: see the output of node 0")
        if failed:
            raise LostRank(f"rank {launch.first_rank + failed[0]} ended with status {codes[failed[0]]} without a word")
        return
    first = min(reports, key=lambda report: (report.kind == "lost", report.time))
    if first.kind == "user":
        raise UserError(first.text)
    if first.kind == "lost":
        raise LostRank(first.text)
    say(first.text.rstrip())
    raise LostRank(f"rank {first.rank} failed with the traceback above; all were ended")


def _rank_main(
    index: int,
    launch: Launch,
    devices: Sequence[int | None],
    port: int | None,
    pipes: Sequence[connection.Connection],
    said: list[logging.LogRecord],
    work: Callable,
    rest: tuple,
) -> None:
    """One process that `spawn` started; its pipe takes how it failed. Its log goes on from what was `said`."""
    mp._prctl_pr_set_pdeathsig(signal.SIGKILL)  # a parent that is gone can pass no signal on
    if not multiprocessing.parent_process().is_alive():  # it went before
        _end_now(1)
    go_on_from(said)
    with stopping.handled(repeat_kills=False):
        status, kind, text = run_rank(launch, index, devices[index], port, work, *rest)
        with stopping.held():
            if kind:
                pipes[index].send(Report(launch.rank_of(index), kind, text[-MOST_SAID:], time.monotonic()))
            if status:
                _end_now(status)


def run_member(launch: Launch, gpu: int | None, work: Callable, *arguments: object) -> None:
    """Be one process of a run whose processes are started by others (torchrun, a scheduler, a hand).

    If it fails, or is stopped, the process ends here, when what there is to say has been printed.
    """
    with stopping.handled(repeat_kills=False):
        status, kind, text = run_rank(launch, launch.local_rank, gpu, None, work, *arguments)
        with stopping.held():
            if kind == "fault":
                say(f"rank {launch.first_rank}: {text.rstrip()}")
            elif kind == "stopped":
                if launch.first_rank == 0:
                    say(Stopped(status - 128, text))
            elif kind:
                print_error(text)
            if status:
                _end_now(status)


def run_rank(
    launch: Launch, local_rank: int, gpu: int | None, port: int | None, work: Callable, *arguments: object
) -> tuple[int, str | None, str]:
    """Join the process group, call `work(world, *arguments)` and leave the group again.

    Returns:
        Exit status; 'user', 'lost' or 'fault' if it failed, 'stopped' if a signal ended it, else None; what there is
        to say.
    """
    world = None
    try:
        stopping.unblock()
        share_cores(launch.local_size, os.environ)
        world = Member.join(launch, local_rank, gpu, port)
        work(world, *arguments)
        world.leave()
    except (Exception, Stopped, SystemExit) as error:
        with stopping.held():  # a signal that comes now is too late
            return _end_of(error, world, launch.rank_of(local_rank))
    return 0, None, ""


def _end_of(error: BaseException, world: Member | None, rank: int) -> tuple[int, str | None, str]:
    """What `run_rank` returns of an error, when the others know what they need to know of it."""
    match error:
        case UserError():
            _tell(world, str(error))
            return 2, "user", str(error)
        case LostRank():
            return 1, "lost", str(error)
        case LostWorker():
            _tell(world, str(error))
            return 1, "lost", f"rank {rank}: {error}"
        case Stopped():
            _tell(world, "it was stopped by a signal")
            return error.status, "stopped", "" if rank else error.note
        case SystemExit():  # the main process says why
            return int(error.code), None, ""
    if world is not None and is_connection_error(error):
        return 1, "lost", world.who_is_lost(error)
    _tell(world, f"{type(error).__name__}: {error}")
    return 1, "fault", "".join(traceback.format_exception(error))


def _end_now(status: int) -> NoReturn:
    """End this process and what it has started, without winding down: torch's threads can abort it on the way."""
    for child in multiprocessing.active_children():
        child.kill()
    with contextlib.suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _tell(world: Member | None, text: str) -> None:
    if world is not None:
        world.post_failure(text)
