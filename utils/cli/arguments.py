"""The command line of each script; see `common` for the flags of train.py and both augmentations.

Defaults stand in these two modules, those that follow from other flags in `rules`. Nothing here imports torch.
"""

import argparse
from collections.abc import Collection

from utils.cli.common import Parser
from utils.cli.rules import PLAIN_WEIGHT_CLS, WEIGHT_CLS
from utils.cli.types import (
    AMP,
    count,
    count_or_zero,
    non_negative,
    path,
    positive,
    seconds,
    sigma,
    unit_open_high,
    variance,
)


def train_parser(
    common: argparse.ArgumentParser, losses: Collection[str], samplers: Collection[str], **kwargs: str | None
) -> argparse.ArgumentParser:
    """Build the parser of train.py.

    Args:
        common: the flags of train.py and both augmentations.
        losses, samplers: the names in the registries.
        kwargs: go to ArgumentParser.
    """
    parser = Parser(parents=[common], **kwargs)
    _add_start(parser)
    _add_images(parser, samplers)
    _add_loss(parser, losses)
    _add_processes(parser)
    return parser


def _add_start(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--resume",
        type=path,
        metavar="PATH",
        help="continue from this checkpoint; 'auto': from <logdir>/checkpoint.pth if there is one, else start "
        "(default: start)",
    )
    add("-e", "--evaluate", action="store_true", help="measure the resumed model on the test set, and train nothing")
    add(
        "--start-epoch",
        type=count_or_zero,
        metavar="N",
        help="epochs to take as done, with the weights as they are (default: the checkpoint's, else 0)",
    )
    add("--pretrained", action="store_true", help="start the encoder from torchvision's IMAGENET1K_V1 weights")
    add(
        "--init",
        type=path,
        metavar="PATH",
        help="start from the encoder of this checkpoint, and from all else of it that fits; its classes may be others "
        "(with --resume=auto: where there is no run to continue) (default: none)",
    )
    add("--freeze-encoder", action="store_true", help="leave the encoder as it starts, its batch norm too")
    add(
        "--compile",
        action="store_true",
        help="compile encoder and decoder (torch.compile) at the first step, which takes a minute or more; meant for "
        "CUDA: on two CPU cores a step of ResNet-50 in bf16 took as long as without",
    )


def _add_images(parser: argparse.ArgumentParser, samplers: Collection[str]) -> None:
    """Add what decides which images an epoch has, and which measure it."""
    add = parser.add_argument
    add(
        "--val-fraction",
        type=unit_open_high,
        default=0.0,
        metavar="F",
        help="hold this share of the training images out, measure epochs on it, keep the best (default: %(default)s)",
    )
    add(
        "--val-per-class",
        type=count_or_zero,
        default=0,
        metavar="N",
        help="the same with N images a class that the training images leave over: for data sets that are drawn from a "
        "larger pool (*_LT of small images, CelebA); the training images stay what they are (default: %(default)s)",
    )
    add(
        "--sampler",
        choices=samplers,
        default="instance",
        help="how an epoch is drawn: each image once; or as many images with replacement, a class in proportion "
        "to the square root of its images (sqrt), or all alike (balanced) (default: %(default)s)",
    )
    add(
        "--mixup",
        type=non_negative,
        default=0.0,
        metavar="A",
        help="mix the images of a batch in pairs, by a share drawn for each batch from Beta(A,A); 0: do not "
        "(default: %(default)s)",
    )


def _add_loss(parser: argparse.ArgumentParser, losses: Collection[str]) -> None:
    group = parser.add_argument_group("loss")
    add = group.add_argument
    add(
        "--loss",
        choices=losses,
        default="ce",
        help="classification term: cross-entropy; focal loss; cross-entropy weighted by the classes' effective numbers "
        "of images; LDAM, with a cosine classifier and in the last fifth of the epochs these weights; logit adjustment "
        "(default: %(default)s)",
    )
    add(
        "--weight-cls",
        type=non_negative,
        metavar="W",
        help=f"weight of the classification term (default: {WEIGHT_CLS:g}, of a plain classifier {PLAIN_WEIGHT_CLS:g})",
    )
    add(
        "--weight-reconst",
        type=non_negative,
        default=0.1,
        metavar="W",
        help="weight of the decoder's squared error, a mean over pixels and channels: half the sum of squares, as "
        "others have it, is a weight of 392 on images of 28x28 and of 1536 on 32x32 in colour. Of small images the "
        "decoder learns nothing at 0.1; at 100 it makes a likeness, if --lr is high enough (default: %(default)s)",
    )
    add(
        "--weight-gmm",
        type=non_negative,
        default=0.001,
        metavar="W",
        help="weight of the mixture term (default: %(default)s)",
    )
    _add_prior(group)
    add(
        "--warmup-epochs",
        type=count_or_zero,
        default=0,
        metavar="N",
        help="first epochs with the classification term only (default: %(default)s)",
    )
    add(
        "--warmup-threshold",
        type=positive,
        metavar="CE",
        help="end the warm-up early below this mean loss (default: none)",
    )


