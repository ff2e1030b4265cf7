"""The generative half, of a model that is as if trained, on a few images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from datasets.base import ArrayDataset
from datasets.transforms import make_transform
from helpers.trained import K, trained_like
from models.classifier import PlainClassifier
from scripts.experiments.corruption import blurred
from scripts.experiments.generative import SAMPLES, class_mean_images, measure_generative_half, sample_components

SIZE, BATCH = 12, 7


@pytest.fixture(scope="module")
def data() -> ArrayDataset:
    """Two grey images of each class, brighter from class to class."""
    targets = np.arange(2 * K) % K
    noise = np.random.default_rng(0).integers(0, 90, (2 * K, SIZE, SIZE))
    images = (noise + 20 * targets[:, None, None]).astype(np.uint8)
    transform = make_transform("none", False, "pad", SIZE, SIZE, 0.0)
    return ArrayDataset(images, list(map(str, range(K))), targets, list(map(str, range(2 * K))), transform)


def tensors(data: ArrayDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0,1] and labels."""
    return torch.from_numpy(data.images[data.rows][:, None] / 255).float(), torch.from_numpy(data.targets)


def judge_of_outlines() -> SimpleNamespace:
    """A classifier that answers by where an image is bright, so that each picture of a scene may get another answer."""
    torch.manual_seed(4)
    layer = nn.Linear(3 * SIZE**2, K, bias=False)
    judge = SimpleNamespace(classifier=layer, posterior=lambda features, _labels: (features, None))
    judge.features = lambda images: (images.expand(-1, 3, -1, -1) - images.mean(dim=(1, 2, 3), keepdim=True)).flatten(1)
    return judge


def by_class(hits: torch.Tensor, labels: torch.Tensor) -> float:
    return float(np.mean([hits[labels == c].double().mean() for c in range(K)]))


def test_errors_are_those_of_reconstructions_and_of_images_without_a_decoder(data):
    """Trained on eleven of the images and measured on ten, so that some classes count more than others."""
    train, test = data.subset(np.arange(11)), data.subset(np.arange(4, 14))
    model = trained_like(SIZE, assign="label")
    images, labels = tensors(test)
    judge = judge_of_outlines()
    health = measure_generative_half(model, train, test, {"one": judge}, BATCH)
    with torch.no_grad():
        rebuilt = model.reconstructions(images, labels)
        shown = (images, blurred(images), rebuilt)
        hits = [judge.classifier(judge.features(seen)).argmax(dim=1) == labels for seen in shown]
        candidates = [model.reconstructions(images, torch.full_like(labels, c)) for c in range(K)]
    errors = torch.stack([(candidate - images).square().mean(dim=(1, 2, 3)) for candidate in candidates], dim=1)
    known, names = tensors(train)
    means = torch.stack([known[names == c].mean(dim=0) for c in range(K)])
    assert health["mse"] == pytest.approx((rebuilt - images).square().mean().item(), rel=1e-5)
    assert health["mse_constant"] == pytest.approx((images - known.mean()).square().mean().item(), rel=1e-4)
    assert health["mse_class_mean"] == pytest.approx((images - means[labels]).square().mean().item(), rel=1e-4)
    recognised = [health[f"recognised_{what}_by_one"] for what in ("images", "blurred", "reconstructions")]
    assert recognised == pytest.approx([by_class(part, labels) for part in hits])
    assert len(set(recognised)) == 3
    assert health["acsa_reconstruction"] == pytest.approx(by_class(errors.argmin(dim=1) == labels, labels))
    assert torch.allclose(class_mean_images(train, 4, torch.device("cpu")), means, atol=1e-6)


@pytest.mark.parametrize(("assign", "started"), [("posterior", True), ("label", False)])
def test_component_of_no_class_recognises_and_shows_none(assign, started, data):
    """Those that no label has, and those that no training has moved."""
    model, judge = trained_like(SIZE, assign=assign), PlainClassifier("resnet18", K).eval()
    model.prior.logits.data.mul_(started)
    health = measure_generative_half(model, data, data, {"one": judge}, BATCH)
    assert health["acsa_mixture"] is None
    assert health["recognised_samples_by_one"] is None


def test_each_judge_says_what_it_recognises(data):
    """Of two judges that always name the same class each, every one recognises what is of its class."""
    model, always = trained_like(SIZE, assign="label"), {}
    for label in (2, 5):
        judge = PlainClassifier("resnet18", K).eval()
        judge.classifier.bias.data[label] = 1e6
        always[f"class {label}"] = judge
    health = measure_generative_half(model, data.subset(np.arange(6)), data.subset(np.arange(6)), always, BATCH)
    for name in always:
        assert health[f"recognised_images_by_{name}"] == pytest.approx(1 / 6)
        assert health[f"recognised_samples_by_{name}"] == pytest.approx(1 / K)
    assert not any("recognised" in name for name in measure_generative_half(model, data, data, {}, BATCH))


def test_samples_are_drawn_from_each_component(data):
    model = trained_like(SIZE, assign="label")

    def drawn(seed):
        return [torch.cat(part) for part in zip(*sample_components(model, seed, BATCH), strict=True)]

    images, labels = drawn(0)
    assert torch.bincount(labels).tolist() == [SAMPLES] * K
    assert images.shape == (K * SAMPLES, 3, SIZE, SIZE)
    assert torch.equal(images, drawn(0)[0])
    with torch.no_grad():
        model.prior.log_vars.fill_(-10.0)  # hardly any spread: each sample is the decoded mean
        expected = model.decoder(model.prior.means, torch.arange(K))
    assert torch.allclose(drawn(1)[0][::SAMPLES], expected, atol=0.02)


def test_mixture_alone_takes_the_component_that_the_code_lies_in(data):
    """Components that are moved to the codes of their classes recognise them all."""
    model = trained_like(SIZE, assign="label")
    images, labels = torch.from_numpy(data.images[:, None] / 255).float(), torch.from_numpy(data.targets)
    with torch.no_grad():
        mu, _ = model.posterior(model.features(images), labels)
        model.prior.means.copy_(torch.stack([mu[labels == c].mean(dim=0) for c in range(K)]))
        model.prior.log_vars.fill_(-3.0)
    assert measure_generative_half(model, data, data, {}, BATCH)["acsa_mixture"] == 1.0
