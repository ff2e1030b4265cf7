"""ImageFolder and ImageNet: what is found in class folders, in which order, and what is refused."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DATASETS
from datasets.splits import load_splits, load_test, preprocessing_of
from helpers.data import data_args
from helpers.limits import without_privileges
from utils.errors import UserError
from utils.training.layout import SUFFIXES


def write(root: Path, *names: str) -> Path:
    """Write small images of noise, each another one."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format={".jpg": "jpeg"}.get(path.suffix.lower()))
    return root


def load(root: Path, name: str = "ImageFolder", **options: object):
    return load_splits(data_args(name, root, **options), augment=False)


TREE = (
    *("train/cat/1.png", "train/cat/0.PNG", "train/cat/deep/er/2.Jpg", "train/dog/1.bmp", "train/dog/2.webp"),
    *("test/cat/9.tif", "test/dog/8.TIFF", "test/dog/7.jpeg"),
)


def test_classes_images_and_order(tmp_path):
    splits = load(write(tmp_path, *TREE))
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert splits.val is None
    expected = ["train/cat/0.PNG", "train/cat/1.png", "train/cat/deep/er/2.Jpg", "train/dog/1.bmp", "train/dog/2.webp"]
    assert splits.train.ids.tolist() == expected
    assert splits.train.targets.tolist() == [0, 0, 0, 1, 1]
    assert splits.test.ids.tolist() == ["test/cat/9.tif", "test/dog/7.jpeg", "test/dog/8.TIFF"]
    assert {part[index][0].shape for part in (splits.train, splits.test) for index in range(len(part))} == {(3, 28, 28)}


def test_jpeg_by_its_other_endings(tmp_path):
    names = ["train/cat/1.jfif", "train/dog/2.jpe", "train/dog/3.jpg", "test/cat/1.jpeg"]
    assert load(write(tmp_path, *names)).train.ids.tolist() == names[:3]


def test_folders_that_are_called_like_images_are_folders(tmp_path, caplog):
    names = ["train/a/1.jpg/0.png", "train/a/1.jpg/1.png", "train/v2.png/0.png", "test/a/0.png", "test/v2.png/0.png"]
    splits = load(write(tmp_path, *names))
    assert splits.train.ids.tolist() == names[:3]
    assert splits.train.classes == ("a", "v2.png")
    assert "beside the class folders" not in caplog.text


def test_labels_that_are_numbers_are_in_their_order(tmp_path):
    root = write(tmp_path, *(f"{part}/{label}/{part}.png" for part in ("train", "test") for label in (10, 9, 1, 0)))
    assert load(root).train.classes == ("0", "1", "9", "10")


@pytest.mark.parametrize(
    ("parts", "val", "test"),
    [
        (("train", "val"), 0, 4),
        (("Training", "validation", "TEST"), 4, 4),
        (("train",), 0, 2),  # a fifth of each class, and one at least
        (("",), 0, 2),
    ],
)
def test_parts_that_are_there(parts, val, test, tmp_path):
    names = [f"{part}/{label}/{number}.png".lstrip("/") for part in parts for label in "ab" for number in range(2)]
    if len(parts) == 1:
        names += [f"{parts[0]}/{label}/{number}.png".lstrip("/") for label in "ab" for number in range(2, 5)]
    splits = load(write(tmp_path, *names))
    assert len(splits.test) == test
    assert len(splits.val or ()) == val
    assert len(splits.train) == len(names) - val - test
    assert not set(splits.train.ids) & set(splits.test.ids)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        *(("training", "train"), ("valid", "val"), ("validation", "val"), ("dev", "val"), ("testing", "test")),
        *(("training_set", "train"), ("Val_Set", "val"), ("test_set", "test")),
        *(("Test-Set", "test"), ("test set", "test")),
    ],
)
def test_other_words_for_the_parts_are_understood(word, part, tmp_path):
    folders = {name: word if name == part else name for name in ("train", "val", "test")}
    splits = load(write(tmp_path, *(f"{folder}/{label}/1.png" for folder in folders.values() for label in "ab")))
    found = {name: {path.partition("/")[0] for path in data.ids} for name, data in splits._asdict().items()}
    assert found == {name: {folder} for name, folder in folders.items()}


