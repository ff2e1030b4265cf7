"""What the flags of a command line mean together, and beside those of a checkpoint or of another process.

Nothing here imports torch.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from utils.errors import UserError

# what a checkpoint fixes for whoever uses it: not given on the command line, they come from the checkpoint
MODEL_FLAGS = ("arch", "h_dim", "z_dim", "crop_size", "generative", "gmm_assign", "loss")
SHAPE_FLAGS = ("new_size", "train_transform")  # what becomes of an image, whatever data set it is of
DATA_FLAGS = (
    *SHAPE_FLAGS,
    *("subset_seed", "subset_scale", "val_fraction", "val_per_class", "dummy"),
    *("cache_size", "bad_images", "imbalance_factor"),
)
SCORING_FLAGS = ("weight_cls", "weight_reconst", "weight_gmm")
SCHEDULES = ("lr_step", "milestones", "T_max", "step_size")  # of which a run has one
SCHEDULE_FLAGS = (*SCHEDULES, "gamma", "lr_warmup_epochs")
# what else alters the numbers of a training run, or of a re-training
OPTIMISER_FLAGS = (
    *("epochs", "batch_size", "lr", "momentum", "wd", "clip_grad", "seed", "max_steps", "amp", "deterministic"),
    *("eval_every", *SCHEDULE_FLAGS),
)
RETRAINING_FLAGS = (*OPTIMISER_FLAGS, "start")
TRAINING_FLAGS = (
    *OPTIMISER_FLAGS,
    *("initial_sigma", "prior_lr", "prior_variance", "warmup_epochs", "warmup_threshold", "sync_bn", "compile"),
    *("sampler", "mixup", "init", "freeze_encoder"),
)
# what a plain classifier has no use for: code distribution, decoder, prior, and a warm-up without them
DGCMM_FLAGS = (
    *("z_dim", "generative", "gmm_assign", "initial_sigma", "prior_lr", "prior_variance"),
    *("weight_reconst", "weight_gmm", "warmup_epochs", "warmup_threshold"),
)
# what flags that older runs do not know stood for, before there was a choice
BEFORE = {
    **{"loss": "ce", "sampler": "instance", "mixup": 0.0, "init": None, "freeze_encoder": False, "compile": False},
    **{"lr_warmup_epochs": 0, "eval_every": 1, "prior_variance": None, "initial_sigma": None, "start": "trained"},
    **{"val_per_class": 0, "subset_scale": 1.0, "imbalance_factor": None},
}
WEIGHT_CLS, PLAIN_WEIGHT_CLS = 10.0, 1.0  # without --weight-cls
STEP_SIZE = 30  # without a schedule
COSINE_FLOOR = 1e-5  # learning rate that `--T-max` leads down to
# what each node may say in its own way
LOCAL_FLAGS = (
    *("datadir", "cache_dir", "logdir", "workers", "gpu", "quiet", "no_figures", "rank", "dist_url", "overwrite"),
    "resume",
)

# folders and files that a checkpoint remembers, as absolute paths, for those who do not name them
PLACE_FLAGS = ("datadir", "cache_dir", "csv", "names")
DOWNLOAD_FLAGS = ("dataset_manifest", "download_jobs", "keep_archives")  # how the files are brought
# in which the same run may differ: none changes a number by itself, and of places the content tells
SAME_RUN_FLAGS = (*LOCAL_FLAGS, *PLACE_FLAGS, *DOWNLOAD_FLAGS, "save_every", "print_freq", "dist_timeout")

_UNSET = object()


def follow(
    args: argparse.Namespace, given: set[str], main: argparse.Namespace, resolved: argparse.Namespace, rank: int
) -> None:
    """Copy the main process's arguments into this process's, except `LOCAL_FLAGS`; of these the folders not given.

    Args:
        args: this process's, as parsed; changed.
        given: the names of those that this process was given.
        main: the main process's, as parsed.
        resolved: the same, after a checkpoint has contributed to them.
        rank: this process, for the message.

    Raises:
        UserError: this process was started with other arguments; names the first flag and both values.
    """
    for name, value in vars(main).items():
        if name in LOCAL_FLAGS:
            if name in PLACE_FLAGS and name not in given:
                setattr(args, name, getattr(resolved, name))
            continue
        if getattr(args, name) != value:
            raise UserError(
                f"{flag_of(name)} is {getattr(args, name)} for rank {rank} but {value} for rank 0: give the same flags"
            )
        setattr(args, name, getattr(resolved, name))


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """Parse a command line.

    Returns:
        The arguments, and the names of those that the user gave: only they can contradict a checkpoint.
    """
    args = parser.parse_args(argv)
    unset = argparse.Namespace(**dict.fromkeys(vars(args), _UNSET))  # argparse fills in defaults where there is nothing
    given = {name for name, value in vars(parser.parse_args(argv, unset)).items() if value is not _UNSET}
    return args, given


def adopt(
    args: argparse.Namespace,
    given: set[str],
    stored: dict[str, Any],
    names: Sequence[str],
    source: str,
    remedy: str = "name another checkpoint",
    terms: Mapping[str, str] | None = None,
) -> None:
    """Take `names` from a checkpoint's arguments, for those that were not given on the command line.

    A run may be given other `--epochs` than it was started with, and what `terms` allow. Of the schedules a command
    that gives one takes none from the checkpoint.

    Args:
        source: of `stored`, for the message.
        remedy: what else the user can do who wants the other value.
        terms: what may differ: name -> '', or what has to be given too for that.

    Raises:
        UserError: another one was given and differs; names the flag and both values.
    """
    terms = {"epochs": "", **(terms or {})}
    differing = {name for name in given & stored.keys() & set(names) if getattr(args, name) != stored[name]}
    for name in sorted(differing, key=list(names).index):
        if terms.get(name) != "":
            value, flag = getattr(args, name), flag_of(name)
            ways = [f"leave {flag} out", *([f"give {terms[name]} too"] if name in terms else []), remedy]
            raise UserError(
                f"{flag} is {value} here but {stored[name]} in {source}: {', '.join(ways[:-1])}, or {ways[-1]}"
            )
    kept = differing | (set(SCHEDULES) if differing.intersection(SCHEDULES) else set())
    for name in names:
        if name in stored and name not in kept:
            setattr(args, name, stored[name])


def flag_of(name: str) -> str:
    """Give the flag of an argument: --batch-size for batch_size."""
    return "--" + name.replace("_", "-")


def complete(
    args: argparse.Namespace, feature_dim: int, plain: bool = False, given: Collection[str] = frozenset()
) -> None:
    """Check what concerns several flags at once, and fill in what one leaves to another.

    Args:
        feature_dim: length of the features that the encoder gives.
        plain: whether the architecture is a plain classifier.
        given: the flags on the command line.

    Raises:
        UserError: flags contradict each other.
    """
    if plain:
        _leave_to_dgcmm(args, given)
    if getattr(args, "weight_cls", None) is None:
        args.weight_cls = PLAIN_WEIGHT_CLS if plain else WEIGHT_CLS
    if args.h_dim not in (None, feature_dim):
        raise UserError(f"--h-dim {args.h_dim}: the encoder of {args.arch} gives {feature_dim}; leave --h-dim out")
    if getattr(args, "prior_lr", 0) is None:  # an augmentation has no such rate
        args.prior_lr = default_prior_lr(args.lr, args.weight_gmm)
    args.h_dim = feature_dim
    args.z_dim = args.z_dim or feature_dim
    if args.crop_size > args.new_size:
        raise UserError(f"--crop-size {args.crop_size} is larger than --new-size {args.new_size}: no such crop exists")
    if 0 < args.cache_size < args.new_size:
        raise UserError(
            f"--cache-size {args.cache_size} is smaller than --new-size {args.new_size}, to which images would be "
            "enlarged again: give the cache at least that"
        )
    schedules = [name for name in SCHEDULES if getattr(args, name) is not None]
    if len(schedules) > 1:
        flags = " and ".join(map(flag_of, schedules))
        raise UserError(f"{flags} are two schedules: give one")
    if not schedules:
        args.step_size = STEP_SIZE
    if args.T_max is not None and "gamma" in given:
        raise UserError("--gamma is the factor of a step, and --T-max takes none: leave one of the two out")
    if args.T_max is not None and args.lr < COSINE_FLOOR:
        raise UserError(f"--lr {args.lr:g} is below {COSINE_FLOOR:g}, where the cosine of --T-max ends: it would rise")


def _leave_to_dgcmm(args: argparse.Namespace, given: Collection[str]) -> None:
    """Set the loss terms that a plain classifier has not to nothing; none of `DGCMM_FLAGS` may have been given."""
    found = ", ".join(flag_of(name) for name in DGCMM_FLAGS if name in given)
    if found:
        raise UserError(
            f"{found}: {args.arch} is a plain classifier, without code distribution, decoder and prior: leave it out, "
            f"or give --arch={args.arch}_vae3"
        )
    args.weight_reconst = args.weight_gmm = 0.0


def changed_on_the_way(args: argparse.Namespace, stored: Mapping[str, object]) -> list[str]:
    """Name the flags by which the next epochs of a run are others than with its stored arguments."""
    return [name for name in ("batch_size", *SCHEDULE_FLAGS) if getattr(args, name) != stored.get(name)]


def default_prior_lr(lr: float, weight_gmm: float) -> float:
    """Undo the weight of the mixture term in its gradient: lr / weight_gmm, or lr where the term is not computed."""
    return lr / weight_gmm if weight_gmm else lr


def check_start(args: argparse.Namespace) -> None:
    """Raise a `UserError` if the flags, as parsed, give a run of train.py two starts."""
    if args.init and args.pretrained:
        raise UserError("--init and --pretrained both start the encoder: give one of the two")
    if args.init and args.resume and (args.resume != "auto" or args.evaluate):
        raise UserError("--init starts a run and --resume goes on from a checkpoint: give one of the two")


def check_training(args: argparse.Namespace, given: Collection[str]) -> None:
    """Raise a `UserError` if flags of train.py contradict each other, or leave nothing to train or to evaluate.

    Args:
        given: the flags on the command line.
    """
    if args.evaluate and not args.resume:
        raise UserError("--evaluate needs --resume: name the checkpoint to measure")
    if not (args.weight_cls or args.weight_reconst or args.weight_gmm):
        raise UserError("--weight-cls, --weight-reconst and --weight-gmm are all 0: nothing would be trained")
    if args.val_fraction and args.val_per_class:
        raise UserError("--val-fraction and --val-per-class both make the validation set: give one of the two")
    if args.loss != "ce" and not args.weight_cls:
        raise UserError(f"--loss {args.loss} is the classification term, which --weight-cls 0 switches off")
    if not args.weight_gmm and (idle := [flag_of(name) for name in ("prior_lr", "prior_variance") if name in given]):
        raise UserError(f"{' and '.join(idle)}: --weight-gmm 0 leaves the prior as it is, leave it out")
    if args.T_max is not None and 0 < args.prior_lr < COSINE_FLOOR:
        what = "--prior-lr" if "prior_lr" in given else "--prior-lr, which is --lr over --weight-gmm,"
        raise UserError(
            f"{what} {args.prior_lr:g} is below {COSINE_FLOOR:g}, where the cosine of --T-max ends: it would rise "
            "(0 stays 0)"
        )
    if args.prior_variance and args.prior_variance[0] > args.prior_variance[1]:
        low, high = args.prior_variance
        raise UserError(f"--prior-variance {low:g} {high:g}: the lower bound comes first")
    if args.warmup_epochs and not args.weight_cls:
        raise UserError("--warmup-epochs trains the classification term alone, which --weight-cls 0 switches off")
    if args.warmup_threshold is not None and not args.warmup_epochs:
        raise UserError("--warmup-threshold ends a warm-up: give --warmup-epochs too")
    if "start_epoch" in given and args.start_epoch >= args.epochs:
        raise UserError(f"--start-epoch {args.start_epoch}: only {args.epochs} epochs are to be run (--epochs)")
