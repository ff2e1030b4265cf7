"""Images in files before they are read: resized once into a cache on disk, and left out if nobody can read them.

One process builds a cache, others that want it wait.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.images.cache import BAD, GOOD, UNSEEN, ImageCache
from datasets.images.files import FileDataset
from datasets.images.source import whole
from utils.errors import UserError
from utils.files import write_text
from utils.locks import folder_lock
from utils.logs import progress

log = logging.getLogger("dgcmm")

FOLDER = "cache"  # in the data set's folder
MOST_BAD = 0.01  # share of a split that may be left out
NAMED = 3  # bad images of a split in a message


def prepare_images(
    splits: Mapping[str, FileDataset],
    cache_size: int,
    bad_images: str,
    quiet: bool = False,
    cache_dir: str | None = None,
    otherwise: Path | None = None,
    resize: str = "stretch",
) -> dict[str, FileDataset]:
    """Read the splits from a cache if one is asked for, and leave out their bad images if that is asked for.

    What was found is kept, by default in the data set's folder, so all but the first call are quick.

    Args:
        splits: by the names that messages give them; all of one folder.
        cache_size: pixels of a side of the cached images; 0 for no cache.
        bad_images: 'error', or 'skip', which without a cache decodes every image once.
        quiet: show no progress.
        cache_dir: folder that takes the caches of any data set, in place of the data set's own folder.
        otherwise: the same where the data set's own folder has no finished cache and cannot be written.
        resize: how images become square in the cache, a key of `utils.preprocessing.RESIZES`.

    Raises:
        UserError: images cannot be read (more than `MOST_BAD` of a split, with 'skip'), or there is no space.
    """
    if not cache_size and bad_images == "error":
        return dict(splits)
    folder = _place(splits, cache_size, cache_dir, otherwise, resize)
    caches = _caches(folder, splits, cache_size, resize)
    if any(_has_work(caches[split], data) for split, data in splits.items()):
        with folder_lock(folder, f"a cache of images ({cache_size or 'check'})"):
            _require_space(caches)
            for split, data in splits.items():
                if _has_work(caches[split], data):  # else another process has done it meanwhile
                    _build(caches[split], data, split, quiet)
    prepared = _without_bad(splits, caches, bad_images)
    if cache_size:
        return {split: data.cached(caches[split]) for split, data in prepared.items()}
    return {split: data.forgetting(caches[split].forget) for split, data in prepared.items()}


def _caches(folder: Path, splits: Mapping[str, FileDataset], cache_size: int, resize: str) -> dict[str, ImageCache]:
    return {split: ImageCache(folder, data.names, cache_size, resize, data.colour) for split, data in splits.items()}


def _place(
    splits: Mapping[str, FileDataset], cache_size: int, cache_dir: str | None, otherwise: Path | None, resize: str
) -> Path:
    """Choose the folder of the caches: that of the data set, if it is finished or can be written, or another.

    In another one the caches lie apart for each folder of images: two data sets may have the same names.
    """
    root = next(iter(splits.values())).root
    own = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]
    if cache_dir is not None:
        return Path(cache_dir) / own
    folder = root / FOLDER
    if os.access(folder if folder.exists() else root, os.W_OK | os.X_OK):
        return folder
    caches = _caches(folder, splits, cache_size, resize)
    if not any(_has_work(caches[split], data) for split, data in splits.items()):
        return folder
    if otherwise is None:
        raise UserError(f"{folder} cannot be written: name a folder that can, --cache-dir")
    log.warning("%s cannot be written: what is read from %s is kept in %s (--cache-dir)", folder, root, otherwise)
    return otherwise / own


def _has_work(cache: ImageCache, data: FileDataset) -> bool:
    """Tell whether images are left to do, or a bad one has been replaced."""
    states = cache.states()
    return bool(np.any(states == UNSEEN)) or any(_readable(data, row) for row in np.flatnonzero(states == BAD))


def _readable(data: FileDataset, row: int) -> bool:
    try:
        whole(data.in_file(row))
    except UserError:
        return False
    return True


def _build(cache: ImageCache, data: FileDataset, split: str, quiet: bool) -> None:
    what = f"cache of {split} images" if cache.size else f"check of {split} images"
    log.info("%s: %s", what, cache.folder)
    with progress(what, total=cache.count, unit="img", quiet=quiet) as bar:
        cache.build(data.in_file, bar.update)
    _list_damaged(cache, data)


def _list_damaged(cache: ImageCache, data: FileDataset) -> None:
    """Write the names of all images of a cache that cannot be read; no file if there are none."""
    names = data.names[cache.states() == BAD]
    if len(names):
        write_text(cache.damaged, "".join(f"{name}\n" for name in names))
    else:
        cache.damaged.unlink(missing_ok=True)


def _require_space(caches: Mapping[str, ImageCache]) -> None:
    """Before the first byte is written, raise a `UserError` if the disk cannot take all."""
    by_folder = {cache.folder: cache for cache in caches.values()}  # splits drawn from one list share one
    cache = next(iter(caches.values()))
    needed, free = sum(cache.lacking() for cache in by_folder.values()), shutil.disk_usage(cache.folder.parent).free
    if needed > free:
        raise UserError(
            f"--cache-size {cache.size} needs {needed / 1e9:.1f} GB in {cache.folder.parent}, {free / 1e9:.1f} GB are "
            "free: free some space, give a smaller --cache-size, or name another --cache-dir"
        )


def _without_bad(
    splits: Mapping[str, FileDataset], caches: Mapping[str, ImageCache], bad_images: str
) -> dict[str, FileDataset]:
    """Leave out what nobody can read, or raise a `UserError` that has the bad images of all splits."""
    good = {split: caches[split].states()[data.rows] == GOOD for split, data in splits.items()}
    bad = {split: data.ids[~good[split]].tolist() for split, data in splits.items() if not good[split].all()}
    for split in bad:
        if not caches[split].damaged.exists():  # of a cache whose builder was killed at its end
            with contextlib.suppress(UserError):
                _list_damaged(caches[split], splits[split])
    what = {split: _said(names, split, len(splits[split]), caches[split].damaged) for split, names in bad.items()}
    root = next(iter(splits.values())).root
    many = [what[split] for split, names in bad.items() if len(names) > MOST_BAD * len(splits[split])]
    if what and bad_images == "error":
        remedy = "replace them" if many else "replace them, or leave them out with --bad-images=skip"
        raise UserError(f"{root}: {', '.join(what.values())}: {remedy}")
    if many:
        least = f"more than --bad-images=skip leaves out ({MOST_BAD:.0%})"
        raise UserError(f"{root}: {', '.join(many)}, {least}: replace them")
    for text in what.values():
        log.warning("%s, and are left out", text)
    return {split: data.subset(np.flatnonzero(good[split])) if split in bad else data for split, data in splits.items()}


def _said(names: Sequence[str], split: str, count: int, listed: Path) -> str:
    """Say how many of the `count` images of a split are bad, and name some, and the list of them if there are more."""
    some = ", ".join(names)
    if len(names) > NAMED and listed.exists():
        some = f"{', '.join(names[:NAMED])}, ...: all are in {listed}"
    return f"{len(names)} of {count} {split} images cannot be read ({some})"
