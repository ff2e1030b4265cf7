"""What an earlier run left: the checkpoint to go on from, and whether it fits the command."""

import argparse
import itertools
import logging
import os
from pathlib import Path
from typing import Any

from utils.cli.rules import (
    DATA_FLAGS,
    MODEL_FLAGS,
    PLACE_FLAGS,
    RETRAINING_FLAGS,
    SCHEDULE_FLAGS,
    SCORING_FLAGS,
    SHAPE_FLAGS,
    TRAINING_FLAGS,
    adopt,
    changed_on_the_way,
    flag_of,
)
from utils.errors import UserError
from utils.metrics import Row
from utils.preprocessing import Preprocessing
from utils.training.checkpoint import (
    FORMAT,
    Checkpoint,
    arguments_on,
    changed_splits,
    is_made_from,
    load_checkpoint,
    load_latest,
    plain,
)
from utils.training.folder import RunFolder
from utils.training.layout import BEST, LAST

log = logging.getLogger("dgcmm")

MORE_EPOCHS = "more --epochs"


def find_checkpoint(args: argparse.Namespace, given: set[str], folder: RunFolder, nodes: int) -> Checkpoint | None:
    """Load the checkpoint that `--resume` names for train.py, and adopt its flags into `args`; None for a new run.

    Args:
        nodes: of this run; `--batch-size` is a node's, so it is converted from a run on another number.

    Raises:
        UserError: it is missing, damaged or of another run, or the run folder holds a run that nothing asked for.
    """
    checkpoint = _load_named(args, folder)
    if checkpoint is None:
        return None
    if args.evaluate:
        _adopt_for_evaluation(args, given, checkpoint)
    elif checkpoint["kind"] != "train":
        raise UserError(f"{args.resume} comes from an augmentation: it can be evaluated (--evaluate), not trained on")
    else:
        _adopt_for_training(args, given, checkpoint, nodes)
    return checkpoint


def _load_named(args: argparse.Namespace, folder: RunFolder) -> Checkpoint | None:
    """Load the checkpoint that `--resume` names, `auto` resolved in `args`; None where there is none to go on from."""
    checkpoint = None
    folder.look()
    if args.evaluate and folder.holds_run() and not args.overwrite:
        raise UserError(
            f"--logdir {folder.path} holds an evaluation ({folder.file('metrics.csv').name}): --overwrite it, or name "
            "another --logdir"
        )
    if args.resume == "auto" and not args.evaluate:
        args.resume = None
        if (found := load_latest(folder.checkpoint, folder.previous)) is not None:
            checkpoint, args.resume = found[0], str(found[1])
        elif not folder.holds_run():
            log.info("--resume=auto: %s holds no run, so one starts", folder.path)
            return None
        elif not args.overwrite:
            raise UserError(
                f"--resume=auto: {folder.path} holds a run whose {folder.checkpoint.name} is gone: --overwrite it, or "
                "name another --logdir"
            )
    elif args.resume == "auto":
        args.resume = str(folder.path / LAST)
    own, started_from = (_lies_in(path, folder) for path in (args.resume, args.init))
    if own and args.overwrite and not args.evaluate:
        raise UserError("--overwrite would delete the run that --resume continues: give one of the two")
    if started_from and args.overwrite:
        raise UserError("--overwrite would delete the run that --init starts from: name another --logdir")
    if folder.holds_run() and not (args.overwrite or own or args.evaluate):
        raise UserError(
            f"--logdir {folder.path} holds a run: continue it (--resume=auto), --overwrite it, or name another"
        )
    if not args.resume:
        return None
    return checkpoint or load_checkpoint(Path(args.resume))


def _lies_in(path: str | None, folder: RunFolder) -> bool:
    """Tell whether a checkpoint, if one is named, is in a run folder."""
    return bool(path) and folder.path.resolve() in (Path(path).parent.resolve(), Path(path).resolve().parent)


def _adopt_for_evaluation(args: argparse.Namespace, given: set[str], checkpoint: Checkpoint) -> None:
    """Adopt a checkpoint's flags of the model, and if its data set is measured, those of the data."""
    same = args.dataset == checkpoint["dataset"]
    if same:
        adopt_places(args, given, checkpoint["args"], args.resume)
    flags = MODEL_FLAGS + (DATA_FLAGS if same else SHAPE_FLAGS) + _measuring_flags(given)
    adopt(args, given, checkpoint["args"], flags, args.resume, terms={"bad_images": ""})
    warn_of_begun_epoch(checkpoint, args.resume)


