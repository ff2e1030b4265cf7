"""What tells a file from the published one."""

import hashlib

import pytest

from datasets.download.parallel import Cancel, Cancelled
from datasets.download.published import RemoteFile, problem_of

CONTENT = bytes(range(256)) * 400


def test_size_and_each_hash_are_compared(tmp_path):
    path = tmp_path / "images_001.tar.gz"
    path.write_bytes(CONTENT)
    md5, sha256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()

    def problem(size: int, *digests: str | None) -> str | None:
        return problem_of(path, RemoteFile(path.name, "", size, *digests), Cancel())

    assert problem(len(CONTENT)) is None
    assert problem(len(CONTENT), md5, sha256) is None
    assert problem(5) == "102,400 bytes, 5 are published"
    assert problem(len(CONTENT), sha256, sha256).startswith(f"its MD5 is {md5}")
    assert problem(len(CONTENT), md5, md5).startswith(f"its SHA256 is {sha256}")


def test_comparison_can_be_cancelled(tmp_path):
    path = tmp_path / "images_001.tar.gz"
    path.write_bytes(CONTENT)
    cancelled = Cancel()
    cancelled()
    with pytest.raises(Cancelled):
        problem_of(path, RemoteFile(path.name, "", len(CONTENT), hashlib.md5(CONTENT).hexdigest()), cancelled)
