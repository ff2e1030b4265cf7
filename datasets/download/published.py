"""A file as its publisher describes it, and what tells a file on disk from it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from datasets.download.parallel import Cancel

CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch: its size in bytes, and the hex digests that are published of it."""

    name: str
    url: str
    size: int
    md5: str | None = None
    sha256: str | None = None


def problem_of(path: Path, remote: RemoteFile, cancel: Cancel) -> str | None:
    """What tells a file from the published one: its size or a hash, in words; None if nothing does."""
    size = path.stat().st_size
    if size != remote.size:
        return f"{size:,} bytes, {remote.size:,} are published"
    for kind, expected in (("md5", remote.md5), ("sha256", remote.sha256)):
        if expected and (found := _digest(path, kind, cancel)) != expected:
            return f"its {kind.upper()} is {found}, {expected} is published"
    return None


def _digest(path: Path, kind: str, cancel: Cancel) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            cancel.check()
            digest.update(chunk)
    return digest.hexdigest()
