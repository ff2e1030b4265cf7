#!/usr/bin/env python3
"""Classify images with a trained model: a row for each image in predictions.csv.

A folder of images, or a single one; model, sizes and class names come from the checkpoint:
    python predict.py ./logs/photos/checkpoint_aug.pth ./new_photos --out=predictions.csv

A list and a table, as if all classes were equally frequent (of a model that was not re-trained), and the codes:
    python predict.py ./logs/photos/checkpoint.pth images.txt table.csv --prior=uniform --codes=codes.npz

Columns: file, prediction, confidence (its probability), p_CLASS for each class, atypicality (the share of training
images of the predicted class whose code lies nearer to its component; empty where the checkpoint does not know), and
error, with all else but file empty, for an image that cannot be read.
The last line on standard output is a JSON object: images, errors, and how many were predicted as each class.
"""

import argparse
import contextlib
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images.unlabelled import Named, UnlabelledImages, find_named
from datasets.loading import SAMPLERS, BatchLoader, EvaluationBatches
from datasets.splits import preprocessing_of
from datasets.tables import column_numbers, count_of, read_table
from models.loading import Classified, TrainedModel
from models.losses import LIKELIHOOD_LOSSES, implied_shares
from models.samplers import REP_METHODS
from utils.cli.arguments import predict_parser
from utils.cli.rules import parse
from utils.device import ROOM_FOR_MODEL, available_amp, check_device, choose_device, memory_watched, to_unit_range
from utils.errors import UserError, run_script
from utils.files import Sink, write_rows, write_together
from utils.logs import progress, start_logging
from utils.metrics import NO_REDUCTION, exact, require_finite
from utils.streams import print_result
from utils.training.checkpoint import Checkpoint, load_checkpoint
from utils.training.layout import RUN_FILES, is_of_run, is_run
from utils.training.resume import warn_of_begun_epoch

log = logging.getLogger("dgcmm")

NAMED_PRIORS = ("uniform", "natural")  # any other is a table
SHARE_COLUMNS = ("class", "share")
SUM_TOLERANCE = 1e-3  # of shares that a user has rounded


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of predict.py."""
    return predict_parser(prog="predict.py", description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check all that was named, then classify."""
    args, _ = parse(build_parser(), argv)
    start_logging(args.quiet)
    check_order(args)
    check_outputs(args)
    checkpoint = load_checkpoint(Path(args.checkpoint))
    warn_of_begun_epoch(checkpoint, args.checkpoint)
    images = find_named(args.sources)
    check_not_read(args, images)
    correction = prior_correction(args.prior, checkpoint)
    device = choose_device(args.gpu)
    amp = choose_amp(args.amp, checkpoint, device)
    with memory_watched(remedy=ROOM_FOR_MODEL):
        model = TrainedModel(checkpoint, args.checkpoint).to(device)
    names = checkpoint["class_names"]
    log.info("%s: %s, %d classes of %s", args.checkpoint, checkpoint["arch"], len(names), checkpoint["dataset"])
    if model.network.prior is not None and model.distance_quantiles is None:
        log.warning(
            "%s holds no distances of training codes: atypicality stays empty (checkpoints of finished trainings and "
            "of re-trainings have them, where there is a mixture term)",
            args.checkpoint,
        )
    data = UnlabelledImages([image.path for image in images], preprocessing_of(checkpoint))
    batches = EvaluationBatches(len(data), args.batch_size)
    outcome = Outcome(model.class_names, keep_codes=bool(args.codes))
    header = ["file", "prediction", "confidence", *outcome.columns, "atypicality", "error"]
    with (
        memory_watched(),
        contextlib.closing(BatchLoader(data, batches, args.workers, pin_memory=device.type == "cuda")) as loader,
        progress("prediction", total=len(images), unit="img", quiet=args.quiet) as bar,
    ):

        def rows() -> Iterator[dict[str, str]]:
            """Classify batch by batch, and give the row of each image."""
            done = 0
            for pixels, errors in loader:
                found = model.classify(to_unit_range(pixels, device), amp, correction)
                require_finite([found.probabilities.cpu().numpy()], NO_REDUCTION)
                yield from outcome.rows(images[done : done + len(errors)], errors, found)
                done += len(errors)
                bar.update(len(errors))
            check_outputs(args)  # again: another call may have written them meanwhile

        writes = {Path(args.out): lambda file: write_rows(file, header, rows())}
        if args.codes:  # filled after the table, whose rows bring them
            writes[Path(args.codes)] = outcome.write_codes
        write_together(writes)
    log.info("%d images: written to %s", len(images), args.out)
    if outcome.errors == len(images):
        raise UserError(f"none of {len(images)} images can be read: see the column error of {args.out}")
    if outcome.errors:
        log.warning("%d of %d images cannot be read: column error of %s", outcome.errors, len(images), args.out)
    print_result(outcome.summary())


