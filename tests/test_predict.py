"""predict.py: the same numbers as the evaluation, a row for every image, and nothing half written."""

import errno
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from datasets import DATASETS
from helpers.data import load_part
from helpers.project import ROOT, SMALL_MODEL
from models.loading import TrainedModel, load_model
from utils.files import read_rows
from utils.stopping import Stopped
from utils.training.checkpoint import load_checkpoint, save_checkpoint

PAGE = (ROOT / "docs" / "predicting.md").read_text()


def assert_equal_to_the_evaluation(predicted: Path, evaluated: Path) -> None:
    """To the last digit: probabilities, and the class that has the largest."""
    found, expected = read_rows(predicted), read_rows(evaluated)
    columns = [name for name in expected[0] if name.startswith("p_")]
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert [row[name] for name in columns] == [other[name] for name in columns]
        assert row["prediction"] == columns[int(other["prediction"])].removeprefix("p_")
        assert row["confidence"] == max((row[name] for name in columns), key=float)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The test images of Digits_LT as PNGs, in their order."""
    folder, data = tmp_path_factory.mktemp("digits"), load_part("Digits_LT", "", train=False)
    for number, row in enumerate(data.rows):
        data.read(int(row)).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_memory_written_out_have_the_predictions_of_the_run(
    workers, script, tmp_path, trained_digits, digits
):
    checkpoint, out = tmp_path / "moved.pth", tmp_path / "out.csv"
    shutil.copyfile(trained_digits / "checkpoint.pth", checkpoint)
    codes = tmp_path / "codes.npz"
    flags = [f"--out={out}", f"--workers={workers}", f"--codes={codes}", "--batch-size=64"]  # that of the run
    done = script("predict", checkpoint, digits, *flags)
    assert done.status == 0, done.err
    assert_equal_to_the_evaluation(out, trained_digits / "predictions.csv")
    found = read_rows(out)
    assert (done.result["images"], done.result["errors"]) == (400, 0)
    counted = {name: sum(row["prediction"] == name for row in found) for name in "0123456789"}
    assert done.result["counts"] == counted
    shares = np.array([float(row["atypicality"]) for row in found])
    assert 0 <= shares.min() < shares.max() <= 1
    stored = np.load(codes)
    assert stored["files"].tolist() == [row["file"] for row in found]
    assert stored["mu"].shape == stored["log_var"].shape == (400, 32)
    model = load_model(checkpoint)
    classified = model.classify(model.transform(Image.open(digits / "000.png"))[None])
    np.testing.assert_allclose(stored["mu"][0], classified.mu[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stored["log_var"][0], classified.log_var[0], rtol=1e-4, atol=1e-5)


def test_x_rays_that_were_read_from_a_cache_have_the_predictions_of_the_run(script, tmp_path, chest_folder):
    """With RGBA among them; the cache resizes first."""
    folder, log = tmp_path / "data", tmp_path / "log"
    shutil.copytree(chest_folder, folder)
    flags = [*SMALL_MODEL, "--cache-size=24", "--epochs=1", "--max-steps=1", "--batch-size=32", "--generative"]
    assert script("train", "ChestXray", *flags, f"--datadir={folder}", f"--logdir={log}").status == 0
    names = [row["id"] for row in read_rows(log / "predictions.csv")]
    (folder / "list.txt").write_text("\n".join(f"images/{name}" for name in names))
    done = script("predict", log / "checkpoint.pth", folder / "list.txt", f"--out={tmp_path / 'out.csv'}", "-b=32")
    assert done.status == 0, done.err
    assert_equal_to_the_evaluation(tmp_path / "out.csv", log / "predictions.csv")
    assert [row["file"] for row in read_rows(tmp_path / "out.csv")] == [f"images/{name}" for name in names]


def test_image_that_cannot_be_read_has_its_row_and_the_others_theirs(script, tmp_path, trained_digits, digits):
    lines = [f"{digits}/000.png", "gone.png", f"{tmp_path}/cut.png", f"{digits}/001.png"]
    (tmp_path / "cut.png").write_bytes((digits / "002.png").read_bytes()[:50])
    (tmp_path / "list.txt").write_text("\n".join(lines))
    out, codes = tmp_path / "out.csv", tmp_path / "codes.npz"
    flags = [f"--out={out}", "--workers=0", f"--codes={codes}", "--quiet", "-b=1"]  # whole batches are bad
    done = script("predict", trained_digits / "checkpoint.pth", tmp_path / "list.txt", *flags)
    assert done.status == 0, done.err
    assert done.err == f"warning: 2 of 4 images cannot be read: column error of {out}\n"
    assert done.result == {"images": 4, "errors": 2, "counts": done.result["counts"]}
    assert sum(done.result["counts"].values()) == 2
    good, gone, cut, last = read_rows(out)
    assert [row["file"] for row in (good, gone, cut, last)] == lines
    assert good["prediction"]
    assert not good["error"]
    assert "gone.png cannot be read (No such file" in gone.pop("error").replace("[Errno 2] ", "")
    assert "cut off or damaged" in cut.pop("error")
    assert not any(value for row in (gone, cut) for name, value in row.items() if name != "file")
    assert np.load(codes)["files"].tolist() == [lines[0], lines[3]]


def test_model_whose_probabilities_are_not_finite_predicts_nothing(script, tmp_path, trained_digits, digits):
    stored = load_checkpoint(trained_digits / "checkpoint.pth")
    stored["state_dict"]["classifier.bias"][3] = np.nan
    save_checkpoint(tmp_path / "nan.pth", stored)
    done = script("predict", tmp_path / "nan.pth", digits / "000.png", f"--out={tmp_path / 'out.csv'}", "--workers=0")
    assert done.status == 2
    remedy = "the probabilities are not finite: give --amp=off; if they stay so, the checkpoint is of a training astray"
    assert done.error == f"error: {remedy}"
    assert not (tmp_path / "out.csv").exists()
    flags = ["-e", f"--resume={tmp_path}/nan.pth", f"--logdir={tmp_path}", "--workers=0"]
    assert script("train", "Digits_LT", *flags).error == f"error: {remedy}"  # no step has been taken here either


def test_checkpoint_without_distances_leaves_atypicality_empty(script, tmp_path, trained_digits, digits):
    """As those that were written before there was such an entry, and a way to prepare images."""
    old = load_checkpoint(trained_digits / "checkpoint.pth")
    for entry in ("preprocessing", "distance_quantiles"):
        del old[entry]
    del old["args"]["train_transform"]
    save_checkpoint(tmp_path / "old.pth", old)
    batch = ["--workers=0", "--batch-size=64"]  # that of the run
    done = script("predict", tmp_path / "old.pth", digits, f"--out={tmp_path / 'out.csv'}", *batch, "--quiet")
    assert done.status == 0, done.err
    assert done.err.count("atypicality stays empty") == 1
    assert_equal_to_the_evaluation(tmp_path / "out.csv", trained_digits / "predictions.csv")
    assert {row["atypicality"] for row in read_rows(tmp_path / "out.csv")} == {""}
    measured = script("train", "Digits_LT", "-e", f"--resume={tmp_path}/old.pth", f"--logdir={tmp_path}", *batch)
    assert measured.status == 0, measured.err
    assert (tmp_path / "predictions_eval.csv").read_bytes() == (trained_digits / "predictions.csv").read_bytes()


@pytest.mark.parametrize("exists", [False, True])
def test_interruption_leaves_no_file_and_an_existing_one_as_it_was(
    exists, script, tmp_path, trained_digits, digits, monkeypatch
):
    """In the second batch, when rows are there to be written."""
    out, calls, classify = tmp_path / "out.csv", [], TrainedModel.classify

    def stopped(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise Stopped(15)
        return classify(self, *arguments)

    monkeypatch.setattr(TrainedModel, "classify", stopped)
    if exists:
        out.write_text("precious")
    flags = ["--workers=0", "-b=64", f"--out={out}", f"--codes={tmp_path / 'codes.npz'}", "--overwrite"]
    done = script("predict", trained_digits / "checkpoint.pth", digits, *flags)
    assert done.status == 143
    assert [path.name for path in tmp_path.iterdir()] == (["out.csv"] if exists else [])
    assert not exists or out.read_text() == "precious"


@pytest.mark.parametrize("name", ["out.csv", "codes.npz"])
def test_full_disk_at_either_file_leaves_both_as_they_were(name, script, tmp_path, trained_digits, digits, monkeypatch):
    for existing in ("out.csv", "codes.npz"):
        (tmp_path / existing).write_text("precious")
    synced, original = [], os.fsync

    def full(number: int) -> None:
        path = os.readlink(f"/proc/self/fd/{number}")
        if f"/.{name}." in path:
            synced.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        original(number)

    monkeypatch.setattr(os, "fsync", full)
    flags = [f"--out={tmp_path / 'out.csv'}", f"--codes={tmp_path / 'codes.npz'}", "--overwrite", "--workers=0"]
    done = script("predict", trained_digits / "checkpoint.pth", digits / "000.png", *flags)
    assert done.status == 2
    assert f"the disk is full: {tmp_path / name} cannot be written" in done.error
    assert len(synced) == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("out.csv", "codes.npz"), "precious"
    )


COUNTS = [130, 110, 80, 60, 45, 35, 25, 20, 12, 6]


@pytest.mark.parametrize(
    ("kind", "changes", "shares", "approximate"),
    [
        ("train", {}, COUNTS, False),
        ("train", {"sampler": "sqrt"}, np.sqrt(COUNTS), False),
        ("train", {"sampler": "balanced"}, np.ones(10), False),
        ("train", {"loss": "logit-adjust"}, np.ones(10), False),
        ("train", {"loss": "logit-adjust", "sampler": "balanced"}, 1 / np.array(COUNTS), False),
        ("train", {"loss": "class-balanced"}, [n / (1 - 0.9999**n) for n in COUNTS], True),
        ("train", {"loss": "focal"}, COUNTS, True),
        ("train", {"mixup": 0.2}, COUNTS, True),
        ("train", {"generative": True}, COUNTS, True),
        ("aug", {}, np.ones(10), True),
        ("aug", {"generative": True}, np.ones(10), True),
        ("aug_ftl", {"rep_method": "get_rep_nums1"}, np.ones(10), True),
        ("aug_ftl", {"rep_method": "get_rep_nums2"}, [130, *[110] * 7, 20, 20], True),
    ],
)
def test_shares_that_the_classifier_was_trained_under(kind, changes, shares, approximate, caplog):
    args = {"loss": "ce", "sampler": "instance", "mixup": 0.0, "generative": False} | changes
    checkpoint = {"kind": kind, "epoch": 5, "class_counts": COUNTS, "args": args}
    found, about = predict.trained_shares(checkpoint)
    np.testing.assert_allclose(found, np.array(shares) / np.sum(shares))
    assert about is approximate
    predict.prior_correction("uniform", checkpoint | {"class_names": list("0123456789")})
    assert ("--prior is only approximate here" in caplog.text) is approximate


@pytest.mark.parametrize(("epoch", "weighted"), [(4, False), (5, True)])
def test_shares_of_ldam_count_class_weights_once_they_are_there(epoch, weighted):
    args = {"loss": "ldam-drw", "sampler": "instance", "mixup": 0.0, "generative": False}
    checkpoint = {"kind": "train", "epoch": epoch, "class_counts": COUNTS, "args": args, "reweighted_from": 4}
    found, about = predict.trained_shares(checkpoint)
    expected = np.array([n / (1 - 0.9999**n) if weighted else n for n in COUNTS])
    np.testing.assert_allclose(found, expected / expected.sum())
    assert about


def test_prior_corrects_the_probabilities_by_bayes_rule(script, tmp_path, trained_digits, digits):
    shares = np.array([0.5, 0.5, *[0.0] * 8])
    (tmp_path / "shares.csv").write_text("share;class\n" + "\n".join(f"{s};{c}" for c, s in enumerate(shares)))
    found = {}
    for prior in (None, "natural", "uniform", tmp_path / "shares.csv"):
        flags = [f"--prior={prior}"] if prior else []
        out = tmp_path / f"{len(found)}.csv"
        sources = [digits / f"{number:03d}.png" for number in range(0, 400, 50)]
        done = script("predict", trained_digits / "checkpoint.pth", *sources, f"--out={out}", "--workers=0", *flags)
        assert done.status == 0, done.err
        found[str(prior)] = read_rows(out)
    probabilities = {
        prior: np.array([[float(row[f"p_{c}"]) for c in range(10)] for row in table]) for prior, table in found.items()
    }
    plain = probabilities["None"]
    np.testing.assert_allclose(probabilities["natural"], plain, rtol=1e-5)  # trained under just these shares
    for prior, wanted in (("uniform", np.ones(10)), (str(tmp_path / "shares.csv"), shares)):
        weighted = plain * wanted / np.array(COUNTS)
        np.testing.assert_allclose(probabilities[prior], weighted / weighted.sum(axis=1, keepdims=True), rtol=1e-5)
        predictions = [int(row["prediction"]) for row in found[prior]]
        assert predictions == weighted.argmax(axis=1).tolist()


def test_shares_are_of_classes_by_their_names_as_they_are(tmp_path):
    """The name of a class folder may begin or end with a blank."""
    (tmp_path / "shares.csv").write_text('class,share\n" lead",0.25\n tail ,0.75\n')
    assert predict.read_shares(str(tmp_path / "shares.csv"), (" lead", "tail")) == [0.25, 0.75]


def test_named_prior_is_no_file_that_is_read(script, tmp_path, trained_digits, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [trained_digits / "checkpoint.pth", digits / "000.png", "--prior=uniform", "--out=uniform", "--workers=0"]
    assert script("predict", *words).status == 0
    assert len(read_rows(tmp_path / "uniform")) == 1


BAD = {
    "no checkpoint": (["TMP/none.pth", "IMAGE"], "there is no file TMP/none.pth"),
    "an image as checkpoint": (["IMAGE", "IMAGE"], "is damaged or no checkpoint"),
    "images before the checkpoint": (
        ["IMAGE", "RUN"],
        "RUN stands where the images should: the checkpoint comes",
    ),
    "codes as checkpoint": (["TMP/codes.pth", "IMAGE"], "is no checkpoint"),
    "no source": (["RUN"], "SOURCE"),
    "source that is not there": (["RUN", "TMP/gone"], "there is no TMP/gone"),
    "empty folder": (["RUN", "TMP/empty"], "TMP/empty names no image"),
    "unknown device file": (["RUN", "RUN"], "is no image by the ending"),
    "output that exists": (["RUN", "IMAGE", "--out=TMP/there.csv"], "--out TMP/there.csv exists: --overwrite it"),
    "predictions of a run": (
        ["RUN", "IMAGE", "--overwrite", "--out=TMP/of_run.csv"],
        "--out TMP/of_run.csv holds the test predictions of a run: name another file",
    ),
    "predictions that a run may still make": (
        ["RUN", "IMAGE", "--out=TMP/run/predictions_eval.csv"],
        "--out TMP/run/predictions_eval.csv is where the run in that folder writes its own: name another file",
    ),
    "checkpoint of a run": (
        ["RUN", "IMAGE", "--overwrite", "--out=TMP/run/checkpoint_prev.pth"],
        "--out TMP/run/checkpoint_prev.pth is where the run in that folder writes its own: name another file",
    ),
    "codes that exist": (["RUN", "IMAGE", "--codes=TMP/there.csv"], "--codes TMP/there.csv exists"),
    "output in no folder": (["RUN", "IMAGE", "--out=TMP/no/out.csv"], "there is no folder TMP/no"),
    "output that is a folder": (["RUN", "IMAGE", "--out=TMP/empty"], "--out TMP/empty is a folder"),
    "output that is a device": (["RUN", "IMAGE", "--overwrite", "--out=TMP/pipe"], "--out TMP/pipe is a device or a"),
    "output that is read": (["RUN", "TMP/there.csv", "--overwrite", "--out=TMP/there.csv"], "is also what is read"),
    "output that is an image": (["RUN", "TMP/some", "--overwrite", "--out=TMP/some/a.png"], "is also what is read"),
    "output that is the prior": (
        ["RUN", "IMAGE", "--overwrite", "--prior=TMP/uniform.csv", "--out=TMP/uniform.csv"],
        "is also what is read",
    ),
    "both outputs in one": (["RUN", "IMAGE", "--codes=TMP/out.csv"], "--out and --codes are both"),
    "empty prior": (["RUN", "IMAGE", "--prior="], "--prior: the path is empty"),
    "unknown prior": (["RUN", "IMAGE", "--prior=equal"], "equal cannot be read"),
    "prior without a column": (["RUN", "IMAGE", "--prior=TMP/there.csv"], "has no column class, but path"),
    "prior of other classes": (
        ["RUN", "IMAGE", "--prior=TMP/other.csv"],
        "row 2, names 'cat': give each of 10",
    ),
    "prior that lacks classes": (["RUN", "IMAGE", "--prior=TMP/few.csv"], "lacks 9 classes (1, 2, 3, ...)"),
    "prior that names a class twice": (["RUN", "IMAGE", "--prior=TMP/twice.csv"], "row 3, names twice '0'"),
    "negative share": (["RUN", "IMAGE", "--prior=TMP/negative.csv"], "row 3: the share '-0.1' is no number"),
    "share that is a word": (["RUN", "IMAGE", "--prior=TMP/word.csv"], "row 2: the share 'half' is no number"),
    "shares that do not sum": (["RUN", "IMAGE", "--prior=TMP/sum.csv"], "the shares sum to 0.9, not to 1"),
    "half precision without CUDA": (["RUN", "IMAGE", "--amp=fp16"], "--amp fp16 needs CUDA"),
    "batch of nothing": (["RUN", "IMAGE", "--batch-size=0"], "--batch-size"),
}
SHARES = {
    "other": "cat,1",
    "few": "0,1",
    "twice": "0,0.5\n0,0.5",
    "negative": "0,1\n1,-0.1",
    "word": "0,half",
    "sum": "\n".join(f"{c},0.09" for c in range(10)),
    "uniform": "\n".join(f"{c},0.1" for c in range(10)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(name, script, tmp_path, trained_digits, digits):
    argv, expected = BAD[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "some").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").touch()
    shutil.copy(digits / "000.png", tmp_path / "some" / "a.png")
    (tmp_path / "there.csv").write_text("path\nx.png\n")
    shutil.copy(trained_digits / "predictions.csv", tmp_path / "of_run.csv")
    os.mkfifo(tmp_path / "pipe")
    save_checkpoint(tmp_path / "codes.pth", {"key": 1})
    for file, text in SHARES.items():
        (tmp_path / f"{file}.csv").write_text(f"class,share\n{text}\n")
    places = {"TMP": tmp_path, "RUN": trained_digits / "checkpoint.pth", "IMAGE": digits / "000.png"}
    for place, path in places.items():
        argv = [word.replace(place, str(path)) for word in argv]
        expected = expected.replace(place, str(path))
    before = sorted(tmp_path.rglob("*"))
    out = [] if any(word.startswith("--out") for word in argv) else [f"--out={tmp_path}/out.csv"]
    done = script("predict", *argv, *out)
    assert done.status == 2, done.err
    assert expected in done.error
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.csv").read_text() == "path\nx.png\n"
    assert (tmp_path / "of_run.csv").read_bytes() == (trained_digits / "predictions.csv").read_bytes()
    assert (tmp_path / "some" / "a.png").read_bytes() == (digits / "000.png").read_bytes()


def test_precision_is_that_of_the_training_where_the_machine_has_it(caplog):
    cpu, stored = torch.device("cpu"), {"args": {"amp": "fp16"}}
    assert predict.choose_amp(None, {"args": {"amp": "bf16"}}, cpu) == "bf16"
    assert predict.choose_amp("off", stored, cpu) == "off"
    assert predict.choose_amp(None, stored, cpu) == "off"
    assert "trained with --amp fp16" in caplog.text


def test_precision_that_is_given_is_that_of_the_model(script, tmp_path, trained_digits, digits, monkeypatch):
    seen, classify = [], TrainedModel.classify

    def noted(self, images, amp, correction):
        seen.append(amp)
        return classify(self, images, amp, correction)

    monkeypatch.setattr(TrainedModel, "classify", noted)
    for amp in ("bf16", "off"):
        flags = [f"--out={tmp_path / amp}.csv", f"--amp={amp}", "--workers=0"]
        assert script("predict", trained_digits / "checkpoint.pth", digits / "000.png", *flags).status == 0
    assert seen == ["bf16", "off"]


def test_table_that_another_call_has_written_meanwhile_is_not_replaced(
    script, tmp_path, trained_digits, digits, monkeypatch
):
    out, classify = tmp_path / "out.csv", TrainedModel.classify

    def beside_another(*args):
        out.write_text("of the other call")
        return classify(*args)

    monkeypatch.setattr(TrainedModel, "classify", beside_another)
    done = script("predict", trained_digits / "checkpoint.pth", digits / "000.png", f"--out={out}", "--workers=0")
    assert done.status == 2
    assert f"--out {out} exists: --overwrite it, or name another file" in done.err
    assert out.read_text() == "of the other call"
    assert list(tmp_path.iterdir()) == [out]


def test_commands_of_the_page_run_and_its_code_too(script, tmp_path, trained_digits, digits, monkeypatch, capsys):
    shutil.copyfile(trained_digits / "checkpoint.pth", tmp_path / "checkpoint.pth")
    (tmp_path / "new_photos").mkdir()
    for number in range(3):
        shutil.copyfile(digits / f"{number:03d}.png", tmp_path / "new_photos" / f"{number}.png")
    (tmp_path / "images.csv").write_text("path,ward\nnew_photos/0.png,north\nnew_photos/2.png,south\n")
    (tmp_path / "shares.csv").write_text("class,share\n" + "".join(f"{c},0.1\n" for c in range(10)))
    shutil.copyfile(digits / "005.png", tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"\\+\n\s*", " ", PAGE)
    commands = re.findall(r"^    python predict\.py (.*)$", text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        words = [re.sub(r"^\./logs/.*/checkpoint\w*\.pth", "checkpoint.pth", word) for word in shlex.split(command)]
        done = script("predict", *words, "--overwrite")
        assert done.status == 0, done.err
        assert done.result["errors"] == 0
    code, drawing = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 5
    capsys.readouterr()
    names = {}
    exec(code, names)
    assert capsys.readouterr().out.split()[0] in DATASETS["Digits_LT"].classes
    exec(drawing, names)
    for images, number in ((names["drawn"], 3), (names["rebuilt"], 1)):
        assert images.shape == (number, 3, *2 * [names["model"].image_size])
        assert 0 <= images.min() < images.max() <= 1
    assert json.loads(done.out.splitlines()[-1])["images"]
