"""The one writer and the one reader of checkpoints.

A checkpoint is a dict of tensors and plain containers that `torch.load(path, weights_only=True)` reads. Its entry
`sha256` is a digest of all the others, so that a flipped bit is found even where torch would load it.
"""

import copy
import errno
import hashlib
import json
import logging
import os
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from utils.cli.rules import BEFORE
from utils.device import is_out_of_memory
from utils.errors import UserError
from utils.files import NOT_THERE, keep_as, write_atomically
from utils.training.layout import previous_of

log = logging.getLogger("dgcmm")

Checkpoint = dict[str, Any]  # tensors and plain containers
FORMAT = 2  # of the entries that a run needs to continue
ENTRIES = (  # of any checkpoint; some runs have more
    *("kind", "epoch", "step", "sums", "nodes", "arch", "dataset", "class_names", "class_counts", "args"),
    *("data_sha256", "result", "state_dict", "optimizer", "history", "best"),
)


class Unreadable(UserError):
    """The system does not give a file that may be whole."""


def digest(content: Any) -> str:
    """SHA-256 of nested dicts, lists, tuples, tensors and plain values, in a fixed order, as hexadecimal."""
    state = hashlib.sha256()
    _feed(state, content)
    return state.hexdigest()


def is_made_from(content: Checkpoint, trained: Checkpoint) -> bool:
    """Tell whether the checkpoint of a re-training was made from a trained model: its weights count.

    What else the trained model's file says may change, as at the end of its training. Older checkpoints hold the hash
    of that whole file.
    """
    return content.get("trained_sha256") in (digest(trained["state_dict"]), trained["sha256"])


def _feed(state: "hashlib._Hash", value: Any) -> None:
    if isinstance(value, dict):
        state.update(f"dict {len(value)};".encode())
        for key, item in value.items():
            _feed(state, key)
            _feed(state, item)
    elif isinstance(value, list | tuple):
        state.update(f"{type(value).__name__} {len(value)};".encode())
        for item in value:
            _feed(state, item)
    elif isinstance(value, torch.Tensor):
        state.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        state.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, float):
        state.update(b"float;" + struct.pack("<d", value))
    else:
        text = repr(value).encode()
        state.update(f"{type(value).__name__} {len(text)};".encode() + text)


def save_checkpoint(path: Path, content: Checkpoint, previous: Path | None = None) -> None:
    """Write a checkpoint in one piece, with its digest.

    Args:
        path: where.
        content: tensors, numbers, strings, None, dicts, lists and tuples only.
        previous: keep the file that was at `path` under this name.

    Raises:
        UserError: it cannot be written.
    """
    content = _on_cpu({key: value for key, value in content.items() if key != "sha256"})
    content["sha256"] = digest(content)
    if previous is not None and path.exists():
        keep_as(path, previous)
    write_atomically(path, lambda file: torch.save(content, file))


def forget_weights(content: Checkpoint) -> None:
    """Drop from a loaded checkpoint what is as large as the model."""
    for entry in ("state_dict", "optimizer"):
        content.pop(entry, None)


