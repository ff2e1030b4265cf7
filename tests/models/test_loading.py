"""Trained models in code of one's own."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import models
import train
from datasets.splits import preprocessing_of
from models.atypicality import QUANTILES
from models.classifier import CosineClassifier
from models.encoder import ResNetEncoder
from models.loading import TrainedModel, build_model, load_model
from models.losses import LOSSES
from utils.cli.rules import parse
from utils.distributed.world import World
from utils.errors import UserError
from utils.training.checkpoint import load_checkpoint, save_checkpoint


def test_checkpoint_alone_gives_the_model_wherever_it_lies(trained_digits, tmp_path):
    shutil.copyfile(trained_digits / "checkpoint.pth", tmp_path / "moved.pth")
    model = models.load_model(tmp_path / "moved.pth")
    assert not any(module.training for module in model.modules())
    assert (model.class_names, model.image_size) == (tuple("0123456789"), 16)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    images = model.transform(image)[None]
    assert images.shape == (1, 1, 16, 16)
    features, probabilities = model.features(images), model(images)
    assert (features.shape, probabilities.shape) == ((1, 64), (1, 10))
    assert not features.requires_grad
    torch.nn.Linear(64, 2)(features).sum().backward()  # a classifier of one's own can learn from them
    assert probabilities.sum().item() == pytest.approx(1)


@torch.no_grad()
def test_atypicality_is_of_the_code_under_the_predicted_label(trained_digits):
    """The quantiles of each class are its own, on a straight line from 0."""
    model, images = models.load_model(trained_digits / "checkpoint.pth"), torch.rand(20, 1, 16, 16)
    found, prior = model.classify(images), model.network.prior
    distances = ((found.mu - prior.means[found.labels]).square() / prior.log_vars[found.labels].exp()).sum(dim=1)
    ends = distances.max() * torch.arange(1.0, 11)
    model.distance_quantiles = ends[:, None] * torch.linspace(0, 1, QUANTILES)
    np.testing.assert_allclose(model.classify(images).atypicality, distances / ends[found.labels], rtol=1e-4)


def test_older_checkpoint_does_not_say_how_images_are_prepared(trained_digits):
    checkpoint = load_checkpoint(trained_digits / "checkpoint.pth")
    said = checkpoint["preprocessing"]
    for entry in ("preprocessing", "distance_quantiles"):
        del checkpoint[entry]
    del checkpoint["args"]["train_transform"]
    model = TrainedModel(checkpoint, "old.pth")
    assert model.transform is None
    assert np.isnan(model.classify(torch.zeros(2, 1, 16, 16)).atypicality).all()
    assert preprocessing_of(checkpoint)._asdict() == said  # which its data set does


def small(arch, *flags):
    """The arguments of a training of small images."""
    return parse(train.build_parser(), ["Digits_LT", f"--arch={arch}", "--crop-size=32", "--h-dim=512", *flags])[0]


@pytest.mark.parametrize("arch", ["resnet18", "resnet18_vae3"])
def test_architecture_and_pretrained_weights_reach_the_encoder(arch, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "models.classifier.ResNetEncoder", lambda *given: asked.append(given) or ResNetEncoder("resnet18")
    )
    args = small(arch, "--z-dim=8")
    for pretrained in (True, False):
        build_model(World(), args, 3, pretrained)
    assert asked == [("resnet18", True), ("resnet18", False)]


@pytest.mark.parametrize("arch", ["resnet32", "resnet32_vae3"])
def test_ldam_classifies_by_the_cosine_and_no_other_loss_does(arch):
    for loss in LOSSES:
        model = build_model(World(), small(arch, f"--loss={loss}", "--z-dim=8"), 3)
        assert isinstance(model.classifier, CosineClassifier) is (loss == "ldam-drw")


@pytest.mark.parametrize("arch", ["resnet32", "resnet32_vae3"])
def test_initial_weights_are_of_the_seed_alone(arch):
    states = [build_model(World(), small(arch, "--z-dim=8", f"--seed={seed}"), 3).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


def test_what_is_no_checkpoint_is_named(tmp_path):
    save_checkpoint(tmp_path / "codes.pth", {"key": 1})
    with pytest.raises(UserError, match=r"codes\.pth is no checkpoint"):
        models.load_model(tmp_path / "codes.pth")


@pytest.mark.parametrize(("flag", "value"), [("arch", "resnet9000_vae3"), ("loss", "magic")])
def test_checkpoint_of_a_later_version_is_named(flag, value, trained_digits, tmp_path):
    stored = load_checkpoint(trained_digits / "checkpoint.pth")
    stored["args"][flag] = value
    save_checkpoint(tmp_path / "checkpoint.pth", stored)
    with pytest.raises(UserError, match=f"--{flag} {value}: this version of the code has no such"):
        models.load_model(tmp_path / "checkpoint.pth")


def test_class_that_is_certain_and_has_no_share_leaves_the_others_theirs(trained_digits):
    model = load_model(trained_digits / "checkpoint.pth")
    with torch.no_grad():
        model.network.classifier.bias[0] += 1e4
    images = torch.zeros(1, 1, model.image_size, model.image_size)
    found = model.classify(images, correction=torch.tensor([0.0] + [1 / 9] * 9).log())
    torch.testing.assert_close(found.probabilities[0], torch.tensor([0.0] + [1 / 9] * 9), check_dtype=False)


def test_loaded_model_says_how_many_images_of_each_class_it_has_seen(trained_digits):
    assert load_model(trained_digits / "checkpoint.pth").class_counts == (130, 110, 80, 60, 45, 35, 25, 20, 12, 6)