def test_drawn_test_set_is_another_for_another_seed_and_apart_from_the_hold_out(tmp_path):
    root = write(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(20)))
    first, again, other = (load(root, subset_seed=seed, val_fraction=0.25) for seed in (0, 0, 1))
    assert first.test.fingerprint() == again.test.fingerprint() != other.test.fingerprint()
    parts = [set(part.ids) for part in first]
    assert [len(part) for part in parts] == [24, 8, 8]
    assert len(set.union(*parts)) == 40


@pytest.mark.parametrize("files", [["holdout/a/1.png"], [], ["holdout/a/1.png", "test/a/1.png"]])
def test_folder_that_may_be_meant_for_the_test_set_is_left_out_aloud(files, tmp_path, caplog):
    caplog.set_level("INFO", "dgcmm")
    (tmp_path / "holdout").mkdir()
    load(write(tmp_path, *(f"train/{label}/{number}.png" for label in "ab" for number in range(5)), *files))
    (told,) = (record for record in caplog.records if "left out: holdout, beside " in record.message)
    assert told.levelname == ("WARNING" if len(files) == 1 else "INFO")


def test_folder_whose_name_begins_with_a_dot_is_said_to_be_no_class(tmp_path, caplog):
    caplog.set_level("INFO", "dgcmm")
    (tmp_path / ".git").mkdir()
    load(write(tmp_path, *(f"{label}/{number}.png" for label in (".a", "b", "c") for number in range(5))))
    assert f"{tmp_path}: left out 1 folder (.a): the name begins with a dot" in caplog.messages


def test_folders_that_are_left_out_may_be_closed(tmp_path, monkeypatch):
    """As the dustbin of another user."""
    root = write(tmp_path, *(f"train/{label}/{number}.png" for label in "ab" for number in range(5)))
    closed = [root / name for name in ("train/.Trash-1001", "others")]
    for folder in closed:
        folder.mkdir()

    def listing(folder: str | Path) -> object:
        if Path(folder) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", listing)
    assert len(load(root).train) == 8


