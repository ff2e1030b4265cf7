"""Extraction of codes, and what the steps of a re-training compute."""

import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import augment
import augment_ftl
from datasets.base import ArrayDataset, Splits
from datasets.loading import BatchLoader, EvaluationBatches
from datasets.splits import complete_data, load_splits
from helpers.runs import run_without_folder
from models.classifier import PlainClassifier
from models.dgcmm import DGCMM
from models.losses import LossWeights
from models.samplers import FeatureTransferSampler, PosteriorSampler
from models.scoring import Scorer
from utils.cli.rules import parse
from utils.device import to_device
from utils.distributed.world import World
from utils.errors import UserError
from utils.randomness import standard_normal
from utils.training.checkpoint import read_verified
from utils.training.folder import RunFolder
from utils.training.position import Position
from utils.training.resume import find_trained

WEIGHTS = LossWeights(10.0, 0.1, 0.001)
ARGS = argparse.Namespace(
    **{"lr": 0.1, "momentum": 0.9, "wd": 1e-4, "clip_grad": 0.0, "seed": 5, "amp": "off", "max_steps": 6},
    **{"batch_size": 20, "print_freq": 100, "save_every": 0, "quiet": True},
    **{"weight_cls": 10.0, "weight_reconst": 0.1, "weight_gmm": 0.001},
)
COUNTS, DIM = (120, 30, 10), 8


def model_of(**kwargs):
    torch.manual_seed(0)
    return DGCMM("resnet18_vae3", 3, DIM, 32, **kwargs)


def loader_of(count, batch):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=np.uint8)
    as_tensor = lambda image: torch.from_numpy(np.array(image))[None]  # noqa: E731
    data = ArrayDataset(pixels, "abc", np.arange(count) % 3, [str(n) for n in range(count)], as_tensor)
    return BatchLoader(data, EvaluationBatches(count, batch), 0, False)


@pytest.mark.parametrize(("generative", "labelled"), [(False, True), (True, True), (True, False)])
def test_extracted_codes_are_those_of_each_image_in_order(generative, labelled):
    model, loader = model_of(generative=generative).eval(), loader_of(11, 4)
    codes = augment.extract(model, loader, labelled, ARGS, torch.device("cpu"))
    images = to_device(torch.stack([loader.dataset[n][0] for n in range(11)]), torch.device("cpu"))
    targets = torch.arange(11) % 3
    with torch.no_grad():
        features = model.features(images)
        pair = model.posterior(features, targets) if labelled else Scorer(model, WEIGHTS).evidence(images)
    names = ("mu", "log_var") if labelled else ("features", "fixed")
    assert list(codes) == ["targets", *names]
    assert torch.equal(codes["targets"], targets)
    for name, expected in zip(names, pair, strict=True):
        torch.testing.assert_close(codes[name], expected, rtol=1e-4, atol=1e-5)
        codes[name].mul_(2)  # an inference tensor would refuse


def codes_beside(checkpoint):
    """The codes of eleven images for training and for the test, from the file beside a checkpoint or written to it."""
    data = loader_of(11, 4).dataset
    changes = {"resume": str(checkpoint), "max_steps": None, "workers": 0}
    sizes = {"new_size": 32, "crop_size": 32, "train_transform": "none", "cache_size": 0}
    args = argparse.Namespace(**vars(ARGS) | changes | sizes)
    return augment.load_or_extract(model_of(), Splits(data, None, data), "of the weights", args, World())


def test_damaged_file_of_codes_is_told_and_made_anew(tmp_path, caplog):
    codes, path = codes_beside(tmp_path / "checkpoint.pth"), tmp_path / "checkpoint_codes.pth"
    path.write_bytes(path.read_bytes()[:-100])
    again = codes_beside(tmp_path / "checkpoint.pth")
    assert f"{path} is not used: {path} cannot be loaded" in caplog.text
    for found in (again, read_verified(path)):
        assert torch.equal(found["test"]["mu"], codes["test"]["mu"])