def _measuring_flags(given: set[str]) -> tuple[str, ...]:
    """Name what measuring takes from a training: how it scores, and its precision unless another one is given."""
    return SCORING_FLAGS if "amp" in given else (*SCORING_FLAGS, "amp")


def _adopt_for_training(args: argparse.Namespace, given: set[str], checkpoint: Checkpoint, nodes: int) -> None:
    """Adopt the flags of the run that goes on; warn of those that change in it."""
    require_same_dataset(args, checkpoint)
    adopt_places(args, given, checkpoint["args"], args.resume)
    terms = terms_of_change(args, given, checkpoint)
    stored = _for_nodes(checkpoint, nodes, args.resume, "batch_size" in given and terms.get("batch_size") == "")
    flags = MODEL_FLAGS + DATA_FLAGS + SCORING_FLAGS + TRAINING_FLAGS
    if "init" in given and args.init != stored["init"]:
        began = f"--init {stored['init']}" if stored["init"] else "none"
        log.warning("--init %s is for a new run: %s began with %s, and is continued", args.init, args.resume, began)
    adopt(args, given - {"init"}, stored, flags, args.resume, terms=terms)
    back = goes_back(args, checkpoint)
    if not back:
        _require_whole_epochs(checkpoint, args.epochs, args.resume)
        if args.start_epoch is not None:
            log.info("--start-epoch %d: this run has gone back already, and goes on", args.start_epoch)
    _warn_of_changes(args, stored, args.resume, args.start_epoch if back else checkpoint["epoch"])
    if args.pretrained and not stored["pretrained"]:
        log.warning("--pretrained: %s did not start from ImageNet weights, and is continued as it is", args.resume)
    args.pretrained = stored["pretrained"]
    if args.start_epoch is None:
        args.start_epoch = stored.get("start_epoch")  # the command that went back knows it when it is given again


def goes_back(args: argparse.Namespace, checkpoint: Checkpoint | None) -> bool:
    """Tell whether `--start-epoch` is to be followed: not if the same command has done so before it was interrupted."""
    epoch = getattr(args, "start_epoch", None)  # of train.py alone
    if checkpoint is None:
        return bool(epoch)  # a new run is at 0
    return epoch is not None and checkpoint["args"].get("start_epoch") != epoch


def terms_of_change(args: argparse.Namespace, given: set[str], checkpoint: Checkpoint) -> dict[str, str]:
    """Tell what a run may change when it goes on: name of an argument -> '', or what has to be given too for that.

    More epochs may follow another schedule; the batch size may change where an epoch begins; `--deterministic` may come
    at any time.
    """
    stored, epoch = checkpoint["args"], checkpoint["epoch"]
    epochs = args.epochs if "epochs" in given else stored["epochs"]
    terms = dict.fromkeys(SCHEDULE_FLAGS, "" if epochs > stored["epochs"] else MORE_EPOCHS)
    back = goes_back(args, checkpoint)
    if not back and epoch >= epochs:
        terms["batch_size"] = MORE_EPOCHS
    elif back or not checkpoint["step"]:
        terms["batch_size"] = ""
    elif checkpoint["kind"] == "train":
        back_to = epoch - 1 if stored.get("start_epoch") == epoch else epoch  # it has gone back to this one already
        if back_to >= 0:
            terms["batch_size"] = f"--start-epoch={back_to}"
    return terms | {"deterministic": ""}


def adopt_places(args: argparse.Namespace, given: set[str], stored: dict[str, Any], source: str) -> None:
    """Take folders and files that were not given from a checkpoint's arguments, and say which."""
    moved = "datadir" in given and os.path.abspath(args.datadir) != os.path.abspath(stored["datadir"])
    for name in PLACE_FLAGS:
        path = stored.get(name)
        if name in given or not path:
            continue
        setattr(args, name, path)
        if os.path.abspath(path) == os.getcwd():
            continue
        others = name == "csv" and moved and os.path.isabs(path)  # the table of the images that were there
        log.log(logging.WARNING if others else logging.INFO, "%s: %s, as in %s", flag_of(name), path, source)


