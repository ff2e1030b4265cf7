"""ImageNet_LT and Places_LT: long-tailed parts of ImageNet and Places365, by the list files of Liu et al., CVPR 2019.

A list has a line `path label` for each image. Two dialects go round, which differ in the paths of Places alone:
`train/apartment_building-outdoor/1.jpg` and `data_256/a/apartment_building/outdoor/1.jpg`. Both are read, and the
images are found in either layout.
"""

import argparse
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import DatasetSpec, Splits
from datasets.images.files import FileDataset, images_root, missing_files
from datasets.own.splitting import read_class_names
from datasets.tables import count_of, read_names, repeated
from utils.errors import UserError

log = logging.getLogger("dgcmm")

SOURCE = "data/ of github.com/facebookresearch/classifier-balancing or github.com/jiawei-ren/BalancedMetaSoftmax"


@dataclass(frozen=True)
class ListedData:
    """A data set that lists make.

    Attributes:
        train, test: file names of the lists.
        fingerprints: of the published lists, by name, 'sha256 ...' or 'git ...', as their first dialect has them.
        images: says what to unpack where.
    """

    train: str
    test: str
    fingerprints: dict[str, str]
    images: str


class Line(NamedTuple):
    """An image of a list: part 'train' or 'val', folder of its class, '' if the line has none, name, and label."""

    part: str
    folder: str
    name: str
    label: int


IMAGENET_LT_LISTS = ListedData(
    train="ImageNet_LT_train.txt",
    test="ImageNet_LT_test.txt",
    fingerprints={
        "ImageNet_LT_train.txt": "git a063f095fcd475db4cf8b0658c4b73955535bbf9",
        "ImageNet_LT_test.txt": "sha256 d1590191cf8a71fada7b1aaedaa2d139a2aea93ff2f1b755319d0bd8dbaa55d5",
    },
    images="unpack ILSVRC2012_img_train.tar into train/WNID/ and ILSVRC2012_img_val.tar into val/WNID/",
)
PLACES_LT_LISTS = ListedData(
    train="Places_LT_train.txt",
    test="Places_LT_test.txt",
    fingerprints={
        "Places_LT_train.txt": "sha256 726c4871dcbf07ce2f857703bfe32e9a83ffbf52d704239f6d95c4f4f4c247f7",
        "Places_LT_test.txt": "sha256 44eee8441c8098c59195465abede425721bc35525d75209f9433b161a6eb37bc",
    },
    images="unpack train_256_places365standard.tar and val_256.tar of http://data.csail.mit.edu/places/places365/",
)


def load(args: argparse.Namespace, data: ListedData) -> Splits:
    """Load the lists in `--datadir` and find their images there."""
    root = images_root(args.datadir)
    training, testing = (_read_list(root / name) for name in (data.train, data.test))
    folders = _folders_by_label(training, root / data.train)
    if other := [line.label for line in testing if line.label >= len(folders)]:
        raise UserError(f"{root / data.test} has label {other[0]}, which {data.train} has not: the two do not match")
    if other := [line for line in testing if line.folder not in ("", folders[line.label])]:
        folder, label = other[0].folder, other[0].label
        raise UserError(
            f"{root / data.test} has the folder {folder} as label {label}, which is {folders[label]} in {data.train}: "
            "the two do not match"
        )
    names = read_class_names(args.names, folders) if args.names else {folder: folder for folder in folders}
    classes = [names[folder] for folder in folders]
    parts = []
    for name, lines in ((data.train, training), (data.test, testing)):
        lines = [line if line.folder else line._replace(folder=folders[line.label]) for line in lines]
        ids = [f"{line.part}/{line.folder}/{line.name}" for line in lines]
        if twice := repeated(ids):
            raise UserError(f"{root / name} names {count_of(twice, 'image')} more than once: replace it")
        targets = np.array([line.label for line in lines])
        _warn_of_another_list(root / name, ids, targets, data.fingerprints[name])
        files = _find(root, lines, f"{name}: put the images into {root}: {data.images}")
        parts.append(FileDataset(root, files, classes, targets, ids, colour=True))
    return Splits(parts[0], None, parts[1])


