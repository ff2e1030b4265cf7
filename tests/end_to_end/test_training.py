"""Training end to end: the prior finds its classes, warm-up, hold-out, evaluation."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

import train
from datasets import DATASETS
from helpers.data import load_part
from helpers.project import SMALL_MODEL
from models.losses import ClassificationLoss, FocalLoss, LDAMLoss, LogitAdjustedLoss
from scripts.compare_runs import differences
from utils.files import read_rows
from utils.stopping import Stopped
from utils.training.checkpoint import load_checkpoint, save_checkpoint
from utils.training.run import Run


def test_each_component_ends_nearest_to_the_codes_of_its_class(script, tmp_path, monkeypatch):
    """With --gmm-assign=label, on Digits_LT; so short a run needs a faster prior, and as many steps for each class."""
    start, begun = train.start_prior, []

    def noted(run, *others):
        start(run, *others)
        begun.append(run.model.prior.means.detach().clone())

    monkeypatch.setattr(train, "start_prior", noted)
    model = [*SMALL_MODEL, "--arch=resnet18_vae3", "--gmm-assign=label", "--sampler=balanced"]
    flags = ["--batch-size=32", "--epochs=4", "--T-max=4", "--eval-every=4", "--lr=1e-2", "--prior-lr=500"]
    run = [f"--logdir={tmp_path}", "--workers=0", "--no-figures"]
    done = script("train", "Digits_LT", *model, *flags, *run)
    assert done.status == 0, done.err
    assert script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1").status == 0
    codes = torch.load(tmp_path / "checkpoint_codes.pth", weights_only=True)["train"]
    class_means = torch.stack([codes["mu"][codes["targets"] == c].mean(dim=0) for c in range(10)])
    trained, retrained = (load_checkpoint(tmp_path / f"checkpoint{suffix}.pth") for suffix in ("", "_aug"))
    means = trained["state_dict"]["prior.means"]
    assert torch.cdist(means, class_means).argmin(dim=1).tolist() == list(range(10))
    first, last = ((found - class_means).norm(dim=1) for found in (begun[0], means))
    assert (last < first).all()  # they have followed the codes, which the network has moved on
    assert done.result["live_components"] >= 9
    variances = trained["state_dict"]["prior.log_vars"].exp()
    distances = ((codes["mu"] - means[codes["targets"]]).square() / variances[codes["targets"]]).sum(dim=1)
    largest = [distances[codes["targets"] == c].max() for c in range(10)]
    for checkpoint in (trained, retrained):  # of a pass at the end of the training, and of the codes; the same images
        torch.testing.assert_close(checkpoint["distance_quantiles"][:, -1], torch.stack(largest), rtol=1e-4, atol=0)


@pytest.mark.usefixtures("several_threads")
def test_training_with_several_threads_can_be_repeated(script, tmp_path):
    flags = [*SMALL_MODEL, "--z-dim=2048", "--epochs=1", "--batch-size=256", "--max-steps=2", "--gmm-assign=label"]
    for name in ("one", "other"):
        done = script("train", "Digits_LT", *flags, f"--logdir={tmp_path / name}")
        assert done.status == 0, done.err
    assert differences(tmp_path / "one", tmp_path / "other") == []


def test_plain_classifier_in_the_same_harness(script, tmp_path):
    """Trained, resumed, re-trained both ways, evaluated; what it has not is an empty cell."""
    run = ["Digits_LT", f"--logdir={tmp_path}", "--workers=0"]
    small = ["--arch=resnet32", "--new-size=16", "--crop-size=16", "--batch-size=64", "--max-steps=3"]
    assert script("train", *run, *small, "--epochs=1").status == 0
    done = script("train", *run, "--resume=auto", "--epochs=2")
    assert done.status == 0, done.err
    found = read_rows(tmp_path / "metrics.csv")
    assert all(row["loss"] == row["loss_cls"] for row in found)
    for name in ("loss_reconst", "loss_gmm", "lr_prior", "live_components", "mutual_information"):
        assert [row[name] for row in found] == ["", ""]
    assert done.result["live_components"] is done.result["mutual_information"] is None
    for kind in ("augment", "augment_ftl"):
        made = script(kind, *run, "--resume=auto", "--epochs=1", "--max-steps=20", "--batch-size=64")
        assert made.status == 0, made.err
        path = tmp_path / f"checkpoint_{kind.replace('augment', 'aug')}.pth"
        scored = script("train", *run, "--evaluate", f"--resume={path}", "--overwrite")
        assert scored.status == 0, scored.err
        assert scored.result["acsa"] == pytest.approx(made.result["acsa"])
    load_part("Digits_LT", "", train=False).read(0).save(tmp_path / "0.png")
    out, codes = tmp_path / "out.csv", tmp_path / "codes.npz"
    flags = ["--workers=0", f"--out={out}", f"--codes={codes}"]
    assert script("predict", tmp_path / "checkpoint.pth", tmp_path / "0.png", *flags).status == 0
    assert [(row["atypicality"], row["error"]) for row in read_rows(out)] == [("", "")]
    stored = np.load(codes)
    assert stored["mu"].shape == (1, 64)
    assert np.isneginf(stored["log_var"]).all()


def test_start_from_another_models_encoder_which_stays_frozen(script, tmp_path, trained_digits):
    """A plain classifier from a DGCMM, re-trained with few measurements, and a DGCMM of more classes from that."""
    source, run = trained_digits / "checkpoint.pth", ["Digits_LT", "--workers=0", "--batch-size=64", "--max-steps=2"]
    small = ["--new-size=16", "--crop-size=16", "--epochs=1"]
    flags = ["--arch=resnet32", f"--init={source}", "--freeze-encoder", f"--logdir={tmp_path / 'plain'}"]
    done = script("train", *run, *small, *flags, "--resume=auto")  # where there is nothing to resume
    assert done.status == 0, done.err
    said = "(resnet32_vae3, Digits_LT, 2 epochs): taken: encoder; started anew: classifier"
    assert said in done.out
    states = [load_checkpoint(path)["state_dict"] for path in (source, tmp_path / "plain" / "checkpoint.pth")]
    encoder = [name for name in states[0] if name.startswith("encoder.")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in encoder)
    flags = ["--epochs=3", "--eval-every=2", "--resume=auto", f"--logdir={tmp_path / 'plain'}"]
    assert script("augment", *run, *flags).status == 0
    found = read_rows(tmp_path / "plain" / "metrics_aug.csv")
    assert [bool(row["acsa"]) for row in found] == [False, True, True]
    assert all(row["loss"] for row in found)
    flags = [f"--init={tmp_path / 'plain' / 'checkpoint.pth'}", f"--logdir={tmp_path / 'more'}", "--arch=resnet32_vae3"]
    done = script("train", "ChestXray", "--dummy", *run[1:], *small, *flags)
    assert done.status == 0, done.err
    assert "taken: encoder; started anew: mu_head, log_var_head, classifier, decoder, prior" in done.out


def test_spread_that_is_asked_for_is_that_of_a_model_with_another_ones_weights_too(script, tmp_path, trained_digits):
    flags = [
        "--batch-size=24",
        "--epochs=1",
        "--max-steps=1",
        "--lr=1e-5",
        "--initial-sigma=0.2",
        "--loss=logit-adjust",
    ]
    start = [f"--init={trained_digits}/checkpoint.pth", "--sampler=balanced", f"--logdir={tmp_path}"]
    done = script("train", "Digits_LT", *SMALL_MODEL, *flags, *start)
    assert done.status == 0, done.err
    head = load_checkpoint(tmp_path / "checkpoint.pth")["state_dict"]
    torch.testing.assert_close(head["log_var_head.bias"], torch.full((32,), 2 * math.log(0.2)), atol=1e-3, rtol=0)
    again = ["Digits_LT", "--init=of-a-new-run.pth", f"--logdir={tmp_path}", "--resume=auto"]
    finished = script("train", *again)
    assert finished.result == done.result
    said = f"{tmp_path}/checkpoint.pth began with {start[0].replace('=', ' ')}, and is continued"
    assert f"--init of-a-new-run.pth is for a new run: {said}" in finished.err
    assert "--sampler balanced and --loss logit-adjust both balance the classes" in done.err
    assert "taken: encoder, mu_head, classifier, decoder, prior; started anew: log_var_head" in done.out


@pytest.mark.parametrize(
    ("threshold", "warm"),
    [([], [1, 2]), (["--warmup-threshold=10"], [1]), (["--warmup-epochs=3", "--warmup-threshold=1e-3"], [1, 2, 3])],
)
def test_warm_up_has_the_classification_term_alone(threshold, warm, script, tmp_path, monkeypatch):
    """The prior starts once, after the first epoch that has more."""
    original, started = train.start_prior, []
    monkeypatch.setattr(train, "start_prior", lambda run, *others: started.append(run.epoch) or original(run, *others))
    flags = ["--batch-size=24", "--epochs=3", "--max-steps=2", "--warmup-epochs=2", *threshold]
    done = script("train", "Digits_LT", *SMALL_MODEL, *flags, f"--logdir={tmp_path}")
    assert done.status == 0
    found = read_rows(tmp_path / "metrics.csv")
    assert [int(row["epoch"]) for row in found if not row["loss_gmm"] + row["loss_reconst"]] == warm
    never_ended = len(warm) == 3
    assert started == ([] if never_ended else [len(warm)])
    assert ("the warm-up took all epochs, see --warmup-threshold 0.001" in done.err) is never_ended


def test_evaluation_of_a_checkpoint_repeats_its_result(script, tmp_path, trained_digits):
    path = trained_digits / "checkpoint.pth"
    flags = ["-e", f"--resume={path}", f"--logdir={tmp_path}", "--workers=0", "--gpu=0", "--batch-size=64"]
    done = script("train", "Digits_LT", *flags)
    assert done.status == 0, done.err
    assert (tmp_path / "log_eval.txt").read_text().count("WARNING --gpu 0: there is no CUDA here") == 1
    stored = load_checkpoint(path)["result"]
    assert {k: v for k, v in done.result.items() if k != "time"} == {k: v for k, v in stored.items() if k != "time"}
    assert "Digits_LT: 400 test images; the model is that of epoch 2\n" in (tmp_path / "log_eval.txt").read_text()
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
    assert script("train", *flags, figures=True).status == 0
    earlier = (tmp_path / "predictions_eval.csv").read_bytes()
    assert json.loads((tmp_path / "args_eval.json").read_text())["arguments"]["amp"] == "bf16"

    def stopped(*_: object) -> None:
        raise Stopped(15)

    refused = script("train", *flags, "--amp=off")
    assert "holds an evaluation (metrics_eval.csv): --overwrite it, or name another --logdir" in refused.error
    flags += ["--amp=off", "--overwrite", "--no-figures"]
    assert (tmp_path / "figures" / "recall_eval.png").exists()
    (tmp_path / "log_eval.txt").write_text("of an earlier evaluation\n")
    (events,) = (tmp_path / "eval").glob("events.out.tfevents.*_eval")
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", stopped)
        assert script("train", *flags).status == 143
    assert (tmp_path / "predictions_eval.csv").read_bytes() == earlier
    assert "of an earlier" in (tmp_path / "log_eval.txt").read_text()
    assert events.exists()
    assert script("train", *flags, "--gpu=0").status == 0
    assert not list((tmp_path / "figures").iterdir())  # which showed what was measured before
    assert not events.exists()
    warning, images = (tmp_path / "log_eval.txt").read_text().splitlines()
    assert "WARNING --gpu 0" in warning
    assert "400 test images" in images
    assert json.loads((tmp_path / "args_eval.json").read_text())["arguments"]["amp"] == "off"


def test_class_counts_are_those_after_the_hold_out(script, tmp_path):
    flags = ["--batch-size=24", "--epochs=1", "--max-steps=1", "--val-fraction=0.5"]
    assert script("train", "Digits_LT", *SMALL_MODEL, *flags, f"--logdir={tmp_path}").status == 0
    counts = load_checkpoint(tmp_path / "checkpoint.pth")["class_counts"]
    assert counts == [65, 55, 40, 30, 23, 17, 13, 10, 6, 3]
    per_class = read_rows(tmp_path / "metrics_per_class.csv")
    assert [int(row["train_images"]) for row in per_class] == counts
    assert {row["group"] for row in per_class} == {"median", "low"}


@pytest.mark.parametrize(
    ("loss", "kind", "weighted"),
    [
        ("focal", FocalLoss, [False]),
        ("class-balanced", ClassificationLoss, [True]),
        ("ldam-drw", LDAMLoss, [False] * 4 + [True]),
        ("logit-adjust", LogitAdjustedLoss, [False]),
    ],
)
def test_each_epoch_has_the_loss_that_was_asked_for(loss, kind, weighted, script, tmp_path, monkeypatch):
    """Weighted by class, if at all, over the batch of all processes; what is no likelihood is not judged by one."""
    original, seen, judged = train.train_epoch, [], []

    def noted(run, *others):
        seen.append((run.model.criterion, run.world))
        return original(run, *others)

    monkeypatch.setattr(train, "train_epoch", noted)
    monkeypatch.setattr(train.Run, "warn_of_divergence", lambda *_: judged.append(loss))
    small = ["--arch=resnet32", "--new-size=16", "--crop-size=16", "--batch-size=24", "--max-steps=1", "--workers=0"]
    flags = [f"--loss={loss}", f"--epochs={len(weighted)}", "--eval-every=5", f"--logdir={tmp_path}"]
    done = script("train", "Digits_LT", *small, *flags)
    assert done.status == 0, done.err
    assert [type(criterion) for criterion, _ in seen] == [kind] * len(weighted)
    assert [criterion.class_weights is not None for criterion, _ in seen] == weighted
    assert all(c.average == world.mean for (c, world), used in zip(seen, weighted, strict=True) if used)
    assert bool(judged) == (loss == "logit-adjust")
    if loss == "ldam-drw":  # epochs that follow do not take the re-weighting back
        more = ["--resume=auto", "--workers=0", "--epochs=7", f"--logdir={tmp_path}"]
        assert script("train", "Digits_LT", *more).status == 0
        assert [criterion.class_weights is not None for criterion, _ in seen[5:]] == [True, True]


def test_components_that_died_are_told_at_the_end(script, tmp_path, trained_digits):
    stored = load_checkpoint(trained_digits / "checkpoint.pth")
    stored["state_dict"]["prior.logits"][3] += 1e9  # which takes all codes
    save_checkpoint(tmp_path / "checkpoint.pth", stored | {"result": None})  # stopped before the last measurement
    done = script("train", "Digits_LT", "--resume=auto", "--workers=0", f"--logdir={tmp_path}")
    assert done.status == 0, done.err
    assert done.result["live_components"] == 1
    assert "only 1 of the prior's components live, for 10 classes" in done.err


def guessing(counts):
    """Mean cross-entropy of answering every class with its share, in nats."""
    return -sum(n / sum(counts) * math.log(n / sum(counts)) for n in counts)


def test_published_recipe_trains_a_resnet50(script, tmp_path):
    """The ChestXray command's shape from scratch, with the 60 images of one of its GPUs; no flag says to clip."""
    recipe = ["--arch=resnet_vae3", "--lr=5e-3", "--wd=1e-4", "--T-max=20", "--h-dim=2048", "--z-dim=2048"]
    weights = ["--weight-cls=10", "--weight-reconst=0.1", "--weight-gmm=0.001"]
    small = ["--new-size=32", "--crop-size=32", "--batch-size=60", "--epochs=1", "--max-steps=5", "--workers=0"]
    done = script("train", "Digits_LT", *recipe, *weights, *small, f"--logdir={tmp_path}")
    assert done.status == 0, done.err
    assert "diverged" not in done.err
    (row,) = read_rows(tmp_path / "metrics.csv")  # of 5 steps; without clipping their mean is above 10
    assert float(row["loss_cls"]) < 1.1 * math.log(10)


