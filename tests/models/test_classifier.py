"""The plain classifiers: their parameters, their loss, and their features as codes without spread."""

import pytest
import torch
import torch.nn.functional as F

from models.cifar_resnet import BasicBlock
from models.classifier import PlainClassifier, subtract_class_shares
from models.dgcmm import DGCMM
from models.losses import LossWeights
from models.samplers import FeatureTransferSampler, PosteriorSampler
from models.scoring import Scorer

B, K = 4, 5


def parameters_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("classes", "count"), [(10, 464_154), (100, 470_004)])
def test_resnet32_has_the_parameters_of_its_reference(classes, count):
    assert parameters_of(PlainClassifier("resnet32", classes)) == count


def test_plain_resnet18_is_torchvisions():
    with torch.device("meta"):
        assert parameters_of(PlainClassifier("resnet18", 1000)) == 11_689_512


def test_convolutions_of_resnet32_start_as_he_says():
    encoder = PlainClassifier("resnet32", 10).encoder.resnet
    assert encoder.layer3[2].conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("cosine", "std"), [(False, (2 / 64) ** 0.5), (True, 64**-0.5)])
def test_classifier_of_resnet32_starts_as_its_layers_and_directions_with_length_1(cosine, std):
    weight = PlainClassifier("resnet32", 1000, cosine=cosine).classifier.weight
    assert weight.std().item() == pytest.approx(std, rel=0.02)


def test_shortcut_takes_every_second_pixel_and_fills_channels_on_both_sides():
    block, maps = BasicBlock(16, 32).eval(), torch.rand(2, 16, 7, 7)
    torch.nn.init.zeros_(block.conv2.weight)  # of the other way nothing is left
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, 8:24] = maps[:, :, ::2, ::2]
    torch.testing.assert_close(block(maps), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64, 225])
@torch.no_grad()
def test_images_of_any_size_are_encoded_and_given_back(size, channels):
    images, labels = torch.rand(2, channels, size, size), torch.arange(2)
    model = DGCMM("resnet32_vae3", K, 8, size)
    terms = model(images, labels, torch.randn(2, 8), LossWeights(1.0, 1.0, 1.0))
    assert all(torch.isfinite(term) for term in terms)
    assert model.reconstructions(images, labels).shape == (2, 3, size, size)
    assert model.encoder(images).shape == (2, 64)


@pytest.fixture
def model() -> PlainClassifier:
    return PlainClassifier("resnet32", K).eval()


def test_loss_is_the_weighted_cross_entropy(model):
    images, labels = torch.rand(B, 1, 32, 32), torch.arange(B)
    terms = model(images, labels, None, LossWeights(3.0, 0.0, 0.0))
    expected = F.cross_entropy(model.classifier(model.encoder(images)), labels)
    torch.testing.assert_close((terms.cls, terms.total), (expected, 3 * expected))
    assert terms.reconst is terms.gmm is None
    terms.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_probabilities_are_the_classifiers(model):
    images = torch.rand(B, 3, 32, 32)
    scorer = Scorer(model, LossWeights(1.0, 0.0, 0.0))
    found = scorer.probabilities(*scorer.evidence(images))
    torch.testing.assert_close(found, model.classifier(model.encoder(images)).softmax(dim=1))


@pytest.mark.parametrize("sampler_class", [PosteriorSampler, FeatureTransferSampler])
@torch.no_grad()
def test_every_draw_of_a_code_is_the_feature_itself(sampler_class, model):
    features, targets = torch.randn(6, 64), torch.tensor([0, 0, 0, 1, 1, 2])
    mu, log_var = model.posterior(features, None)
    sampler = sampler_class(mu, (0.5 * log_var).exp(), targets, 3, seed=0)
    drawn = sampler.codes(torch.arange(6), targets, torch.randn(6, 64))
    assert torch.equal(drawn, features)
    assert model.responsible_component(mu).tolist() == [-1] * 6


def test_classifier_without_the_class_shares_is_that_of_balanced_classes():
    """Two normal densities on a line, whose p(y|z) is linear in z: log p(z|y) and the log of the shares 0.9 and 0.1."""
    classifier = torch.nn.Linear(1, 2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[-1.0], [1.0]]))  # of N(-1,1) and N(1,1)
        classifier.bias.copy_(torch.tensor([0.9, 0.1]).log())
    subtract_class_shares(classifier, [90, 10])
    torch.testing.assert_close(classifier(torch.zeros(1, 1)).softmax(dim=1), torch.full((1, 2), 0.5))
    assert classifier.weight.flatten().tolist() == [-1, 1]


@pytest.mark.parametrize("kind", ["plain", "DGCMM"])
def test_frozen_encoder_gets_no_gradient_and_keeps_its_batch_norm_while_the_rest_learns(kind):
    model = PlainClassifier("resnet32", K) if kind == "plain" else DGCMM("resnet32_vae3", K, 8, 32)
    model.freeze_encoder()
    weights = LossWeights(1.0, 0.1, 0.01)
    model.train_under(weights)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model.train()
    assert model.training
    noise = torch.randn(B, model.z_dim)
    model(torch.rand(B, 1, 32, 32), torch.arange(B), noise, weights).total.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith("encoder.")}
    assert {"classifier.weight", "classifier.bias"} <= changed
    wanting = {name.partition(".")[0] for name, value in model.named_parameters() if not value.requires_grad}
    assert wanting == {"encoder"}
    model.eval()
    assert not any(module.training for module in model.modules())
