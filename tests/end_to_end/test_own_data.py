"""One's own images through all scripts: from other folders, under other paths, and new ones to measure a model on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.loading import TrainBatches
from scripts.compare_runs import differences
from utils.training.checkpoint import load_checkpoint

SMALL = ["--arch=resnet32_vae3", "--new-size=16", "--crop-size=16", "--epochs=1", "--batch-size=8", "--workers=0"]


def write_images(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)


def write_table(path: Path, names: list[str], part: str = "") -> None:
    rows = [f"{name},{name[0]}{',' * bool(part)}{part}" for name in names]
    path.write_text("\n".join([f"path,label{',split' if part else ''}", *rows]))


@pytest.fixture
def trained(script, tmp_path, monkeypatch):
    """A model of three classes a, b, c, trained on a table that was named from the folder above the images."""
    names = [f"{label}{number}.png" for label in "abc" for number in range(8)]
    write_images(tmp_path / "photos", names)
    write_table(tmp_path / "labels.csv", names)
    (tmp_path / "names.txt").write_text("c cherry\na apple\nb berry\n")
    monkeypatch.chdir(tmp_path)
    places = ["--csv=labels.csv", "--names=names.txt", "--datadir=photos", "--logdir=run"]
    assert script("train", "CSV", *SMALL, *places).status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run"


def test_run_goes_on_from_another_folder_and_by_other_names_of_its_files(trained, script, tmp_path):
    assert script("train", "CSV", "--resume=auto", "--epochs=2", f"--logdir={trained}").status == 0
    (tmp_path / "labels.csv").rename(tmp_path / "moved.csv")
    retrain = ["CSV", "--resume=auto", f"--logdir={trained}", "--epochs=1", "--workers=0"]
    gone = script("augment", *retrain)
    assert gone.status == 2
    assert gone.error.endswith("labels.csv cannot be read (No such file or directory): name the table with --csv")
    assert script("augment", *retrain, "--csv=../moved.csv").status == 0


def test_other_names_are_other_classes(trained, script, tmp_path):
    (tmp_path / "names.txt").write_text("a apple\nb berry\nc cherry\n")
    for name in ("train", "augment"):
        refused = script(name, "CSV", "--resume=auto", "--epochs=2", "--workers=0", f"--logdir={trained}")
        assert refused.status == 2
        assert (
            "was trained on other classes (3 of CSV, here 3; it has 'cherry' where this data has 'apple')"
            in refused.error
        )


def test_model_is_measured_on_new_images_of_some_of_its_classes(trained, script, tmp_path):
    new = ["b7.png", "c8.png", "c9.png"]
    write_images(tmp_path / "new", new)
    write_table(tmp_path / "new.csv", new, "test")
    measure = ["CSV", "--evaluate", f"--resume={trained}/checkpoint.pth", "--workers=0", "--csv=../new.csv"]
    measured = script("train", *measure, "--datadir=../new", "--logdir=found", "--bad-images=skip")
    assert measured.status == 0
    assert "no test image of class apple" in measured.err
    assert "not the test images of the training" in measured.err
    rows = Path("found/predictions_eval.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["b7.png", "2"], ["c8.png", "0"], ["c9.png", "0"]]


def test_new_images_of_another_class_are_refused(trained, script, tmp_path):
    write_images(tmp_path / "new", ["test/apple/1.png", "test/plum/1.png"])
    measure = ["ImageFolder", "--evaluate", f"--resume={trained}/checkpoint.pth", "--workers=0", "--logdir=found"]
    refused = script("train", *measure, "--datadir=../new", "--new-size=16", "--crop-size=16")
    assert refused.status == 2
    told = "the data has 1 class (plum) that the model has not; the model has 3 classes (cherry, apple, berry)"
    assert told in refused.error
    (tmp_path / "new/test/plum/1.png").unlink()
    (tmp_path / "new/test/plum").rmdir()
    measured = script("train", *measure, "--datadir=../new", "--new-size=16", "--crop-size=16")
    assert measured.status == 0
    assert "not the test images of the training" in measured.err  # of another kind of data set, which may share some


@pytest.mark.parametrize(("part", "steps"), [("train", 5), ("test", 6)])
def test_image_that_cannot_be_read_loses_no_step_and_may_be_replaced(part, steps, script, tmp_path):
    names = [f"train/{label}/{number}.png" for label in "abc" for number in range(8)]
    write_images(tmp_path / "photos", [*names, *(name.replace("train", "test") for name in names)])
    train = ["ImageFolder", *SMALL, "--batch-size=4", f"--datadir={tmp_path}/photos", "--resume=auto"]
    assert script("train", *train, f"--logdir={tmp_path}/whole").status == 0
    last = names[list(TrainBatches(len(names), 4, seed=0))[-1][-1].index]
    bad = tmp_path / "photos" / last.replace("train", part)
    content = bad.read_bytes()
    bad.write_bytes(content[:60])
    broken = script("train", *train, f"--logdir={tmp_path}/broken")
    assert broken.status == 2
    assert broken.error.endswith("(the PNG is cut off or damaged): replace it")
    assert load_checkpoint(tmp_path / "broken/checkpoint.pth")["step"] == steps
    assert f"saved after epoch 1/1, step {steps} in" in broken.out
    bad.write_bytes(content)
    mended = script("train", *train, f"--logdir={tmp_path}/broken")
    assert mended.status == 0
    assert f"continuing after epoch 1/1, step {steps}\n" in mended.out
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


def test_image_that_cannot_be_read_costs_no_earlier_re_training(trained, script, tmp_path):
    retrain = ["CSV", f"--logdir={trained}", "--resume=auto", "--epochs=1", "--workers=0"]
    assert script("augment", *retrain).status == 0
    files = ["checkpoint_aug.pth", "metrics_aug.csv", "predictions_aug.csv", "args_aug.json"]
    before = [(trained / name).read_bytes() for name in files]
    (trained / "checkpoint_codes.pth").unlink()
    bad = tmp_path / "photos/b1.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:60])
    broken = script("augment", *retrain, "--overwrite", "--batch-size=5")
    assert broken.status == 2
    assert broken.error.endswith("(the PNG is cut off or damaged): replace it")
    assert [(trained / name).read_bytes() for name in files] == before
    bad.write_bytes(content)
    assert script("augment", *retrain, "--overwrite", "--batch-size=5").status == 0
    assert json.loads((trained / "args_aug.json").read_text())["arguments"]["batch_size"] == 5
    assert "codes: written to" in (trained / "log_aug.txt").read_text()  # which starts anew with this command
    assert "cut off" not in (trained / "log_aug.txt").read_text()


def test_re_training_says_where_an_epoch_is_one_batch(trained, script):
    retrain = ["CSV", f"--logdir={trained}", "--resume=auto", "--epochs=1", "--workers=0"]
    told = "--batch-size 19: only 18 codes an epoch, all in one batch"  # two of each class's eight are test images
    assert told in script("augment", *retrain, "--batch-size=19").err
    assert "all in one batch" not in script("augment", *retrain, "--batch-size=18", "--overwrite").err


def test_nothing_that_can_be_read_is_an_error_beside_the_table(trained, script, tmp_path):
    (tmp_path / "gone.txt").write_text("none.png\nneither.png")
    refused = script("predict", trained / "checkpoint.pth", tmp_path / "gone.txt", f"--out={tmp_path}/out.csv")
    assert refused.status == 2
    assert f"none of 2 images can be read: see the column error of {tmp_path}/out.csv" in refused.error
    assert (tmp_path / "out.csv").read_text().count("No such file") == 2
