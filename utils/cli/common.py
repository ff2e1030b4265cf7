"""The flags that train.py and both augmentations have in common, and how a command line says what is wrong with it.

Nothing here imports torch.
"""

import argparse
import re
from collections.abc import Collection
from typing import Any, NoReturn

from utils.cli.rules import STEP_SIZE
from utils.cli.types import (
    AMP,
    Milestones,
    count,
    count_or_zero,
    dims,
    epochs,
    milestones,
    non_negative,
    number,
    path,
    pixels,
    pixels_or_zero,
    positive,
    scale,
    seed,
    unit_open_high,
)

LAUNCHER_FLAG = re.compile(r"--local[-_]rank\b")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose description is shown as it is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, without the usage before it, and end with status 2."""
        hint = "-h lists the flags"
        if LAUNCHER_FLAG.search(message):
            hint = "torch.distributed.launch adds it: start with torchrun, or give the launcher --use-env"
        self.exit(2, f"error: {message} ({hint})\n")


def common_parser(
    datasets: Collection[str], architectures: Collection[str], transforms: Collection[str], lr: float
) -> argparse.ArgumentParser:
    """Build the flags of train.py and both augmentations.

    Args:
        datasets, architectures, transforms: the names in the registries.
        lr: the script's default learning rate.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("dataset", metavar="DIR", choices=sorted(datasets), help=f"data set: {', '.join(sorted(datasets))}")
    add(
        "--datadir",
        type=path,
        default=".",
        metavar="PATH",
        help="folder of the data set's files (default: the current one)",
    )
    add(
        "--logdir",
        type=path,
        default=".",
        metavar="PATH",
        help="run folder, created if need be (default: the current one)",
    )
    add("--dummy", action="store_true", help="random images with the data set's class counts; needs no data")
    add(
        "--overwrite",
        action="store_true",
        help="start again: delete what this script left in the run folder; train.py also what was made of its model",
    )
    add("--quiet", action="store_true", help="print warnings and the final JSON line only; log.txt has all")
    add("--no-figures", action="store_true", help="draw no figures at the end (scripts/figures.py can, later)")
    add(
        "-p",
        "--print-freq",
        type=count,
        default=100,
        metavar="N",
        help="a log line every N steps (default: %(default)s)",
    )

    add_download(parser)
    _add_reading(parser, transforms)
    _add_model(parser, architectures)
    _add_optimiser(parser, lr)
    _add_schedule(parser)
    _add_machine(parser)
    return parser


