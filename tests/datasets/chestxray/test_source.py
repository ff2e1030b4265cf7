"""Where ChestX-ray14 comes from: NIH's list as published, and manifests of mirrors, good and malformed."""

import hashlib
import json
import re

import pytest

from datasets.chestxray import source
from datasets.chestxray.source import IMAGES, LISTED, OFFICIAL, images_folder, list_problem, read_manifest
from datasets.download.remote import RemoteFile
from utils.errors import UserError

TEXTS = ["Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"]


def entry(name: str, **changes: object) -> dict:
    return {"name": name, "url": f"http://mirror.example/{name}", "bytes": 10} | changes


def entries(*archives: dict) -> list[dict]:
    return [*map(entry, TEXTS), *(archives or [entry("images_001.zip"), entry("images_002.tar.gz")])]


def manifest(tmp_path, content: object):
    path = tmp_path / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_official_list_is_the_published_one():
    archives = OFFICIAL.archives
    assert [archive.name for archive in archives] == [f"images_{number:03d}.tar.gz" for number in range(1, 13)]
    assert sum(archive.size for archive in archives) == 45_079_862_784
    assert len({archive.url for archive in archives}) == len({archive.md5 for archive in archives}) == 12
    for archive in archives:
        assert re.fullmatch(r"https://nihcc\.box\.com/shared/static/[a-z0-9]{32}\.gz", archive.url)
        assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
    assert [(file.name, file.size) for file in OFFICIAL.texts] == [
        ("Data_Entry_2017_v2020.csv", 9_003_496),
        ("train_val_list.txt", 1_470_907),
        ("test_list.txt", 435_131),
    ]
    assert [file.sha256[:8] for file in OFFICIAL.texts[1:]] == ["61fbe896", "38ca5ef7"]
    assert sum(LISTED.values()) == IMAGES == 4_999 + 10 * 10_000 + 7_121


