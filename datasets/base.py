"""What all data sets are: images behind rows, with labels, ids and a transform whose draws are keyed."""

import argparse
import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.subsets import spread
from datasets.tables import count_of, in_another_form
from datasets.transforms import TRAIN_TRANSFORMS, make_transform, resize_under
from utils.errors import UserError
from utils.preprocessing import RESIZES, Preprocessing, Transform
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

    Raises:
        UserError: the labels are not one number in 0..K-1 for each id.

    Attributes:
        rows: the row of each image in the source, of which this may be a part, (N,) integers; `read` takes one.
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
        self.ids = np.asarray(ids)
        self.targets = _labels(targets, len(self.ids), len(self.classes))
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

    def labelled_as(self, classes: Sequence[str]) -> "ImageDataset":
        """Number the labels as in `classes`, of which the data may lack some.

        Raises:
            UserError: it has an image of another class.
        """
        if self.classes == (classes := tuple(classes)):
            return self
        there = [name for name, count in zip(self.classes, self.class_counts, strict=True) if count]
        if others := [name for name in there if name not in classes]:
            raise UserError(
                f"the data has {count_of(others, 'class', 'classes')} that the model has not; the model has "
                f"{count_of(classes, 'class', 'classes')}{in_another_form(others, classes)}: name data with its classes"
            )
        part = self.subset(np.arange(len(self)))
        part.classes = classes
        numbers = {name: number for number, name in enumerate(classes)}
        part.targets = np.array([numbers.get(name, -1) for name in self.classes])[self.targets]
        return part

    def fingerprint(self) -> str:
        """SHA-256 of the list of ids and labels, in order: which data this is, not what its pixels are."""
        lines = "".join(f"{name}\t{target}\n" for name, target in zip(self.ids, self.targets, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()


def _labels(targets: np.ndarray, images: int, classes: int) -> np.ndarray:
    """Check the labels of so many images, and make them (N,) int64."""
    found = np.asarray(targets)
    if found.shape != (images,):
        raise UserError(f"labels have the shape {found.shape} for {images:,} images: give one for each")
    if images and not np.issubdtype(found.dtype, np.integer):
        raise UserError(f"labels are {found.dtype}: give whole numbers, 0 to {classes - 1}")
    if images and not 0 <= found.min() <= found.max() < classes:
        raise UserError(f"labels are {found.min()} to {found.max()}: those of {classes} classes are 0 to {classes - 1}")
    return found.astype(np.int64)


class ArrayDataset(ImageDataset):
    """Images in one uint8 array, grey (N,h,w) or colour (N,h,w,3); the other arguments are those of `ImageDataset`.

    Raises:
        UserError: the array is another, or the labels are not one number in 0..K-1 for each image.
    """

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
        if images.dtype != np.uint8 or images.shape[3:] not in ((), (3,)) or images.ndim < 3:
            raise UserError(f"images are {images.dtype} {images.shape}: give uint8, (N,h,w) or (N,h,w,3)")
        if len(images) != len(self):
            raise UserError(f"there are {len(images):,} images and {len(self):,} labels: give one for each")
        self.images = images

    def read(self, row: int) -> Image.Image:
        """Give the image of a row, in mode L or RGB."""
        return Image.fromarray(self.images[row])


class Splits(NamedTuple):
    """The parts of a data set; `val` is None where there is no validation set, or nothing is held out for one."""

    train: ImageDataset
    val: ImageDataset | None
    test: ImageDataset

    @property
    def measured(self) -> tuple[str, ImageDataset]:
        """Name and data of the split that is measured after each epoch."""
        return ("test", self.test) if self.val is None else ("val", self.val)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the list of images of each part: name of the split -> hash."""
        return {name: part.fingerprint() for name, part in self._asdict().items() if part is not None}

    def spread(self, count: int) -> "Splits":
        """Keep `count` images of each part, but at least one of each class, to try a machine."""
        return Splits(*(part and part.subset(spread(part.targets, count)) for part in self))


class Load(Protocol):
    """How a data set is loaded."""

    def __call__(self, args: argparse.Namespace) -> Splits:
        """Load the splits, whose items are PIL images (mode L or RGB): they have no transform yet.

        Args:
            args: `datadir`, which data sets that come with a package ignore; `subset_seed` says which long-tailed
                subset is drawn, where one is drawn, `subset_scale` how large it is, and `val_per_class` what is left
                over for a validation set; `logdir`, which may lie in `datadir`, holds no data; `bad_images` says
                what to do about those that cannot be read; `quiet` shows no progress; `imbalance_factor`, `csv` and
                `names` are the data set's own. Where `test_alone` is there the test set alone is wanted: the data may
                lack training images, and classes.

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
        load: gives the splits.
        resize: how an image becomes a square one, a key of `utils.preprocessing.RESIZES`.
        train_transform: what `--train-transform` is by default, one of `datasets.transforms.TRAIN_TRANSFORMS`.
        classes: class names in label order; () where only the files tell.
        train_counts, test_counts: images per class, before `--subset-scale` and a hold-out; () where only the files
            tell.
        long_tail: images per class for an `--imbalance-factor`, or for the default of `imbalance`, which are
            `train_counts`; None where the data set has no such choice.
        imbalance: what `--imbalance-factor` is by default; None: counts that follow no factor.
        prepare: brings the files, by a list that a manifest can replace; None where `load` brings them,
            as for torchvision's data sets, or nobody can.
        in_files: each image is a file of its own (`FileDataset`): it can be cached, and it can be a bad one.
        colour: images have three channels.
        takes_names: takes `--names`: the classes are those that the files tell.
        table: takes `--csv`.
        pool: the training images are drawn from more, of which `--val-per-class` takes.
        shift: a training image is shifted by up to this share of its side.
    """

    load: Load
    resize: str
    train_transform: str
    classes: tuple[str, ...] = ()
    train_counts: tuple[int, ...] = ()
    test_counts: tuple[int, ...] = ()
    long_tail: Callable[[float | None], tuple[int, ...]] | None = None
    imbalance: float | None = None
    prepare: Prepare | None = None
    in_files: bool = False
    colour: bool = False
    takes_names: bool = False
    table: bool = False
    pool: bool = False
    shift: float = 1 / 16

    def __post_init__(self) -> None:
        for name, names in ((self.resize, RESIZES), (self.train_transform, TRAIN_TRANSFORMS)):
            if name not in names:
                raise ValueError(f"{name!r} is none of {', '.join(names)}")

    def transform(self, train: bool, new_size: int, crop_size: int, kind: str | None = None) -> Transform:
        """Make the transform of a split, from a PIL image to uint8 (1 or 3, crop_size, crop_size).

        Args:
            train: with the random part, which `kind` names (default: the data set's own).
        """
        return make_transform(kind or self.train_transform, train, self.resize, new_size, crop_size, self.shift)

    def preprocessing(self, args: argparse.Namespace) -> Preprocessing:
        """Say how the evaluation of a run prepares images, for its checkpoint.

        Args:
            args: cache_size, new_size, crop_size, train_transform and dummy are read; completed.
        """
        resize = resize_under(args.train_transform, self.resize)
        cache_size = 0 if args.dummy else args.cache_size
        return Preprocessing(self.colour, resize, cache_size, args.new_size, args.crop_size)
