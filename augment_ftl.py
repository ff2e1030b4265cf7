#!/usr/bin/env python3
"""Re-train the classifier of a trained model with feature transfer from head to tail classes (Case 1).

    python augment_ftl.py Digits_LT --logdir=./logs/digits --resume=auto --epochs=20 --lr=1e-2 --T-max=20

A tail class gets codes that carry the spread of larger classes around its own mean. All else is as in augment.py;
the new classifier is in <logdir>/checkpoint_aug_ftl.pth.
"""

import argparse
from collections.abc import Sequence

from augment import retrain
from codes import Codes
from datasets import DATASETS
from datasets.transforms import TRAIN_TRANSFORMS
from models.encoder import ARCHITECTURES
from models.samplers import REP_METHODS, FeatureTransferSampler
from utils.cli.arguments import augment_parser
from utils.cli.common import common_parser
from utils.cli.rules import parse
from utils.cli.types import dims
from utils.errors import run_script

FLAGS = ("rep_method", "ftl_rank")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of augment_ftl.py."""
    common = common_parser(DATASETS, ARCHITECTURES, TRAIN_TRANSFORMS, lr=1e-2)
    parser = augment_parser(common, prog="augment_ftl.py", description=__doc__)
    parser.add_argument(
        "--rep-method",
        choices=sorted(REP_METHODS),
        default="get_rep_nums1",
        help="get_rep_nums1: every class to the size of the largest; get_rep_nums2: low-shot classes to the "
        "smallest median class, median ones to the smallest many-shot class (default: %(default)s)",
    )
    parser.add_argument(
        "--ftl-rank",
        type=dims,
        metavar="R",
        help="rank of the transferred spread; more than the codes have is cut (default: z-dim / 2)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Case 1: codes transferred from larger classes."""
    args, given = parse(build_parser(), argv)
    retrain(args, given, kind="aug_ftl", make_sampler=transfer_sampler, flags=FLAGS)


def transfer_sampler(codes: Codes, num_classes: int, args: argparse.Namespace) -> FeatureTransferSampler:
    """Make the sampler of Case 1 over training codes."""
    wanted = REP_METHODS[args.rep_method]
    return FeatureTransferSampler(
        codes["mu"], codes["sigma"], codes["targets"], num_classes, args.seed, args.ftl_rank, wanted
    )


if __name__ == "__main__":
    run_script(main)