def test_codes_that_cannot_be_kept_are_used_all_the_same(tmp_path, caplog):
    codes = codes_beside(tmp_path / "gone" / "checkpoint.pth")
    assert {name: len(part["mu"]) for name, part in codes.items()} == {"train": 11, "test": 11}
    assert f"the codes are not kept: {tmp_path}/gone/checkpoint_codes.pth cannot be written" in caplog.text


def sampler_of(sampler_class):
    torch.manual_seed(1)
    targets = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    return sampler_class(torch.randn(160, DIM), torch.rand(160, DIM), targets, 3, ARGS.seed)


@pytest.mark.parametrize("sampler_class", [PosteriorSampler, FeatureTransferSampler])
def test_steps_are_those_of_a_plain_loop(sampler_class):
    sampler, model, plain = sampler_of(sampler_class), model_of(), model_of()
    settings = {"lr": ARGS.lr, "momentum": ARGS.momentum, "weight_decay": ARGS.wd}
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    run = run_without_folder(ARGS, model, torch.optim.SGD(model.classifier.parameters(), **settings))
    run.epoch = 2
    assert augment.train_epoch(run, sampler) == [120, 120, 120]
    optimizer = torch.optim.SGD(plain.classifier.parameters(), **settings)
    sources, labels = sampler.plan(2)
    for step in range(ARGS.max_steps):
        rows = slice(20 * step, 20 * step + 20)
        noise = standard_normal(20, DIM, ARGS.seed, 2, step)
        optimizer.zero_grad()
        codes = sampler.codes(sources[rows], labels[rows], noise)
        F.cross_entropy(plain.classifier(codes), labels[rows]).backward()
        optimizer.step()
    torch.testing.assert_close(model.classifier.weight, plain.classifier.weight)
    assert run.position == Position(6, 120, run.position.totals)


def test_first_loss_is_that_of_an_epoch_in_which_nothing_moves():
    sampler, model = sampler_of(PosteriorSampler), model_of()
    first = augment.measure_first_loss(model, sampler, ARGS)
    run = run_without_folder(ARGS, model, torch.optim.SGD(model.classifier.parameters(), lr=0.0))
    augment.train_epoch(run, sampler)
    assert run.mean_terms() == pytest.approx([first])


def test_flags_of_case_1_choose_the_counts_and_the_rank():
    source = sampler_of(PosteriorSampler)
    codes = {"mu": source.mu, "sigma": source.sigma, "targets": source.targets}
    args = argparse.Namespace(seed=5, rep_method="get_rep_nums2", ftl_rank=2)
    sampler = augment_ftl.transfer_sampler(codes, 3, args)
    assert sampler.wanted == [120, 120, 30]
    assert sampler.basis.shape == (DIM, 2)
    assert sampler.seed == augment.posterior_sampler(codes, 3, args).seed == 5


@pytest.mark.parametrize(
    ("start", "loss", "sampler", "says"),
    [
        ("adjusted", "ce", "instance", None),
        ("trained", "logit-adjust", "balanced", None),
        ("adjusted", "focal", "instance", None),
        ("adjusted", "logit-adjust", "instance", "--loss logit-adjust has balanced the classes already"),
        ("adjusted", "class-balanced", "instance", "--loss class-balanced has balanced the classes already"),
        ("adjusted", "ce", "balanced", "--sampler balanced has balanced the classes already"),
        ("adjusted", "ce", "sqrt", "--sampler sqrt has balanced the classes already"),
    ],
)
def test_classes_that_are_balanced_twice_are_told(start, loss, sampler, says, caplog):
    trained = {"args": {"sampler": sampler}, "class_counts": [400, 40, 4]}
    augment.check_adjusted_start(argparse.Namespace(start=start, loss=loss), trained)
    assert len(caplog.messages) == bool(says)
    assert (says or "") in caplog.text