def check_order(args: argparse.Namespace) -> None:
    """Raise a `UserError` if images stand where the checkpoint should, and a checkpoint among the images."""
    checkpoints = [source for source in args.sources if source.endswith(".pth")]
    if checkpoints and not args.checkpoint.endswith(".pth"):
        raise UserError(f"{checkpoints[0]} stands where the images should: the checkpoint comes first, then the images")


def outputs_of(args: argparse.Namespace) -> dict[str, str]:
    """Name the files that are to be written, by their flags."""
    return {"--out": args.out} | ({"--codes": args.codes} if args.codes else {})


def check_not_read(args: argparse.Namespace, images: Sequence[Named]) -> None:
    """Raise a `UserError` if a file that is to be written is the checkpoint, the table of `--prior` or an image."""
    table = args.prior if args.prior not in NAMED_PRIORS else None
    read = {os.path.realpath(path) for path in (args.checkpoint, table, *args.sources) if path}
    read.update(os.path.abspath(image.path) for image in images)  # links of these are not followed, they may be many
    for flag, path in outputs_of(args).items():
        if {os.path.realpath(path), os.path.abspath(path)} & read:
            raise UserError(f"{flag} {path} is also what is read: name another file")


def check_outputs(args: argparse.Namespace) -> None:
    """Raise a `UserError` if a file that is to be written is there already, or cannot be written."""
    outputs = outputs_of(args)
    places = [os.path.abspath(path) for path in outputs.values()]
    if len(set(places)) < len(places):
        raise UserError(f"--out and --codes are both {args.out}: give one another name")
    for flag, path in outputs.items():
        if os.path.isdir(path):
            raise UserError(f"{flag} {path} is a folder: name a file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{flag} {path} is a device or a pipe: name a file")
        if is_of_run(path):
            raise UserError(f"{flag} {path} holds the test predictions of a run: name another file")
        folder, name = os.path.split(os.path.abspath(path))
        if name in RUN_FILES and is_run(Path(folder)):
            raise UserError(f"{flag} {path} is where the run in that folder writes its own: name another file")
        if os.path.exists(path) and not args.overwrite:
            raise UserError(f"{flag} {path} exists: --overwrite it, or name another file")
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            reason = "no permission" if os.path.isdir(folder) else f"there is no folder {folder}"
            raise UserError(f"{flag} {path} cannot be written ({reason}): name another file")


def choose_amp(given: str | None, checkpoint: Checkpoint, device: torch.device) -> str:
    """Choose the precision: the one that is given, else that of the training, as train.py --evaluate does."""
    amp = given or available_amp(checkpoint["args"]["amp"], device)
    check_device(device, amp)
    return amp


def trained_shares(checkpoint: Checkpoint) -> tuple[Tensor, bool]:
    """Tell the class shares (K,) that a checkpoint's probabilities imply, and whether they do so only about.

    After train.py they follow from sampler and loss; under mixup the labels of mixed images make them less sure. After
    augment.py they are about uniform, after augment_ftl.py about those of the codes that `--rep-method` makes: few
    epochs at a small rate leave much of what the classifier started with. A generative model scores labels by a
    weighted sum, whose softmax is no probability of the training.
    """
    args, counts = argparse.Namespace(**checkpoint["args"]), checkpoint["class_counts"]
    if checkpoint["kind"] == "train":
        reweighted = checkpoint["epoch"] > checkpoint.get("reweighted_from", checkpoint["epoch"])
        shares = implied_shares(args.loss, counts, SAMPLERS[args.sampler], reweighted)
        return shares, args.generative or args.mixup > 0 or args.loss not in LIKELIHOOD_LOSSES
    codes = [max(counts)] * len(counts) if checkpoint["kind"] == "aug" else REP_METHODS[args.rep_method](counts)
    return torch.tensor(codes, dtype=torch.float64) / sum(codes), True


def prior_correction(prior: str | None, checkpoint: Checkpoint) -> Tensor | None:
    """Give the log of what `--prior` multiplies each class's probability by, up to a constant, (K,); None without it.

    With class shares s in the training and t where the images come from, p(c|x) is in proportion to p_s(c|x) t_c / s_c
    (Saerens et al., Neural Computation 14(1), 2002).
    """
    if prior is None:
        return None
    names, counts = checkpoint["class_names"], checkpoint["class_counts"]
    if prior == "uniform":
        wanted = torch.ones(len(names), dtype=torch.float64)
    elif prior == "natural":
        wanted = torch.tensor(counts, dtype=torch.float64)
    else:
        wanted = torch.tensor(read_shares(prior, names), dtype=torch.float64)
    shares, approximate = trained_shares(checkpoint)
    if approximate:
        log.warning(
            "--prior is only approximate here: these probabilities are not exactly those under known class shares"
        )
    return (wanted / wanted.sum()).log() - shares.log()


