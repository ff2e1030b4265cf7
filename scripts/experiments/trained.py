"""A trained run as the experiments take it up: its arguments, data, model and codes."""

import argparse
import copy
import logging
from typing import NamedTuple

from augment import build_parser, load_trained_model
from codes import Codes, load_or_extract, load_same_splits, take_training_codes
from datasets.base import Splits
from datasets.splits import complete_data, prepare_data
from models.classifier import ImageClassifier
from models.encoder import PLAIN_ARCHITECTURES, feature_dim
from scripts.experiments.posthoc import TrainedCodes
from utils.cli.common import Parser
from utils.cli.rules import PLACE_FLAGS, complete, flag_of, parse
from utils.cli.types import count, path
from utils.device import available_amp, check_device, choose_device
from utils.distributed.world import World
from utils.errors import UserError
from utils.training.checkpoint import Checkpoint, digest, load_checkpoint
from utils.training.folder import RunFolder
from utils.training.layout import LAST
from utils.training.resume import find_trained

log = logging.getLogger("dgcmm")

IMAGES = 500  # a batch, where nothing is trained


class TrainedRun(NamedTuple):
    """What a finished training left.

    Attributes:
        args: of an augmentation of it, completed by the checkpoint.
        checkpoint: of the last epoch, or of the best one.
        splits: the training split under the evaluation transform.
        model: on the device of `world`.
        world: this process alone, with its device.
    """

    args: argparse.Namespace
    checkpoint: Checkpoint
    splits: Splits
    model: ImageClassifier
    world: World

    def codes(self) -> tuple[TrainedCodes, dict[str, Codes]]:
        """Load the codes from the file beside the checkpoint, or extract them into it.

        Returns:
            What methods on codes start from, on the CPU, and the codes of all splits.
        """
        codes = load_or_extract(self.model, self.splits, digest(self.checkpoint["state_dict"]), self.args, self.world)
        training = take_training_codes(codes, self.world.device)
        mu, sigma = (training[name].float().cpu() for name in ("mu", "sigma"))
        classifier = copy.deepcopy(self.model.classifier).cpu()
        return TrainedCodes(mu, sigma, training["targets"].cpu(), classifier, self.args.seed), codes


def run_parser(description: str, result: str) -> argparse.ArgumentParser:
    """Build the part of the command line that says which run is measured, and whether `result` may be replaced."""
    parser = Parser(description=description)
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="folder of a finished training")
    for name in PLACE_FLAGS:
        add(flag_of(name), type=path, metavar="PATH", help="its place now (default: that of the training)")
    add("--best", action="store_true", help="measure the best epoch, model_best.pth (default: the last)")
    add("--overwrite", action="store_true", help=f"replace {result}")
    add("-b", "--batch-size", type=count, default=IMAGES, metavar="N", help="images at a time (default: %(default)s)")
    return parser


def open_run(folder: RunFolder, options: argparse.Namespace, result: str) -> TrainedRun:
    """Load the model in a run folder and its data.

    Args:
        folder: of a run of train.py; `measuring` by this process.
        options: of `run_parser`.
        result: name of the file that will be written there.

    Raises:
        UserError: there is no such run or, for `--best`, no hold-out in it, or its data is not to be had, or the result
            is there.
    """
    if folder.file(result).exists() and not options.overwrite:
        raise UserError(f"{folder.file(result)} exists: --overwrite replaces it")
    last = load_checkpoint(folder.path / LAST)
    if options.best and not folder.best.exists():
        raise UserError(f"--best: there is no {folder.best}, as without a hold-out: leave --best out")
    places = [f"{flag_of(name)}={place}" for name in PLACE_FLAGS if (place := getattr(options, name))]
    words = [
        last["dataset"],
        f"--logdir={folder.path}",
        f"--resume={folder.best}" if options.best else "--resume=auto",
        f"--batch-size={options.batch_size}",
        "--workers=0",
        "--quiet",
        *places,
    ]
    args, given = parse(build_parser(), words)
    checkpoint = find_trained(args, given, folder)
    found = last["best"]
    if found and not options.best and found["epoch"] != last["epoch"]:
        log.info(
            "epoch %d, the last, is measured; --best takes epoch %d, that of the training's own result",
            last["epoch"],
            found["epoch"],
        )
    args.seed = checkpoint["args"]["seed"]
    complete(args, feature_dim(args.arch), args.arch in PLAIN_ARCHITECTURES, given)
    complete_data(args)
    prepare_data(args, may_be_new=False)
    world = World(choose_device(None))
    args.amp = available_amp(args.amp, world.device)
    check_device(world.device, args.amp)
    splits, _ = load_same_splits(args, checkpoint)
    return TrainedRun(args, checkpoint, splits, load_trained_model(args, checkpoint, splits, world), world)
