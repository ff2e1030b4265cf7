"""What all data sets are: images behind rows, with labels, ids and a transform whose draws are keyed."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from utils.randomness import Stream, global_seed

Transform = Callable[[Image.Image], Tensor]


class SampleKey(NamedTuple):
    """One use of one image in training; the random transform is a function of (seed, epoch, position)."""

    index: int
    seed: int
    epoch: int
    position: int  # in the epoch's global order


class ImageDataset(Dataset):
    """Base of the data sets; a subclass gives `read`.

    Args:
        classes: class names in label order.
        targets: label of each image, (N,) integers.
        ids: a name of each image, stable across machines.
        transform: from a PIL image to what an item holds; None gives the PIL image.
        groups: group (patient) of each image, (N,) integers, or None where images are independent.
    """

    def __init__(
        self,
        classes: Sequence[str],
        targets: np.ndarray,
        ids: Sequence[str],
        transform: Transform | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.targets = np.asarray(targets, dtype=np.int64)
        self.ids = np.asarray(ids)
        self.rows = np.arange(len(self.targets))
        self.transform = transform
        self.groups = groups

    def read(self, row: int) -> Image.Image:
        """Read the image of a row of the source, before any transform.

        Raises:
            UserError: it cannot be read; the message names it.
        """
        raise NotImplementedError

    def transformed(self, row: int) -> Tensor | Image.Image:
        """Read the image of a row and transform it, as an item holds it."""
        image = self.read(row)
        return image if self.transform is None else self.transform(image)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: int | SampleKey) -> tuple[Tensor | Image.Image, int, int]:
        """Give (image, label, index) of an index, or of a `SampleKey`, whose draws are then reproducible."""
        index = key.index if isinstance(key, SampleKey) else int(key)
        row = int(self.rows[index])
        if isinstance(key, SampleKey):
            with global_seed(key.seed, Stream.TRANSFORM, key.epoch, key.position):
                image = self.transformed(row)
        else:
            image = self.transformed(row)
        return image, int(self.targets[index]), index

    @property
    def class_counts(self) -> list[int]:
        """Images per class, K integers."""
        return np.bincount(self.targets, minlength=len(self.classes)).tolist()

    def subset(self, indices: np.ndarray, transform: Transform | None = None) -> "ImageDataset":
        """Keep the images at `indices`, in that order, with another transform if one is given."""
        part = copy.copy(self)
        part.targets, part.ids, part.rows = self.targets[indices], self.ids[indices], self.rows[indices]
        part.groups = None if self.groups is None else self.groups[indices]
        part.transform = transform or self.transform
        return part

    def fingerprint(self) -> str:
        """SHA-256 of the list of ids and labels, in order: which data this is, not what its pixels are."""
        lines = "".join(f"{name}\t{target}\n" for name, target in zip(self.ids, self.targets, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()


class ArrayDataset(ImageDataset):
    """Grey images that lie in one uint8 array (N,h,w); the other arguments are those of `ImageDataset`."""

    def __init__(
        self,
        images: np.ndarray,
        classes: Sequence[str],
        targets: np.ndarray,
        ids: Sequence[str],
        transform: Transform | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        super().__init__(classes, targets, ids, transform, groups)
        self.images = images

    def read(self, row: int) -> Image.Image:
        """Give the grey image of a row."""
        return Image.fromarray(self.images[row])


class Load(Protocol):
    """How the training or test split of a data set is loaded."""

    def __call__(
        self, root: str, train: bool, transform: Transform | None = None, subset_seed: int = 0
    ) -> ImageDataset:
        """Load a split.

        Args:
            root: the folder that holds the files; data sets that come with a package ignore it.
            train: the training split, else the test split.
            transform: from a PIL image to what the items hold; None gives the PIL image.
            subset_seed: which long-tailed subset is drawn, where the data set draws one.

        Raises:
            UserError: the files are missing, damaged or not what the data set needs.
        """


class Prepare(Protocol):
    """How a data set brings its files into its folder."""

    def __call__(self, root: str, *, manifest: str | None, jobs: int, keep_archives: bool, quiet: bool) -> None:
        """Download and unpack what is missing.

        Args:
            root: the folder, created if need be.
            manifest: path of a list of files that replaces the built-in one.
            jobs: downloads at a time.
            keep_archives: do not delete what is unpacked.
            quiet: show no progress bars.

        Raises:
            UserError: the files cannot be brought.
        """


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as the registry has it.

    Attributes:
        classes: class names in label order.
        train_counts, test_counts: images per class of the full splits.
        load: gives a split.
        transform: (train, new_size, crop_size) -> the split's own transform, to uint8 (1 or 3, crop_size, crop_size).
        prepare: brings the files, by a list that a manifest can replace; None where there is nothing to bring.
        in_files: each image is a file of its own (`FileDataset`): it can be cached, and it can be a bad one.
    """

    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    load: Load
    transform: Callable[[bool, int, int], Transform]
    prepare: Prepare | None = None
    in_files: bool = False