def test_links_are_followed_and_what_systems_leave_is_not_there(tmp_path, caplog):
    caplog.set_level("INFO", "dgcmm")
    root = write(tmp_path / "data", "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png")
    (root / "train/c").symlink_to(write(tmp_path / "elsewhere", "x.png"))
    (root / "train/a/up").symlink_to(root / "train/a")  # round in a circle
    for name in ("train/a/._1.png", "train/.ipynb_checkpoints/1.png", "train/__MACOSX/1.png", "cache/.lock"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    (root / "train/a/notes.txt").touch()
    (root / "train/a/phone.heic").touch()
    (root / "models").mkdir()
    write(root, "train/2.png", "train/1.png")
    (root / "train/b/again.png").symlink_to(root / "train/b/1.png")
    splits = load(root)
    assert splits.train.ids.tolist() == ["train/a/1.png", "train/b/1.png", "train/c/x.png"]
    said = "\n".join(caplog.messages)
    assert "left out: models, beside test, train" in said
    assert "train: left out 2 images (1.png, 2.png) beside the class folders" in said
    assert "left out 2 files that are no images: 1 .heic, 1 .txt (JPEG" in said
    assert "has 1 images twice, by links (train/b/again.png and train/b/1.png are one file): each is used once" in said
    assert said.count("a single training image, around which a re-training draws all codes: 3 classes (a, b, c)") == 1
    assert "no test image of class c" in said


def test_links_to_an_image_do_not_bring_it_into_training_and_test(tmp_path):
    root = write(tmp_path, *(f"{label}/{number}.png" for label in ("common", "rare") for number in range(10)))
    for number in range(10):
        for copy in range(9):
            (root / f"rare/{number}_{copy}.png").symlink_to(root / f"rare/{number}.png")
    splits = load(root, val_fraction=0.25)
    assert [len(part) for part in splits] == [12, 4, 4]
    files = [{(root / name).resolve() for name in part.ids} for part in splits]
    assert len(set.union(*files)) == 20


def spoil(root: Path, change: str) -> None:
    if change == "empty class":
        (root / "train/fox").mkdir()
    elif change == "no image in a class":
        (root / "train/fox").mkdir()
        (root / "train/fox/1.heic").touch()
    elif change == "test only":
        write(root, "test/fox/1.png", "test/fox/2.png")
    elif change == "another case":
        (root / "test/dog").rename(root / "test/Dog")
    elif change == "one level more":
        (root / "x").mkdir()
        for part in ("test", "train"):
            (root / part).rename(root / "x" / part)
    elif change == "one level more in a part":
        (root / "test").rename(root / "photos")
        (root / "test").mkdir()
        (root / "photos").rename(root / "test/photos")
    elif change == "parts below":
        for part in ("test", "train"):
            for label in ("cat", "dog"):
                (root / label).mkdir(exist_ok=True)
                (root / part / label).rename(root / label / part)
            (root / part).rmdir()
    elif change == "empty test":
        (root / "test").rename(root / "rest")
        (root / "test").mkdir()
    elif change == "test without an image":
        for path in (root / "test").rglob("*.*"):
            path.unlink()
    elif change == "linked":
        (root / "test/fox").symlink_to(root / "train/cat")
    elif change == "linked file":
        (root / "test/cat/link.png").symlink_to(next((root / "train/cat").rglob("*.*")))
    elif change == "links to one file":
        image = write(root.parent / "pool", "1.png") / "1.png"
        for label in ("cat", "dog"):
            (root / "train" / label / "link.png").symlink_to(image)
    elif change == "two names":
        write(root, "val/cat/1.png", "valid/cat/1.png")
    elif change == "no train":
        (root / "train").rename(root / "val")
    elif change == "no class folder":
        for path in root.rglob("*.*"):
            path.unlink()
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir()
        write(root, "1.png")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("empty class", r"train/fox has no image \(it is empty\): put some there"),
        ("no image in a class", r"train/fox has no image \(it has 1 .heic; JPEG, .* are read\): put some there"),
        ("test only", r"label 'fox' occurs in test only, 2 images \(test/fox/1.png, test/fox/2.png\): put"),
        ("another case", r"label 'Dog' occurs in test only, 2 images \(.*\), train has 'dog': put training"),
        (
            "one level more",
            r"has one class folder, x, with 2 folders \(test, train\): if .*, name that one, --datadir=.*/x$",
        ),
        ("one level more in a part", r"test has one class folder, photos, with 2 folders .*, move them to .*/test$"),
        (
            "parts below",
            "/cat has train and test in it: the parts stand above the classes, as train/cat/ and",
        ),
        ("empty test", "test has no class folder: put images into test/CLASS/, or delete it"),
        ("test without an image", "test has no image: put some there, or delete it"),
        ("linked", r"test/fox and train/cat are one folder \(a link\)"),
        ("linked file", r"test/cat/link.png and train/cat/.* are one file \(a link\): .* one part and one group$"),
        ("links to one file", r"train/dog/link.png and train/cat/link.png are one file \(a link\)"),
        ("two names", "has val and valid, both for val: rename one"),
        ("no train", "no training image in .*: put some into train/CLASS/"),
        (
            "no class folder",
            r"--datadir [^:]* has no class folder, only 1 image \(1.png\): put images into train/CLASS/",
        ),
    ],
)
def test_bad_tree_is_one_line(change, says, tmp_path):
    spoil(write(tmp_path, *TREE), change)
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_classes_that_differ_in_case_only_are_asked_about(caplog, tmp_path):
    names = [f"{label}/{number}.png" for label in ("Cat", "cat", "dog") for number in range(3)]
    assert load(write(tmp_path, *names)).train.classes == ("Cat", "cat", "dog")
    assert "classes whose names differ in case only: Cat, cat; is one of them misspelt?" in caplog.messages


def test_no_test_set_can_be_drawn_of_single_images(tmp_path):
    with pytest.raises(
        UserError, match="names no test set, and 20% of its 2 images cannot be drawn as one: that would"
    ):
        load(write(tmp_path, "a/1.png", "b/1.png"))


def test_folder_that_is_none_is_told_from_one_that_is_not_there(tmp_path):
    for place, says in ((write(tmp_path, "x.png") / "x.png", "is no folder"), (tmp_path / "y", "does not exist")):
        with pytest.raises(UserError, match=f"{says}: name the folder that holds the images"):
            load(place)


