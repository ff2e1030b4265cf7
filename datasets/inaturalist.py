"""iNaturalist2017: plants and animals in 13 super-categories, 214,295 images of the largest, 308 of the smallest.

For research that is not commercial only (github.com/visipedia/inat_comp, 2017). torchvision's reader takes the folders
for classes and needs all archives; the two JSON files say more, and are read here.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from datasets.base import DatasetSpec, Splits
from datasets.images.files import FileDataset, images_root, missing_files, possible_places
from datasets.tables import count_of, repeated
from utils.errors import UserError

FILES = {"train": "train2017.json", "test": "val2017.json"}
COUNTS = {  # training and validation images
    "Actinopterygii": (1_982, 637),
    "Amphibia": (15_318, 2_385),
    "Animalia": (5_228, 1_362),
    "Arachnida": (4_873, 1_086),
    "Aves": (214_295, 21_226),
    "Chromista": (398, 144),
    "Fungi": (5_826, 1_780),
    "Insecta": (100_479, 18_076),
    "Mammalia": (29_333, 3_490),
    "Mollusca": (7_536, 1_841),
    "Plantae": (158_407, 38_206),
    "Protozoa": (308, 73),
    "Reptilia": (35_201, 5_680),
}
CLASSES = tuple(COUNTS)
REMEDY = "unpack train_val2017.zip and train_val_images.tar.gz of github.com/visipedia/inat_comp/tree/master/2017 there"


def load(args: argparse.Namespace) -> Splits:
    """Load the two JSON files in `--datadir`; the published validation images, which have labels, are the test set."""
    root = images_root(args.datadir)
    return Splits(_load(root, FILES["train"]), None, _load(root, FILES["test"]))


def _load(root: Path, name: str) -> FileDataset:
    paths = (place / name for place in possible_places(root, "train_val2017"))
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{root} has no {name}: {REMEDY}")
    try:
        content = json.loads(path.read_bytes())
        super_of = {entry["id"]: entry["supercategory"] for entry in content["categories"]}
        file_of = {entry["id"]: entry["file_name"] for entry in content["images"]}
        pairs = [(file_of[entry["image_id"]], super_of[entry["category_id"]]) for entry in content["annotations"]]
        if odd := [part for pair in pairs for part in pair if not isinstance(part, str)]:
            raise TypeError(f"{odd[0]!r} is no name")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not iNaturalist's ({type(error).__name__}: {error}): replace it") from error
    number_of = {label: number for number, label in enumerate(CLASSES)}
    if unknown := sorted({label for _, label in pairs} - number_of.keys()):
        raise UserError(f"{path} has the super-category {unknown[0]!r}, which iNaturalist 2017 has not: replace it")
    pairs.sort()
    files = [file for file, _ in pairs]
    if twice := repeated(files):
        raise UserError(f"{path} names {count_of(twice, 'image')} more than once: replace it")
    if missing := missing_files(root, files):
        raise UserError(f"{root}: {count_of(missing, 'image')} of {len(files)} in {name} not found: {REMEDY}")
    targets = np.array([number_of[label] for _, label in pairs], dtype=np.int64)
    return FileDataset(root, files, CLASSES, targets, files, colour=True)


INATURALIST_2017 = DatasetSpec(
    load=load,
    resize="centre",
    train_transform="resized-crop",
    classes=CLASSES,
    train_counts=tuple(train for train, _ in COUNTS.values()),
    test_counts=tuple(test for _, test in COUNTS.values()),
    in_files=True,
    colour=True,
)
