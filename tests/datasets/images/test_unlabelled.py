"""Images that a user names, and what is wrong with those that cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images.unlabelled import UnlabelledImages, find_named
from utils.errors import UserError
from utils.preprocessing import Preprocessing

GREY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Five images below a folder, and files that are none."""
    for name in ("b.png", "a.JPG", "sub/10.tif", "sub/9.png", "other/x.bmp"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        GREY.save(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.txt").write_text("notes")
    (tmp_path / "photos/.b.png").write_bytes(b"")
    return tmp_path / "photos"


def names(*sources):
    return [image.name for image in find_named([str(source) for source in sources])]


def test_folder_gives_all_images_below_it_sorted_and_sources_keep_their_order(folder):
    below = ["a.JPG", "b.png", "other/x.bmp", "sub/10.tif", "sub/9.png"]
    assert names(folder) == [f"{folder}/{name}" for name in below]
    assert names(folder / "sub" / "9.png", f"{folder}/other/") == [f"{folder}/sub/9.png", f"{folder}/other/x.bmp"]


def test_names_that_no_other_program_can_read_from_the_table_are_told(folder, caplog):
    names(folder)
    assert "UTF-8" not in caplog.text
    for name in ("n\udce9.png", "o\udce9.png"):  # as Python reads a byte that is no UTF-8
        GREY.save(folder / name)
    names(folder)
    (told,) = (message for message in caplog.messages if "UTF-8" in message)
    assert "the names of 2 images are not UTF-8, the first '" in told
    assert "n\\udce9.png', nor is the table" in told


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "photos/b.png\n\n  photos/sub/9.png \nphotos/gone.png"),
        ("table.csv", "id,File\n1,photos/b.png\n2,photos/sub/9.png\n3,photos/gone.png\n"),
        ("table.TSV", "image\tx\nphotos/b.png\t1\nphotos/sub/9.png\t2\nphotos/gone.png\t3"),
    ],
)
def test_lists_and_tables_name_images_from_their_own_folder_or_the_current_one(name, text, folder, monkeypatch):
    for place in (folder.parent, folder / "sub"):
        (place / name).write_text(text)
        monkeypatch.chdir(folder.parent)
        found = find_named([str(place / name)])
        assert [image.name for image in found] == ["photos/b.png", "photos/sub/9.png", "photos/gone.png"]
        errors = [bool(error) for _, error in UnlabelledImages([path for _, path in found], SMALL)]
        assert errors == [False, False, True]


def test_file_in_the_folder_of_a_list_comes_before_one_in_the_current_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("photos/b.png\nphotos/new.png")
    (tmp_path / "current/photos").mkdir(parents=True)
    for name in ("b.png", "new.png"):
        GREY.save(tmp_path / "current/photos" / name)
    monkeypatch.chdir(tmp_path / "current")
    assert [image.path for image in find_named([f"{tmp_path}/list.txt"])] == [f"{folder}/b.png", "photos/new.png"]


SMALL = Preprocessing(colour=True, resize="centre", cache_size=0, new_size=8, crop_size=6)


@pytest.mark.parametrize("colour", [True, False])
def test_image_that_cannot_be_read_is_black_and_says_why(colour, folder):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    paths = [str(folder / name) for name in ("a.JPG", "b.png", "gone.png")]
    data = UnlabelledImages(paths, SMALL._replace(colour=colour))
    (image, error), (damaged, why), (missing, lacking) = data[0], data[1], data[2]
    assert image.shape == damaged.shape == missing.shape == (3 if colour else 1, 6, 6)
    assert (error, bool(image.any()), bool(damaged.any())) == ("", True, False)
    assert image.dtype == damaged.dtype == torch.uint8
    assert "b.png cannot be read" in why
    assert "No such file" in lacking


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("gone", None, "there is no"),
        ("none.csv", "name,label\na.png,1\n", "has no column path or file or image, but name, label"),
        ("hole.csv", "path,label\na.png,1\n\n,2\n", "row 4: the column path is empty"),
        ("torn.csv", 'path\na.png\n"b.png\nc.png"\n', "row 3: the column path has several lines"),
        ("comma.csv", "path,label\na.png,1\nphoto, of cat.jpg,0\n", "row 3: more cells than the header has: quote"),
        ("empty.csv", "path\n", "names no image"),
        ("empty.txt", "\n", "names no image"),
        ("model.pth", "x", "is no image by the ending of its name"),
        ("bytes.txt", "a\0b", "UTF-16 without a mark, or no text"),
    ],
)
def test_bad_source_is_named_with_a_remedy(name, text, expected, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}.*{expected}|{expected}.*{name}") as raised:
        find_named([str(tmp_path / name)])
    assert any(words in str(raised.value) for words in ("name an image (JPEG", "the column", "quote a name"))


def test_folder_without_an_image(tmp_path):
    with pytest.raises(UserError, match="names no image"):
        find_named([str(tmp_path)])
    (tmp_path / "scan.dcm").write_bytes(b"x")
    with pytest.raises(UserError, match="has 1 files, but none is an image"):
        find_named([str(tmp_path)])


def test_files_of_a_folder_that_are_no_images_are_told(folder, caplog):
    for name in ("1.HEIC", "2.heic", "3.gif"):
        (folder / name).write_bytes(b"x")
    assert names(folder)
    assert f"{folder}: left out" in caplog.text
    assert "2 .heic" in caplog.text