@pytest.mark.parametrize("names", [["train/a/1", "train/a/2", "test/a/1"], ["a/1", "a/2", "a/3"]])
def test_one_class_cannot_be_told_from_others(names, tmp_path):
    with pytest.raises(UserError, match="has one class, 'a': two at least are needed"):
        load(write(tmp_path, *(f"{name}.png" for name in names)))


def test_hold_out_beside_a_validation_set_is_refused(tmp_path):
    root = write(tmp_path, *(f"{part}/{label}/1.png" for part in ("train", "val", "test") for label in "ab"))
    with pytest.raises(UserError, match="--val-fraction 0.5: the data has a validation set of its own"):
        load(root, val_fraction=0.5, cache_size=30)
    assert not list(tmp_path.rglob("pixels.u8"))  # told before the images are read


@pytest.mark.parametrize("cache_size", [0, 30])
def test_unreadable_image_is_named_or_left_out(cache_size, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.images.preparation.MOST_BAD", 0.3)
    root = write(tmp_path, *TREE)
    bad = root / "train/cat/deep/er/2.Jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    splits = load(root, bad_images="skip", cache_size=cache_size, new_size=28)
    assert bad.relative_to(root).as_posix() not in splits.train.ids
    assert len(splits.train) == 4

    def read_all() -> None:
        part = load(root, cache_size=cache_size, new_size=28).train
        for index in range(len(part)):
            part[index]

    with pytest.raises(UserError, match=r"2.Jpg.* cannot be read|cannot be read \(train/cat/deep/er/2.Jpg\)"):
        read_all()


@pytest.mark.parametrize("kind", [None, "shift"])
def test_evaluation_is_the_same_from_a_cache_of_its_size(kind, tmp_path):
    """In colour, of wide and of small images."""
    root = write(tmp_path, *TREE)
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (50, 91, 3), dtype=np.uint8)).save(
        root / "test/cat/z.png"
    )
    plain, cached = (load(root, cache_size=size, train_transform=kind) for size in (0, 32))
    assert cached.test.cache is not None
    for index in range(len(plain.test)):
        assert np.array_equal(plain.test[index][0], cached.test[index][0])


def test_class_folder_without_an_image_is_left_out_of_the_test(caplog, tmp_path):
    root = write(tmp_path, *TREE, "train/fox/1.png", "train/fox/2.png")
    (root / "test/fox").mkdir()
    assert load(root).train.classes == ("cat", "dog", "fox")
    assert f"left out {root}/test/fox, which has no image (it is empty)" in caplog.messages
    assert "no test image of class fox: left out of auc, recall 0 in the means" in caplog.messages


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder_of_another_run_is_no_class(suffix, tmp_path):
    root = write(tmp_path, *(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)))
    write(root, "measured/figures/recall.png")
    (root / f"measured/.lock{suffix}").touch()
    assert load(root).train.classes == ("cat", "dog")


def test_class_of_the_name_of_the_cache_stays_a_class(tmp_path):
    root = write(tmp_path, *(f"{label}/{number}.png" for label in ("cache/sub", "cat") for number in range(3)))
    for _ in range(2):
        assert load(root, cache_size=16).train.classes == ("cache", "cat")
    assert (root / "cache/.lock").exists()


def test_folder_with_a_lock_that_is_left_out_is_named(tmp_path, caplog):
    caplog.set_level("INFO", "dgcmm")
    root = write(tmp_path, *(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)))
    (root / "owl/sub").mkdir(parents=True)
    (root / "owl/.lock").touch()
    (root / "dog/.lock").touch()  # of another program: there are images beside it
    assert load(root).train.classes == ("cat", "dog")
    assert "left out: owl, of a run or a cache (.lock)" in caplog.messages


@pytest.mark.parametrize("place", ["", "logs/first/", "logs/deeper/second/", "cat/third/"])
def test_pictures_of_an_earlier_run_are_no_class_and_of_none(place, tmp_path, caplog):
    caplog.set_level("INFO", "dgcmm")
    root = write(tmp_path, *(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)))
    write(root, f"{place}figures/recall.png")
    (root / f"{place}.lock").touch()
    (root / f"{place}args.json").touch()
    splits = load(root, logdir=str(root / "logs/new"))
    assert splits.train.classes == ("cat", "dog")
    assert {name.count("/") for name in (*splits.train.ids, *splits.test.ids)} == {1}
    assert "left out" in caplog.text