def _on_cpu(value: Any) -> Any:
    """Copy a GPU's tensors to the CPU, in all that a checkpoint may hold: a machine without a GPU shall load it."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        copied = copy.copy(value)  # a model's is of a kind of its own
        copied.update({key: _on_cpu(item) for key, item in value.items()})
        return copied
    return type(value)(map(_on_cpu, value)) if isinstance(value, list | tuple) else value


def read_verified(path: Path) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote onto the CPU, without running anything that it may carry.

    Raises:
        Unreadable: the system does not give it, or the memory has no room for it.
        UserError: it is missing, not such a file, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign file's pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise _not_loaded(path, error) from error
    if not isinstance(content, dict) or "sha256" not in content:
        raise UserError(f"{path} was not written by this project: name one of its checkpoints")
    if digest({key: value for key, value in content.items() if key != "sha256"}) != content["sha256"]:
        raise UserError(f"{path} is damaged (its SHA-256 does not match): {_remedy(path)}")
    return content


def _not_loaded(path: Path, error: Exception) -> UserError:
    """Say why torch could not load a file."""
    if is_out_of_memory(error):
        return Unreadable(f"{path} cannot be read (the memory is used up): end what else takes memory here")
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EISDIR:
        return UserError(f"{path} is a folder: name a checkpoint in it, as {path / 'checkpoint.pth'}")
    if number in NOT_THERE:
        return UserError(f"there is no file {path}: check the path")
    if number not in (None, errno.EINVAL):  # which a damaged file gives too
        return Unreadable(f"{path} cannot be read ({error.strerror}): make it readable, or name another")
    what = f"{path} cannot be loaded ({type(error).__name__}): it is damaged or no checkpoint"
    return UserError(f"{what}; {_remedy(path)}")


def load_best(path: Path) -> Checkpoint:
    """Read the checkpoint of a best epoch.

    Raises:
        UserError: as `load_checkpoint` does, or it is of a run without validation images.
    """
    content = load_checkpoint(path)
    if content["best"] is None:
        raise UserError(f"{path} is of a run without validation images: put the right one back")
    return content


def arguments_on(checkpoint: Checkpoint, nodes: int) -> dict[str, Any]:
    """Give the arguments of a run with the `--batch-size` by which `nodes` nodes take as many images a step in all."""
    stored = checkpoint["args"]
    images = stored["batch_size"] * checkpoint["nodes"]
    return stored | {"batch_size": images // nodes if images % nodes == 0 else images / nodes}


def _remedy(path: Path) -> str:
    """Say what to take in place of a damaged file."""
    previous = previous_of(path)
    return f"name the one before it, {previous}" if previous.exists() else "use an older copy"


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of train.py or an augmentation, its arguments completed by `BEFORE`.

    Raises:
        UserError: as `read_verified` does, or it is of another format.
    """
    content = read_verified(path)
    if "state_dict" not in content:
        raise UserError(f"{path} is no checkpoint: it has no weights")
    if content.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of this code: use that version, or train anew")
    require_entries(content, ENTRIES, path)
    return content | {"args": BEFORE | content["args"]}


def require_entries(content: Checkpoint, names: Iterable[str], path: Path) -> None:
    """Raise a `UserError` if a checkpoint has not all entries that are needed of it."""
    if lacking := [name for name in names if name not in content]:
        raise UserError(
            f"{path} was written by another version of this code (it lacks {', '.join(lacking)}): use that version, or "
            "train anew"
        )


def warn_of_another_machine(content: Checkpoint, now: dict[str, str | int], path: Path) -> None:
    """Warn if a run goes on with another processor or GPU, other threads or another torch: see `device.machine_of`."""
    before = content.get("machine", now)  # older checkpoints do not say
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"{name} {before.get(name)} then and {now.get(name)} now" for name in names)
        log.warning("%s: %s: the run will not end with the same last digits", path, changes)


def load_latest(path: Path, previous: Path) -> tuple[Checkpoint, Path] | None:
    """Load the checkpoint at `path` or, if that is damaged or missing, the one before it, with a warning.

    One that only cannot be read now may be good, and the run would write over it: that is an error.

    Returns:
        The checkpoint and where it was found; None if there is neither file.

    Raises:
        UserError: there are files, but none that loads, or the last one cannot be read.
    """
    if not os.path.exists(path) and not os.path.exists(previous):
        return None
    try:
        return load_checkpoint(path), path
    except Unreadable:
        raise
    except UserError as error:
        if not previous.exists():
            raise
        content = load_checkpoint(previous)
        log.warning("%s; GOING BACK to %s, after epoch %d", error, previous, content["epoch"])
        return content, previous


def load_model_state(model: torch.nn.Module, checkpoint: Checkpoint, source: str) -> None:
    """Load the weights of a checkpoint into a model built from its arguments.

    Raises:
        UserError: names or shapes do not fit.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{source} does not fit the model: {str(error).splitlines()[-1].strip()}") from error


def plain(value: Any) -> Any:
    """Turn a value into what JSON would give back: what a checkpoint and args.json may hold."""
    return json.loads(json.dumps(value, default=str))


def changed_splits(stored: dict[str, str], data_sha256: dict[str, str]) -> list[str]:
    """Name the splits whose images or labels are not those of a checkpoint, or that only one of the two has.

    Args:
        stored, data_sha256: hash of the list of images of each split, in the checkpoint and here.
    """
    return [split for split in stored | data_sha256 if stored.get(split) != data_sha256.get(split)]
