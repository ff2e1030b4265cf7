"""ChestXray: NIH ChestX-ray14, the images with a single label, on the official patient-disjoint lists."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import transforms as T

from datasets.base import ImageDataset
from datasets.chestxray_fetch import fetch_missing
from datasets.chestxray_source import LABEL_FILES, LISTS
from datasets.names import DATASETS
from datasets.transforms import evaluation
from utils.errors import UserError

INFO = DATASETS["ChestXray"]
# where mirrors keep the images: flat, under images/, or one folder per archive, with or without images/ inside
IMAGE_FOLDERS = ("", "images", "images_*/images", "images_*")


class ChestXrayDataset(ImageDataset):
    """Grey X-rays on disk; each is decoded when it is read."""

    def __init__(self, folders: list[Path], *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.folders = folders
        self.names = self.ids

    def read(self, row: int) -> Image.Image:
        """The X-ray as 8-bit grey."""
        return read_grey(self.folders[row] / str(self.names[row]))


def prepare(root: str, **options: Any) -> None:
    """Bring what the folder lacks; `options` are those of `fetch_missing`."""
    fetch_missing(Path(root), missing_images, **options)


def load(root: str, train: bool, transform: Callable | None, subset_seed: int) -> ChestXrayDataset:
    """The official training or test list, less the rows with several labels."""
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"--datadir {root} does not exist: name the folder that holds ChestX-ray14")
    labels = _read_labels(folder)
    names = _read_list(folder / LISTS[train])
    unlabelled = [name for name in names if name not in labels]
    if unlabelled:
        raise UserError(f"{LISTS[train]}: {_count(unlabelled)} without a row in the label file: replace one of the two")
    class_of = {name: number for number, name in enumerate(INFO.classes)}
    chosen = [name for name in names if "|" not in labels[name]]
    unknown = sorted({labels[name] for name in chosen} - class_of.keys())
    if unknown:
        raise UserError(f"the label file names {unknown[0]!r}, which is none of the {len(class_of)} classes")
    targets = np.array([class_of[labels[name]] for name in chosen], dtype=np.int64)
    patients = np.array([_patient(name) for name in chosen])
    return ChestXrayDataset(_locate(folder, chosen), INFO.classes, targets, chosen, transform, patients)


def transform(train: bool, new_size: int, crop_size: int) -> Callable:
    """In training a random resized crop and a flip; else resized and centre-cropped."""
    if train:
        return T.Compose([T.RandomResizedCrop(crop_size), T.RandomHorizontalFlip(), T.PILToTensor()])
    return evaluation(T.Resize((new_size, new_size)), crop_size)


def read_grey(path: Path) -> Image.Image:
    """Decode a PNG fully, to 8-bit grey.

    Grey stays; colour and palette become luminance, transparency is dropped; 16-bit grey is scaled by 1/257, not cut.
    The checksums of the PNG are verified first: decoding alone makes noise of some damaged files without a word.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith("I"):
                return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
            return image.convert("RGB").convert("L") if image.mode in ("P", "PA") else image.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read ({error}): replace it") from error


def _read_labels(folder: Path) -> dict[str, str]:
    """File name -> labels joined with '|', by position: the header, an entry that no list names, differs."""
    path = next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no {' or '.join(LABEL_FILES)}: put NIH's label file there")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row[0]: row[1] for row in csv.reader(file) if len(row) > 1}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): replace it") from error


def _read_list(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): put NIH's list there") from error
    if not names:
        raise UserError(f"{path} is empty: put NIH's list there")
    return names


def _patient(name: str) -> int:
    """00000013_005.png is an image of patient 13."""
    try:
        return int(name.split("_")[0])
    except ValueError as error:
        raise UserError(f"{name!r} in a list is no image name of ChestX-ray14 (like 00000013_005.png)") from error


def _locate(folder: Path, names: list[str]) -> list[Path]:
    """The folder that holds each image; one scan, whatever the layout."""
    where: dict[str, Path] = {}
    for candidate in _image_folders(folder):
        where.update((path.name, candidate) for path in candidate.glob("*.png"))
    missing = [name for name in names if name not in where]
    if missing:
        raise UserError(f"{folder}: {_count(missing)} of {len(names)} listed not found: unpack NIH's archives there")
    return [where[name] for name in names]


def _image_folders(folder: Path) -> Iterator[Path]:
    for pattern in IMAGE_FOLDERS:
        yield from sorted(folder.glob(pattern)) if pattern else [folder]


def _count(names: list[str]) -> str:
    return f"{len(names)} images ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def image_paths(folder: Path) -> dict[str, Path]:
    """Image name -> where it lies, of all images in a folder, in any layout."""
    return {path.name: path for candidate in _image_folders(folder) for path in candidate.glob("*.png")}


def missing_images(folder: Path) -> list[str] | None:
    """The listed images with a single label that are not there; None if label file or lists are not there."""
    if not all((folder / name).is_file() for name in LISTS.values()):
        return None
    if not any((folder / name).is_file() for name in LABEL_FILES):
        return None
    labels, there = _read_labels(folder), image_paths(folder)
    listed = (name for train in LISTS for name in _read_list(folder / LISTS[train]))
    return [name for name in listed if name not in there and "|" not in labels.get(name, "")]


if __name__ == "__main__":
    from datasets.chestxray_check import main
    from utils.errors import run_script

    run_script(main)
