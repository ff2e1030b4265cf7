"""scripts/baselines.py and scripts/robustness.py on a trained run: they measure what the other scripts do."""

import errno
import json
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from augment import classify
from codes import extract
from helpers.project import METRIC_NAMES, SMALL_MODEL
from scripts import robustness
from scripts.baselines import measure, table
from scripts.experiments.corruption import CORRUPTIONS
from scripts.experiments.generative import batches
from scripts.experiments.posthoc import METHODS, TrainedCodes
from scripts.experiments.trained import TrainedRun, open_run, run_parser
from utils.errors import UserError
from utils.files import read_rows
from utils.training.checkpoint import load_checkpoint, save_checkpoint
from utils.training.folder import RunFolder

RETRAIN = ["--epochs=10", "--T-max=10", "--batch-size=100", "--lr=0.01", "--workers=0"]


def numbers(row: dict[str, str]) -> dict[str, str]:
    return {name: row[name] for name in METRIC_NAMES}


def opened(folder: Path, *flags: str) -> TrainedRun:
    return open_run(RunFolder(folder), run_parser("", "new.csv").parse_args([str(folder), *flags]), "new.csv")


@pytest.fixture(scope="module")
def run(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(trained_digits, tmp_path_factory.mktemp("run") / "digits"))


def test_methods_agree_with_the_scripts_of_both_cases(script, run):
    """The classifier as it is, both cases from both starts; then all of them again under noise and blur."""
    for name, start in (("augment_ftl", "trained"), ("augment", "adjusted")):
        place = run if start == "trained" else run / "adjusted"
        words = [f"--logdir={place}", f"--resume={run}/checkpoint.pth", f"--start={start}"]
        done = script(name, "Digits_LT", *words, *RETRAIN)
        assert done.status == 0, done.err
    done = script("scripts.baselines", run)
    assert done.status == 0, done.err
    found = {row["method"]: row for row in read_rows(run / "metrics_baselines.csv")}
    assert list(found) == list(METHODS)
    assert {row["split"] for row in found.values()} == {"test"}
    assert numbers(found["trained"]) == numbers(read_rows(run / "metrics.csv")[-1])
    for method, file in (("case-1", "metrics_aug_ftl.csv"), ("case-2-adjusted", "adjusted/metrics_aug.csv")):
        expected = read_rows(run / file)[-1]
        assert float(found[method]["acsa"]) == pytest.approx(float(expected["acsa"]), abs=0.005)
        assert float(found[method]["auc"]) == pytest.approx(float(expected["auc"]), abs=0.002)
    assert done.result["crt"]["value"] == 0.1
    per_class = read_rows(run / "metrics_per_class_baselines.csv")
    recalls = [float(row["recall"]) for row in per_class if row["method"] == "lda"]
    assert np.mean(recalls) == pytest.approx(float(found["lda"]["acsa"]))
    refused = script("scripts.baselines", run)
    assert refused.status == 2
    assert "metrics_baselines.csv exists: --overwrite replaces it" in refused.error
    chosen = script("scripts.baselines", run, "--overwrite", "--methods", "ncm", "lws", "ncm", "--fixed", "lws=0.5")
    assert [row["method"] for row in read_rows(run / "metrics_baselines.csv")] == ["ncm", "lws"]
    assert {name: row["value"] for name, row in chosen.result.items()} == {"ncm": "unit", "lws": 0.5}
    refused = script("scripts.baselines", run, "--overwrite", "--methods", "ncm", "--fixed", "lws=0.5")
    assert refused.error == "error: --fixed lws: this method is not measured, leave it out"
    refused = script("scripts.baselines", run, "--overwrite", "--fixed", "lws=0.5", "lws=1")
    assert refused.error == "error: --fixed lws: this method has two values, leave one out"

    judge = run.parent / "judge"
    small = [*SMALL_MODEL[1:3], "--arch=resnet18", "--epochs=1", "--max-steps=1", "--workers=0", "--quiet"]
    assert script("train", "Digits_LT", *small, f"--logdir={judge}", "--seed=5").status == 0
    assert opened(judge).args.seed == 5  # its own, of all that methods draw
    older = load_checkpoint(judge / "checkpoint.pth")
    del older["args"]["loss"]  # which was none of its flags
    older["args"]["epochs"] = 3
    save_checkpoint(judge / "checkpoint.pth", older)
    methods = ["--methods", "logit-adjustment", "crt", "case-1", "--fixed", "crt=0.01"]
    judges = [f"--judge={judge}/checkpoint.pth"]
    refused = script("scripts.robustness", run, *methods, *judges, *judges)
    assert "checkpoint.pth is a second resnet18: name one of each architecture" in refused.error
    refused = script("scripts.robustness", run, *methods, f"--judge={run}/checkpoint.pth")
    assert "name a plain classifier, resnet32_vae3 is none" in refused.error
    save_checkpoint(
        run / "checkpoint_aug.pth", load_checkpoint(run / "checkpoint_aug_ftl.pth") | {"trained_sha256": ""}
    )
    begun = load_checkpoint(run / "adjusted/checkpoint_aug.pth")
    begun["args"]["epochs"] = begun["epoch"] + 3
    save_checkpoint(run / "adjusted/checkpoint_aug.pth", begun)
    done = script("scripts.robustness", run, *methods, *judges)
    assert done.status == 0, done.err
    epochs = f"{begun['epoch']} of {begun['epoch'] + 3} epochs"
    assert f"adjusted/checkpoint_aug.pth is of a re-training that has not ended: {epochs}" in done.err
    assert "checkpoint_aug_ftl.pth is of" not in done.err
    assert f"--judge {judge}/checkpoint.pth is of a training that has not ended: 1 of 3 epochs" in done.err
    assert "checkpoint_aug.pth was made from another model than" in done.err
    assert "it is left out" in done.err
    rows = {(row["classifier"], row["condition"]): row for row in read_rows(run / "metrics_robustness.csv")}
    measured = {"trained", "logit-adjustment", "crt", "case-1", "aug_ftl", "adjusted/aug"}
    assert {name for name, _ in rows} == measured
    assert {condition for _, condition in rows} == set(CORRUPTIONS)
    for name, file in (("trained", "metrics.csv"), ("aug_ftl", "metrics_aug_ftl.csv")):
        expected = read_rows(run / file)[-1]
        for metric in ("acsa", "many", "median", "low"):
            assert float(rows[name, "clean"][metric]) == pytest.approx(float(expected[metric]), abs=0.003)
    for name in ("logit-adjustment", "case-1"):
        assert float(rows[name, "clean"]["acsa"]) == pytest.approx(float(found[name]["acsa"]), abs=0.003)
    assert rows["crt", "clean"]["acsa"] != found["crt"]["acsa"]  # its value was fixed
    assert rows["crt", "noise 0.2"]["acsa"] != rows["crt", "clean"]["acsa"]
    health = json.loads((run / "generative_half.json").read_text())
    assert 0 < health["mse_class_mean"] < health["mse_constant"] < 0.25
    assert health["recognised_samples_by_resnet18"] is None  # components get their codes, not their classes, by default
    done = script("augment_ftl", "Digits_LT", f"--logdir={run}", "--resume=auto", "--overwrite", *RETRAIN)
    assert f"{run} holds results of the model before this re-training: metrics_robustness.csv; make them" in done.err


