"""Extraction of codes, the file that keeps them, and what a re-training takes of them."""

import argparse
from types import SimpleNamespace

import pytest
import torch

import codes as codes_module
import train
from codes import examine_training_codes, extract, load_or_extract, take_training_codes
from datasets.base import Splits
from datasets.splits import complete_data, load_splits
from helpers.codes import ARGS, DIM, loader_of, model_of
from models.classifier import PlainClassifier
from models.losses import LossWeights
from models.scoring import Scorer
from utils.cli.rules import parse
from utils.device import to_unit_range
from utils.distributed.world import World
from utils.errors import UserError
from utils.training.checkpoint import read_verified

WEIGHTS = LossWeights(10.0, 0.1, 0.001)


@pytest.mark.parametrize(("generative", "labelled"), [(False, True), (True, True), (True, False)])
def test_extracted_codes_are_those_of_each_image_in_order(generative, labelled):
    model, loader = model_of(generative=generative).eval(), loader_of(11, 4)
    codes = extract(model, loader, labelled, ARGS, torch.device("cpu"))
    images = to_unit_range(torch.stack([loader.dataset[n][0] for n in range(11)]), torch.device("cpu"))
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
    return load_or_extract(model_of(), Splits(data, None, data), "of the weights", args, World())


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


def test_device_without_room_for_the_training_codes_is_told(monkeypatch):
    """The batch size would not help."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0 has 9 GiB.")

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(UserError, match="Tried to allocate 20 GiB.*: give a GPU that holds the codes of all training"):
        take_training_codes({"train": {"mu": torch.zeros(2, 3)}}, torch.device("cuda"))


def test_training_codes_are_taken_without_a_copy():
    mu, log_var = torch.randn(4, 2), torch.tensor([[0.0, 2.0]]).repeat(4, 1)
    test = {"targets": torch.zeros(1), "mu": torch.zeros(1, 2), "log_var": torch.zeros(1, 2)}
    codes = {"train": {"targets": torch.arange(4), "mu": mu, "log_var": log_var}, "test": test}
    training = take_training_codes(codes, torch.device("cpu"))
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
        assert examine_training_codes(model, codes).keys() == found


def test_plain_classifier_has_no_components_to_measure_from():
    assert examine_training_codes(PlainClassifier("resnet32", 3), {}) == {}


def test_distances_are_of_images_as_the_evaluation_has_them_and_of_an_epochs_in_a_trial(monkeypatch):
    flags = ["Digits_LT", "--new-size=16", "--crop-size=16", "--batch-size=20", "--max-steps=2"]
    args, _ = parse(train.build_parser(), [*flags, "--train-transform=shift"])
    complete_data(args)
    seen = []
    monkeypatch.setattr(codes_module, "make_loader", lambda world, args, data: seen.append(data))
    monkeypatch.setattr(codes_module, "shared_batches", lambda *_: None)
    monkeypatch.setattr(codes_module, "measure_distances", lambda *_: None)
    model, splits = SimpleNamespace(prior=SimpleNamespace(started=True), num_classes=10), load_splits(args)
    run = SimpleNamespace(model=model, args=args, world=World())
    codes_module.examine_codes(run, splits.train, splits.test.transform)
    (data,) = seen
    assert len(data) == 40
    assert all(torch.equal(data[0][0], data[0][0]) for _ in range(20))