def read_shares(path: str, names: Sequence[str]) -> list[float]:
    """Read the share of each class from a table with the columns class and share, in the order of `names`.

    Raises:
        UserError: it cannot be read, its classes are not these, a share is no number from 0 to 1, or the sum is not 1.
    """
    remedy = "--prior takes uniform, natural or a table with the columns class and share"
    header, rows = read_table(Path(path), remedy)
    columns = column_numbers(header)
    if lacking := [name for name in SHARE_COLUMNS if name not in columns]:
        raise UserError(f"--prior {path} has no column {lacking[0]}, but {', '.join(header) or 'nothing'}: {remedy}")
    shares: dict[str, float] = {}
    for number, row in rows:
        name, text = (row[columns[c]] if columns[c] < len(row) else "" for c in SHARE_COLUMNS)
        name = name if name in names else name.strip()
        if name not in names or name in shares:
            what = "names twice" if name in shares else "names"
            classes = count_of(names, "class", "classes")
            raise UserError(f"--prior {path}, row {number}, {what} {name!r}: give each of {classes} one row")
        try:
            shares[name] = float(text)
        except ValueError:
            shares[name] = -1.0
        if not 0 <= shares[name] <= 1:
            raise UserError(f"--prior {path}, row {number}: the share {text!r} is no number from 0 to 1: correct it")
    if lacking := [name for name in names if name not in shares]:
        raise UserError(f"--prior {path} lacks {count_of(lacking, 'class', 'classes')}: give each a row")
    if abs(sum(shares.values()) - 1) > SUM_TOLERANCE:
        raise UserError(f"--prior {path}: the shares sum to {sum(shares.values()):.6g}, not to 1: correct them")
    return [shares[name] for name in names]


class Outcome:
    """What is said of the images so far: rows, counts, and codes if they are to be kept.

    Args:
        class_names: (K,).
        keep_codes: hold the codes of all images, for `write_codes`.

    Attributes:
        columns: names of the columns of probabilities.
        errors: images that could not be read.
    """

    def __init__(self, class_names: Sequence[str], keep_codes: bool) -> None:
        self.class_names, self.keep_codes = class_names, keep_codes
        self.columns = [f"p_{name}" for name in class_names]
        self.counts, self.errors = np.zeros(len(class_names), dtype=np.int64), 0
        self._files: list[str] = []
        self._codes: dict[str, list[np.ndarray]] = {"mu": [], "log_var": []}

    def rows(self, images: Sequence[Named], errors: Sequence[str], found: Classified) -> Iterator[dict[str, str]]:
        """Yield the row of each image of a batch, and count it.

        Args:
            images: of the batch, (B,).
            errors: why each cannot be read, '' for one that can.
            found: of all of them; what it says of one that cannot be read does not count.
        """
        labels, probabilities = found.labels.tolist(), found.probabilities.cpu().numpy()
        read = [number for number, error in enumerate(errors) if not error]
        self.counts += np.bincount(found.labels[read].cpu().numpy(), minlength=len(self.counts))
        self.errors += len(errors) - len(read)
        if self.keep_codes:
            self._files += [images[number].name for number in read]
            for name, values in (("mu", found.mu), ("log_var", found.log_var)):
                self._codes[name].append(values[read].cpu().numpy())
        for number, (image, error) in enumerate(zip(images, errors, strict=True)):
            if error:
                yield {"file": image.name, "error": error}
                continue
            atypicality, written = found.atypicality[number], exact(probabilities[number])
            yield {
                "file": image.name,
                "prediction": self.class_names[labels[number]],
                "confidence": written[labels[number]],
                **dict(zip(self.columns, written, strict=True)),
                "atypicality": "" if np.isnan(atypicality) else f"{atypicality:.4f}",
            }

    def write_codes(self, file: Sink) -> None:
        """Write files (N), mu and log_var (N,D) of the images that could be read, as `np.savez` would."""
        with zipfile.ZipFile(file, "w") as archive:  # np.savez wants a file that can be read too
            for name in ("mu", "log_var"):
                parts = self._codes[name]
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    facts = {"descr": np.lib.format.dtype_to_descr(parts[0].dtype), "fortran_order": False}
                    shape = (sum(map(len, parts)), *parts[0].shape[1:])
                    np.lib.format.write_array_header_1_0(member, facts | {"shape": shape})
                    for part in parts:  # joined, they would fill as much memory again
                        member.write(part.data)
            with archive.open("files.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.array(self._files, dtype=str), allow_pickle=False)

    def summary(self) -> dict[str, int | dict[str, int]]:
        """Sum up for the last line."""
        counts = dict(zip(self.class_names, self.counts.tolist(), strict=True))
        return {"images": int(self.counts.sum()) + self.errors, "errors": self.errors, "counts": counts}


if __name__ == "__main__":
    run_script(main)
