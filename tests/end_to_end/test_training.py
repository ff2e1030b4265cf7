"""Training end to end: the prior finds its classes, warm-up, hold-out, evaluation."""

import csv
import json

import pytest
import torch

from helpers.project import SMALL_MODEL
from utils.stopping import Stopped
from utils.training import resume as training
from utils.training.checkpoint import load_checkpoint, save_checkpoint


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_component_ends_nearest_to_the_codes_of_its_class(script, tmp_path):
    """With --gmm-assign=label, on Digits_LT; so short a run needs a faster prior than the default."""
    model = [*SMALL_MODEL, "--new-size=32", "--crop-size=32", "--gmm-assign=label"]
    flags = ["--batch-size=32", "--epochs=12", "--T-max=12", "--clip-grad=5", "--prior-lr=100"]
    run = [f"--logdir={tmp_path}", "--workers=0"]
    done = script("train", "Digits_LT", *model, *flags, *run)
    assert done.status == 0, done.err
    assert script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1").status == 0
    codes = torch.load(tmp_path / "checkpoint_codes.pth", weights_only=True)["train"]
    class_means = torch.stack([codes["mu"][codes["targets"] == c].mean(dim=0) for c in range(10)])
    means = load_checkpoint(tmp_path / "checkpoint.pth")["state_dict"]["prior.means"]
    assert torch.cdist(means, class_means).argmin(dim=1).tolist() == list(range(10))
    assert done.result["live_components"] >= 9


@pytest.mark.parametrize(("threshold", "warm"), [([], [1, 2]), (["--warmup-threshold=1000"], [1])])
def test_warm_up_has_the_classification_term_alone(threshold, warm, script, tmp_path):
    flags = ["--batch-size=24", "--epochs=3", "--max-steps=2", "--warmup-epochs=2", *threshold]
    assert script("train", "Digits_LT", *SMALL_MODEL, *flags, f"--logdir={tmp_path}").status == 0
    alone = [int(row["epoch"]) for row in rows(tmp_path / "metrics.csv") if not row["loss_gmm"] + row["loss_reconst"]]
    assert alone == warm


def test_evaluation_of_a_checkpoint_repeats_its_result(script, tmp_path, trained_digits):
    path = trained_digits / "checkpoint.pth"
    done = script("train", "Digits_LT", "-e", f"--resume={path}", f"--logdir={tmp_path}", "--workers=0")
    assert done.status == 0, done.err
    stored = load_checkpoint(path)["result"]
    assert {k: v for k, v in done.result.items() if k != "time"} == {k: v for k, v in stored.items() if k != "time"}
    names = {file.name for file in tmp_path.iterdir()}
    assert names >= {"metrics_eval.csv", "metrics_per_class_eval.csv", "predictions_eval.csv", "args_eval.json"}
    assert not names & {"checkpoint.pth", "metrics.csv"}
    assert (tmp_path / "predictions_eval.csv").read_bytes() == (trained_digits / "predictions.csv").read_bytes()


def test_evaluation_takes_the_precision_of_the_training_and_replaces_earlier_results_at_its_end(
    script, tmp_path, trained_digits, monkeypatch
):
    stored = load_checkpoint(trained_digits / "checkpoint.pth")
    path = tmp_path / "reduced.pth"
    save_checkpoint(path, stored | {"args": stored["args"] | {"amp": "bf16"}})
    flags = ["Digits_LT", "-e", f"--resume={path}", f"--logdir={tmp_path}", "--workers=0", "--quiet"]
    assert script("train", *flags).status == 0
    earlier = (tmp_path / "predictions_eval.csv").read_bytes()
    assert json.loads((tmp_path / "args_eval.json").read_text())["arguments"]["amp"] == "bf16"

    def stopped(*_: object) -> None:
        raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", stopped)
        assert script("train", *flags, "--amp=off").status == 143
    assert (tmp_path / "predictions_eval.csv").read_bytes() == earlier
    assert script("train", *flags, "--amp=off").status == 0
    assert json.loads((tmp_path / "args_eval.json").read_text())["arguments"]["amp"] == "off"


def test_class_counts_are_those_after_the_hold_out(script, tmp_path):
    flags = ["--batch-size=24", "--epochs=1", "--max-steps=1", "--val-fraction=0.5"]
    assert script("train", "Digits_LT", *SMALL_MODEL, *flags, f"--logdir={tmp_path}").status == 0
    counts = load_checkpoint(tmp_path / "checkpoint.pth")["class_counts"]
    assert counts == [65, 55, 40, 30, 23, 17, 13, 10, 6, 3]
    per_class = rows(tmp_path / "metrics_per_class.csv")
    assert [int(row["train_images"]) for row in per_class] == counts
    assert {row["group"] for row in per_class} == {"median", "low"}
