"""Where ChestX-ray14 comes from: NIH's files with their sizes and hashes, or a mirror's manifest."""

import bisect
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from datasets.download.remote import RemoteFile, problem_of_bytes
from datasets.download.unpack import EXTENSIONS
from datasets.tables import count_of, read_text, repeated
from utils.errors import UserError

log = logging.getLogger("dgcmm")

SITE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
LABEL_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {True: "train_val_list.txt", False: "test_list.txt"}
LABEL_HEADER = "Image Index"
IMAGE_NAME = re.compile(r"\d{8}_\d{3}\.png")
IMAGES = 112_120
LISTED = {True: 86_524, False: 25_596}

_FILE = "https://nihcc.app.box.com/index.php?rm=box_download_shared_file&vanity_name=ChestXray-NIHCC&file_id=f_"
_ARCHIVE = "https://nihcc.box.com/shared/static/"
_TEXTS = (
    RemoteFile(LABEL_FILES[0], f"{_FILE}219760887468", 9003496),
    RemoteFile(
        LISTS[True],
        f"{_FILE}256056636701",
        1470907,
        sha256="61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81",
    ),
    RemoteFile(
        LISTS[False],
        f"{_FILE}256055473534",
        435131,
        sha256="38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc",
    ),
)
# key in the address, bytes, MD5, and the last image: the archives hold the images in order
_ARCHIVES = """
vfk49d74nhbxq3nqjg0900w5nvkorp5c 2008470987 fe8ed0a6961412fddcbb3603c11b3698 00001335_006.png
i28rlmbvmfjbl8p2n3ril0pptcmcu9d1 3952623504 ab07a2d7cbe6f65ddd97b4ed7bde10bf 00003923_013.png
f1t00wrtdk94satdfb9olcolqx20z2jp 3929234850 2301d03bde4c246388bad3876965d574 00006585_006.png
0aowwzs5lhjrceb3qp67ahp0rd1l1etg 3838903983 9f1b7f5aae01b13f4bc8e2c44a4b8ef6 00009232_003.png
v5e3goj22zr6h8tzualxfsqlqaygfbsn 3935496531 1861f3cd0ef7734df8104f2b0309023b 00011558_007.png
asi7ikud9jwnkrnkj99jnpfkjdes7l6l 3986301172 456b53a8b351afd92a35bc41444c58c8 00013774_025.png
jn1b4mw4n6lnh74ovmcjb8y48h8xj07n 4016328426 1075121ea20a137b87f290d6a4a5965e 00016051_009.png
tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j 4018347353 b61f34cec3aa69f295fbb593cbd9d443 00018387_034.png
upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj 4111327929 442a3caa61ae9b64e61c561294d1e183 00020945_049.png
l6nilvfa9cg3s28tqv1qc1olm3gnz54p 4181556296 09ec81c4c31e32858ad8cf965c494b74 00024717_000.png
hhq8fkdgvcari67vfhs7ppg2w6ni4jze 4187084020 499aefc67207a5a97692424cf5dbeed5 00028173_002.png
ioqwiy20ihqwyr8pf4c24eazhh281pbu 2914187733 dc9fda1757c2de0032b63347a7d2895c 00030805_000.png
"""
_DIGITS = {"md5": 32, "sha256": 64}
_KEYS = ("name", "url", "bytes", *_DIGITS)


def list_problem(path: Path, train: bool, names: Sequence[str]) -> str | None:
    """Say in words what tells the images of a list from those of NIH's training or test list; None if nothing does."""
    if len(names) != LISTED[train]:
        return f"{path} names {len(names)} images, NIH's {LISTED[train]}"
    published = next(file for file in _TEXTS if file.name == LISTS[train])
    content = "\n".join(sorted(f"{PurePath(name).stem}.png" for name in names))  # whatever format they are in here
    return f"{path} names other images than NIH's" if problem_of_bytes(content.encode(), published) else None


@dataclass(frozen=True)
class Source:
    """The files of the data set and where they come from.

    Attributes:
        texts: label file and lists.
        archives: of images.
        last_images: the last image of each archive, where the archives hold the images in order; else empty.
        official: NIH's own files, whose totals are known.
    """

    texts: tuple[RemoteFile, ...]
    archives: tuple[RemoteFile, ...]
    last_images: tuple[str, ...] = ()
    official: bool = False

    def holders(self, images: Sequence[str]) -> tuple[RemoteFile, ...]:
        """Name the archives that hold some of these images; all of them where that is not known."""
        if not self.last_images:
            return self.archives
        last = len(self.archives) - 1
        numbers = {min(bisect.bisect_left(self.last_images, image), last) for image in images}
        return tuple(self.archives[number] for number in sorted(numbers))

    def problem_of_text(self, path: Path) -> str | None:
        """Say in words what is wrong with the content of a label file, or None; only NIH's own has a known one."""
        if not self.official or not path.name.removeprefix(".").startswith(LABEL_FILES[1].removesuffix(".csv")):
            return None
        try:
            header, *rows = read_text(path, "replace it").removesuffix("\n").split("\n")
        except UserError:
            return "it is no text in UTF-8"
        if not header.startswith(LABEL_HEADER):
            return f"its first line does not start with {LABEL_HEADER!r}"
        return None if len(rows) == IMAGES else f"{len(rows):,} rows, {IMAGES:,} are published"


