"""ImageFolder: one's own images, in a folder for each class; and ImageNet, which comes in such folders.

DATADIR/train/CLASS/...  test/CLASS/...  val/CLASS/...     without test, val is the test set
DATADIR/CLASS/...                                          a fifth of the images is the test set
"""

import argparse
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from datasets.base import DatasetSpec, Splits
from datasets.images.files import images_root, require_reachable
from datasets.images.finder import (
    KINDS,
    NOT_OURS,
    Files,
    dead_link,
    find_files,
    find_images,
    has_image,
    is_folder,
    is_image_name,
    leads_nowhere,
    listed,
    shown_endings,
)
from datasets.images.preparation import MOST_BAD
from datasets.own.splitting import PARTS, Listed, part_of, split_images
from datasets.tables import count_of
from utils.errors import UserError
from utils.locks import LOCK_NAME
from utils.training.layout import FIGURES, FOLDERS, SUFFIXES, is_run

log = logging.getLogger("dgcmm")

DRAWN = {f"{name}{suffix}.png" for name in FIGURES for suffix in SUFFIXES}  # images that a run leaves
IMAGENET_COUNTS = {"train": 1_281_167, "val": 50_000}  # images
IMAGENET_ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


def load_folder(args: argparse.Namespace, parts: Sequence[str] = PARTS) -> Splits:
    """Load the class folders in `--datadir`.

    Args:
        parts: names of the folders that hold class folders; where none is there, `--datadir` itself holds those.
    """
    root = images_root(args.datadir)
    _check_logdir(root, args.logdir)
    folders = _all_folders(root)
    if locked := [folder for folder in folders if _is_run_or_cache(root / folder)]:
        log.info("left out: %s, of a run or a cache (%s)", ", ".join(locked), LOCK_NAME)
        folders = [folder for folder in folders if folder not in locked]
    if of_run := [folder for folder in folders if _is_of_run(root / folder, args.logdir)]:
        log.info("left out: %s, of a run", ", ".join(of_run))
        folders = [folder for folder in folders if folder not in of_run]
    place_of: dict[str, str] = {}
    for folder in folders:
        if (part := part_of(folder)) in parts and (other := place_of.setdefault(part, folder)) != folder:
            raise UserError(f"{root} has {other} and {folder}, both for {part}: rename one of them")
    if place_of and (others := [folder for folder in folders if folder not in place_of.values()]):
        lost = "test" in parts and "test" not in place_of and any(_has_images(root / folder) for folder in others)
        level = logging.WARNING if lost else logging.INFO  # one of them may be meant for it
        log.log(level, "left out: %s, beside %s", ", ".join(others), ", ".join(place_of.values()))
    images: list[Listed] = []
    dead_links: list[str] = []
    places: dict[tuple[int, int], str] = {}
    for part in [part for part in parts if part in place_of] or [""]:
        folder = place_of.get(part, "")
        labels = _folders(root / folder) if folder else folders
        _check_labels(root, folder, part, labels, {image.label for image in images})
        found, dead = _list_images(root, folder, part, labels, places)
        images += found
        dead_links += dead
    if dead_links and args.bad_images == "error" and not getattr(args, "test_alone", False):
        raise UserError(
            f"{root}: {count_of(dead_links, 'link')} leading nowhere: mend or delete, or give --bad-images=skip, "
            f"which leaves out up to {MOST_BAD:.0%} of a split"
        )
    return split_images(root, images, args)


def _check_logdir(root: Path, logdir: str) -> None:
    """Raise a `UserError` if the folder of a run that begins has images of the data in it."""
    run = Path(logdir).resolve()
    if root.resolve() in run.parents and run.is_dir() and not _is_run_or_cache(run) and find_files(run).images:
        raise UserError(f"--logdir {logdir} has images of --datadir {root} in it: name a folder outside of them")


def _is_of_run(folder: Path, logdir: str) -> bool:
    """Tell whether a folder has nothing but the run in it, or is what a run has drawn, and so no class.

    Raises:
        UserError: it has the images of a class, and the run would draw into it.
    """
    place, run = folder.resolve(), Path(logdir).resolve()
    if place.name in FOLDERS and (place.parent == run or _is_run_or_cache(place.parent)):
        if DRAWN.issuperset(find_images(place)):
            return True
        if place.parent == run:
            raise UserError(
                f"{folder} has images that no run has drawn, and the run in --logdir {logdir} writes there too: name "
                "another --logdir"
            )
    return place in (run, *run.parents) and not _find_outside_runs(place)[0].images