@pytest.mark.parametrize("place", ["train", "train/cat", "train/cat/old"])
def test_folder_of_a_run_among_the_images_is_refused(place, tmp_path):
    root = write(tmp_path, "train/cat/1.png", "train/cat/old/2.png", "train/dog/1.png", "test/cat/1.png")
    with pytest.raises(UserError, match=f"--logdir {root}/{place} has images of --datadir {root} in it: name a folder"):
        load(root, logdir=str(root / place))
    (root / "train/cat/run").mkdir()
    assert load(root, logdir=str(root / "train/cat/run")).train.ids.tolist()[0] == "train/cat/1.png"


@pytest.mark.parametrize("place", ["train/fox", "test", "fox"])
def test_link_that_leads_nowhere_is_told_in_place_of_a_class_or_a_part(place, tmp_path):
    """Of a disk that is not mounted."""
    root = write(tmp_path, *(name for name in TREE if place != "test" or name.startswith("train")))
    (root / place).symlink_to("/nowhere/fox")
    with pytest.raises(UserError, match=f"{root}/{place} is a link to /nowhere/fox, which cannot be reached: mend or"):
        load(root)


@pytest.mark.parametrize("name", ["test/cat/gone.png", "train/cat/deep/gone"])
def test_link_of_an_image_that_leads_nowhere_is_told_before_the_start(name, tmp_path):
    root = write(tmp_path, *TREE)
    (root / name).symlink_to("/nowhere/gone")
    with pytest.raises(UserError, match=rf"{root}: 1 link \({name}\) leading nowhere: mend or delete, or give --bad"):
        load(root)


def test_link_of_an_image_that_leads_nowhere_is_left_out_if_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.images.preparation.MOST_BAD", 0.3)
    root = write(tmp_path, *TREE)
    (root / "train/dog/3.png").symlink_to("/nowhere/3.png")
    assert load(root, bad_images="skip").train.ids.tolist() == sorted(name for name in TREE if "train" in name)


@pytest.mark.parametrize("place", ["train", "train/cat"])
def test_folder_that_may_be_listed_and_not_entered_is_named(place):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        root = write(Path(folder) / "data", *TREE)
        (root / place).chmod(0o644)
        try:
            with without_privileges(), pytest.raises(UserError, match=f"{root}/{place} cannot be read .Permission den"):
                load(root)
        finally:
            (root / place).chmod(0o755)


def test_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    root, scan = write(tmp_path, *TREE), os.scandir

    def refused(place):
        if Path(place).name == "cat":
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"cat cannot be read \(Permission denied\)"):
        load(root)


@pytest.mark.parametrize("logdir", ["", "logs/run", "run"])
def test_folders_of_the_run_are_no_classes(logdir, tmp_path, monkeypatch):
    root = write(tmp_path, *(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)))
    write(root, f"{logdir}/figures/recall.png".lstrip("/"))
    (root / logdir / "aug").mkdir()
    (root / logdir / ".lock").touch()
    monkeypatch.chdir(root)
    assert load(root, logdir=logdir).train.classes == ("cat", "dog")


@pytest.mark.parametrize("label", ["aug", "figures"])
def test_class_of_the_name_of_a_runs_folder_is_not_lost(label, tmp_path):
    """It is told where the run would write into it, and a class where an earlier run lies beside it."""
    names = [f"{name}/{number}.png" for name in (label, "cat", "dog") for number in range(3)]
    root = write(tmp_path, *names)
    with pytest.raises(UserError, match=f"{root}/{label} has images that no run has drawn, and the run in --logdir"):
        load(root, logdir=str(root))
    (root / "args.json").touch()
    (root / ".lock").touch()
    assert load(root, logdir=str(root / "run")).train.classes == tuple(sorted((label, "cat", "dog")))


