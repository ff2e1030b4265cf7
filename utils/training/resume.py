"""A run of train.py: its epochs, and how it is resumed."""

import argparse
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.amp import GradScaler

from utils.cli.rules import DATA_FLAGS, MODEL_FLAGS, SCORING_FLAGS, TRAINING_FLAGS, adopt
from utils.distributed.world import World
from utils.errors import UserError
from utils.training.board import Board
from utils.training.checkpoint import load_checkpoint, load_latest
from utils.training.engine import (
    Position,
    count_steps,
    evaluate,
    forward_passes,
    mean_losses,
    start_prior,
    take_steps,
    warn_of_divergence,
)
from utils.training.folder import RunFolder
from utils.training.measurement import Measurement
from utils.training.optimisation import build_optimizer
from utils.training.run import Run

log = logging.getLogger("dgcmm")


def find_checkpoint(
    args: argparse.Namespace, given: set[str], folder: RunFolder, nodes: int = 1
) -> dict[str, Any] | None:
    """The checkpoint that `--resume` names for train.py, or None for a new run; its flags are adopted into `args`.

    Args:
        nodes: of this run; `--batch-size` is a node's, so it is converted from a run on another number.

    Raises:
        UserError: it is missing, damaged or of another run, or the run folder holds a run that nothing asked for.
    """
    checkpoint = None
    if args.resume == "auto" and not args.evaluate:
        args.resume = None
        if (found := load_latest(folder.checkpoint, folder.previous)) is not None:
            checkpoint, args.resume = found[0], str(found[1])
        elif not folder.holds_run():
            return None
    elif args.resume == "auto":
        args.resume = str(folder.path / "checkpoint.pth")
    own = bool(args.resume) and Path(args.resume).resolve().parent == folder.path.resolve()
    if own and args.overwrite and not args.evaluate:
        raise UserError("--overwrite would delete the run that --resume continues: give one of the two")
    if folder.holds_run() and not (args.overwrite or own or args.evaluate):
        raise UserError(
            f"--logdir {folder.path} holds a run: continue it (--resume=auto), --overwrite it, or name another"
        )
    if not args.resume:
        return None
    checkpoint = checkpoint or load_checkpoint(Path(args.resume))
    if not args.evaluate and checkpoint["kind"] != TrainingRun.kind:
        raise UserError(f"{args.resume} comes from an augmentation: it can be evaluated (--evaluate), not trained on")
    require_same_dataset(args, checkpoint)
    flags = MODEL_FLAGS + DATA_FLAGS + SCORING_FLAGS + (tuple({"amp"} - given) if args.evaluate else TRAINING_FLAGS)
    stored = checkpoint["args"] if args.evaluate else _for_nodes(checkpoint, nodes, args.resume)
    adopt(args, given, stored, flags, args.resume)
    return checkpoint


