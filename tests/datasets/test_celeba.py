"""CelebA: the two lists as they are published, five colours of hair, some images with two."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DATASETS
from datasets.splits import load_splits
from helpers.data import data_args
from utils.errors import UserError

CELEBA = DATASETS["CelebA"]
HEADER = ["Arched_Eyebrows", "Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Young"]
LONG_TAIL = (8, 4, 3, 2, 1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 images, 10 of each colour and 10 without; every tenth is bald too; thirds are training, validation, test."""
    monkeypatch.setattr("datasets.celeba.TRAIN_COUNTS", LONG_TAIL)
    (tmp_path / "celeba/img_align_celeba").mkdir(parents=True)
    rows, parts = [], []
    for number in range(180):
        name = f"{number + 1:06d}.jpg"
        colour = (*CELEBA.classes, "")[number % 6]
        has = {colour, "Bald" if number % 10 == 0 else ""}
        rows.append(f"{name} " + " ".join(" 1" if attribute in has else "-1" for attribute in HEADER))
        parts.append(f"{name} {number // 60}")
        Image.new("RGB", (18, 22), "tan").save(tmp_path / "celeba/img_align_celeba" / name)
    (tmp_path / "celeba/list_attr_celeba.txt").write_text("\n".join(["180", " ".join(HEADER) + " ", *rows]) + "\n")
    (tmp_path / "celeba/list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return tmp_path


def test_classes_and_splits(root, caplog):
    splits = load_splits(data_args("CelebA", root, new_size=16, crop_size=16), augment=False)
    assert tuple(splits.train.class_counts) == LONG_TAIL
    assert splits.test.class_counts == [10, 10, 14, 10, 10]  # of the six every tenth, two are bald by their colour
    assert splits.test.ids[0] == "Blond_Hair/000121.jpg"
    assert splits.test.ids[1] == "Bald/000121.jpg"
    assert splits.test.groups[0] == splits.test.groups[1]
    assert len(set(splits.test.ids)) == len(splits.test)
    single = "a single training image, around which a re-training draws all codes: 1 class (Gray_Hair)"
    assert caplog.messages == [single]
    assert {int(name[-10:-4]) <= 60 for name in splits.train.ids} == {True}
    assert splits.train[0][0].shape == (3, 16, 16)
    other = load_splits(data_args("CelebA", root / "celeba", subset_seed=1))
    assert other.test.fingerprint() == splits.test.fingerprint()
    assert other.train.fingerprint() != splits.train.fingerprint()


def test_image_with_two_colours_is_not_held_out_with_one(root):
    splits = load_splits(data_args("CelebA", root, val_fraction=0.4))
    assert not np.intersect1d(splits.train.groups, splits.val.groups).size


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "list_attr_celeba.txt",
            None,
            "lacks list_attr_celeba.txt, .*: it cannot be downloaded",
        ),
        ("list_eval_partition.txt", None, "lacks list_eval_partition.txt of CelebA: it cannot be downloaded"),
        ("list_attr_celeba.txt", lambda text: text[:3000], "is not complete: its first line names 180 images"),
        ("list_attr_celeba.txt", lambda text: text.replace("Bald", "Bold"), "has no columns Blond_Hair"),
        ("list_attr_celeba.txt", lambda text: "180\n", "has no columns Blond_Hair, .* in its second line"),
        ("list_eval_partition.txt", lambda text: text.replace("000007.jpg 0\n", ""), r"lacks 1 image \(000007.jpg\)"),
        ("list_eval_partition.txt", lambda text: text.replace("000007.jpg 0\n", "000007.jpg\n"), "line 7: 2 columns"),
        (
            "list_eval_partition.txt",
            lambda text: text + "000007.jpg 2\n",
            r"names 1 image \(000007.jpg\) more than once",
        ),
        ("list_attr_celeba.txt", lambda text: text.replace("000008", "000007"), r"names 1 image \(000007.jpg\) more"),
        ("img_align_celeba/000001.jpg", None, r"\(img_align_celeba/000001.jpg.*\) of \d+ not found: unpack"),
    ],
)
def test_bad_files_are_one_line(name, change, says, root):
    path = root / "celeba" / name
    if change:
        path.write_text(change(path.read_text()))
    else:
        path.unlink()
    with pytest.raises(UserError, match=says) as caught:
        load_splits(data_args("CelebA", root))
    assert "\n" not in str(caught.value)


def test_published_totals():
    assert (sum(CELEBA.train_counts), sum(CELEBA.test_counts)) == (17_700, 12_728)
