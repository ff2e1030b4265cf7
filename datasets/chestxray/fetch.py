"""Bringing ChestX-ray14 into its folder: what is missing is downloaded, verified and unpacked, by one process."""

import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.chestxray.lists import missing_images
from datasets.chestxray.source import (
    IMAGE_NAME,
    LABEL_FILES,
    LISTS,
    OFFICIAL,
    SITE,
    Source,
    images_folder,
    read_manifest,
)
from datasets.download.parallel import Cancel, run_jobs
from datasets.download.remote import Download, Patience, RemoteFile, Unavailable, problem_of
from datasets.download.unpack import unpack
from utils.errors import UserError
from utils.files import write_text
from utils.locks import folder_lock
from utils.logs import progress

log = getLogger("dgcmm")

MARKER = ".unpacked.json"  # in the folder of an archive's images: the archive is unpacked, and held these images
UNPACKED_SHARE = 1.05  # of the packed size, rounded up; PNGs do not shrink
PATIENCE = Patience()


def fetch_missing(
    folder: Path,
    manifest: str | None,
    jobs: int,
    *,
    keep_archives: bool,
    quiet: bool,
    download_only: bool = False,
) -> None:
    """Download and unpack what a folder lacks; nothing, and without a lock, if all needed images are there.

    An interruption at any moment loses no complete file, and the same call goes on from there: parts of downloads are
    continued, an archive counts as unpacked when its folder of images holds a marker, and both appear by renaming.

    Args:
        folder: of the data set, created if need be; one process works in it, others wait.
        manifest: path of a mirror's manifest in place of NIH's list.
        jobs: archives at a time.
        keep_archives: do not delete archives that are unpacked.
        quiet: no progress bars.
        download_only: download and verify the archives, and unpack none.

    Raises:
        UserError: what a user can mend; nothing that was good is lost.
    """
    source = read_manifest(Path(manifest)) if manifest else OFFICIAL
    if missing_images(folder) == []:
        return
    with folder_lock(folder, "it brings ChestX-ray14 into the folder"):
        fetch = _Fetch(folder, source, jobs, keep_archives, download_only, quiet)
        try:
            fetch.run()
        except Unavailable as error:
            texts = ", ".join(file.name for file in source.texts)
            raise UserError(
                f"{error}: check the network and give the same command again, name a mirror (--dataset-manifest), or "
                f"put {texts} and the archives from {SITE} into {folder.resolve()} by hand"
            ) from error


