"""Images below a folder: found in any layout, and by the names of a list."""

import os
from pathlib import Path

import pytest

from datasets.images.finder import by_folder, find_images, locate
from utils.errors import UserError


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_images_are_found_in_every_folder_in_the_order_of_the_names(tmp_path):
    paths = ["b.png", "z.JPG", "Images/a.PNG", "data/images/c.jpeg", "images_001/images/d.tif", "images_001/x.webp"]
    touch(tmp_path, *paths[::-1], "notes.txt", "images_001/labels.csv")
    assert find_images(tmp_path) == [*paths[:4], "images_001/x.webp", "images_001/images/d.tif"]


def test_folder_that_is_called_like_an_image_is_a_folder(tmp_path):
    touch(tmp_path, "a.jpg/a.jpg", "b.png")
    (tmp_path / "c.png").symlink_to("c.png")  # in a circle: an image that cannot be read
    assert find_images(tmp_path) == ["b.png", "c.png", "a.jpg/a.jpg"]


@pytest.mark.parametrize(
    "left", ["._b.png", "__MACOSX/b.png", ".hidden/b.png", "@eaDir/b.png/thumb.jpg", "lost+found/b.png", ".b.png.part"]
)
def test_what_systems_leave_is_no_image(left, tmp_path):
    touch(tmp_path, "b.png", left)
    assert find_images(tmp_path) == ["b.png"]


def test_links_are_followed_and_a_folder_is_listed_once(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path, "elsewhere/a.png", "root/b.png", "elsewhere/deep/c.png")
    (root / "linked").symlink_to("../elsewhere")
    (root / "linked again").symlink_to("../elsewhere/deep")
    (tmp_path / "elsewhere" / "back").symlink_to("../root")
    (root / "d.png").symlink_to("../elsewhere/a.png")
    (root / "broken").symlink_to("nowhere")
    assert find_images(root) == ["b.png", "d.png", "linked/a.png", "linked/deep/c.png"]


def test_folder_of_files_and_folders_comes_once():
    """Where the names of its files lie on both sides of that of a folder."""
    paths = ["a/1.jpg", "a/2.jpg", "a/10/x.jpg", "b.jpg", "a/10/y.jpg"]
    grouped = [(folder, list(inside)) for folder, inside in by_folder(paths)]
    assert grouped == [("", ["b.jpg"]), ("a", ["a/1.jpg", "a/2.jpg"]), ("a/10", ["a/10/x.jpg", "a/10/y.jpg"])]


def test_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=rf"{tmp_path / 'none'} cannot be listed \(No such file"):
        find_images(tmp_path / "none")
    (tmp_path / "secret").mkdir()
    original = os.scandir

    def scandir(place: Path):
        if place.name == "secret":
            raise PermissionError(13, "Permission denied")
        return original(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"secret cannot be listed \(Permission denied\)"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("files", "path", "converted"),
    [
        (["images/a.png"], "images/a.png", False),
        (["images/a.PNG"], "images/a.PNG", False),
        (["images/a.jpg"], "images/a.jpg", True),
        (["a.jpg", "b/a.PNG", "c/a.png"], "c/a.png", False),
        (["a.jpg", "b/a.PNG"], "b/a.PNG", False),
        (["images/b.png", "images/A.png", "images/xa.png"], None, False),
    ],
    ids=["as listed", "case", "format", "as listed first", "case before format", "others"],
)
def test_listed_image_is_located(files, path, converted):
    located = locate(["a.png"], files)
    assert located.paths == ({"a.png": path} if path else {})
    assert located.converted == ([path] if converted else [])
    assert located.twice == []


def test_of_two_files_the_one_where_images_lie_counts_and_both_are_told():
    files = ["backup/a.png", "images/a.png", "images_002/a.png", "x/b.png"]
    located = locate(["a.png", "b.png", "a.png"], files)
    assert located.paths == {"a.png": "images/a.png", "b.png": "x/b.png"}
    assert located.twice == [("images/a.png", "images_002/a.png")]