def _find_outside_runs(folder: Path) -> tuple[Files, list[str]]:
    """List the files below a folder but those of runs, which have pictures too; and these runs."""
    found = find_files(folder)
    inside = {path.rpartition("/")[0] for path in (*found.images, *found.others)} - {""}
    above = {str(place) for path in inside for place in (Path(path), *Path(path).parents[:-1])}
    runs = sorted(place for place in above if _is_run_or_cache(folder / place))
    starts = tuple(f"{run}/" for run in runs)
    return Files(*([path for path in paths if not path.startswith(starts)] for paths in found)), runs


def _check_labels(root: Path, folder: str, part: str, labels: Sequence[str], known: Collection[str]) -> None:
    """Raise a `UserError` if a folder of `root`, '' for itself, has no class folder, or one that holds the classes.

    Args:
        labels: names of the class folders.
        known: labels of the images in the parts before.
    """
    above = root / folder
    require_reachable(above)
    loose = _loose_images(above)
    if not labels:
        only = f", only {count_of(loose, 'image')}" if loose else ""
        where, remedy = "", "into train/CLASS/ and test/CLASS/, or into CLASS/"
        if folder:
            where, remedy = f": {folder}", f"into {folder}/CLASS/, or delete it, or rename it if it is a class"
        raise UserError(f"--datadir {root}{where} has no class folder{only}: put images {remedy} ({KINDS})")
    may_be_alone = part in ("val", "test") and (not known or labels[0] in known)
    if len(labels) == 1 and not may_be_alone and (inner := _folders(above / labels[0])):
        what = count_of(inner, "folder")
        remedy = f"move them to {above}" if folder else f"name that one, --datadir={above / labels[0]}"
        raise UserError(f"{above} has one class folder, {labels[0]}, with {what}: if these are the classes, {remedy}")
    if loose:
        log.warning("%s: left out %s beside the class folders", above, count_of(loose, "image"))
    if hidden := _hidden_folders(above):
        log.info("%s: left out %s: the name begins with a dot", above, count_of(hidden, "folder"))


def _list_images(
    root: Path, folder: str, part: str, labels: Sequence[str], places: dict[tuple[int, int], str]
) -> tuple[list[Listed], list[str]]:
    """List the images in the class folders of a folder of `root`, '' for itself, and links that lead nowhere.

    Args:
        labels: names of the class folders.
        places: device and inode of each class folder so far -> its name, to see that none is another one by a link.
    """
    images: list[Listed] = []
    others: list[str] = []
    dead_links: list[str] = []  # to images, or to folders of images, on a disk not mounted
    inner: list[set[str]] = []  # the folders in each class folder that have its images, '' for images in itself
    for label in labels:
        place = f"{folder}/{label}" if folder else label
        _check_class_folder(root, place, label, places)
        files, runs = _find_outside_runs(root / place)
        if runs:
            log.info("%s: left out %s, of a run", root / place, ", ".join(runs))
        if not files.images:
            if not runs:
                _tell_of_empty(root, place, part, files.others)
            continue
        images += [Listed(f"{place}/{path}", label, part) for path in files.images]
        others += files.others
        dead_links += [f"{place}/{path}" for path in files.dead_links]
        inner.append({path.rpartition("/")[0].partition("/")[0] for path in files.images})
    if not images:
        where, remedy = (f": {folder}", ", or delete it") if folder else ("", "")
        raise UserError(f"--datadir {root}{where} has no image: put some there{remedy} ({KINDS})")
    if others:
        text = "%s: left out %d files that are no images: %s (%s)"
        log.info(text, root / folder, len(others), shown_endings(others), KINDS)
    if len(inner) > 1 and len(inner[0]) > 1 and "" not in inner[0] and all(names == inner[0] for names in inner):
        text = "%s: each of %s has the same folders in it, %s: if these are the classes, put them into train/ and test/"
        what = count_of(labels, "class folder"), count_of(sorted(inner[0]), "folder")
        log.warning(text, root / folder, *what)
    return images, dead_links


