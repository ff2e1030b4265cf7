"""Before images in files are read: the cache of resized ones is built, and those that nobody can read are left out."""

import logging
import shutil
from collections.abc import Mapping

import numpy as np

from datasets.images.cache import BAD, GOOD, UNSEEN, ImageCache
from datasets.images.files import FileDataset
from datasets.images.png import GreyPng, read_grey
from utils.errors import UserError
from utils.locks import folder_lock
from utils.logs import progress

log = logging.getLogger("dgcmm")

FOLDER = "cache"  # in the data set's folder
MOST_BAD = 0.01  # share of a split that may be left out


def prepare_images(
    splits: Mapping[str, FileDataset], cache_size: int, bad_images: str, quiet: bool = False
) -> dict[str, FileDataset]:
    """The same splits, read from a cache if one is asked for, without their bad images if that is asked for.

    What was found is kept in the data set's folder, so all but the first call are quick. One process does the work,
    others that share the folder wait for it.

    Args:
        splits: by the names that messages give them; all of one folder.
        cache_size: pixels of a side of the cached images; 0 for no cache.
        bad_images: 'error', or 'skip', which without a cache decodes every image once.
        quiet: show no progress.

    Raises:
        UserError: images cannot be read (more than `MOST_BAD` of a split, with 'skip'), or there is no space.
    """
    if not cache_size and bad_images == "error":
        return dict(splits)
    folder = next(iter(splits.values())).root / FOLDER
    caches = {split: ImageCache(folder, data.names, cache_size) for split, data in splits.items()}
    if any(_has_work(caches[split], data) for split, data in splits.items()):
        with folder_lock(folder, f"a cache of images ({cache_size or 'check'})"):
            _require_space(caches)
            for split, data in splits.items():
                if _has_work(caches[split], data):  # else another process has done it meanwhile
                    _build(caches[split], data, split, quiet)
    prepared = {split: _without_bad(data, caches[split], split, bad_images) for split, data in splits.items()}
    return {split: data.cached(caches[split]) for split, data in prepared.items()} if cache_size else prepared


def _has_work(cache: ImageCache, data: FileDataset) -> bool:
    """Whether images are left to do, or a bad one has been replaced."""
    states = cache.states()
    return bool(np.any(states == UNSEEN)) or any(_readable(data, row) for row in np.flatnonzero(states == BAD).tolist())


def _readable(data: FileDataset, row: int) -> bool:
    try:
        read_grey(data.path(row))
    except UserError:
        return False
    return True


def _build(cache: ImageCache, data: FileDataset, split: str, quiet: bool) -> None:
    what = f"cache of {split} images" if cache.size else f"check of {split} images"
    log.info("%s: %s", what, cache.folder)
    with progress(None, what, total=cache.count, unit="img", quiet=quiet) as bar:
        cache.build(lambda row: GreyPng(data.path(row)), bar.update)


def _require_space(caches: Mapping[str, ImageCache]) -> None:
    """Before the first byte is written."""
    cache = next(iter(caches.values()))
    needed, free = sum(cache.lacking() for cache in caches.values()), shutil.disk_usage(cache.folder.parent).free
    if needed > free:
        raise UserError(
            f"--cache-size {cache.size} needs {needed / 1e9:.1f} GB in {cache.folder.parent}, {free / 1e9:.1f} GB are "
            "free: free some space, or give a smaller --cache-size"
        )


def _without_bad(data: FileDataset, cache: ImageCache, split: str, bad_images: str) -> FileDataset:
    states = cache.states()[data.rows]
    bad = data.ids[states == BAD].tolist()
    if not bad:
        return data
    what = f"{len(bad)} of {len(data)} {split} images cannot be read ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)})"
    if bad_images == "error":
        raise UserError(f"{data.root}: {what}: replace them, or leave them out with --bad-images=skip")
    if len(bad) > MOST_BAD * len(data):
        raise UserError(f"{data.root}: {what}, more than --bad-images=skip leaves out ({MOST_BAD:.0%}): replace them")
    log.warning("%s, and are left out", what)
    return data.subset(np.flatnonzero(states == GOOD))