def test_generative_run_is_refused(script, tmp_path, monkeypatch):
    words = [*SMALL_MODEL, "--generative", "--epochs=1", "--max-steps=1", "--batch-size=24", f"--logdir={tmp_path}"]
    assert script("train", "Digits_LT", *words).status == 0
    assert "is generative: the code of a test image depends on the label" in script("scripts.baselines", tmp_path).error
    refused = script("scripts.robustness", tmp_path, "--methods", "crt")
    assert "is generative: it has no code of an image alone" in refused.error
    monkeypatch.setattr(robustness, "CORRUPTIONS", {"clean": CORRUPTIONS["clean"]})
    done = script("scripts.robustness", tmp_path)
    assert done.status == 0, done.err
    assert {row["classifier"] for row in read_rows(tmp_path / "metrics_robustness.csv")} == {"trained"}


def test_methods_none_of_which_fits_the_classifier_are_refused(script, tmp_path):
    words = [*SMALL_MODEL[1:3], "--arch=resnet32", "--loss=ldam-drw", "--epochs=1", "--max-steps=1", "--workers=0"]
    assert script("train", "Digits_LT", *words, f"--logdir={tmp_path}").status == 0
    refused = script("scripts.baselines", tmp_path, "--methods", "tau-normalisation")
    assert refused.error.startswith("error: --methods: all these need a linear classifier, that of")
    assert not list(tmp_path.glob("*_baselines.*"))


