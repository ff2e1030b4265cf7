"""Bringing ChestX-ray14 into its folder: what is missing is downloaded, verified and unpacked, by one process."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from datasets.chestxray.lists import Contents, read_contents
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
from datasets.download.remote import Download, Patience, RemoteFile, Unavailable, problem_of, problem_of_bytes
from datasets.download.unpack import EXTENSIONS, unpack
from datasets.images.finder import find_files, find_images, locate
from datasets.tables import count_of, read_text
from utils.errors import UserError
from utils.files import move, write_text
from utils.locks import folder_lock
from utils.logs import progress

log = logging.getLogger("dgcmm")

MARKER = ".unpacked.json"  # in the folder of an archive's images: the archive is unpacked, and held these images
UNPACKED_SHARE = 1.05  # of the packed size, rounded up; PNGs do not shrink
PATIENCE = Patience()


def fetch_missing(
    folder: Path, manifest: str | None, jobs: int, *, keep_archives: bool, quiet: bool, download_only: bool
) -> Contents:
    """Download and unpack what a folder lacks; nothing, and without a lock, if all needed images are there.

    An interruption at any moment loses no complete file, and the same call goes on from there: parts of downloads are
    continued, an archive counts as unpacked when its folder of images holds a marker, and both appear by renaming.

    Args:
        folder: of the data set, created if its parent is there; one process works in it, others wait.
        manifest: path of a mirror's manifest in place of NIH's list.
        jobs: archives at a time.
        keep_archives: do not delete archives that are unpacked.
        quiet: no progress bars.
        download_only: download and verify the archives, and unpack none.

    Returns:
        What the folder holds then.

    Raises:
        UserError: what a user can mend; nothing that was good is lost.
    """
    source = read_manifest(Path(manifest)) if manifest else OFFICIAL
    contents = read_contents(folder)
    if contents and not contents.missing:
        return contents
    if not folder.exists():
        _require_parent(folder, source)
    lacking = count_of(contents.missing, "image") if contents else "NIH's label file or a list"
    with folder_lock(folder, "it brings ChestX-ray14 into the folder", f"{folder} lacks {lacking}"):
        try:
            _Fetch(folder, source, jobs, keep_archives, quiet, download_only).run()
            return read_contents(folder)
        except Unavailable as error:
            texts = ", ".join(file.name for file in source.texts)
            raise UserError(
                f"{error}: check the network and give the same command again, name a mirror (--dataset-manifest), or "
                f"put {texts} and the archives from {SITE} into {folder.resolve()} by hand"
            ) from error
        except OSError as error:
            raise UserError(
                f"{error.filename or folder} cannot be read or written ({error.strerror}): mend that and give the same "
                "command again"
            ) from error


def _require_parent(folder: Path, source: Source) -> None:
    """Announce what a new folder will hold; one whose parent does not exist is more likely a slip of the keyboard."""
    whole, place = _size(sum(file.size for file in (*source.texts, *source.archives))), folder.absolute()
    if not place.parent.is_dir():
        raise UserError(
            f"--datadir {folder} does not exist, nor does {place.parent}: check the path, or create that folder "
            f"(mkdir -p), and ChestX-ray14 ({whole}) is downloaded"
        )
    log.info("--datadir %s is a new folder: ChestX-ray14 (%s) is downloaded into %s", folder, whole, place)


@dataclass(frozen=True)
class _Fetch:
    """One process's work on a folder whose lock it has; the first fields are the arguments of `fetch_missing`.

    Attributes:
        cancel: ends all downloads.
        answered: servers that have answered.
    """

    folder: Path
    source: Source
    jobs: int
    keep_archives: bool
    quiet: bool
    download_only: bool
    cancel: Cancel = field(default_factory=Cancel)
    answered: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Fetch label file and lists, then the archives that may hold what is missing, then all others if need be."""
        self._tidy()
        contents = read_contents(self.folder)
        if contents and not contents.missing:  # another process was faster
            return
        texts = [file for file in self.source.texts if not self._verify_text(file)]
        all_may_be_there = contents is None and bool(find_images(self.folder))  # which only the lists can tell
        self._require_space(texts, () if all_may_be_there else self._lacking(contents and contents.missing))
        self._bring(texts, ())
        contents = read_contents(self.folder)
        missing = contents.missing
        if missing:
            self._announce(contents)
        for only_likely in (True, False):
            archives = self._lacking(missing if only_likely else None)
            if missing and archives:
                self._require_space((), archives)
                self._bring((), archives)
                if self.download_only:
                    return
                missing = read_contents(self.folder).missing
        if missing:
            raise UserError(
                f"{self.folder}: {count_of(missing, 'image')} of the lists in none of the archives: the lists and the "
                "archives do not belong together"
            )

    def _announce(self, contents: Contents) -> None:
        """Before the first archive is fetched, say how many images are missing, and what lies there in their place."""
        lack = f"{self.folder}: {len(contents.missing)} of {len(contents.needed)} listed images are missing"
        known = {archive.name for archive in self.source.archives}
        archives = sorted(path.name for path in self.folder.glob("[!.]*") if path.name.endswith(EXTENSIONS))
        unknown = [name for name in archives if name not in known]
        found = [count_of(contents.others, "image")] if contents.others else []
        found += [count_of(unknown, "archive")] if unknown else []
        if found:
            wanted = f"{contents.missing[0]} in {self.source.archives[0].name}"
            what = f"{' and '.join(found)} are there under names that are not NIH's (like {wanted})"
            log.warning("%s, and %s: if they hold the same, stop here and rename them", lack, what)
        else:
            log.info("%s", lack)

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
        """Tell whether a label file or list is there; either name of the label file will do.

        Raises:
            UserError: it is there, and is not the published one.
        """
        names = LABEL_FILES if file.name in LABEL_FILES else (file.name,)
        path = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if path is None:
            return False
        problem = self.source.problem_of_text(path)
        if file.name in LISTS.values() or not self.source.official:  # copies of NIH's label file differ in bytes
            problem = problem or (self._problem_of_copy(path, file) if path.name == file.name else None)
        if problem:
            raise _not_published(path, problem)
        return True

    def _problem_of_copy(self, path: Path, file: RemoteFile) -> str | None:
        """Say what tells a text from the published one; an editor's mark or line ends do not."""
        problem = problem_of(path, file, self.cancel)
        if problem is None:
            return None
        text = read_text(path, "delete it, and it is fetched").rstrip("\n")
        copies = ((text + end).encode() for end in ("", "\n"))
        return None if any(problem_of_bytes(copy, file) is None for copy in copies) else problem

    def _lacking(self, missing: Sequence[str] | None) -> list[RemoteFile]:
        """List the archives that are not unpacked, of those that may hold `missing` images, or of all."""
        archives = self.source.archives if missing is None else self.source.holders(missing)
        return [archive for archive in archives if not self._is_unpacked(archive)]

    def _is_unpacked(self, archive: RemoteFile) -> bool:
        """Tell whether this very archive is unpacked, by the marker, and none of its images has gone since."""
        folder = self.folder / images_folder(archive.name)
        held = _marker(folder)
        if not held or held["archive"] != _identity(archive):
            return False
        elsewhere = set(held["images"]) - set(os.listdir(folder))
        return not elsewhere or elsewhere <= self._located(elsewhere)

    def _located(self, images: Iterable[str]) -> set[str]:
        """Tell which images of an archive lie anywhere in the folder, in any format; hidden folders do not count."""
        return set(locate(images, find_files(self.folder).reachable()).paths)

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

    def _left(self, file: RemoteFile) -> int:
        """Count the bytes of a file that are still to be fetched."""
        if (self.folder / file.name).is_file():
            return 0
        return max(file.size - self._download(file).have, 0)

    def _download(self, file: RemoteFile, report: Callable[[int], None] = lambda count: None) -> Download:
        return Download(file, self.folder, PATIENCE, self.cancel, report, self.answered)

    def _bring(self, texts: Sequence[RemoteFile], archives: Sequence[RemoteFile]) -> None:
        """Bring all of these, several at a time, first what lies there already: it may not be the published file."""
        if not texts and not archives:
            return
        archives = sorted(archives, key=lambda archive: not (self.folder / archive.name).is_file())
        left = sum(self._left(file) for file in (*texts, *archives))
        count = len(texts) + len(archives)
        log.info("ChestX-ray14: %d files to bring, %s to download, into %s", count, _size(left), self.folder)
        packed = 0 if self.download_only else sum(archive.size for archive in archives)
        with (
            progress("downloading", total=left, unit="B", quiet=self.quiet or not left) as downloading,
            progress("unpacking", total=packed, unit="B", quiet=self.quiet or not packed) as unpacking,
        ):
            downloaded, unpacked = partial(_advance, downloading), partial(_advance, unpacking)
            tasks = [partial(self._bring_text, text, downloaded) for text in texts]
            tasks += [partial(self._bring_archive, archive, downloaded, unpacked) for archive in archives]
            run_jobs(tasks, self.jobs, self.cancel)

    def _bring_text(self, text: RemoteFile, downloaded: Callable[[int], None]) -> None:
        self._download(text, downloaded).run(self.source.problem_of_text)

    def _bring_archive(
        self, archive: RemoteFile, downloaded: Callable[[int], None], unpacked: Callable[[int], None]
    ) -> None:
        """Download an archive, or verify the one that is there, and unpack it."""
        path = self.folder / archive.name
        if not path.is_file():
            self._download(archive, downloaded).run()
        elif problem := problem_of(path, archive, self.cancel):
            raise _not_published(path, problem)
        if self.download_only:
            log.info("%s: complete", archive.name)
            return
        aside = self.folder / f".{images_folder(archive.name)}.unpacking"
        images = unpack(path, aside, IMAGE_NAME, self.cancel, unpacked)
        os.sync()  # a power cut finds the images on the disk before their marker, and before the archive goes
        write_text(aside / MARKER, json.dumps({"archive": _identity(archive), "images": images}))
        self._publish(path, aside, images)

    def _publish(self, path: Path, aside: Path, images: Sequence[str]) -> None:
        """Give a folder with all images of an archive its name; into one that is there those move that are lacking.

        An image that is there already stays alone, wherever and in whatever format: it may be the user's, scaled down.
        The marker comes last. The archive goes first: killed in between, a process leaves the folder with its marker,
        which is published then.
        """
        if not self.keep_archives:
            path.unlink(missing_ok=True)
        target = self.folder / images_folder(path.name)
        for name in self._located(images):
            (aside / name).unlink(missing_ok=True)
        if not target.exists():
            os.rename(aside, target)
        else:
            for name in images:
                if (aside / name).exists():
                    move(aside / name, target / name)
            move(aside / MARKER, target / MARKER)
            aside.rmdir()
        log.info("%s: %d images unpacked", path.name, len(images))


def _marker(folder: Path) -> dict[str, list] | None:
    """Read a folder's marker, {"archive": identity, "images": names}; None without a sound one."""
    try:
        held = json.loads((folder / MARKER).read_text())
        return held if held["archive"][0] and held["images"] else None
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def _identity(archive: RemoteFile) -> list[str | int | None]:
    return [archive.name, archive.size, archive.md5, archive.sha256]


def _not_published(path: Path, problem: str) -> UserError:
    return UserError(f"{path} is not the published file ({problem}): delete it, and it is fetched; or replace it")


def _advance(bar: tqdm, count: int) -> None:
    """Move a progress bar, from any thread."""
    with bar.get_lock():
        bar.update(count)


def _size(count: int) -> str:
    return tqdm.format_sizeof(count, "B")
