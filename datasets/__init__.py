"""The data sets, behind one registry: `get_dataset(name, root, train, transform, ...)`."""

import importlib
from typing import TYPE_CHECKING

from datasets.names import DATASETS
from utils.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasets.base import ImageDataset


def get_dataset(
    name: str, root: str, train: bool, transform: "Callable | None" = None, subset_seed: int = 0
) -> "ImageDataset":
    """The training or test split of a data set.

    Args:
        name: a key of `datasets.names.DATASETS`.
        root: the folder that holds its files; data sets that come with a package ignore it.
        train: the training split, else the test split.
        transform: from a PIL image to what the items hold; None gives the PIL image.
        subset_seed: which long-tailed subset is drawn, where the data set draws one.

    Raises:
        UserError: the files are missing, damaged or not what the data set needs.
    """
    module = importlib.import_module(DATASETS[name].module)
    return module.load(root, train, transform, subset_seed)


def prepare(name: str, root: str, *, manifest: str | None, jobs: int, keep_archives: bool, quiet: bool) -> None:
    """Bring a data set's files into its folder, for a data set that can do so before it is loaded.

    Args:
        name, root: as in `get_dataset`.
        manifest: path of a list of files that replaces the built-in one.
        jobs: downloads at a time.
        keep_archives: do not delete what is unpacked.
        quiet: no progress bars.

    Raises:
        UserError: the files cannot be brought.
    """
    module = importlib.import_module(DATASETS[name].module)
    if hasattr(module, "prepare"):
        module.prepare(root, manifest=manifest, jobs=jobs, keep_archives=keep_archives, quiet=quiet)
    elif manifest:
        raise UserError(f"--dataset-manifest: {name} has no list of files that it could replace; leave it out")


def get_transform(name: str, train: bool, new_size: int, crop_size: int) -> "Callable":
    """The data set's own transform of a split: PIL image -> uint8 (1 or 3, crop_size, crop_size)."""
    module = importlib.import_module(DATASETS[name].module)
    return module.transform(train, new_size, crop_size)