def _add_prior(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--gmm-assign",
        choices=("posterior", "label"),
        default="posterior",
        help="what assigns a code to a component of the prior: the code itself, or its label (default: %(default)s)",
    )
    add(
        "--initial-sigma",
        type=sigma,
        metavar="S",
        help="standard deviation of the codes at the start of the training, from 0.01 to 100 (default: 0.61, a "
        "variance of 1/e)",
    )
    add(
        "--prior-lr",
        type=non_negative,
        metavar="LR",
        help="learning rate of the prior; 0 leaves its components where they start, at the codes of the classes after "
        "the first epoch that has the mixture term (default: lr / weight-gmm)",
    )
    add(
        "--prior-variance",
        type=variance,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="keep the variances of the prior's components from LOW to HIGH, within 1e-4 and 1e4; 1 1 holds them at 1 "
        "(default: they are learned, from e^-10 to e^10)",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("several processes, GPUs and nodes").add_argument
    add(
        "--multiprocessing-distributed",
        action="store_true",
        help="start --ngpus processes on this node; --world-size and --rank then count nodes, else processes",
    )
    add(
        "--ngpus",
        type=count,
        default=1,
        metavar="N",
        help="GPUs of this node; without CUDA, processes (default: %(default)s)",
    )
    add("--world-size", type=count, metavar="N", help="number of nodes, or of processes (default: 1)")
    add("--rank", type=count_or_zero, metavar="N", help="number of this node, or process, from 0 (default: 0)")
    add(
        "--dist-url",
        metavar="URL",
        help="where the processes meet: tcp://HOST:PORT of node 0, or env:// (default: a free port of this machine)",
    )
    add(
        "--dist-backend",
        choices=("nccl", "gloo"),
        default="nccl",
        help="how gradients travel; without CUDA gloo is used (default: %(default)s)",
    )
    add(
        "--dist-timeout",
        type=seconds,
        default=600,
        metavar="S",
        help="seconds that a process waits for another before the run ends (default: %(default)s)",
    )
    add("--sync-bn", action="store_true", help="batch norm over the batch of all processes; CUDA only")


def augment_parser(common: argparse.ArgumentParser, **kwargs: str | None) -> argparse.ArgumentParser:
    """Build what the parsers of augment.py and augment_ftl.py share; `kwargs` go to ArgumentParser."""
    parser = Parser(parents=[common], **kwargs)
    parser.add_argument(
        "--resume",
        type=path,
        metavar="PATH",
        required=True,
        help="checkpoint of the trained model; 'auto' is <logdir>/checkpoint.pth",
    )
    parser.add_argument(
        "--start",
        choices=("trained", "adjusted"),
        default="trained",
        help="where re-training starts: the trained classifier, or the same with log(class share of the training "
        "images) subtracted from its bias, so that no class is preferred; a small --lr suits that, 1e-3 in the "
        "recipes (default: %(default)s)",
    )
    return parser


def predict_parser(**kwargs: str | None) -> argparse.ArgumentParser:
    """Build the parser of predict.py; `kwargs` go to ArgumentParser."""
    parser = Parser(**kwargs)
    add = parser.add_argument
    add("checkpoint", type=path, metavar="CHECKPOINT", help="of train.py, augment.py or augment_ftl.py")
    add(
        "sources",
        type=path,
        nargs="+",
        metavar="SOURCE",
        help="an image; a folder, of which all images are taken, those in sub-folders too; a .txt list with a path on "
        "each line; a .csv or .tsv table with a column path, file or image",
    )
    add("--out", type=path, default="predictions.csv", metavar="FILE", help="where to write (default: %(default)s)")
    add(
        "--codes",
        type=path,
        metavar="FILE.npz",
        help="write the codes too: files (N), mu and log_var (N,D), of a generative model under the predicted label; "
        "they are held in memory, 8 D bytes an image (default: none)",
    )
    add(
        "--prior",
        type=path,
        metavar="SHARES",
        help="class shares of the images to classify: uniform, natural (those of the training images) or FILE.csv with "
        "the columns class and share; corrects the probabilities for the shares that the classifier was trained under "
        "(default: the probabilities as they are)",
    )
    add("--overwrite", action="store_true", help="replace --out and --codes if they exist")
    add("--quiet", action="store_true", help="print warnings and the final JSON line only")
    add(
        "-b",
        "--batch-size",
        type=count,
        default=256,
        metavar="N",
        help="images at a time (default: %(default)s)",
    )
    add(
        "-j", "--workers", type=count_or_zero, default=4, metavar="N", help="processes that load (default: %(default)s)"
    )
    add("--gpu", type=count_or_zero, metavar="N", help="number of the GPU (default: the first; without CUDA the CPU)")
    add(
        "--amp",
        choices=AMP,
        help="precision of the encoder (default: that of the training, or off where fp16 needs a GPU)",
    )
    return parser