def test_official_archives_hold_the_images_in_order():
    assert list(OFFICIAL.last_images) == sorted(OFFICIAL.last_images)
    names = [archive.name for archive in OFFICIAL.holders(["00001335_006.png", "00001336_000.png", "00030805_000.png"])]
    assert names == ["images_001.tar.gz", "images_002.tar.gz", "images_012.tar.gz"]
    assert OFFICIAL.holders(["99999999_000.png"]) == OFFICIAL.archives[-1:]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("Data_Entry_2017_v2020.csv", "Image Index,Finding Labels\n" + "x\n" * IMAGES, None),
        (".Data_Entry_2017_v2020.csv.part", "Image Index,Finding Labels\n" + "x\n" * IMAGES, None),
        ("Data_Entry_2017.csv", "Image Index,Finding Labels\n" + "x\n" * 5, "5 rows, 112,120 are published"),
        ("Data_Entry_2017.csv", "Name,Label\n" + "x\n" * IMAGES, "its first line does not start with 'Image Index'"),
        ("Data_Entry_2017.csv", "", "its first line does not start with 'Image Index'"),
        ("Data_Entry_2017.csv", b"Image Index\xff\xfe", "it is no text in UTF-8"),
        ("Data_Entry_2017.csv", "\ufeffImage Index,Finding Labels\r\n" + "x\r\n" * IMAGES, None),
        ("train_val_list.txt", "anything", None),
    ],
    ids=["good", "part", "too few rows", "other header", "empty", "no text", "of a Windows editor", "list"],
)
def test_content_of_the_label_file(name, content, problem, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert OFFICIAL.problem_of_text(path) == problem


def test_manifest_gives_texts_and_archives_in_order(tmp_path):
    upper = "ABCDEF0123456789" * 2
    source = read_manifest(manifest(tmp_path, entries(entry("b.zip", md5=upper), entry("a.tgz", sha256=upper * 2))))
    assert [file.name for file in source.texts] == TEXTS
    assert [(file.name, file.md5, file.sha256) for file in source.archives] == [
        ("b.zip", upper.lower(), None),
        ("a.tgz", None, upper.lower() * 2),
    ]
    assert not source.official
    assert source.holders(["00000001_000.png"]) == source.archives
    assert source.problem_of_text(tmp_path / "Data_Entry_2017.csv") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ({"files": []}, "it is not a list"),
        ([1], "entry 1 is not an object with name, url, bytes, md5, sha256"),
        (entries(entry("a.zip", sha="1")), "entry 4 has 'sha', which is none of"),
        ([{"url": "http://a/b", "bytes": 1}], "entry 1: name None is not the plain name"),
        (entries(entry("../a.zip")), "entry 4: name '../a.zip' is not the plain name"),
        (entries(entry(".a.zip")), "entry 4: name '.a.zip' is not the plain name"),
        (entries(entry("a.zip", url="file:///etc/passwd")), "a.zip: url 'file:///etc/passwd' is not an http"),
        (entries(entry("a.zip", url="http://a/b c")), "a.zip: url .* is not an http"),
        (entries(entry("a.zip", bytes=0)), "a.zip: bytes 0 is not a positive"),
        (entries(entry("a.zip", bytes="10")), "a.zip: bytes '10' is not a positive"),
        (entries(entry("a.zip", bytes=True)), "a.zip: bytes True is not a positive"),
        (entries(entry("a.zip", md5="abc")), "a.zip: md5 'abc' is not 32 hexadecimal digits"),
        (entries(entry("a.zip", sha256=7)), "a.zip: sha256 7 is not 64 hexadecimal digits"),
        (entries(entry("a.zip"), entry("a.zip")), "a.zip is there twice"),
        (entries(entry("a.zip"), entry("images_a.tar.gz")), "two archives give one folder"),
        (entries(entry("a.rar")), "a.rar is neither label file nor list nor archive"),
        (entries()[1:], "it names 0 label files"),
        ([*entries(), entry("Data_Entry_2017_v2020.csv")], "it names 2 label files"),
        ([each for each in entries() if each["name"] != "test_list.txt"], "it names no test_list.txt"),
        (entries()[:3], "it names no archive"),
    ],
    ids=[
        "cut",
        "deep",
        "no list",
        "no object",
        "unknown key",
        "no name",
        "path",
        "hidden",
        "file url",
        "blank in url",
        "no bytes",
        "bytes as text",
        "bytes as truth",
        "short md5",
        "sha256 as number",
        "twice",
        "one folder",
        "other archive",
        "no labels",
        "two label files",
        "no test list",
        "no archive",
    ],
)
def test_malformed_manifest_is_named(content, says, tmp_path):
    with pytest.raises(UserError, match=rf"--dataset-manifest {tmp_path}.*{says}"):
        read_manifest(manifest(tmp_path, content))


def test_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/none.json cannot be read"):
        read_manifest(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("archive", "folder"),
    [("images_001.tar.gz", "images_001"), ("images_01.zip", "images_01"), ("batch2.tgz", "images_batch2")],
)
def test_folder_of_an_archive_is_one_in_which_images_are_found(archive, folder):
    assert images_folder(archive) == folder


def test_lists_of_as_many_images_that_are_not_nihs_are_named(tmp_path, monkeypatch):
    """In another order or format they are the same lists."""
    names = [f"{patient:08d}_000.png" for patient in range(1, 5)]
    sha256 = hashlib.sha256("\n".join(names).encode()).hexdigest()
    published = RemoteFile("test_list.txt", "", len("\n".join(names)), sha256=sha256)
    monkeypatch.setattr(source, "_TEXTS", (published,))
    monkeypatch.setitem(LISTED, False, 4)
    converted = [name.replace(".png", ".jpg") for name in reversed(names)]
    assert list_problem(tmp_path, False, names) is list_problem(tmp_path, False, converted) is None
    other = [*names[:3], "00000009_000.png"]
    assert list_problem(tmp_path, False, other) == f"{tmp_path} names other images than NIH's"