class _Meter:
    """How many bytes came, counted by all threads."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self.value += count


class _Fetch:
    """One process's work on a folder whose lock it has; the arguments are those of `fetch_missing`."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        jobs: int,
        keep_archives: bool,
        download_only: bool,
        quiet: bool,
    ) -> None:
        self.folder, self.source, self.jobs = folder, source, jobs
        self.keep_archives, self.download_only, self.quiet = keep_archives, download_only, quiet
        self.cancel = Cancel()
        self.downloaded, self.unpacked = _Meter(), _Meter()

    def run(self) -> None:
        """Fetch label file and lists, then the archives that may hold what is missing, then all others if need be."""
        self._tidy()
        missing = missing_images(self.folder)
        if missing == []:  # another process was faster
            return
        texts = [file for file in self.source.texts if not self._verify_text(file)]
        all_may_be_there = missing is None and any(self.folder.rglob("*.png"))  # which only the lists can tell
        self._require_space(texts, () if all_may_be_there else self._lacking(missing))
        self._run(texts, ())
        missing = missing_images(self.folder)
        for only_likely in (True, False):
            archives = self._lacking(missing if only_likely else None)
            if missing and archives:
                self._require_space((), archives)
                self._run((), archives)
                if self.download_only:
                    return
                missing = missing_images(self.folder)
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} images that the lists name ({', '.join(missing[:3])}, ...) are in none "
                "of the archives: the lists and the archives do not belong together"
            )

    def _tidy(self) -> None:
        """Complete or remove what a killed process left half done."""
        for half in self.folder.glob("..*.part.json.*.part"):
            half.unlink()
        for part_of in self.folder.glob(".*.part.json"):
            if not part_of.with_suffix("").exists():
                part_of.unlink()
        for aside in self.folder.glob(".images_*.unpacking"):
            held = _marker(aside)
            if held:
                self._publish(self.folder / held["archive"][0], aside, held["images"])
            else:
                shutil.rmtree(aside)

    def _verify_text(self, file: RemoteFile) -> bool:
        """Whether a label file or list is there, and good; either name of the label file will do."""
        names = LABEL_FILES if file.name in LABEL_FILES else (file.name,)
        path = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if path is None:
            return False
        problem = self.source.problem_of_text(path)
        if file.name in LISTS.values() or not self.source.official:  # copies of NIH's label file differ in bytes
            problem = problem or (problem_of(path, file, self.cancel) if path.name == file.name else None)
        if problem:
            raise _not_published(path, problem)
        return True

    def _lacking(self, missing: Sequence[str] | None) -> list[RemoteFile]:
        """The archives that are not unpacked, of those that may hold `missing` images, or of all."""
        archives = self.source.archives if missing is None else self.source.holders(missing)
        return [archive for archive in archives if not self._is_unpacked(archive)]

    def _is_unpacked(self, archive: RemoteFile) -> bool:
        """Whether the marker says that this very archive is unpacked, and none of its images has gone since."""
        folder = self.folder / images_folder(archive.name)
        held = _marker(folder)
        return bool(held) and held["archive"] == _identity(archive) and set(held["images"]) <= set(os.listdir(folder))

    def _require_space(self, texts: Sequence[RemoteFile], archives: Sequence[RemoteFile]) -> None:
        """Raise a `UserError` if the disk cannot take what is to be downloaded and unpacked."""
        packed = [self._left(archive) for archive in archives]
        if not self.keep_archives and not self.download_only:  # then only those in work are there at a time
            packed = sorted(packed)[-self.jobs :]
        need = sum(packed) + sum(self._left(text) for text in texts)
        if not self.download_only:
            need += sum(math.ceil(UNPACKED_SHARE * archive.size) for archive in archives)
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise UserError(
                f"{self.folder}: {_size(need)} are needed to download and unpack ChestX-ray14, {_size(free)} are free: "
                "free some space, or name another folder (--datadir)"
            )

    def _download(self, file: RemoteFile) -> Download:
        return Download(file, self.folder, PATIENCE, self.cancel, self.downloaded)

    def _left(self, file: RemoteFile) -> int:
        """Bytes of a file that are still to be fetched."""
        return 0 if (self.folder / file.name).is_file() else max(file.size - self._download(file).have, 0)

    def _run(self, texts: Sequence[RemoteFile], archives: Sequence[RemoteFile]) -> None:
        tasks = [partial(self._fetch_text, file) for file in texts]
        tasks += [partial(self._bring, archive) for archive in archives]
        if not tasks:
            return
        left = sum(self._left(file) for file in (*texts, *archives))
        log.info("ChestX-ray14: %d files to bring, %s to download, into %s", len(tasks), _size(left), self.folder)
        with self._bars(left, 0 if self.download_only else sum(archive.size for archive in archives)) as tick:
            run_jobs(tasks, self.jobs, self.cancel, tick)

    @contextmanager
    def _bars(self, download: int, unpack: int) -> Iterator[Callable[[], None]]:
        """Progress bars of two totals in bytes; gives what brings them up to date."""
        bars = []
        for title, total, meter in (("downloading", download, self.downloaded), ("unpacking", unpack, self.unpacked)):
            meter.value = 0
            bars.append((progress(None, title, total=total, unit="B", quiet=self.quiet or not total), meter))

        def tick() -> None:
            for bar, meter in bars:
                bar.update(meter.value - bar.n)

        try:
            yield tick
        finally:
            for bar, _ in reversed(bars):
                bar.close()

    def _fetch_text(self, file: RemoteFile) -> None:
        self._download(file).run(self.source.problem_of_text)

    def _bring(self, archive: RemoteFile) -> None:
        """Download an archive, or verify the one that is there, and unpack it."""
        path = self.folder / archive.name
        if not path.is_file():
            self._download(archive).run()
        elif problem := problem_of(path, archive, self.cancel):
            raise _not_published(path, problem)
        if self.download_only:
            log.info("%s: complete", archive.name)
            return
        aside = self.folder / f".{images_folder(archive.name)}.unpacking"
        images = unpack(path, aside, IMAGE_NAME, self.cancel, self.unpacked)
        write_text(aside / MARKER, json.dumps({"archive": _identity(archive), "images": images}))
        self._publish(path, aside, images)

    def _publish(self, path: Path, aside: Path, images: Sequence[str]) -> None:
        """Give a folder with all images of an archive its name; into one that is there they move, the marker last.

        The archive goes first: killed in between, a process leaves the folder with its marker, which is published then.
        """
        if not self.keep_archives:
            path.unlink(missing_ok=True)
        target = self.folder / images_folder(path.name)
        if not target.exists():
            os.rename(aside, target)
        else:
            for name in (*images, MARKER):
                if (aside / name).exists():  # not yet moved by a process that was killed
                    os.replace(aside / name, target / name)
            aside.rmdir()
        log.info("%s: %d images unpacked", path.name, len(images))


def _marker(folder: Path) -> dict[str, Any] | None:
    """What a folder's marker says, {"archive": identity, "images": names}; None without a sound one."""
    try:
        held = json.loads((folder / MARKER).read_text())
        return held if held["archive"][0] and held["images"] else None
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def _identity(archive: RemoteFile) -> list:
    return [archive.name, archive.size, archive.md5, archive.sha256]


def _not_published(path: Path, problem: str) -> UserError:
    return UserError(f"{path} is not the published file ({problem}): delete it, and it is fetched; or replace it")


def _size(count: int) -> str:
    return tqdm.format_sizeof(count, "B")