def _for_nodes(checkpoint: dict[str, Any], nodes: int, source: str) -> dict[str, Any]:
    """The arguments of a checkpoint with the batch size that gives as many images a step on `nodes` nodes."""
    stored = checkpoint["args"]
    total = stored["batch_size"] * checkpoint["nodes"]
    if total % nodes:
        raise UserError(f"{source} was trained with {total} images a step, which {nodes} nodes cannot share evenly")
    return stored | {"batch_size": total // nodes}


def require_same_dataset(args: argparse.Namespace, checkpoint: dict[str, Any]) -> None:
    """Raise a `UserError` if a checkpoint was trained on another data set than the command names."""
    if checkpoint["dataset"] != args.dataset:
        raise UserError(
            f"{args.resume} was trained on {checkpoint['dataset']}, not on {args.dataset}: name that data set"
        )


class TrainingRun(Run):
    """Training of the whole model.

    Args:
        args, folder, split, about: as in `Run`.
        model: the DGCMM, on its device.
        datasets: by the names 'train', `split` and 'test'.
        loaders: batches of them, by the same names.
        weights: of the loss terms.
        warmup_weights: the same during warm-up.
    """

    kind = "train"
    continuation = "--resume=auto"

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        folder: RunFolder,
        split: str,
        about: dict[str, Any],
        world: World,
        *,
        datasets: dict[str, Any],
        loaders: dict[str, Any],
        weights: Any,
        warmup_weights: Any,
    ) -> None:
        super().__init__(args, model, build_optimizer(model, args), folder, split, about, world)
        self.datasets, self.loaders = datasets, loaders
        self.weights, self.warmup_weights = weights, warmup_weights
        self.scaler = GradScaler(world.device.type, enabled=args.amp == "fp16")
        self.warmup_end = args.warmup_epochs
        self.prior_started = False
        self._parallel: tuple[Any, nn.Module] | None = None  # the model as it is trained under these weights
        self.epoch = args.start_epoch or 0

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Continue where `checkpoint` was written, or at `--start-epoch`."""
        super().restore(checkpoint, path)
        self.warmup_end, self.prior_started = checkpoint["warmup_end"], checkpoint["prior_started"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint["scaler"])
        if self.args.start_epoch is not None:
            self.epoch, self.position = self.args.start_epoch, Position()
            self.history = [row for row in self.history if row["epoch"] <= self.epoch]
            if self.best and self.best["epoch"] > self.epoch:
                self.best = None

    @property
    def warming(self) -> bool:
        """Whether the running epoch belongs to the warm-up, which trains with the cross-entropy alone."""
        return self.epoch < self.warmup_end

    @property
    def current_weights(self) -> Any:
        """Of the loss terms in the running epoch."""
        return self.warmup_weights if self.warming else self.weights

    def train_steps(self) -> Iterator[int]:
        """The steps that are left of the epoch."""
        weights = self.current_weights
        if self._parallel is None or self._parallel[0] != weights:
            self._parallel = (weights, parallel(self.model, weights, self.world))
        module, loader = self._parallel[1], self.loaders["train"]
        place = (self.epoch, self.position, self.args, self.world)
        sizes = loader.batches.sizes[: count_steps(loader, self.args)]
        passes = forward_passes(module, loader, weights, *place)
        yield from take_steps(passes, sizes, self.model, self.optimizer, *place, self.model.prior.project, self.scaler)

    def end_training(self) -> dict[str, float | None]:
        """After the first epoch that has the mixture term, the prior starts from the codes; the end of the warm-up."""
        weights = self.current_weights
        losses = mean_losses(self.position, weights, self.world)
        if self.world.is_main:
            warn_of_divergence(losses["loss_cls"], self.about["class_counts"], self.epoch, self.args)
        if weights.gmm and not self.prior_started:
            start_prior(self.model, self.loaders["train"], self.epoch, self.args, self.world)
            for parameter in self.model.prior.parameters():
                self.optimizer.state.pop(parameter, None)  # momentum towards where it no longer is
            self.prior_started = True
        threshold = self.args.warmup_threshold
        if self.warming and threshold is not None and losses["loss_cls"] < threshold:
            self.warmup_end = self.epoch + 1
            log.info("warm-up ends early after epoch %d: cross-entropy %.4f", self.epoch + 1, losses["loss_cls"])
        return losses

    def measure(self, split: str) -> Measurement | None:
        """Classify the images of a split."""
        predictions = evaluate(self.model, self.loaders[split], self.weights, self.args, self.world)
        if predictions is None:
            return None
        return Measurement.of(predictions, self.datasets[split], self.about["class_counts"])

    def state(self) -> dict[str, Any]:
        """How far warm-up and prior are, and the scale of the loss in float16."""
        progress = {"warmup_end": self.warmup_end, "prior_started": self.prior_started}
        return progress | {"scaler": self.scaler.state_dict()}

    def show(self, board: Board) -> None:
        """Inputs above their reconstructions."""
        board.reconstructions(self.epoch, self.model, self.loaders[self.split], self.world.device, self.args.amp)


def parallel(model: nn.Module, weights: Any, world: World) -> nn.Module:
    """The model as it is trained under `weights`: parts without a loss term ask for no gradient.

    Nobody waits for a gradient that never comes, so no search for unused parameters is needed; batch-norm statistics
    are not exchanged in each step, the main process's are shared before they are used (`World.share_buffers`).

    Args:
        weights: of the loss terms; a weight of 0 switches a part off.

    Returns:
        The model itself for one process, else DistributedDataParallel around it.
    """
    model.requires_grad_(True)
    for weight, part in ((weights.cls, model.classifier), (weights.reconst, model.decoder), (weights.gmm, model.prior)):
        part.requires_grad_(bool(weight))
    if world.size == 1:
        return model
    devices = None if world.gpu is None else [world.gpu]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")  # renamed in the newest versions only
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def measure_checkpoint(
    model: nn.Module,
    loader: Any,
    weights: Any,
    checkpoint: dict[str, Any],
    args: argparse.Namespace,
    folder: RunFolder,
    world: World,
) -> dict[str, Any]:
    """Measure a model on the test set, whose batches `loader` gives, and write the results to `folder`.

    Args:
        weights: of the loss terms, by which a generative model scores candidate labels.
        checkpoint: that the model came from.

    Returns:
        The result in the main process, an empty one in the others.
    """
    started = time.perf_counter()
    predictions = evaluate(model, loader, weights, args, world)
    if predictions is None:
        return {}
    folder.write_args(args, {"test": loader.dataset.fingerprint()}, processes=world.size)
    measurement = Measurement.of(predictions, loader.dataset, checkpoint["class_counts"])
    measurement.write(folder, checkpoint["epoch"], "test")
    result = {"epoch": checkpoint["epoch"], "split": "test", **measurement.numbers}
    result["time"] = time.perf_counter() - started
    folder.write_rows("metrics.csv", [result])
    return result


def log_facts(world: Any, args: argparse.Namespace, run: Any, splits: Any) -> None:
    """The derived facts of a run, once, at its start."""
    if len(splits.train) < args.batch_size * world.nodes:
        log.warning("--batch-size %d: only %d training images, all in one batch", args.batch_size, len(splits.train))
    held = f", {len(splits.val)} held out" if splits.val else ""
    log.info("%s: %d training images%s, %d test images", args.dataset, len(splits.train), held, len(splits.test))
    log.info("images per class: %s", dict(zip(splits.train.classes, splits.train.class_counts, strict=True)))
    log.info("%s: %.1f million parameters on %s, amp %s", args.arch, count_millions(run.model), world.device, args.amp)
    images, rates = args.batch_size * world.nodes, f"learning rate {args.lr:g}, prior {args.prior_lr:g}"
    if world.size > 1:
        log.info("%d processes on %d node(s), %d images a step each", world.size, world.nodes, images // world.size)
    log.info("%d steps of %d images an epoch, %s", len(run.loaders["train"]), images, rates)
    if run.epoch or run.position.step:
        log.info("continuing after epoch %d of %d, step %d", run.epoch, args.epochs, run.position.step)


def count_millions(model: Any) -> float:
    """Parameters of a model, in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