def _warn_of_changes(args: argparse.Namespace, stored: dict[str, Any], source: str, epoch: int) -> None:
    """Say which flags of a run have changed: from here on it is another run.

    Args:
        stored: the arguments that it had.
        source: the checkpoint.
        epoch: after which it goes on.
    """
    if changed := changed_on_the_way(args, stored):
        stored = stored | {"batch_size": round(stored["batch_size"], 2)}  # which nodes may not share evenly
        what = ", ".join(f"{flag_of(name)} is {getattr(args, name)} now, {stored.get(name)} before" for name in changed)
        log.warning("%s: from epoch %d on this is another run than that of %s", what, epoch + 1, source)


def _for_nodes(checkpoint: Checkpoint, nodes: int, source: str, another_batch: bool) -> dict[str, Any]:
    """Return the arguments of a checkpoint with the batch size that gives as many images a step on `nodes` nodes."""
    stored = checkpoint["args"]
    total = stored["batch_size"] * checkpoint["nodes"]
    if total % nodes and not another_batch:
        raise UserError(f"{source} was trained with {total} images a step, which {nodes} nodes cannot share evenly")
    return arguments_on(checkpoint, nodes)


def find_trained(args: argparse.Namespace, given: set[str], folder: RunFolder) -> Checkpoint:
    """Load the trained model that `--resume` names for an augmentation, and adopt its flags into `args`.

    Raises:
        UserError: it is missing, damaged, of another data set, or itself the result of an augmentation.
    """
    folder.look()
    if args.resume == "auto":
        args.resume = str(folder.path / LAST)
        if not os.path.exists(args.resume):
            raise UserError(
                f"--resume=auto: {folder.path} holds no training: run train.py first, or name another --logdir"
            )
    checkpoint = load_checkpoint(Path(args.resume))
    if checkpoint["kind"] != "train":
        raise UserError(f"{args.resume} comes from an augmentation: name the checkpoint of train.py")
    require_same_dataset(args, checkpoint)
    last = Path(args.resume).with_name(LAST)
    if Path(args.resume).name != BEST:
        warn_of_unfinished(checkpoint, args.resume)
    elif last.exists():  # the best epoch does not know how many followed
        try:
            warn_of_unfinished(load_checkpoint(last), args.resume)
        except UserError as error:
            log.warning("%s: whether its training has ended cannot be told: %s", args.resume, error)
    adopt_places(args, given, checkpoint["args"], args.resume)
    flags = MODEL_FLAGS + DATA_FLAGS + _measuring_flags(given)
    adopt(args, given, checkpoint["args"], flags, args.resume)
    return checkpoint


def warn_of_unfinished(last: Checkpoint, source: str) -> None:
    """Warn if a training, or a re-training, has not ended.

    Args:
        last: its last checkpoint.
        source: the checkpoint in use, for the message.
    """
    done, asked = last["epoch"], last["args"]["epochs"]
    if done < asked:
        what = "training" if last["kind"] == "train" else "re-training"
        log.warning("%s is of a %s that has not ended: %d of %d epochs", source, what, done, asked)


def find_unfinished(
    args: argparse.Namespace, given: set[str], folder: RunFolder, trained: Checkpoint, flags: tuple[str, ...]
) -> tuple[Checkpoint, Path] | None:
    """Load what an earlier call of the same augmentation left in the run folder, and adopt its flags into `args`.

    Args:
        flags: of this augmentation alone.

    Returns:
        The checkpoint and the file it is in, or None.

    Raises:
        UserError: it was made from another model or with other flags, or it is gone and its results are there.
    """
    found = None if args.overwrite else load_latest(folder.checkpoint, folder.previous)
    if found is None:
        if folder.holds_run() and not args.overwrite:
            raise UserError(f"{folder.path} holds a re-training whose {folder.checkpoint.name} is gone: --overwrite it")
        return None
    checkpoint, path = found
    if not is_made_from(checkpoint, trained):
        raise UserError(f"{path} was made from another model than {args.resume}: --overwrite replaces it")
    remedy = "--overwrite it, or give another --logdir"
    terms = terms_of_change(args, given, checkpoint)
    adopt(args, given, checkpoint["args"], RETRAINING_FLAGS + flags, str(path), remedy, terms)
    _require_whole_epochs(checkpoint, args.epochs, str(path))
    _warn_of_changes(args, checkpoint["args"], str(path), checkpoint["epoch"])
    return found


