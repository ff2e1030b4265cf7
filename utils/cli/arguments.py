"""The command lines: shared parsers.

Defaults stand here and nowhere else. Nothing here imports torch.
"""

import argparse
import re
from collections.abc import Collection
from typing import NoReturn

from utils.cli.rules import PLAIN_WEIGHT_CLS, WEIGHT_CLS
from utils.cli.types import (
    Milestones,
    count,
    count_or_zero,
    milestones,
    non_negative,
    number,
    path,
    positive,
    seconds,
    seed,
    sigma,
    unit_open_high,
    variance,
)

LAUNCHER_FLAG = re.compile(r"--local[-_]rank\b")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, without the usage before it, and end with status 2."""
        hint = "-h lists the flags"
        if LAUNCHER_FLAG.search(message):
            hint = "torch.distributed.launch adds it: start with torchrun, or give the launcher --use-env"
        self.exit(2, f"error: {message} ({hint})\n")


def common_parser(
    datasets: Collection[str], architectures: Collection[str], transforms: Collection[str], lr: float
) -> argparse.ArgumentParser:
    """Build the flags of all three scripts.

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
        help="folder of the data set's files (default: this one)",
    )
    add(
        "--logdir",
        type=path,
        default=".",
        metavar="PATH",
        help="run folder, created if need be (default: this one)",
    )
    add("--dummy", action="store_true", help="random images with the data set's class counts; needs no data")
    add("--overwrite", action="store_true", help="delete the results that the run folder holds, and start again")
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

    add_data(parser)
    _add_reading(parser, transforms)
    _add_model(parser, architectures)
    _add_optimiser(parser, lr)
    _add_machine(parser)
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a data set that brings its own files."""
    add = parser.add_argument_group("data (ChestXray; what --datadir lacks is downloaded)").add_argument
    add(
        "--dataset-manifest",
        type=path,
        metavar="FILE",
        help="a mirror's files in place of NIH's: JSON, a list of {name, url, bytes, md5 and/or sha256}",
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
    add = parser.add_argument_group("reading (left out with a checkpoint: the checkpoint's)").add_argument
    add(
        "--csv",
        type=path,
        metavar="FILE",
        help="table of the data set CSV, looked for in --datadir too: columns path (or file, image; within --datadir) "
        "and label, and if there are such split (train, val, test) and group (a patient: never on both sides of a "
        "hold-out)",
    )
    add(
        "--names",
        type=path,
        metavar="FILE",
        help="names of the classes of ImageFolder, CSV, ImageNet, ImageNet_LT and Places_LT: on each line a label "
        "(folder, wnid) and its name, in the order that the classes get (default: the labels are the names)",
    )
    add(
        "--imbalance-factor",
        type=number(float, 1),
        metavar="F",
        help="largest over smallest class of CIFAR10_LT and CIFAR100_LT (default: 100), and of MNIST_LT and "
        "FashionMNIST_LT, as many images in an exponential profile (default: the DGC paper's counts)",
    )
    add(
        "--subset-scale",
        type=positive,
        default=1.0,
        metavar="F",
        help="of the data sets that are drawn from a larger pool (_LT but for ImageNet_LT and Places_LT, CelebA): this "
        "many times the images of each class, rounded, at least one; 0.1 is a tenth of the subset, above 1 as far as "
        "each class has images (default: %(default)s)",
    )
    add(
        "--train-transform",
        choices=tuple(transforms),
        help="resized-crop: a random part, resized, flipped; resized-crop-jitter: then brightness, contrast and "
        "saturation changed by up to 40%% each; shift-flip: shifted by up to 1/16 (CIFAR: 1/8) and "
        "flipped; shift: not flipped (digits, text); none: as in the evaluation. Small images are padded for the "
        "shifts, in the evaluation too, else resized (default: the data set's own)",
    )
    add(
        "--cache-size",
        type=count_or_zero,
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
        help="folder that --cache-size and --bad-images keep what they read in (default: <datadir>/cache; "
        "<logdir>/cache where that cannot be written)",
    )
    add(
        "--bad-images",
        choices=("error", "skip"),
        default="error",
        help="image files that cannot be read: stop, or leave out up to 1%% of a split, found by reading all of them "
        "once (default: %(default)s)",
    )


def _add_model(parser: argparse.ArgumentParser, architectures: Collection[str]) -> None:
    add = parser.add_argument_group("model (left out with a checkpoint: the checkpoint's)").add_argument
    add(
        *("-a", "--arch"),
        default="resnet_vae3",
        choices=sorted(architectures),
        metavar="ARCH",
        help="a DGCMM's encoder and decoder, or without _vae3 a plain classifier: "
        f"{', '.join(sorted(architectures))} (default: resnet_vae3, which is ResNet-50)",
    )
    add("--h-dim", type=count, metavar="H", help="length of the encoder's features (default: what the encoder gives)")
    add("--z-dim", type=count, metavar="D", help="length of the latent code (default: h-dim)")
    add(
        "--new-size",
        type=count,
        default=256,
        metavar="PX",
        help="side that images are resized to (default: %(default)s)",
    )
    add(
        "--crop-size",
        type=count,
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
    add("--epochs", type=count, default=90, metavar="N", help="epochs to run in all (default: %(default)s)")
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

    title = "learning-rate schedule, per epoch (none given: StepLR every --step-size)"
    add = parser.add_argument_group(title).add_argument
    add("--lr-step", type=count, metavar="N", help="StepLR: times --gamma every N epochs")
    add(
        "--milestones",
        type=milestones,
        nargs="+",
        action=Milestones,
        metavar="N",
        help="MultiStepLR: at these epochs",
    )
    add("--T-max", type=count, metavar="N", help="cosine down to 1e-5 in N epochs; after that it rises again")
    add(
        "--gamma",
        type=number(float, 0, 1, open_low=True),
        default=0.1,
        help="factor of a step, in (0,1] (default: %(default)s)",
    )
    add("--step-size", type=count, metavar="N", help="epochs between steps without another schedule (default: 30)")
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
        help="processes of a node that load (default: %(default)s)",
    )
    add("--gpu", type=count_or_zero, metavar="N", help="number of the GPU (default: the first; without CUDA the CPU)")
    add(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="precision of encoder and decoder: off is float32 (a GPU's convolutions: TF32, unless the environment has "
        "NVIDIA_TF32_OVERRIDE=0), fp16 needs CUDA; losses and mixture are never reduced (default: %(default)s)",
    )
    add(
        "--deterministic",
        action="store_true",
        help="the same numbers in every run on CUDA, slower; CPU runs always are",
    )


def train_parser(
    common: argparse.ArgumentParser, losses: Collection[str], samplers: Collection[str], **kwargs: str | None
) -> argparse.ArgumentParser:
    """Build the parser of train.py.

    Args:
        common: the flags of all three scripts.
        losses, samplers: the names in the registries.
        kwargs: go to ArgumentParser.
    """
    parser = _parser(common, **kwargs)
    parser.add_argument(
        "--resume",
        type=path,
        metavar="PATH",
        help="continue from this checkpoint; 'auto': from <logdir>/checkpoint.pth if there is one, else start",
    )
    add = parser.add_argument
    add("-e", "--evaluate", action="store_true", help="measure the resumed model on the test set, and train nothing")
    add("--start-epoch", type=count_or_zero, metavar="N", help="first epoch (default: the checkpoint's, else 0)")
    add("--pretrained", action="store_true", help="start the encoder from torchvision's IMAGENET1K_V1 weights")
    add(
        "--init",
        type=path,
        metavar="PATH",
        help="start from the encoder of this checkpoint, and from all else of it that fits; its classes may be others "
        "(with --resume=auto: where there is no run to continue)",
    )
    add("--freeze-encoder", action="store_true", help="leave the encoder as it starts, its batch norm too")
    add(
        "--compile",
        action="store_true",
        help="compile encoder and decoder (torch.compile) at the first step, which takes a minute or more; meant for "
        "CUDA: on two CPU cores a step of ResNet-50 in bf16 took as long as without",
    )
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
        help="how an epoch is drawn: each image once; or as many images with replacement, a class of n images in "
        "proportion to its square root (sqrt) or like any other (balanced) (default: %(default)s)",
    )
    add(
        "--mixup",
        type=non_negative,
        default=0.0,
        metavar="A",
        help="mix the images of a batch in pairs, by a share drawn for each batch from Beta(A,A); 0: do not "
        "(default: %(default)s)",
    )

    add = parser.add_argument_group("loss").add_argument
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
        "decoder makes a constant grey at 0.1 and a likeness at 100 (default: %(default)s)",
    )
    add(
        "--weight-gmm",
        type=non_negative,
        default=0.001,
        metavar="W",
        help="weight of the mixture term (default: %(default)s)",
    )
    add(
        "--gmm-assign",
        choices=("posterior", "label"),
        default="posterior",
        help="who assigns a code to a component of the prior: the code itself, or its label (default: %(default)s)",
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
    add(
        "--warmup-epochs",
        type=count_or_zero,
        default=0,
        metavar="N",
        help="first epochs with the classification term only",
    )
    add("--warmup-threshold", type=positive, metavar="CE", help="end the warm-up early below this mean loss")
    _add_processes(parser)
    return parser


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
    add("--world-size", type=count, metavar="N", help="number of nodes (default: 1)")
    add("--rank", type=count_or_zero, metavar="N", help="number of this node, from 0 (default: 0)")
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
    parser = _parser(common, **kwargs)
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
        "images) subtracted from its bias, so that no class is preferred; a small --lr, 1e-3 to 1e-2, suits that "
        "(default: %(default)s)",
    )
    return parser


def predict_parser(**kwargs: str | None) -> argparse.ArgumentParser:
    """Build the parser of predict.py; `kwargs` go to ArgumentParser."""
    parser = Parser(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
    add = parser.add_argument
    add("checkpoint", type=path, metavar="CHECKPOINT", help="of train.py, augment.py or augment_ftl.py")
    add(
        "sources",
        type=path,
        nargs="+",
        metavar="SOURCE",
        help="an image; a folder, of which all images are taken, those in sub-folders too; a .txt list with a path on "
        "each line; a .csv table with a column path, file or image",
    )
    add("--out", type=path, default="predictions.csv", metavar="FILE", help="where to write (default: %(default)s)")
    add(
        "--codes",
        type=path,
        metavar="FILE.npz",
        help="write the codes too: files (N), mu and log_var (N,D), of a generative model under the predicted label; "
        "they are held in memory, 8 D bytes an image",
    )
    add(
        "--prior",
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
        choices=("off", "bf16", "fp16"),
        help="precision of encoder and decoder (default: that of the training, or off where fp16 needs a GPU)",
    )
    return parser


def _parser(common: argparse.ArgumentParser, **kwargs: str | None) -> argparse.ArgumentParser:
    return Parser(parents=[common], formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
