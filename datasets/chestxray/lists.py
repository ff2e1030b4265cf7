"""ChestX-ray14's label file, lists and images as they lie in a folder."""

import re
from pathlib import Path
from typing import NamedTuple

from datasets.chestxray.source import LABEL_FILES, LISTS
from datasets.images.finder import Located, dead_link, find_files, locate
from datasets.tables import count_of, one_label_each, read_names, read_table, repeated
from utils.errors import UserError

LISTED_NAME = re.compile(r"\d+_\d+\.\w+")  # NIH's, in any format
SEVERAL = "|"  # between the labels of an image that has several
COMPARED = 100  # of the images that are there twice, by their sizes, which takes long on a network


def read_labels(folder: Path) -> dict[str, str]:
    """Read file name -> labels joined with '|'.

    Columns are taken by position, as the header's wording varies; the header is an entry too, which no list names.

    Raises:
        UserError: there is no label file, it cannot be read, or it contradicts itself or its copy of the other name.
    """
    paths = [folder / name for name in LABEL_FILES if (folder / name).is_file()]
    if not paths:
        raise UserError(f"{folder} has no {' or '.join(LABEL_FILES)}: put NIH's label file there")
    labels, *copies = (_labels_in(path) for path in paths)
    for copy in copies:
        if differing := [name for name, label in copy.items() if name[:1].isdigit() and labels.get(name) != label]:
            what = count_of(differing, "image")
            raise UserError(f"{paths[0]} and {paths[1].name} have not the same label for {what}: keep one of the two")
    return labels


def _labels_in(path: Path) -> dict[str, str]:
    header, rows = read_table(path, "replace it")
    entries = [header, *(row for _, row in rows)]
    return one_label_each(((row[0].strip(), row[1].strip()) for row in entries if len(row) > 1), path)


def read_list(path: Path) -> list[str]:
    """Read the names of a list's images; one that is there twice counts once.

    Raises:
        UserError: it cannot be read, is empty, or has a line that is no image name of the data set.
    """
    return list(dict.fromkeys(_listed(path)))


def _listed(path: Path) -> list[str]:
    names = read_names(path, "put NIH's list there")
    if not names:
        raise UserError(f"{path} is empty: put NIH's list there")
    if odd := next((name for name in names if not LISTED_NAME.fullmatch(name)), None):
        # it would be missing, and looked for in 45 GB of archives
        raise UserError(
            f"{path}: {odd!r} is no image name of ChestX-ray14 (like 00000013_005.png): put NIH's list there"
        )
    return names


def patient_of(name: str) -> int:
    """Tell the patient of an image: 00000013_005.png is one of patient 13."""
    return int(name.split("_")[0])


class Contents(NamedTuple):
    """What a folder holds.

    Attributes:
        needed: images that are used: named in a list, with a single label.
        missing: those of them that are not there.
        others: paths of image files that no list names.
        remarks: what is odd about lists and images, a sentence each.
    """

    needed: list[str]
    missing: list[str]
    others: list[str]
    remarks: list[str]


def read_contents(folder: Path) -> Contents | None:
    """Look at label file, lists and names of images; None while the label file or a list is not there.

    Raises:
        UserError: one of them cannot be read, or contradicts itself, or images are missing where links lead nowhere.
    """
    if not all((folder / name).is_file() for name in LISTS.values()):
        return None
    if not any((folder / name).is_file() for name in LABEL_FILES):
        return None
    labels, found = read_labels(folder), find_files(folder)
    files = found.reachable()
    lists = {folder / name: _listed(folder / name) for name in LISTS.values()}
    listed = list(dict.fromkeys(name for names in lists.values() for name in names))
    located = locate(listed, files)
    needed = [name for name in listed if SEVERAL not in labels.get(name, "")]
    missing = [name for name in needed if name not in located.paths]
    if missing and found.dead_links:  # a disk is not mounted, it may be: this is no reason to download 45 GB
        raise dead_link(folder / found.dead_links[0])
    taken = {*located.paths.values(), *(other for _, other in located.twice)}
    others = [path for path in files if path not in taken] if missing else []
    remarks = [
        f"{path} names {count_of(names, 'image')} twice: each counts once"
        for path, twice in lists.items()
        if (names := repeated(twice))
    ]
    return Contents(needed, missing, others, remarks + _remarks(folder, located))


def _remarks(folder: Path, located: Located) -> list[str]:
    remarks = []
    sizes = ([(folder / path).stat().st_size for path in pair] for pair in located.twice[:COMPARED])
    if any(size != other for size, other in sizes):
        what, (kept, other) = count_of([kept for kept, _ in located.twice], "listed image"), located.twice[0]
        remarks.append(f"{folder}: {what} there twice and not the same, {kept} and {other}: the first is read")
    if located.converted:
        what = count_of(located.converted, "image")
        remarks.append(f"{folder}: {what} in another format than NIH's: read as they are")
    return remarks
