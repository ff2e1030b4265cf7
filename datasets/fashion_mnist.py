"""FashionMNIST_LT: Fashion-MNIST with the long tail of the DGC paper (4000 down to 40 images a class)."""

import gzip
import math
import os
import shutil
import socket
import struct
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision import transforms as T
from torchvision.datasets import FashionMNIST

from datasets.base import ArrayDataset, DatasetSpec, Transform
from datasets.images.files import require_reachable
from datasets.subsets import draw_long_tailed
from datasets.transforms import Enlarge, evaluation, small_shift
from utils.errors import UserError
from utils.locks import folder_lock

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
TRAIN_COUNTS = (4000, 2000, 1000, 750, 500, 350, 200, 100, 60, 40)
TEST_COUNTS = (1000,) * 10
FILES = tuple(f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
DOWNLOAD_TIMEOUT_S = 20


def load(root: str, train: bool, transform: Transform | None = None, subset_seed: int = 0) -> ArrayDataset:
    """Draw the training subset, or take the whole test set, from the IDX files in `root` or root/FashionMNIST/raw.

    Without all four there, torchvision downloads them to root/FashionMNIST/raw.
    """
    require_reachable(Path(root))
    folder = _find(Path(root)) or _download_once(Path(root))
    prefix = "train" if train else "t10k"
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
    targets = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1).astype(np.int64)
    if len(images) != len(targets):
        raise UserError(f"{folder}: {len(images)} {prefix} images but {len(targets)} labels: replace the files")
    if targets.max(initial=0) >= len(CLASSES):
        raise UserError(f"{folder}: {prefix} label {targets.max()}, but Fashion-MNIST has 0 to 9: replace the files")
    ids = [f"{prefix}/{row:05d}" for row in range(len(targets))]
    whole = ArrayDataset(images, CLASSES, targets, ids, transform)
    return whole.subset(draw_long_tailed(targets, TRAIN_COUNTS, subset_seed)) if train else whole


def transform(train: bool, new_size: int, crop_size: int) -> Transform:
    """Pad to size (28 to 32); in training shift a little and flip."""
    random = [small_shift(crop_size), T.RandomHorizontalFlip()] if train else []
    return evaluation(Enlarge(new_size), crop_size, *random)


def _find(root: Path) -> Path | None:
    for folder in (root, root / "FashionMNIST" / "raw"):
        if all(os.path.isfile(_either(folder, name)) for name in FILES):
            return folder
    return None


def _either(folder: Path, name: str) -> Path:
    """Return the plain file if it is there, else the gzipped one."""
    return folder / name if os.path.isfile(folder / name) else folder / f"{name}.gz"


def _download_once(root: Path) -> Path:
    """Download in one process; who waited for it finds the files."""
    if not root.is_dir():
        raise UserError(
            f"--datadir {root} does not exist: name the folder with the four IDX files of Fashion-MNIST, or create "
            "it (mkdir -p) and they are downloaded there"
        )
    with folder_lock(root, "it downloads Fashion-MNIST"):
        return _find(root) or _download(root)


def _download(root: Path) -> Path:
    """Download beside where the files belong, and put them there when they are complete.

    An archive that came before the download was interrupted is not fetched again.
    """
    beside, folder = root / "FashionMNIST.part", root / "FashionMNIST" / "raw"
    parts = [beside / "FashionMNIST" / "raw" / name for name in FILES]
    for part in parts:
        part.unlink(missing_ok=True)  # torchvision takes any unpacked file for a whole one
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        FashionMNIST(str(beside), download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        lacking = ", ".join(name for name in FILES if not _either(root, name).is_file())
        raise UserError(
            f"{root} lacks {lacking} (plain or .gz), and the download failed ({' '.join(str(error).split())}): put "
            "the four IDX files of Fashion-MNIST there, from Debian's package dataset-fashion-mnist for example"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        part.replace(folder / part.name)
    shutil.rmtree(beside)
    return folder


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped: magic 0x0000080d, d sizes in big-endian, the bytes."""
    path = _either(folder, name)
    try:
        content = path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): replace or delete it") from error
    start = 4 * (1 + dimensions)
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", content[:start].ljust(start, b"\0"))
    if magic != 0x800 + dimensions or len(content) != start + math.prod(sizes):
        raise UserError(f"{path} is not a complete IDX file of {dimensions} dimensions: replace or delete it")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)


FASHION_MNIST_LT = DatasetSpec(CLASSES, TRAIN_COUNTS, TEST_COUNTS, load, transform)
