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
from utils.training.checkpoint import Checkpoint, plain
from utils.training.folder import RunFolder
from utils.versions import code_version, installed_version

log = logging.getLogger("dgcmm")

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "pillow")


def write_record(
    folder: RunFolder,
    args: argparse.Namespace,
    data: dict[str, str],
    resumed: tuple[int, int] | None = None,
    before: dict[str, object] | None = None,
    processes: int = 1,
    model: Checkpoint | None = None,
) -> None:
    """Write args.json: how a script was started, by which code, on which data; a resumption is added to its list.

    Args:
        resumed: the epochs, and the steps of the next one, after which the run is continued.
        before: the arguments of the checkpoint that is continued; what has changed since is noted.
        model: the checkpoint whose model a re-training or an evaluation takes.
    """
    now = plain(vars(args))
    names = [name for name in (*TRAINING_FLAGS, "start_epoch") if name in (before or {}) and name in now]
    changed = {name: [before[name], now[name]] for name in names if before[name] != now[name]}
    path = folder.file("args.json")
    launch = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": _now(),
        **code_version(),
        "versions": _versions(),
        "machine": machine(),
        "processes": processes,
    }
    content = {"arguments": now, "data": data, **launch, "resumed": []}
    if model is not None:
        content["model"] = {"epoch": model["epoch"], "step": model["step"]}
    of_this_run = path.exists() and folder.holds_run()  # else of a start that came to nothing
    if resumed is not None and not of_this_run and changed:  # it continues a run in another folder
        content["resumed"] = [{"after_epoch": resumed[0], "after_step": resumed[1], "changed": changed}]
    if resumed is not None and of_this_run:
        try:
            earlier = json.loads(path.read_text())
            _forget_what_came_to_nothing(earlier["resumed"], before)
            earlier["resumed"].append(
                {"after_epoch": resumed[0], "after_step": resumed[1], "changed": changed, **launch}
            )
            content = earlier
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s is damaged and written anew, without what it said before: %s", path, error)
    write_text(path, json.dumps(content, indent=2) + "\n")


def _forget_what_came_to_nothing(resumed: list[dict], before: dict[str, object]) -> None:
    """Take changes out of the list of resumptions that the checkpoint, with its arguments `before`, knows nothing of.

    They are of continuations that ended before they had saved anything, or that were left for an earlier checkpoint.
    """
    for name in {name for start in resumed for name in start["changed"]}:
        for start in reversed(resumed):
            if name in start["changed"]:
                if start["changed"][name][1] == before.get(name):
                    break
                del start["changed"][name]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: installed_version(name) for name in PACKAGES}