def _read_list(path: Path) -> list[Line]:
    lines = []
    for number, text in enumerate(read_names(path, f"put the list there, from {SOURCE}"), start=1):
        place, _, label = text.rpartition(" ")
        if not place or not label.isdecimal():
            raise UserError(f"{path}, line {number}: {text!r} is not `path label`: replace the list")
        head, *folders, name = place.split("/") if "/" in place else ("", place)
        if head.startswith("data_"):  # data_256/a/...: the first letter of the class stands before it
            folders = folders[1:]
        lines.append(Line("val" if head.startswith("val") else "train", "-".join(folders), name, int(label)))
    return lines


def _folders_by_label(lines: Sequence[Line], path: Path) -> list[str]:
    """Give the folder of each class; labels are 0 to K-1, and a class has one folder."""
    folder_of = {line.label: line.folder for line in lines}
    if sorted(folder_of) != list(range(len(folder_of))) or len(folder_of) < 2:
        raise UserError(f"{path}: the labels are not 0, 1, 2, ...: replace the list")
    folders = {folder for folder in folder_of.values() if folder}
    if len(folders) < len(folder_of) or any(folder_of[line.label] != line.folder for line in lines):
        raise UserError(f"{path}: its labels and the folders of its images do not belong together: replace the list")
    return [folder_of[label] for label in range(len(folder_of))]


def _warn_of_another_list(path: Path, ids: Sequence[str], targets: np.ndarray, expected: str) -> None:
    """Warn if a list is not the published one; in the first dialect, both have the same bytes."""
    content = "".join(f"{name} {label}\n" for name, label in zip(ids, targets.tolist(), strict=True)).encode()
    kind, _, digest = expected.partition(" ")
    if kind == "git":
        found = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    else:
        found = hashlib.sha256(content).hexdigest()
    if found != digest:
        log.warning("%s is not the published list: results cannot be compared with others'", path)


# where an image of a list may lie: part -> paths, by its folder, the folder's first letter and its parts, and its name
LAYOUTS = {
    "train": (
        "train/{folder}/{name}",
        "data_256/{folder[0]}/{parts}/{name}",
        "data_256_standard/{folder[0]}/{parts}/{name}",
        "data_large/{folder[0]}/{parts}/{name}",
        "data_large_standard/{folder[0]}/{parts}/{name}",
    ),
    "val": ("val/{folder}/{name}", "val/{name}", "val_256/{name}", "val_large/{name}"),
}


def _place(layout: str, line: Line) -> str:
    return layout.format(folder=line.folder, parts=line.folder.replace("-", "/"), name=line.name)


def _find(root: Path, lines: Sequence[Line], remedy: str) -> list[str]:
    """Find the images of a list, paths within `root`, in whichever of the layouts they lie.

    Raises:
        UserError: some are in none of them.
    """
    found: dict[int, str] = {}
    left = list(range(len(lines)))
    for part, layouts in LAYOUTS.items():
        for layout in layouts:
            if not (root / layout.partition("/")[0]).is_dir():
                continue
            paths = {row: _place(layout, lines[row]) for row in left if lines[row].part == part}
            missing = set(missing_files(root, list(paths.values())))
            found |= {row: path for row, path in paths.items() if path not in missing}
            left = [row for row in left if row not in found]
    if left:
        lost = [f"{lines[row].part}/{lines[row].folder}/{lines[row].name}" for row in left]
        raise UserError(f"{count_of(lost, 'image')} of {len(lines)} not found that are listed in {remedy}")
    return [found[row] for row in range(len(lines))]


def _spec(data: ListedData) -> DatasetSpec:
    return DatasetSpec(
        load=partial(load, data=data),
        resize="centre",
        train_transform="resized-crop",
        in_files=True,
        colour=True,
        takes_names=True,
    )


IMAGENET_LT, PLACES_LT = _spec(IMAGENET_LT_LISTS), _spec(PLACES_LT_LISTS)
