"""ChestX-ray14's label file and lists as they lie in a folder."""

import csv
from pathlib import Path

from datasets.chestxray.source import LABEL_FILES, LISTS
from datasets.images.files import image_paths
from utils.errors import UserError


def read_labels(folder: Path) -> dict[str, str]:
    """Read file name -> labels joined with '|'.

    Columns are taken by position, as the header's wording varies; the header is an entry too, which no list names.

    Raises:
        UserError: there is no label file, or it cannot be read.
    """
    path = next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no {' or '.join(LABEL_FILES)}: put NIH's label file there")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row[0]: row[1] for row in csv.reader(file) if len(row) > 1}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): replace it") from error


def read_list(path: Path) -> list[str]:
    """Read the names of a list's images.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): put NIH's list there") from error
    if not names:
        raise UserError(f"{path} is empty: put NIH's list there")
    return names


def patient_of(name: str) -> int:
    """Tell the patient of an image: 00000013_005.png is one of patient 13.

    Raises:
        UserError: the name has another form.
    """
    try:
        return int(name.split("_")[0])
    except ValueError as error:
        raise UserError(f"{name!r} in a list is no image name of ChestX-ray14 (like 00000013_005.png)") from error


def missing_images(folder: Path) -> list[str] | None:
    """List the needed images (named in a list, with a single label) that are not there.

    Returns:
        Their names; None while the label file or a list is not there.
    """
    if not all((folder / name).is_file() for name in LISTS.values()):
        return None
    if not any((folder / name).is_file() for name in LABEL_FILES):
        return None
    labels, there = read_labels(folder), image_paths(folder)
    listed = (name for list_name in LISTS.values() for name in read_list(folder / list_name))
    return [name for name in listed if name not in there and "|" not in labels.get(name, "")]
