"""iNaturalist2017: the two JSON files, with images below their super-categories."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datasets import DATASETS
from datasets.splits import load_splits
from helpers.data import data_args
from utils.errors import UserError

INATURALIST = DATASETS["iNaturalist2017"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A category in each super-category, with two training images and one for the test; Aves has a second category."""
    supers = [*INATURALIST.classes, "Aves"]
    categories = [{"id": n, "name": f"c{n}", "supercategory": name} for n, name in enumerate(supers)]
    for name, each in (("train2017.json", 2), ("val2017.json", 1)):
        images, annotations = [], []
        for category in categories:
            for number in range(each):
                image = 1000 * category["id"] + number
                file = f"train_val_images/{category['supercategory']}/{category['name']}/{name[0]}{number}.jpg"
                images.insert(0, {"id": image, "file_name": file})
                annotations.append({"image_id": image, "category_id": category["id"]})
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 8)).save(tmp_path / file)
        content = {"categories": categories, "images": images, "annotations": annotations}
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_classes_are_the_super_categories(root):
    splits = load_splits(data_args("iNaturalist2017", root), augment=False)
    assert splits.train.class_counts == [2, 2, 2, 2, 4, *[2] * 8]
    assert splits.test.class_counts == [1, 1, 1, 1, 2, *[1] * 8]
    for part in (splits.train, splits.test):
        labels = [name.split("/")[1] for name in part.ids]
        assert labels == [part.classes[target] for target in part.targets]
    assert splits.train[0][0].shape == (3, 28, 28)


def test_published_totals():
    assert (sum(INATURALIST.train_counts), sum(INATURALIST.test_counts)) == (579_184, 95_986)
    assert len(INATURALIST.classes) == 13


def test_what_lacks_or_is_damaged_is_said(root):
    args = data_args("iNaturalist2017", root)
    (root / "train_val_images/Aves/c4/t0.jpg").unlink()
    with pytest.raises(UserError, match=r"1 image \(.*Aves/c4/t0.jpg\) of 28 in train2017.json not found: unpack"):
        load_splits(args)
    text = (root / "train2017.json").read_text()
    for content, says in (
        (text[:-9], "is not iNaturalist's"),
        (text.replace("Fungi", "Fungus"), "super-category 'Fungus'"),
        (text.replace("Aves/c4/t1", "Aves/c4/t0"), r"train2017.json names 1 image \(.*Aves/c4/t0.jpg\) more than once"),
        (
            text.replace('"train_val_images/Aves/c4/t1.jpg"', "null"),
            r"is not iNaturalist's \(TypeError: None is no name",
        ),
        (text.replace('"Aves"', "null").replace("Fungi", "Fungus"), "TypeError: None is no name"),
        ('{"images": []}', r"is not iNaturalist's \(KeyError: 'categories'\)"),
    ):
        (root / "train2017.json").write_text(content)
        with pytest.raises(UserError, match=says):
            load_splits(args)
    (root / "train2017.json").unlink()
    with pytest.raises(UserError, match=r"has no train2017.json: unpack train_val2017.zip"):
        load_splits(args)
