"""Unpacking: hostile and damaged archives leave nothing outside their folder, and nothing half-done inside."""

import gzip
import io
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import datasets.download.unpack
from datasets.download.parallel import Cancel, Cancelled
from datasets.download.unpack import unpack
from helpers.mirror import tar_gz, zipped
from utils.errors import UserError

EXPECTED = re.compile(r"\d{8}_\d{3}\.png")
IMAGES = {f"{number:08d}_000.png": np.random.default_rng(number).bytes(500) for number in range(5)}
GOOD = {f"images/{name}": content for name, content in IMAGES.items()}
FIRST = next(iter(IMAGES))


def entry(kind: bytes, path: str = "images/00000009_000.png", target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.linkname = kind, target
    return info


def zip_of_a_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in GOOD.items():
            archive.writestr(path, content)
        link = zipfile.ZipInfo("images/00000009_000.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def zip_with_a_name_twice() -> bytes:
    return zipped(GOOD | {f"images_001/{FIRST}": b"again"})


def encrypted_zip() -> bytes:
    """With the flag of encryption set, in the entry and in the directory."""
    content = bytearray(zipped({f"images/{FIRST}": b"secret"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


HOSTILE = {
    "parent folder": ("tar.gz", tar_gz(GOOD | {"../00000009_000.png": b"x"}), "leave its folder"),
    "parent folder inside": ("tar.gz", tar_gz(GOOD | {"images/../../00000009_000.png": b"x"}), "leave its folder"),
    "absolute path": ("tar.gz", tar_gz(GOOD | {"/tmp/00000009_000.png": b"x"}), "leave its folder"),
    "backslash": ("tar.gz", tar_gz(GOOD | {"..\\00000009_000.png": b"x"}), "leave its folder"),
    "line break": ("tar.gz", tar_gz(GOOD | {"images\n/00000009_000.png": b"x"}), "leave its folder"),
    "folder outside": ("tar.gz", tar_gz(GOOD, entry(tarfile.DIRTYPE, "../outside")), "leave its folder"),
    "symbolic link": ("tar.gz", tar_gz(GOOD, entry(tarfile.SYMTYPE, target="/etc/passwd")), "neither a file nor"),
    "link to a folder": ("tar.gz", tar_gz(GOOD, entry(tarfile.SYMTYPE, "images", "..")), "neither a file nor"),
    "hard link": ("tar.gz", tar_gz(GOOD, entry(tarfile.LNKTYPE, target=f"images/{FIRST}")), "neither a file nor"),
    "pipe": ("tar.gz", tar_gz(GOOD, entry(tarfile.FIFOTYPE)), "neither a file nor"),
    "character device": ("tar.gz", tar_gz(GOOD, entry(tarfile.CHRTYPE)), "neither a file nor"),
    "block device": ("tar.gz", tar_gz(GOOD, entry(tarfile.BLKTYPE)), "neither a file nor"),
    "sparse file": ("tar.gz", tar_gz(GOOD, entry(tarfile.GNUTYPE_SPARSE)), "neither a file nor|damaged"),
    "name twice": ("tar.gz", tar_gz(GOOD | {f"images_001/{FIRST}": b"x"}), f"{FIRST} twice"),
    "unexpected name": ("tar.gz", tar_gz(GOOD | {"images/run.sh": b"x"}), "run.sh', which is not expected"),
    "hidden file": ("tar.gz", tar_gz(GOOD | {"images/.bashrc": b"x"}), "not expected"),
    "zip: parent folder": ("zip", zipped(GOOD | {"../00000009_000.png": b"x"}), "leave its folder"),
    "zip: absolute path": ("zip", zipped(GOOD | {"/00000009_000.png": b"x"}), "leave its folder"),
    "zip: symbolic link": ("zip", zip_of_a_link(), "neither a file nor"),
    "zip: name twice": ("zip", zip_with_a_name_twice(), f"{FIRST} twice"),
    "zip: unexpected name": ("zip", zipped(GOOD | {"images/run.sh": b"x"}), "not expected"),
    "zip: encrypted": ("zip", encrypted_zip(), "damaged"),
}


def compressed_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def unpacked(tmp_path: Path, kind: str, content: bytes, cancel: Cancel | None = None, report=lambda count: None):
    archive = tmp_path / f"images_001.{kind}"
    archive.write_bytes(content)
    return unpack(archive, tmp_path / "unpacked", EXPECTED, cancel or Cancel(), report)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["tar.gz", "tgz", "zip"])
@pytest.mark.parametrize("place", ["", "images/", "./images/", "images_001/images/"])
def test_files_are_unpacked_flat(kind, place, tmp_path):
    files = {f"{place}{name}": content for name, content in IMAGES.items()}
    counts = []
    names = unpacked(tmp_path, kind, zipped(files) if kind == "zip" else tar_gz(files), report=counts.append)
    assert names == list(IMAGES)
    assert contents(tmp_path / "unpacked") == IMAGES
    assert sum(counts) >= (tmp_path / f"images_001.{kind}").stat().st_size


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_what_macos_adds_to_an_archive_is_left_out(kind, tmp_path):
    added = ["__MACOSX/images/._" + FIRST, "images/._" + FIRST, "images/.DS_Store", "__MACOSX/notes"]
    files = dict.fromkeys(added, b"Mac OS X") | {f"images/{name}": content for name, content in IMAGES.items()}
    assert unpacked(tmp_path, kind, zipped(files) if kind == "zip" else tar_gz(files)) == list(IMAGES)
    assert contents(tmp_path / "unpacked") == IMAGES


def test_folders_in_an_archive_are_nothing_bad(tmp_path):
    assert unpacked(tmp_path, "tar.gz", tar_gz(GOOD, entry(tarfile.DIRTYPE, "images/"))) == list(IMAGES)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_leaves_nothing(name, tmp_path):
    kind, content, says = HOSTILE[name]
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UserError, match=says):
        unpacked(inner, kind, content)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", f"images_001.{kind}"]


NO_ARCHIVES = {
    "empty": b"",
    "PK": b"PK",
    "gzip's first bytes": b"\x1f\x8b",
    "HTML": b"<html>",
    "gzip of text": gzip.compress(b"no tar"),
    "gzip of nothing": gzip.compress(b""),
}


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("content", NO_ARCHIVES.values(), ids=NO_ARCHIVES.keys())
def test_what_is_no_archive_is_damaged(kind, content, tmp_path):
    with pytest.raises(UserError, match=r"images_001\.\w.* is damaged \(.+\): delete it"):
        unpacked(tmp_path, kind, content)
    assert not (tmp_path / "unpacked").exists()


def test_archive_without_an_image_is_damaged(tmp_path):
    with pytest.raises(UserError, match="it holds no file"):
        unpacked(tmp_path, "zip", zipped({}))


@pytest.mark.parametrize(("kind", "content"), [("tar.gz", tar_gz(GOOD)), ("zip", zipped(GOOD))], ids=["tar.gz", "zip"])
def test_cut_archive_is_damaged(kind, content, tmp_path):
    for length in range(0, len(content), 97):
        with pytest.raises(UserError, match="is damaged"):
            unpacked(tmp_path, kind, content[:length])
        assert not (tmp_path / "unpacked").exists()


def test_damaged_header_is_not_the_end(tmp_path):
    """tarfile takes it for the end, and would give the files before it alone."""
    plain = bytearray(gzip.decompress(tar_gz(GOOD)))
    plain[2 * 1024 + 150] ^= 1  # in the third header
    with pytest.raises(UserError, match="it goes on after its end"):
        unpacked(tmp_path, "tar.gz", gzip.compress(bytes(plain)))


@pytest.mark.parametrize("seed", range(4))
def test_wrong_bytes_never_get_into_an_image_silently(seed, tmp_path):
    """Bytes of both kinds of archive are changed, below their checksums too: all is right, or refused."""
    rng = np.random.default_rng(seed)
    for kind, content in (("tar.gz", tar_gz(GOOD)), ("zip", zipped(GOOD)), ("zip", compressed_zip(GOOD))):
        for _ in range(40):
            wrong = bytearray(content)
            for position in rng.integers(0, len(content), 2):
                wrong[position] = rng.integers(0, 256)
            try:
                names = unpacked(tmp_path, kind, bytes(wrong))
            except UserError:
                assert not (tmp_path / "unpacked").exists()
                continue
            found = contents(tmp_path / "unpacked")
            assert set(found) == set(names)
            assert {name: found[name] for name in IMAGES if name in found}.items() <= IMAGES.items()
            for name in names:
                (tmp_path / "unpacked" / name).unlink()
            (tmp_path / "unpacked").rmdir()


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_cancelling_leaves_nothing(kind, tmp_path):
    cancel = Cancel()
    content = zipped(GOOD) if kind == "zip" else tar_gz(GOOD)
    with pytest.raises(Cancelled):
        unpacked(tmp_path, kind, content, cancel, report=lambda count: cancel())
    assert not (tmp_path / "unpacked").exists()


def test_full_disk_is_named(tmp_path, monkeypatch):
    def full(source, target, length):
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(source.read(length))

    monkeypatch.setattr(datasets.download.unpack.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="the disk is full: .*unpacked cannot be written; free some space"):
        unpacked(tmp_path, "tar.gz", tar_gz(GOOD))
    assert not (tmp_path / "unpacked").exists()
