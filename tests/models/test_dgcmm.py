"""The joined model: its loss, what each weight switches off, its predictions, its precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dgcmm import DGCMM, INITIAL_LOG_VAR
from models.losses import LossWeights
from models.prior import LOG_VAR_LIMIT

B, K, D, S = 6, 5, 16, 32
ALL = LossWeights(10.0, 0.1, 0.001)
GENERATIVE = pytest.mark.parametrize("generative", [False, True], ids=["plain", "generative"])
ASSIGN = pytest.mark.parametrize("gmm_assign", ["posterior", "label"])


def make_model(generative: bool = False, gmm_assign: str = "posterior") -> DGCMM:
    """A small model that is as if trained: no parameter is at a start value of 0."""
    model = DGCMM("resnet32_vae3", K, D, S, generative=generative, gmm_assign=gmm_assign)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("prior.", "decoder.norms.")):
                parameter.normal_(std=0.5)
        model.log_var_head.weight.normal_(std=0.02)
        for head in (model.mu_head, model.log_var_head):
            head.weight[:, model.encoder.feature_dim :].normal_(std=0.5)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(B, 3, S, S)


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(B, D)


class Fixed(nn.Module):
    """In place of a part of the model: gives the same answer, or raises if there is none."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *_args: Tensor) -> Tensor:
        if self.answer is None:
            raise AssertionError("a term of weight 0 was computed")
        return self.answer

    mixture_term = forward


@ASSIGN
@GENERATIVE
def test_loss_is_the_weighted_sum_of_the_terms_at_the_sampled_code(images, labels, noise, generative, gmm_assign):
    model = make_model(generative, gmm_assign)
    terms = model(images, labels, noise, LossWeights(3.0, 5.0, 0.7))
    mu, log_var = model.posterior(model.features(images), labels)
    codes = mu + (log_var / 2).exp() * noise
    cls = -model.classifier(codes).log_softmax(1)[range(B), labels].mean()
    reconst = (model.decoder(codes, labels) - images).pow(2).mean()
    assigned = labels if gmm_assign == "label" else None
    gmm = model.prior.mixture_term(mu, log_var, codes, assigned).mean()
    torch.testing.assert_close((terms.cls, terms.reconst, terms.gmm), (cls, reconst, gmm))
    torch.testing.assert_close(terms.total, 3.0 * cls + 5.0 * reconst + 0.7 * gmm)


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstruction_is_measured_against_the_image_in_0_to_1(labels, noise, channels):
    model, images = make_model(), torch.rand(B, channels, S, S)
    model.decoder = Fixed(images.expand(-1, 3, -1, -1))
    assert model(images, labels, noise, ALL).reconst == 0


@pytest.mark.parametrize(
    ("term", "owner"), [("cls", "classifier"), ("reconst", "decoder"), ("gmm", "prior")], ids=lambda value: value
)
def test_term_of_weight_0_leaves_its_parameters_alone(images, labels, noise, term, owner):
    model = make_model()
    terms = model(images, labels, noise, ALL._replace(**{term: 0.0}))
    terms.total.backward()
    assert getattr(terms, term) is None
    untouched = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert untouched == {name for name, _ in model.named_parameters() if name.startswith(f"{owner}.")}
    setattr(model, owner, Fixed())
    torch.testing.assert_close(model(images, labels, noise, ALL._replace(**{term: 0.0})).total, terms.total)


@ASSIGN
@GENERATIVE
def test_every_parameter_learns_from_the_three_terms(images, labels, noise, generative, gmm_assign):
    model = make_model(generative, gmm_assign)
    model(images, labels, noise, ALL).total.backward()
    batch_norm_follows = {"decoder.project.0.bias", *(f"decoder.convolutions.{depth}.bias" for depth in range(3))}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any() or name in batch_norm_follows, name


@GENERATIVE
@torch.no_grad()
def test_codes_start_short_and_equally_wide(images, labels, generative):
    model = DGCMM("resnet32_vae3", K, D, S, generative=generative)
    mu, log_var = model.posterior(model.features(images), labels)
    assert mu.abs().max() < 0.5
    assert (log_var == INITIAL_LOG_VAR).all()
    assert (0.5 * log_var[0, 0]).exp().item() == pytest.approx(0.61, abs=0.005)


@GENERATIVE
@torch.no_grad()
def test_codes_start_as_wide_as_they_are_told(images, labels, generative):
    model = DGCMM("resnet32_vae3", K, D, S, generative=generative)
    model.start_spread(0.1)
    _, log_var = model.posterior(model.features(images), labels)
    torch.testing.assert_close((0.5 * log_var).exp(), torch.full((B, D), 0.1))


@GENERATIVE
def test_log_var_is_clamped(images, labels, generative):
    model = make_model(generative)
    with torch.no_grad():
        model.log_var_head.bias.copy_(torch.tensor([100.0, -100.0]).repeat(D // 2))
        _, log_var = model.posterior(model.features(images), labels)
    assert log_var.unique().tolist() == [-LOG_VAR_LIMIT, LOG_VAR_LIMIT]


def test_code_depends_on_the_label_in_the_generative_model_alone(images, labels):
    for generative in (False, True):
        model = make_model(generative)
        features = model.features(images)
        same = [
            torch.equal(*pair)
            for pair in zip(model.posterior(features, labels), model.posterior(features, labels.flip(0)), strict=True)
        ]
        assert same == [not generative] * 2


@ASSIGN
def test_losses_stay_float32_under_bf16(images, labels, noise, gmm_assign):
    model, seen = make_model(gmm_assign=gmm_assign), []
    model.encoder.resnet.conv1.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model(images, labels, noise, ALL)
        features = model.features(images)
    assert seen == [torch.bfloat16] * 2  # the autocast is on
    assert {value.dtype for value in (*terms, features)} == {torch.float32}
    mu, log_var = model.posterior(features, labels)
    codes = mu + (log_var / 2).exp() * noise
    assigned = labels if gmm_assign == "label" else None
    exact = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(terms.cls, F.cross_entropy(model.classifier(codes), labels), **exact)
    torch.testing.assert_close(terms.gmm, model.prior.mixture_term(mu, log_var, codes, assigned).mean(), **exact)


@torch.no_grad()
def test_training_uses_and_follows_batch_statistics(images, labels, noise):
    model = make_model()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(images, labels, noise, ALL)
    changed = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert changed == before.keys() - {"encoder.mean", "encoder.std", "decoder.resize_matrix"}
    assert not torch.allclose(model.features(images)[:2], model.features(images[:2]))


@GENERATIVE
@torch.no_grad()
def test_reconstructions_are_decoded_from_mu(images, labels, generative):
    model = make_model(generative).eval()
    mu, _ = model.posterior(model.features(images), labels)
    rebuilt = model.reconstructions(images, labels)
    assert rebuilt.shape == (B, 3, S, S)
    torch.testing.assert_close(rebuilt, model.decoder(mu, labels))


def test_prior_is_saved_with_the_model():
    state = make_model().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if name.startswith("prior.")}
    assert shapes == {"prior.logits": (K,), "prior.means": (K, D), "prior.log_vars": (K, D)}
    assert set(shapes) <= {name for name, _ in make_model().named_parameters()}


@torch.no_grad()
def test_sample_of_a_component_lies_its_standard_deviations_from_the_mean():
    model, components, noise = make_model(gmm_assign="label").eval(), torch.tensor([4, 0, 4]), torch.randn(3, D)
    prior = model.prior
    codes = prior.means[components] + prior.log_vars[components].exp().sqrt() * noise
    torch.testing.assert_close(model.samples(components, noise), model.decoder(codes, components))
