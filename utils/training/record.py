"""args.json: how a script was started, and each time it was resumed."""

import argparse
import datetime
import json
import logging
import platform
import sys
from pathlib import Path

from utils.cli.rules import TRAINING_FLAGS
from utils.device import machine
from utils.files import write_text
from utils.training.checkpoint import Checkpoint, arguments_on, plain
from utils.training.folder import RunFolder
from utils.training.resume import goes_back
from utils.versions import code_version, installed_version

log = logging.getLogger("dgcmm")

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "pillow")


def write_record(
    folder: RunFolder,
    args: argparse.Namespace,
    data: dict[str, str],
    continued: Checkpoint | None = None,
    processes: int = 1,
    nodes: int = 1,
    model: Checkpoint | None = None,
) -> None:
    """Write args.json: how a script was started, by which code, on which data; a resumption is added to its list.

    Args:
        continued: the checkpoint from which the run goes on; which arguments have changed since is noted, a batch size
            only where it makes another number of images a step.
        model: the checkpoint whose model a re-training or an evaluation takes.
    """
    now = plain(vars(args))
    before = arguments_on(continued, nodes) if continued else {}
    names = [name for name in (*TRAINING_FLAGS, "start_epoch") if name in before and name in now]
    changed = {name: [before[name], now[name]] for name in names if before[name] != now[name]}
    path = folder.file("args.json")
    launch = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": _now(),
        **code_version(),
        "versions": _versions(),
        "machine": machine(),
        "processes": processes,
        "nodes": nodes,
    }
    content = {"arguments": now, "data": data, **launch, "resumed": []}
    if model is not None:
        content["model"] = {"epoch": model["epoch"], "step": model["step"]}
    if continued:
        reached = (args.start_epoch, 0) if goes_back(args, continued) else (continued["epoch"], continued["step"])
        resumption = {"after_epoch": reached[0], "after_step": reached[1], "changed": changed}
        if path.exists() and folder.holds_run():  # else it is of a start that came to nothing
            try:
                earlier = json.loads(path.read_text())
                _forget_what_came_to_nothing(earlier["resumed"], continued)
                earlier["resumed"].append(resumption | launch)
                content = earlier
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                log.warning("%s is damaged and written anew, without what it said before: %s", path, error)
        elif changed:  # it continues a run in another folder
            content["resumed"] = [resumption]
    write_text(path, json.dumps(content, indent=2) + "\n")


def _forget_what_came_to_nothing(resumed: list[dict], continued: Checkpoint) -> None:
    """Take changes out of the list of resumptions that the checkpoint knows nothing of.

    They are of continuations that ended before they had saved anything, or that were left for an earlier checkpoint.
    """
    for name in {name for start in resumed for name in start["changed"]}:
        for start in reversed(resumed):
            if name in start["changed"]:
                if start["changed"][name][1] == arguments_on(continued, start.get("nodes", 1)).get(name):
                    break
                del start["changed"][name]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: installed_version(name) for name in PACKAGES}