def test_name_follows_a_label_with_blanks(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("dog\ngolden dog the golden one\n")
    root = write(tmp_path / "data", *(f"{label}/{n}.png" for label in ("dog", "golden dog") for n in range(3)))
    assert load(root, names=str(names)).train.classes == ("dog", "the golden one")


def test_names_order_and_name_the_classes(tmp_path):
    root = write(tmp_path / "data", *TREE)
    names = tmp_path / "names.txt"
    names.write_text("dog\tCanis familiaris\ncat, a cat\n", encoding="utf-8-sig")
    splits = load(root, names=str(names))
    assert splits.train.classes == ("Canis familiaris", "a cat")
    assert splits.train.targets.tolist() == [1, 1, 1, 0, 0]
    for text, says in (
        ("dog\n", r"lacks 1 label \(cat\) of the data: correct it"),
        ("dog\ncat\nfox", r"names 1 label \(fox\) that the data has not"),
        ("dog\nKatze", r"lacks 1 label \(cat\) of the data and names 1 label \(Katze\) that the data has not"),
        ("dog\ndog\ncat", "names 'dog' twice"),
        ("dog pet\ncat pet", "gives two labels the name 'pet'"),
    ):
        names.write_text(text)
        with pytest.raises(UserError, match=says):
            load(root, names=str(names))


@pytest.mark.parametrize("labels", [("cat", "dog"), ("Hund", "eine Katze")])
def test_new_images_may_be_sorted_by_the_names_of_the_classes(labels, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("dog\tHund\ncat\teine Katze\n")
    root = write(tmp_path / "data", *(f"test/{label}/1.png" for label in labels))
    args = data_args("ImageFolder", root, names=str(names))
    preprocessing = preprocessing_of({"dataset": "ImageFolder", "args": vars(args)})
    test = load_test(args, ("Hund", "eine Katze"), preprocessing)
    order = [1, 0] if "cat" in labels else [0, 1]
    assert test.targets.tolist() == order
    write(root, "test/fox/1.png")
    with pytest.raises(UserError, match=r"lacks [0-9] labels? \(.*fox\) of the data"):
        load_test(args, ("Hund", "eine Katze"), preprocessing)


def test_names_that_look_alike_are_told_apart(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = write(tmp_path / "data", *(f"train/{label}/1.png" for label in (composed, "tea")))
    names = tmp_path / "names.txt"
    names.write_text(f"{decomposed}\ntea\n")
    form = "the accent is stored in two forms, Unicode NFC and NFD"
    with pytest.raises(UserError, match=rf"data has not \('caf\\xe9' and 'cafe\\u0301': {form}\): correct it"):
        load(root, names=str(names))
    write(root, f"test/{decomposed}/1.png")
    with pytest.raises(UserError, match=rf"train has '{composed}' \('cafe\\u0301' and 'caf\\xe9': {form}\): put"):
        load(root)


def test_thousands_of_classes(tmp_path):
    image = write(tmp_path, "x.png") / "x.png"
    for number in range(2_000):
        folder = tmp_path / "data" / f"{number:05d}"
        folder.mkdir(parents=True)
        (folder / "1.png").hardlink_to(image)
        if number < 2:
            (folder / "2.png").hardlink_to(image)
    splits = load(tmp_path / "data")
    assert len(splits.train.classes) == 2_000
    assert (len(splits.train), len(splits.test)) == (2_000, 2)


def test_imagenet_is_train_and_val_and_says_what_lacks(tmp_path, caplog):
    root = write(tmp_path, *(f"{part}/{wnid}/{part}.JPEG" for part in ("train", "val") for wnid in ("n02", "n01")))
    write(root, "train/n01/train2.JPEG")
    (root / "test").mkdir()  # ILSVRC's, without labels
    splits = load(root, "ImageNet")
    assert splits.train.classes == ("n01", "n02")
    assert splits.test.ids.tolist() == ["val/n01/val.JPEG", "val/n02/val.JPEG"]
    assert [message.partition(": ")[2] for message in caplog.messages if "published" in message] == [
        "train has 3 images, 1281167 are published: is it unpacked?",
        "val has 2 images, 50000 are published: is it unpacked?",
    ]


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (["train/n01/1.JPEG", "train/n02/1.JPEG"], "val"),
        (["train/n01/1.JPEG", "train/n02/1.JPEG", "val/1.JPEG"], "val"),
        (["val/n01/1.JPEG", "val/n02/1.JPEG"], "train"),
        (["n01/1.JPEG", "n02/1.JPEG"], "train"),
    ],
)
def test_imagenet_without_a_part_is_not_divided_but_told_where_it_is(names, lacking, tmp_path):
    said = f"has no {lacking}/WNID/: unpack ILSVRC2012_img_{lacking}.tar of image-net.org there, each class into"
    with pytest.raises(UserError, match=said):
        load(write(tmp_path, *names), "ImageNet")


def test_label_without_a_name_is_its_own_name(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("dog,\ncat,the cat\n")
    root = write(tmp_path / "data", *(f"{label}/{n}.png" for label in ("dog", "cat") for n in range(3)))
    assert load(root, names=str(names)).train.classes == ("dog", "the cat")


def test_label_with_a_blank_that_new_images_lack_is_not_taken_for_another(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\tKatze\ncat big\tGrosskatze\ndog\tHund\n")
    root = write(tmp_path / "data", "test/cat/1.png", "test/dog/1.png")
    args = data_args("ImageFolder", root, names=str(names))
    test = load_test(
        args, ("Katze", "Grosskatze", "Hund"), preprocessing_of({"dataset": args.dataset, "args": vars(args)})
    )
    assert test.targets.tolist() == [0, 2]


def test_images_to_be_measured_alone_are_those_of_the_test(tmp_path):
    """The training part may have classes that the model does not know, and links that lead nowhere."""
    root = write(tmp_path, *TREE, "train/fox/1.png")
    (root / "train/fox/2.png").symlink_to("/nowhere/2.png")
    args = data_args("ImageFolder", root)
    test = load_test(args, ("cat", "dog"), preprocessing_of({"dataset": "ImageFolder", "args": vars(args)}))
    assert test.ids.tolist() == ["test/cat/9.tif", "test/dog/7.jpeg", "test/dog/8.TIFF"]


@pytest.mark.parametrize("alone", [True, False])
def test_part_of_the_images_that_is_measured_alone_is_told_aloud(alone, tmp_path, caplog):
    caplog.set_level("INFO", "dgcmm")
    root = write(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(10)))
    args = data_args("ImageFolder", root)
    if alone:
        load_test(args, ("a", "b"), preprocessing_of({"dataset": "ImageFolder", "args": vars(args)}))
    else:
        load(root)
    (told,) = (record for record in caplog.records if "4 of 20 images" in record.message)
    assert (told.levelname, "to measure all" in told.message) == (("WARNING", True) if alone else ("INFO", False))


def test_test_set_may_have_one_class_alone_and_folders_in_it(tmp_path):
    """By patient, for example; where there are no training images too."""
    root = write(tmp_path / "data", *(f"train/{label}/{place}/1.png" for label in "ab" for place in ("p1", "p2")))
    write(root, "test/a/p3/1.png", "test/a/p4/1.png")
    assert load(root).test.targets.tolist() == [0, 0]
    new = write(tmp_path / "new", "test/b/p5/1.png", "test/b/p6/1.png")
    args = data_args("ImageFolder", new)
    test = load_test(args, ("a", "b"), preprocessing_of({"dataset": "ImageFolder", "args": vars(args)}))
    assert test.targets.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (("fold1/cat/1", "fold1/dog/1", "fold2/cat/1", "fold2/dog/1"), True),
        (("cat/left/1", "cat/right/1", "dog/left/1", "dog/up/1"), False),
        (("cat/left/1", "cat/right/1", "dog/left/1", "dog/right/1", "dog/1"), False),
        (("cat/all/1", "cat/all/2", "dog/all/1", "dog/all/2"), False),
    ],
)
def test_class_folders_that_have_the_same_folders_in_them_are_asked_about(names, asked, caplog, tmp_path):
    load(write(tmp_path, *(f"{name}{number}.png" for name in names for number in range(2))))
    told = f"{tmp_path}: each of 2 class folders (fold1, fold2) has the same folders in it, 2 folders (cat, dog): if"
    assert any(message.startswith(told) for message in caplog.messages) is asked
    assert ("the same folders" in caplog.text) is asked


def test_imagenet_to_be_measured_alone_lacks_no_training_image(tmp_path, caplog):
    root = write(tmp_path, "val/n01/1.png", "val/n02/1.png")
    DATASETS["ImageNet"].load(data_args("ImageNet", root, test_alone=True))
    said = [message for message in caplog.messages if "are published" in message]
    assert said == [f"{tmp_path}: val has 2 images, 50000 are published: is it unpacked?"]