def _official() -> Source:
    rows = [line.split() for line in _ARCHIVES.split("\n") if line]
    archives = [
        RemoteFile(f"images_{number:03d}.tar.gz", f"{_ARCHIVE}{key}.gz", int(size), md5)
        for number, (key, size, md5, _) in enumerate(rows, start=1)
    ]
    return Source(_TEXTS, tuple(archives), tuple(row[3] for row in rows), official=True)


OFFICIAL = _official()


def read_manifest(path: Path) -> Source:
    """Read a mirror's list of files: JSON, [{"name": ..., "url": ..., "bytes": ..., "md5": ..., "sha256": ...}, ...].

    Label file, lists and archives are recognised by their names; the hashes may be left out.

    Raises:
        UserError: it cannot be read or is not such a list; says where it is wrong.
    """
    try:
        entries = json.loads(path.read_bytes())  # in any encoding of Unicode, with a byte order mark or without
    except OSError as error:
        raise UserError(f"--dataset-manifest {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--dataset-manifest {path} is not JSON ({error})") from error
    try:
        if not isinstance(entries, list):
            raise _Malformed("it is not a list")
        source = _source([_remote_file(number, entry) for number, entry in enumerate(entries, start=1)])
    except _Malformed as error:
        raise UserError(f"--dataset-manifest {path}: {error}") from error
    if unverified := [file.name for file in (*source.texts, *source.archives) if not (file.md5 or file.sha256)]:
        log.warning("%s gives no hash of %s: only their sizes can be verified", path, count_of(unverified, "file"))
    return source


class _Malformed(Exception):
    """Says what is wrong with a manifest."""


def _remote_file(number: int, entry: object) -> RemoteFile:
    if not isinstance(entry, dict):
        raise _Malformed(f"entry {number} is not an object with {', '.join(_KEYS)}")
    unknown = sorted(entry.keys() - set(_KEYS))
    if unknown:
        raise _Malformed(f"entry {number} has {unknown[0]!r}, which is none of {', '.join(_KEYS)}")
    name, url, size = (entry.get(key) for key in ("name", "url", "bytes"))
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise _Malformed(f"entry {number}: name {name!r} is not the plain name of a file")
    if not isinstance(url, str) or not re.fullmatch(r"https?://[^\s/]+/[!-~]*", url):
        raise _Malformed(f"{name}: url {url!r} is not an http or https address")
    if type(size) is not int or size < 1:
        raise _Malformed(f"{name}: bytes {size!r} is not a positive whole number")
    for kind, digits in _DIGITS.items():
        value = entry.get(kind)
        if value is not None and not (isinstance(value, str) and re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value)):
            raise _Malformed(f"{name}: {kind} {value!r} is not {digits} hexadecimal digits")
    md5, sha256 = ((entry.get(kind) or "").lower() or None for kind in _DIGITS)
    return RemoteFile(name, url, size, md5, sha256)


def _source(files: list[RemoteFile]) -> Source:
    names = [file.name for file in files]
    if twice := repeated(names):
        raise _Malformed(f"{twice[0]} is there twice")
    archives = tuple(file for file in files if file.name.endswith(EXTENSIONS))
    texts = tuple(file for file in files if file.name in (*LABEL_FILES, *LISTS.values()))
    other = [name for name in names if name not in {file.name for file in (*archives, *texts)}]
    if other:
        raise _Malformed(f"{other[0]} is neither label file nor list nor archive ({', '.join(EXTENSIONS)})")
    labels = [file.name for file in texts if file.name in LABEL_FILES]
    if len(labels) != 1:
        raise _Malformed(f"it names {len(labels)} label files ({' or '.join(LABEL_FILES)}), one is needed")
    for name in LISTS.values():
        if name not in names:
            raise _Malformed(f"it names no {name}")
    if not archives:
        raise _Malformed(f"it names no archive ({', '.join(EXTENSIONS)})")
    folders = {images_folder(archive.name) for archive in archives}
    if len(folders) < len(archives):
        raise _Malformed("two archives give one folder of images")
    return Source(texts, archives)


def images_folder(archive: str) -> str:
    """Name the folder that an archive's images get: images_001 for images_001.tar.gz."""
    stem = archive.removesuffix(next(extension for extension in EXTENSIONS if archive.endswith(extension)))
    return stem if stem.startswith("images_") else f"images_{stem}"