def test_last_epoch_is_measured_and_told_where_another_was_the_best(run, tmp_path, caplog):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    stored = load_checkpoint(folder / "checkpoint.pth")
    save_checkpoint(folder / "checkpoint.pth", stored | {"best": {"epoch": 1, "acsa": 0.5}})
    with caplog.at_level("INFO", "dgcmm"):
        assert opened(folder).checkpoint["epoch"] == stored["epoch"]
    assert f"epoch {stored['epoch']}, the last, is measured; --best takes epoch 1, that of" in caplog.text


def test_best_epoch_is_measured_on_request(run, tmp_path, caplog):
    folder = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*codes*")))
    with pytest.raises(UserError, match="--best: there is no"):
        opened(folder, "--best")
    stored = load_checkpoint(folder / "checkpoint.pth")
    stored["state_dict"]["classifier.bias"][3] += 100  # another model than the last
    save_checkpoint(folder / "model_best.pth", stored | {"epoch": 1, "best": {"epoch": 1, "acsa": 0.5}})
    best = opened(folder, "--best")
    assert best.checkpoint["epoch"] == 1
    assert best.codes()[0].classifier.bias.argmax() == 3
    assert {file.name for file in folder.glob("*codes.pth")} == {"model_best_codes.pth"}
    assert "has not ended" not in caplog.text
    stored = load_checkpoint(folder / "checkpoint.pth")
    stored["args"]["epochs"] += 1
    save_checkpoint(folder / "checkpoint.pth", stored)
    opened(folder, "--best")
    assert f"model_best.pth is of a training that has not ended: {stored['epoch']} of" in caplog.text