def _require_whole_epochs(checkpoint: Checkpoint, epochs: int, source: str) -> None:
    """Raise a `UserError` if a run is to end within an epoch: its weights would pass for those of the one before."""
    done = checkpoint["epoch"]
    if checkpoint["step"] and done >= epochs:
        begun = f"{checkpoint['step']} steps of epoch {done + 1}"
        raise UserError(f"{source} has {begun}: end that epoch, --epochs={done + 1}, or give more")


def warn_of_begun_epoch(checkpoint: Checkpoint, source: str) -> None:
    """Warn that a model which is measured or used was saved within an epoch: it is not that of the epoch before."""
    if checkpoint["step"]:
        log.warning(
            "%s was saved within epoch %d, after %d steps of it", source, checkpoint["epoch"] + 1, checkpoint["step"]
        )


def finished_result(checkpoint: Checkpoint | None, epochs: int) -> Row | None:
    """Return the stored result, if a checkpoint is that of a run that has none of `epochs` left to train."""
    if checkpoint is None or not checkpoint["result"] or checkpoint["epoch"] < epochs:
        return None
    if steps := checkpoint["args"].get("max_steps"):
        log.warning("this run was a trial, with --max-steps %d", steps)
    log.info("this run is finished; its result:")
    return checkpoint["result"]


def require_same_dataset(args: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Raise a `UserError` if a checkpoint was trained on another data set than the command names."""
    if checkpoint["dataset"] != args.dataset:
        raise UserError(
            f"{args.resume} was trained on {checkpoint['dataset']}, not on {args.dataset}: name that data set"
        )


def require_same_classes(checkpoint: Checkpoint, classes: tuple[str, ...], source: str) -> None:
    """Raise a `UserError` if a checkpoint was trained on other classes than those at hand, or in another order."""
    if (stored := tuple(checkpoint["class_names"])) != classes:
        one, other = next(pair for pair in itertools.zip_longest(stored, classes) if pair[0] != pair[1])
        raise UserError(
            f"{source} was trained on other classes ({len(stored)} of {checkpoint['dataset']}, here {len(classes)}; it "
            f"has {one!r} where this data has {other!r}): name data with the same classes"
        )


def require_same_data(stored: dict[str, str], data_sha256: dict[str, str], source: str, skips: bool = False) -> None:
    """Raise a `UserError` if a checkpoint was made on other images or labels than those at hand.

    Args:
        stored, data_sha256: as for `changed_splits`.
        source: of `stored`, for the message.
        skips: whether images that cannot be read are left out.
    """
    if changed := changed_splits(stored, data_sha256):
        one_sided = "" if changed[0] in stored and changed[0] in data_sha256 else " (only one of the two has any)"
        left_out = ", remove one that --bad-images=skip had left out and that can be read again" if skips else ""
        raise UserError(
            f"the {changed[0]} images are not those of {source}{one_sided}: check --datadir{left_out}, or train anew"
        )


def same_command(args: argparse.Namespace) -> str:
    """Say how a re-training that was stopped is continued; given again, `--overwrite` would delete what it has done."""
    return "the same command without --overwrite" if args.overwrite else "the same command"


def description(
    args: argparse.Namespace,
    classes: tuple[str, ...],
    class_counts: list[int],
    data_sha256: dict[str, str],
    preprocessing: Preprocessing,
) -> Checkpoint:
    """Gather what a checkpoint says of itself: model, data and arguments; places hold in any working directory."""
    places = {name: os.path.abspath(path) for name in PLACE_FLAGS if (path := getattr(args, name))}
    if args.csv and not os.path.isfile(args.csv):
        places["csv"] = args.csv  # it lies in --datadir
    return {
        "format": FORMAT,
        "arch": args.arch,
        "dataset": args.dataset,
        "class_names": list(classes),
        "class_counts": class_counts,
        "args": plain(vars(args) | places),
        "data_sha256": data_sha256,
        "preprocessing": preprocessing._asdict(),
    }
