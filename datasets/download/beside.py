"""Files that torchvision downloads: fetched beside where they belong, and put there when they are complete."""

import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import check_integrity

from datasets.images.files import images_root, possible_places
from datasets.images.finder import require_live
from utils.errors import UserError
from utils.files import move, writing
from utils.locks import folder_lock
from utils.network import download_timeout


@dataclass(frozen=True)
class Collection:
    """The files of a data set that torchvision can download.

    Attributes:
        name: of the data set, for messages.
        files: names of the files that are read.
        folder: where torchvision puts them, within its root; they may also lie in the root itself.
        download: has torchvision download them into a root.
        remedy: says which files to put there by hand, and where they come from.
        archives: what torchvision unpacks -> its MD5; one that lies in the root, put there by hand, is not downloaded.
        forms: endings under which a file may lie there, '' among them.
    """

    name: str
    files: Sequence[str]
    folder: str
    download: Callable[[str], object]
    remedy: str
    archives: Mapping[str, str] = field(default_factory=dict)
    forms: Sequence[str] = ("",)

    def find(self, root: Path) -> Path | None:
        """Return the folder that holds all files, or None; raises a `UserError` if one of the two is closed."""
        return next((place for place in possible_places(root, self.folder) if not self.lacking(place)), None)

    def lacking(self, place: Path) -> list[str]:
        """List the files that a folder does not have, in any form."""
        return [name for name in self.files if not self.path(place, name).is_file()]

    def lack(self, root: Path) -> str:
        """Say which files are not there, in the one of the two folders that has most of them."""
        place = min((root, root / self.folder), key=lambda place: len(self.lacking(place)))
        return f"{place} lacks {', '.join(self.lacking(place))}"

    def path(self, place: Path, name: str) -> Path:
        """Return the path of a file in the first form that is there, else the plain one."""
        forms = [place / f"{name}{form}" for form in self.forms]
        return next((path for path in forms if path.is_file()), forms[0])


def find_or_download(root: Path, collection: Collection, quiet: bool) -> Path:
    """Return the folder of a collection's files, downloaded by one process if need be; others wait for it.

    An archive that came before a download was interrupted is not fetched again.

    Args:
        quiet: show no progress bars.

    Raises:
        UserError: the folder is not there, or files are lacking and cannot be downloaded; says what to put there.
    """
    remedy = (
        f"name the folder with the files of {collection.name}, or create it (mkdir -p) and they are downloaded there"
    )
    if found := collection.find(images_root(root, remedy)):
        return found
    with folder_lock(root, f"it downloads {collection.name}", collection.lack(root)):
        return collection.find(root) or _download(root, collection, quiet)


@download_timeout()
def _download(root: Path, collection: Collection, quiet: bool) -> Path:
    beside, folder = root / f"{collection.name.replace('-', '')}.part", root / collection.folder
    parts = [beside / collection.folder / name for name in collection.files]
    require_live(folder)
    try:
        if len(collection.forms) > 1 or collection.archives:
            for part in parts:
                part.unlink(missing_ok=True)  # torchvision takes unpacked files for whole ones, and some for all
        beside.mkdir(exist_ok=True)
        for name in collection.archives:
            if (root / name).is_file():
                shutil.copyfile(root / name, beside / name)  # torchvision overwrites a damaged one
        with _bars(quiet):
            collection.download(str(beside))
    except (OSError, RuntimeError, HTTPException, EOFError, ValueError) as error:  # the last one of a proxy's address
        if not any(path.is_file() for path in beside.rglob("*")):
            shutil.rmtree(beside, ignore_errors=True)
        found = collection.lack(root)
        archives = {root / name: md5 for name, md5 in collection.archives.items()}
        damaged = [str(path) for path, md5 in archives.items() if path.is_file() and not check_integrity(path, md5)]
        if damaged:
            found = f"{', '.join(damaged)} is not as published (MD5)"
        raise UserError(
            f"{found}, and the download failed ({' '.join(str(error).split())}): {collection.remedy}"
        ) from error
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            move(part, folder / part.name)
    shutil.rmtree(beside, ignore_errors=True)
    return folder


def _bars(quiet: bool) -> contextlib.AbstractContextManager[object]:
    """Let torchvision show its progress bars where `utils.logs.progress` shows ours."""
    if sys.stderr.isatty() and not quiet:
        return contextlib.nullcontext()
    return contextlib.redirect_stderr(io.StringIO())