def test_table_names_and_data_that_have_moved_are_named_anew(script, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    for number in range(12):
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(old / f"{number}.png")
    parts = ["train", "train", "test"]
    rows = [f"{number}.png,{'ab'[number % 2]},{parts[number % 3]}" for number in range(12)]
    (old / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    (old / "names.txt").write_text("b bee\na ay\n")
    places = {
        name: [f"--datadir={place}", f"--csv={place}/labels.csv", f"--names={place}/names.txt"]
        for name, place in (("old", old), ("new", new))
    }
    words = ["CSV", *places["old"], *SMALL_MODEL, "--epochs=1", "--batch-size=4", f"--logdir={tmp_path / 'run'}"]
    assert script("train", *words).status == 0
    old.rename(new)
    assert "labels.csv cannot be read" in script("scripts.baselines", tmp_path / "run", places["new"][0]).error
    done = script("scripts.baselines", tmp_path / "run", *places["new"], "--methods", "ncm")
    assert done.status == 0, done.err
    made = json.loads((tmp_path / "run" / "args_baselines.json").read_text())
    assert made["model"] == {"epoch": 1, "step": 0}


@pytest.mark.parametrize("name", ["scripts.baselines", "scripts.robustness"])
def test_folder_that_cannot_be_used_is_told_before_the_work(name, script, run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert "there is no folder" in script(name, tmp_path / "none").error
    assert f"{tmp_path}/file is a file" in script(name, tmp_path / "file").error
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        assert "cannot be written (no permission): copy the run" in script(name, run).error
    refusing = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("utils.training.folder.take_lock", Mock(side_effect=refusing))
    assert "cannot be written (Permission denied): copy the run, and name the copy" in script(name, run).error


def test_run_is_measured_in_its_own_precision(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("utils.device.has_fast_bfloat16", lambda device: False)
    folder = shutil.copytree(run, tmp_path / "run")
    checkpoint = load_checkpoint(folder / "checkpoint.pth")
    checkpoint["args"]["amp"] = "bf16"
    save_checkpoint(folder / "checkpoint.pth", checkpoint)
    trained = opened(folder)
    assert trained.args.amp == "bf16"
    assert "--amp bf16: no bfloat16 instructions here" in caplog.text
    some = trained.splits.test.subset(np.arange(40))
    codes = extract(trained.model, batches(some, 40), False, trained.args, trained.world.device)
    trained = trained._replace(splits=trained.splits._replace(test=some))

    def corrupted(name: str) -> np.ndarray:
        classifiers = {"trained": trained.model.classifier}
        return robustness.classify(trained, classifiers, {}, CORRUPTIONS[name])["trained"]

    expected = classify(trained.model, codes, trained.args, trained.world).probabilities
    assert corrupted("clean") == pytest.approx(expected, abs=1e-6)
    trained.args.amp = "off"
    assert corrupted("clean") != pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["scripts.baselines", "scripts.robustness"])
def test_numbers_that_are_not_finite_are_one_line(name, script, run):
    method = "tau-normalisation"
    refused = script(name, run, "--overwrite", "--methods", method, "--fixed", f"{method}=1000")
    assert refused.status == 2
    assert "the probabilities are not finite: tau-normalisation" in refused.error
    assert refused.error.endswith("leave this method out, or give another --fixed")


@pytest.mark.parametrize("condition", sorted(name for name in CORRUPTIONS if "noise" not in name))
def test_few_images_at_a_time_give_the_same_probabilities(condition, run):
    """But for noise, which is drawn for a batch."""
    found = []
    for batch_size in (30, 500):
        trained = opened(run, f"--batch-size={batch_size}")
        classifiers, methods = {"trained": trained.model.classifier}, {"codes": np.asarray}
        found.append(robustness.classify(trained, classifiers, methods, CORRUPTIONS[condition]))
    for name in ("trained", "codes"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-5)


def test_means_of_classes_warn_of_nothing(recwarn):
    """Of a feature that is the same in all codes of a class, and of one code for each class."""
    for mu in (torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]), torch.eye(2)):
        codes = TrainedCodes(mu, torch.ones_like(mu), torch.arange(len(mu)) % 2, torch.nn.Linear(2, 2), 0)
        METHODS["ncm"].fit(codes, "euclidean")
    mu = torch.eye(3)  # of classes with two codes and with one
    METHODS["lda"].fit(TrainedCodes(mu, mu, torch.tensor([0, 0, 1]), torch.nn.Linear(3, 2), 0), 0.1)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x", "--fixed", "crt=many"], "crt: 'many' is no number from 0 on"),
        (["x", "--fixed", "lda=2"], "lda: '2' is no number from 0 to 1"),
        (["x", "--fixed", "crt=1e-6"], "crt: 1e-6 is below 1e-05, where its cosine ends"),
        (["x", "--fixed", "ncm=cosine"], "ncm: 'cosine' is none of euclidean, unit"),
        (["x", "--fixed", "trained=1"], "'trained=1' names none of logit-adjustment, tau-normalisation"),
    ],
)
def test_what_cannot_be_measured_is_one_line(script, words, says):
    done = script("scripts.baselines", *words)
    assert done.status == 2
    assert says in done.error


def test_value_is_chosen_on_the_validation_codes_and_tested_alone():
    """tau pays on balanced validation codes; the test codes, of the head alone, would have none of it."""
    source = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 400 + [1] * 40)
    codes = {"mu": targets[:, None] * 2.0 + torch.randn(440, 1, generator=source), "targets": targets}
    classifier = torch.nn.Linear(1, 2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[0.0], [2.0]]))
        classifier.bias.copy_(torch.tensor([0.0, -2.0 - np.log(10)]))
    trained = TrainedCodes(codes["mu"], torch.zeros(440, 1), targets, classifier, 0)
    balanced = {name: torch.cat([values[:40], values[400:]]) for name, values in codes.items()}
    head = {name: values[:400] for name, values in codes.items()}
    about = {"class_counts": [400, 40], "class_names": ["a", "b"]}
    rows, per_class = measure(trained, {"val": balanced, "test": head}, about, ["logit-adjustment"], {})
    validated = {row["value"]: row["acsa"] for row in rows if row["split"] == "val"}
    assert list(validated) == list(METHODS["logit-adjustment"].grid)
    tested = [row for row in rows if row["split"] == "test"]
    assert [row["value"] for row in tested] == [max(validated, key=validated.get)]
    assert 0.5 <= tested[0]["value"] <= 1.5
    assert [row["method"] for row in per_class] == ["logit-adjustment"] * 2
    head_line, line = table(rows).splitlines()
    assert head_line.split()[3:6] == ["val", "acsa", "acc"]
    assert line.split()[3] == f"{max(validated.values()):.4f}"
    assert "val" not in table(tested)