def add_download(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a data set that brings its own files."""
    add = parser.add_argument_group("data (ChestXray; what --datadir lacks is downloaded)").add_argument
    add(
        "--dataset-manifest",
        type=path,
        metavar="FILE",
        help="a mirror's files in place of NIH's: JSON, a list of {name, url, bytes, md5 and/or sha256} (default: "
        "NIH's)",
    )
    add(
        "--download-jobs",
        type=count,
        default=3,
        metavar="N",
        help="archives downloaded at a time (default: %(default)s)",
    )
    add("--keep-archives", action="store_true", help="keep archives that are unpacked; else they are deleted")


def _add_reading(parser: argparse.ArgumentParser, transforms: Collection[str]) -> None:
    group = parser.add_argument_group(
        "reading (a checkpoint has these: leave them out with it; --csv and --names may have moved)"
    )
    add = group.add_argument
    add(
        "--csv",
        type=path,
        metavar="FILE",
        help="table of the data set CSV, looked for in --datadir too: columns path (or file, image; within --datadir) "
        "and label, and if there are such split (train, val, test) and group (a patient: never on both sides of a "
        "hold-out) (default: none)",
    )
    add(
        "--names",
        type=path,
        metavar="FILE",
        help="names of the classes of ImageFolder, CSV, ImageNet, ImageNet_LT and Places_LT: on each line a label "
        "(folder, wnid), then a blank, tab or comma, then its name; the order of the lines is that of the classes, but "
        "for ImageNet_LT and Places_LT (default: the labels are the names)",
    )
    add(
        "--imbalance-factor",
        type=number(float, 1),
        metavar="F",
        help="images of the largest class over those of the smallest, in an exponential profile (default: CIFAR10_LT, "
        "CIFAR100_LT 100; MNIST_LT, FashionMNIST_LT the DGC paper's counts)",
    )
    add(
        "--subset-scale",
        type=scale,
        default=1.0,
        metavar="F",
        help="of the data sets drawn from a larger pool (CelebA, and the _LT except ImageNet_LT and Places_LT): "
        "this many times the images of each class, rounded, at least one; 0.1 is a tenth of the subset, above 1 as far "
        "as each class has images (default: %(default)s)",
    )
    add(
        "--train-transform",
        choices=tuple(transforms),
        help="resized-crop: a random part, resized, flipped; resized-crop-jitter: then brightness, contrast and "
        "saturation changed by up to 40%% each; shift-flip: shifted by up to 1/16 (CIFAR: 1/8) and "
        "flipped; shift: not flipped (digits, text); none: as in the evaluation. For the shifts small images are "
        "enlarged by a whole factor and padded, in the evaluation too (default: the data set's own)",
    )
    _add_cache(group)


def _add_cache(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--cache-size",
        type=pixels_or_zero,
        default=0,
        metavar="PX",
        help="keep images that lie in files resized to this side in <datadir>/cache, built once, and read those: 256 "
        "takes 66 kB an image (6 GB for ChestXray), three times that in colour; crops of the training then come from "
        "the smaller image, of photographs from its central square (default: %(default)s, no cache)",
    )
    add(
        "--cache-dir",
        type=path,
        metavar="PATH",
        help="folder of the cache of --cache-size and of the list of --bad-images (default: <datadir>/cache; "
        "<logdir>/cache where that cannot be written)",
    )
    add(
        "--bad-images",
        choices=("error", "skip"),
        default="error",
        help="image files that cannot be read: stop at the first (with --cache-size: list all), or leave out up to 1%% "
        "of a split, found by reading all of them once (default: %(default)s)",
    )


def _add_model(parser: argparse.ArgumentParser, architectures: Collection[str]) -> None:
    add = parser.add_argument_group("model (a checkpoint has these: leave them out with it)").add_argument
    add(
        "-a",
        "--arch",
        default="resnet_vae3",
        choices=sorted(architectures),
        metavar="ARCH",
        help="a DGCMM's encoder and decoder, or without _vae3 a plain classifier: "
        f"{', '.join(sorted(architectures))} (default: resnet_vae3, which is ResNet-50)",
    )
    add("--h-dim", type=dims, metavar="H", help="length of the encoder's features (default: what the encoder gives)")
    add("--z-dim", type=dims, metavar="D", help="length of the latent code (default: h-dim)")
    add(
        "--new-size",
        type=pixels,
        default=256,
        metavar="PX",
        help="side that images are resized to (default: %(default)s)",
    )
    add(
        "--crop-size",
        type=pixels,
        default=224,
        metavar="PX",
        help="side of the crop that is used (default: %(default)s)",
    )
    add("--generative", action="store_true", help="encoder q(z|x,y); the label with the best score is the prediction")
    add(
        "--subset-seed",
        type=seed,
        default=0,
        metavar="N",
        help="which subset and hold-out is drawn (default: %(default)s)",
    )


def _add_optimiser(parser: argparse.ArgumentParser, lr: float) -> None:
    add = parser.add_argument_group("optimisation (SGD)").add_argument
    add("--epochs", type=epochs, default=90, metavar="N", help="epochs to run in all (default: %(default)s)")
    add(
        "-b",
        "--batch-size",
        type=count,
        default=256,
        metavar="N",
        help="images or codes a step, on one node (default: %(default)s)",
    )
    add("--lr", "--learning-rate", type=positive, default=lr, metavar="LR", help="learning rate (default: %(default)s)")
    add("--momentum", type=unit_open_high, default=0.9, metavar="M", help="momentum in [0,1) (default: %(default)s)")
    add(
        "--wd",
        "--weight-decay",
        type=non_negative,
        default=1e-4,
        metavar="W",
        help="weight decay (default: %(default)s)",
    )
    add(
        "--clip-grad",
        type=non_negative,
        default=5.0,
        metavar="NORM",
        help="clip the network's gradient to this norm, 0: do not clip (default: %(default)s)",
    )
    add(
        "--save-every",
        type=count_or_zero,
        default=0,
        metavar="N",
        help="save a checkpoint every N steps too, 0: after each epoch only (default: %(default)s)",
    )
    add(
        "--eval-every",
        type=count,
        default=1,
        metavar="N",
        help="measure every N epochs, and after the last (default: %(default)s)",
    )
    add("--max-steps", type=count, metavar="N", help="end an epoch, or an evaluation, after N steps (default: all)")
    add("--seed", type=seed, default=0, metavar="N", help="seed of everything but the subset (default: %(default)s)")


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    title = "learning-rate schedule, per epoch (none given: StepLR every --step-size)"
    add = parser.add_argument_group(title).add_argument
    add("--lr-step", type=count, metavar="N", help="StepLR: times --gamma every N epochs (default: none)")
    add(
        "--milestones",
        type=milestones,
        nargs="+",
        action=Milestones,
        metavar="N",
        help="MultiStepLR: at these epochs (default: none)",
    )
    add(
        "--T-max",
        type=count,
        metavar="N",
        help="cosine down to 1e-5 in N epochs; after that it rises again (default: none)",
    )
    add(
        "--gamma",
        type=number(float, 0, 1, open_low=True),
        default=0.1,
        help="factor of a step, in (0,1] (default: %(default)s)",
    )
    step = f"epochs between steps without another schedule (default: {STEP_SIZE})"
    add("--step-size", type=count, metavar="N", help=step)
    add(
        "--lr-warmup-epochs",
        type=count_or_zero,
        default=0,
        metavar="N",
        help="scale the rates of the first N epochs, of any schedule, by 1/N, 2/N, ..., 1 (default: %(default)s)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("machine").add_argument
    add(
        "-j",
        "--workers",
        type=count_or_zero,
        default=4,
        metavar="N",
        help="loading processes of a node for each split, divided among its training processes, rounded up "
        "(default: %(default)s)",
    )
    add("--gpu", type=count_or_zero, metavar="N", help="number of the GPU (default: the first; without CUDA the CPU)")
    add(
        "--amp",
        choices=AMP,
        default="off",
        help="precision of encoder and decoder: off is float32 (a GPU's convolutions: TF32, unless the environment has "
        "NVIDIA_TF32_OVERRIDE=0), fp16 needs CUDA; losses and mixture are never reduced (default: off; a re-training: "
        "that of its training)",
    )
    add(
        "--deterministic",
        action="store_true",
        help="the same numbers in every run on CUDA and of a compiled model, slower; other CPU runs have them anyway",
    )