def test_adjusted_start_is_the_trained_classifier_without_the_class_shares(trained_digits):
    flags = ["Digits_LT", "--start=adjusted", f"--logdir={trained_digits}", "--resume=auto", "--quiet"]
    args, given = parse(augment.build_parser(), flags)
    trained = find_trained(args, given, RunFolder(args.logdir, "_aug"))
    complete_data(args)
    model = augment.load_trained_model(args, trained, load_splits(args, augment=False), World())
    shares = torch.tensor([130, 110, 80, 60, 45, 35, 25, 20, 12, 6]) / 523
    torch.testing.assert_close(model.classifier.bias, trained["state_dict"]["classifier.bias"] - shares.log())
    assert torch.equal(model.classifier.weight, trained["state_dict"]["classifier.weight"])


def test_classifier_by_the_cosine_has_nothing_to_adjust():
    with pytest.raises(UserError, match="--start adjusted: the classifier of --loss ldam-drw .* no bias"):
        augment.check_adjusted_start(argparse.Namespace(start="adjusted", loss="ldam-drw"), {"args": {}})


def test_device_without_room_for_the_training_codes_is_told(monkeypatch):
    """The batch size would not help."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0 has 9 GiB.")

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(UserError, match="Tried to allocate 20 GiB.*: give a GPU that holds the codes of all training"):
        augment.take_training_codes({"train": {"mu": torch.zeros(2, 3)}}, torch.device("cuda"))


def test_training_codes_are_taken_without_a_copy():
    mu, log_var = torch.randn(4, 2), torch.tensor([[0.0, 2.0]]).repeat(4, 1)
    test = {"targets": torch.zeros(1), "mu": torch.zeros(1, 2), "log_var": torch.zeros(1, 2)}
    codes = {"train": {"targets": torch.arange(4), "mu": mu, "log_var": log_var}, "test": test}
    training = augment.take_training_codes(codes, torch.device("cpu"))
    assert training.keys() == {"targets", "mu", "sigma"}
    torch.testing.assert_close(training["sigma"], torch.tensor([[0.0, 1.0]]).exp().repeat(4, 1))
    assert (training["mu"].data_ptr(), training["sigma"].data_ptr()) == (mu.data_ptr(), log_var.data_ptr())
    assert codes == {"test": test}
    assert test.keys() == {"targets", "mu"}


@pytest.mark.parametrize(("moved", "found"), [(0.0, set()), (0.1, {"distance_quantiles"})])
def test_distances_are_measured_from_components_that_training_has_moved(moved, found):
    """Whether or not an epoch with the mixture term has ended, after which they are placed at the classes' codes."""
    model, codes = model_of(), {"mu": torch.randn(30, DIM), "targets": torch.arange(30) % 3}
    with torch.no_grad():
        model.prior.logits[0] = moved
        assert augment.examine_training_codes(model, codes).keys() == found


def test_plain_classifier_has_no_components_to_measure_from():
    assert augment.examine_training_codes(PlainClassifier("resnet32", 3), {}) == {}


def test_classifier_that_goes_astray_is_told_of_the_flags_of_a_re_training():
    model, loader = model_of(), loader_of(6, 3)
    codes = augment.extract(model, loader, False, ARGS, torch.device("cpu"))
    with torch.no_grad():
        model.classifier.bias[1] = torch.nan
    with pytest.raises(
        UserError, match="^the probabilities are not finite: lower --lr, or give --clip-grad=5, or give --amp=off"
    ):
        augment.classify(model, codes, ARGS, World(torch.device("cpu")))


def test_signal_is_looked_for_before_each_batch_of_a_measurement(monkeypatch):
    model, loader, world, looked = model_of(), loader_of(6, 3), World(torch.device("cpu")), []
    codes = augment.extract(model, loader, False, ARGS, world.device)
    monkeypatch.setattr(world, "check_stop", lambda: looked.append(len(looked)))
    augment.classify(model, codes, argparse.Namespace(**vars(ARGS) | {"batch_size": 4}), world)
    assert looked == [0, 1]