def test_epoch_that_diverges_is_said_with_both_numbers_and_a_remedy(script, tmp_path):
    flags = [
        *SMALL_MODEL,
        "--batch-size=24",
        "--epochs=1",
        "--max-steps=4",
        "--lr=0.03",
        "--clip-grad=0",
        "--weight-gmm=0",
    ]
    done = script("train", "Digits_LT", *flags, f"--logdir={tmp_path}")
    assert done.status == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "diverged" in line)
    (row,) = read_rows(tmp_path / "metrics.csv")
    counts = load_checkpoint(tmp_path / "checkpoint.pth")["class_counts"]
    assert f"cross-entropy is {float(row['loss_cls']):.2f}, guessing by class shares has {guessing(counts):.2f}" in line
    assert "give --clip-grad=5" in line


def test_resumed_run_keeps_its_clipping_and_its_steps_and_says_so(script, tmp_path):
    small = [*SMALL_MODEL, "--batch-size=24", "--max-steps=1"]
    run = ["Digits_LT", f"--logdir={tmp_path}", "--workers=0"]
    assert script("train", *run, *small, "--epochs=1", "--clip-grad=0").status == 0
    resumed = script("train", *run, "--resume=auto", "--epochs=2")
    assert resumed.status == 0
    assert "warning: --max-steps 1: 24 of 400 test images are measured" in resumed.err
    assert load_checkpoint(tmp_path / "checkpoint.pth")["args"]["clip_grad"] == 0
    assert "warning: this run was a trial, with --max-steps 1" in script("train", *run, "--resume=auto").err
    refused = script("train", *run, "--resume=auto", "--epochs=3", "--clip-grad=5")
    assert refused.status == 2
    assert "--clip-grad" in refused.error


@pytest.mark.parametrize(("lr", "diverges"), [("1e-2", False), ("1000", True)])
def test_retraining_says_whether_it_diverged(lr, diverges, script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    flags = ["--resume=auto", "--epochs=1", "--workers=0", f"--lr={lr}", f"--logdir={tmp_path}"]
    done = script("augment", "Digits_LT", *flags)
    assert done.status == 0, done.err
    assert ("diverged" in done.err) == diverges


@pytest.mark.parametrize(("sampler", "power"), [("instance", 1), ("sqrt", 0.5), ("balanced", 0)])
def test_divergence_is_judged_by_the_classes_as_they_are_drawn(sampler, power, script, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Run, "warn_of_divergence", lambda self, *given: drawn.append(given))
    small = ["--arch=resnet32", "--new-size=16", "--crop-size=16", "--epochs=1", "--max-steps=1", "--workers=0"]
    assert script("train", "Digits_LT", *small, f"--sampler={sampler}", f"--logdir={tmp_path}").status == 0
    ((loss, counts, first),) = drawn
    assert counts == [count**power for count in DATASETS["Digits_LT"].train_counts]
    assert loss == pytest.approx(first)  # of one step, with which the run begins