def _tell_of_empty(root: Path, place: str, part: str, others: Sequence[str]) -> None:
    """Raise a `UserError` that a class folder has no image; warn, if it is not of the training."""
    what = f"it has {shown_endings(others)}; {KINDS}" if others else "it is empty"
    if part not in ("val", "test"):
        raise UserError(f"--datadir {root}: {place} has no image ({what}): put some there, or name another --datadir")
    log.warning("left out %s, which has no image (%s)", root / place, what)


def _check_class_folder(root: Path, place: str, label: str, places: dict[tuple[int, int], str]) -> None:
    """Raise a `UserError` if a class folder is closed, is another one by a link, or has the parts in it."""
    require_reachable(root / place)
    status = os.stat(root / place)
    if (other := places.setdefault((status.st_dev, status.st_ino), place)) != place:
        raise UserError(f"{root}: {place} and {other} are one folder (a link): an image has one class and one part")
    if "train" in (inner := [part_of(name) for name in _folders(root / place)]) and {"val", "test"} & set(inner):
        raise UserError(
            f"{root / place} has train and test in it: the parts stand above the classes, as train/{label}/ and "
            f"test/{label}/"
        )


def _folders(folder: Path) -> list[str]:
    """List the folders in a folder that may hold images, by name; a cache of images and a run are none of them."""
    return [name for name in _all_folders(folder) if not _is_run_or_cache(folder / name)]


def _all_folders(folder: Path) -> list[str]:
    """List the folders in a folder, by name, but for those of the system.

    Raises:
        UserError: a link that may stand for one, of a disk that is not mounted, leads nowhere.
    """
    names = []
    with listed(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in NOT_OURS:
                continue
            if is_folder(entry):
                names.append(entry.name)
            elif not is_image_name(entry.name) and leads_nowhere(entry):
                raise dead_link(folder / entry.name)
    return sorted(names)


def _is_run_or_cache(folder: Path) -> bool:
    """Tell whether a folder is that of a run or of a cache: a script of this project has left its lock there.

    One with images in it, but for pictures of a run, is no such folder, unless there is more of a run: it is a class.
    """
    locked = any(os.path.exists(folder / f"{LOCK_NAME}{suffix}") for suffix in SUFFIXES)
    return locked and (is_run(folder) or all(path.partition("/")[0] in FOLDERS for path in find_images(folder)))


def _hidden_folders(folder: Path) -> list[str]:
    """List the folders in a folder that have images and a dot before their names, by name; they are no classes."""
    with listed(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".") and is_folder(entry)]
    return sorted(name for name in names if _has_images(folder / name))


def _has_images(folder: Path) -> bool:
    """Tell whether a folder that is left out has images; one that is closed has none to be told of."""
    try:
        return has_image(folder)
    except UserError:
        return False


def _loose_images(folder: Path) -> list[str]:
    """List the images that lie in a folder itself, by name; they are of no class."""
    with listed(folder) as entries:
        files = [entry.name for entry in entries if not entry.name.startswith(".") and not is_folder(entry)]
    return sorted(filter(is_image_name, files))


def load_imagenet(args: argparse.Namespace) -> Splits:
    """Load train/WNID/ and val/WNID/ in `--datadir`; val is the test set."""
    _require_imagenet(images_root(args.datadir), ("val",) if getattr(args, "test_alone", False) else IMAGENET_COUNTS)
    splits = load_folder(args, tuple(IMAGENET_COUNTS))
    for (part, published), data in zip(IMAGENET_COUNTS.items(), (splits.train, splits.test), strict=True):
        if len(data) not in (0, published):
            log.warning(
                "%s: %s has %d images, %d are published: is it unpacked?", args.datadir, part, len(data), published
            )
    return splits


def _require_imagenet(root: Path, parts: Iterable[str]) -> None:
    """Raise a `UserError` if a part of ImageNet has no class folder; says which archive has it."""
    folders = {part_of(name): name for name in _folders(root)}
    for part in parts:
        if part not in folders or not _folders(root / folders[part]):
            raise UserError(
                f"{root} has no {part}/WNID/: unpack {IMAGENET_ARCHIVES[part]} of image-net.org there, each class into "
                "a folder of its own"
            )


IMAGE_FOLDER = DatasetSpec(
    load=load_folder,
    resize="centre",
    train_transform="resized-crop",
    in_files=True,
    colour=True,
    takes_names=True,
)
IMAGENET = DatasetSpec(
    load=load_imagenet,
    resize="centre",
    train_transform="resized-crop",
    in_files=True,
    colour=True,
    takes_names=True,
)
