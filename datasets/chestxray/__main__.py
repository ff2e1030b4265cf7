"""The command `python -m datasets.chestxray`: bring ChestX-ray14 into a folder, and check what lies there.

    python -m datasets.chestxray --datadir=./datasets/ChestXray                  bring what is missing, count, check
    python -m datasets.chestxray --datadir=./datasets/ChestXray --download-only  only download and verify archives
    python -m datasets.chestxray --datadir=./datasets/ChestXray --verify         and decode every image
    python -m datasets.chestxray --datadir=./datasets/ChestXray --cache-size=256 and build the cache of that size

An interrupted command goes on where it was. Damaged images are listed in DATADIR/damaged_images.txt; delete them, and
the same command brings those with a single label again. Others are not used.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from datasets.chestxray import load, prepare
from datasets.chestxray.lists import patient_of, read_list
from datasets.chestxray.source import LISTS, list_problem
from datasets.images.finder import find_files, find_images, locate
from datasets.images.opening import read_grey
from datasets.images.preparation import prepare_images
from datasets.loading import BatchLoader, EvaluationBatches
from datasets.tables import count_of
from datasets.workers import kill_workers
from utils.cli.common import Parser, add_download
from utils.cli.types import count_or_zero, path, pixels_or_zero
from utils.errors import UserError, run_script
from utils.files import write_text, writing
from utils.logs import progress, start_logging

log = logging.getLogger("dgcmm")

DAMAGED = "damaged_images.txt"
BATCH = 32


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(prog="python -m datasets.chestxray", description=__doc__)
    add = parser.add_argument
    add(
        "--datadir",
        type=path,
        default=".",
        metavar="PATH",
        help="folder of the data set, created if need be (default: %(default)s)",
    )
    what = parser.add_mutually_exclusive_group().add_argument
    what("--download-only", action="store_true", help="download and verify what is missing, and unpack nothing")
    what("--verify", action="store_true", help="decode every image too")
    add(
        "-j",
        "--workers",
        type=count_or_zero,
        default=4,
        metavar="N",
        help="processes that decode (default: %(default)s)",
    )
    add(
        "--cache-size",
        type=pixels_or_zero,
        default=0,
        metavar="PX",
        help="build the cache that train.py reads with it, by the default --train-transform (default: %(default)s)",
    )
    add("--cache-dir", type=path, metavar="PATH", help="folder of the cache (default: DATADIR/cache)")
    add("--quiet", action="store_true", help="print warnings and errors only")
    add_download(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Bring what is missing, then check counts, patients and, if asked to, every image.

    Raises:
        UserError: the folder is not complete, not sound, or not the official data set.
    """
    args = build_parser().parse_args(argv)
    if args.download_only and args.cache_size:
        raise UserError("--download-only unpacks no image, so --cache-size has none to keep: leave one of the two out")
    start_logging(args.quiet)
    prepare(
        args.datadir,
        manifest=args.dataset_manifest,
        jobs=args.download_jobs,
        keep_archives=args.keep_archives,
        quiet=args.quiet,
        download_only=args.download_only,
    )
    if args.download_only:
        log.info("%s: all files are there", args.datadir)
        return
    folder = Path(args.datadir)
    check_lists(folder, official=args.dataset_manifest is None)
    train, _, test = load(args)
    splits = {LISTS[True]: train, LISTS[False]: test}
    for name, data in splits.items():
        counts = dict(zip(data.classes, data.class_counts, strict=True))
        log.info("%s: %d images with a single label: %s", name, len(data), counts)
    if args.cache_size:
        prepare_images(splits, args.cache_size, "error", args.quiet, args.cache_dir)
        log.info("the cache of %dx%d is complete", args.cache_size, args.cache_size)
    if args.verify:
        check_images(folder, args.workers, args.quiet)


def check_lists(folder: Path, official: bool) -> None:
    """Raise a `UserError` unless the lists fit each other, the images and, if `official`, the published totals."""
    files = find_files(folder).reachable()
    patients = {}
    for train, name in LISTS.items():
        listed = read_list(folder / name)
        patients[train] = {patient_of(image) for image in listed}
        found = len(locate(listed, files).paths)
        log.info("%s: %d of %d images are there", name, found, len(listed))
        if official and (problem := list_problem(folder / name, train, listed)):
            raise UserError(f"{problem}: replace it, or name the mirror's --dataset-manifest")
        if found < len(listed):  # `prepare` has made sure of those with a single label
            log.warning("%s: %d images with several labels lack; they are not used", name, len(listed) - found)
    both = sorted(patients[True] & patients[False])
    if both:
        what = count_of([f"{patient:08d}" for patient in both], "patient")
        raise UserError(f"{folder}: {what} in both lists: replace the lists by NIH's")
    log.info("no patient is in both lists")


class _Decoded(Dataset):
    """Items are (what is wrong with an image, or '', its index)."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / path for path in find_images(folder)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, int]:
        try:
            read_grey(self.paths[index])
        except UserError as error:
            return str(error), index
        return "", index


def check_images(folder: Path, workers: int, quiet: bool) -> None:
    """Decode all images in the folder, in parallel.

    Raises:
        UserError: some are damaged; they are printed, and listed in `damaged_images.txt`.
    """
    data = _Decoded(folder)
    report = folder / DAMAGED
    with writing(report):
        if report.exists():  # to delete what is not there is an error on a read-only disk
            report.unlink()
    damaged = {}
    batches = BatchLoader(data, EvaluationBatches(len(data), BATCH), workers, pin_memory=False)
    with progress("decoding", total=len(data), unit="images", quiet=quiet) as bar:
        try:
            for problems, indices in batches:
                bar.update(len(problems))
                damaged |= {data.paths[i]: text for i, text in zip(indices.tolist(), problems, strict=True) if text}
        except BaseException:
            kill_workers()  # a polite end waits for the images that they are at
            raise
    for image in sorted(damaged):
        log.warning("%s", damaged[image])
    if damaged:
        what = f"{len(damaged)} of {len(data)} images are damaged"
        try:
            write_text(report, "".join(f"{image.relative_to(folder)}\n" for image in sorted(damaged)))
        except UserError as error:
            raise UserError(f"{what} (named above; {error})") from error
        raise UserError(
            f"{what}: delete those that {report} lists and give the same command again, which brings anew those "
            "that are used, with a single label"
        )
    log.info("all %d images can be decoded", len(data))


if __name__ == "__main__":
    run_script(main)
