"""What all data sets are: images behind rows, with labels, ids and a transform whose draws are keyed."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from utils.randomness import Stream, global_seed


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
        transform: Callable | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.targets = np.asarray(targets, dtype=np.int64)
        self.ids = np.asarray(ids)
        self.rows = np.arange(len(self.targets))
        self.transform = transform
        self.groups = groups

    def read(self, row: int) -> Image.Image:
        """The image of a row of the source, before any transform.

        Raises:
            UserError: it cannot be read; the message names it.
        """
        raise NotImplementedError

    def transformed(self, row: int) -> Any:
        """The image of a row under the transform, as an item holds it."""
        image = self.read(row)
        return image if self.transform is None else self.transform(image)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: int | SampleKey) -> tuple[Any, int, int]:
        """(image, label, index) of an index, or of a `SampleKey`, whose draws are then reproducible."""
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

    def subset(self, indices: np.ndarray, transform: Callable | None = None) -> "ImageDataset":
        """The images at `indices`, in that order, with another transform if one is given."""
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
    """Grey images that lie in one uint8 array (N,h,w)."""

    def __init__(self, images: np.ndarray, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.images = images

    def read(self, row: int) -> Image.Image:
        """The grey image of a row."""
        return Image.fromarray(self.images[row])
