"""The mixture prior: exact against the definition, differentiable, lean, and able to learn a rare class."""

import argparse
import copy
import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datasets import DATASETS
from models.prior import LOG_VAR_LIMIT, GaussianMixturePrior
from utils.cli.rules import default_prior_lr
from utils.training.optimisation import build_optimizer

ASSIGN = pytest.mark.parametrize("by_label", [False, True], ids=["posterior", "label"])


def random_prior(k: int, d: int, limit: float = 4.0) -> GaussianMixturePrior:
    """Means within +-10, log-variances within +-limit, uneven weights."""
    prior = GaussianMixturePrior(k, d)
    with torch.no_grad():
        prior.logits.normal_()
        prior.means.uniform_(-10, 10)
        prior.log_vars.uniform_(-limit, limit)
    return prior


def direct_log_gamma(prior: GaussianMixturePrior, codes: Tensor) -> Tensor:
    """log gamma (B,K) by the definition, in float64, over (B,K,D) tensors."""
    normals = torch.distributions.Normal(prior.means.double(), (0.5 * prior.log_vars.double()).exp())
    log_joint = prior.logits.double().log_softmax(0) + normals.log_prob(codes.double()[:, None]).sum(dim=2)
    return log_joint - log_joint.logsumexp(dim=1, keepdim=True)


def direct_kl(prior: GaussianMixturePrior, mu: Tensor, log_var: Tensor) -> Tensor:
    """KL of the codes' distribution to each component (B,K) by the definition, in float64, over (B,K,D) tensors."""
    mu, log_var, m, log_v = (
        mu.double()[:, None],
        log_var.double()[:, None],
        prior.means.double(),
        prior.log_vars.double(),
    )
    return 0.5 * (log_v - log_var + (log_var.exp() + (mu - m).square()) / log_v.exp() - 1).sum(dim=2)


def direct_term(prior: GaussianMixturePrior, mu: Tensor, log_var: Tensor, codes: Tensor, labels: Tensor | None):
    """L_gmm (B,) by the definition."""
    log_gamma, log_pi = direct_log_gamma(prior, codes), prior.logits.double().log_softmax(0)
    if labels is None:
        gamma = log_gamma.exp()
        entropy_terms = gamma * (log_gamma - log_pi)
    else:
        gamma = nn.functional.one_hot(labels, len(prior.logits)).double()
        entropy_terms = -gamma * log_pi
    return (gamma * direct_kl(prior, mu, log_var) + entropy_terms).sum(dim=1)


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.5, 1e4), (0.25, 2.0)])
def test_variances_stay_within_their_bounds_through_start_and_steps(low, high):
    prior = GaussianMixturePrior(3, 8)
    prior.bound_variances(low, high)
    prior.start(torch.tensor([4.0, 2.0, 0.0]), torch.randn(3, 8), torch.rand(3, 8) * 4)
    optimizer = torch.optim.SGD(prior.parameters(), lr=1.0)
    for _ in range(5):
        variances = prior.log_vars.detach().exp()
        assert (variances >= low * (1 - 1e-6)).all()
        assert (variances <= high * (1 + 1e-6)).all()
        mu = torch.randn(6, 8)
        optimizer.zero_grad()
        prior.mixture_term(mu, torch.zeros(6, 8), mu).mean().backward()
        optimizer.step()
        prior.project()


@ASSIGN
@pytest.mark.parametrize("distance", [None, 1.0, 1e-3, 0.0], ids=["far", "near", "close", "at the mean"])
@pytest.mark.parametrize(("k", "d"), [(1, 64), (15, 64), (1000, 64), (15, 2048)])
def test_term_equals_the_definition(k, d, distance, by_label):
    prior = random_prior(k, d)
    labels = torch.arange(8) % k
    log_var = torch.empty(8, d).uniform_(-4, 4)
    if distance is None:
        mu = torch.empty(8, d).uniform_(-10, 10)
        codes = mu + (0.5 * log_var).exp() * torch.randn(8, d)
    else:
        mu = (prior.means[labels] + distance * torch.randn(8, d)).detach()
        codes = (prior.means[labels] + distance * torch.randn(8, d)).detach()
    labels = labels if by_label else None
    term = prior.mixture_term(mu, log_var, codes, labels)
    assert term.dtype == torch.float32
    torch.testing.assert_close(term.double(), direct_term(prior, mu, log_var, codes, labels), rtol=1e-6, atol=0)


@ASSIGN
def test_gradient_is_the_same_in_every_run_with_several_threads_too(by_label, several_threads):
    prior, labels = random_prior(10, 512), torch.arange(4000) % 10
    mu, log_var = torch.randn(4000, 512), torch.randn(4000, 512)
    found = []
    for _ in range(10):
        term = prior.mixture_term(mu, log_var, mu, labels if by_label else None)
        found.append(torch.autograd.grad(term.sum(), list(prior.parameters())))
    assert all(torch.equal(one, first) for grads in found for one, first in zip(grads, found[0], strict=True))


@pytest.mark.parametrize("k", [1, 15, 1000])
def test_responsibilities_equal_the_definition_where_components_overlap(k):
    prior = GaussianMixturePrior(k, 64)
    nn.init.normal_(prior.logits)
    nn.init.normal_(prior.log_vars, std=0.3)
    codes = torch.randn(8, 64)
    assert k == 1 or prior.log_responsibilities(codes).exp().max(dim=1).values.median() < 0.99
    log_gamma = prior.log_responsibilities(codes)
    torch.testing.assert_close(log_gamma.double(), direct_log_gamma(prior, codes), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_gamma.exp().sum(dim=1), torch.ones(8))


@pytest.mark.parametrize("d", [64, 2048])
def test_ties_far_from_the_centre_of_the_means_are_told_apart(d):
    prior = GaussianMixturePrior(4, d)
    far = 10 * torch.randn(d).sign()
    with torch.no_grad():
        prior.means.normal_(std=0.1 / math.sqrt(d)).add_(torch.stack([far, far, -far, -far]))
        prior.log_vars.fill_(-4)
    codes = (prior.means[:2].mean(dim=0) + 0.1 * torch.randn(8, d)).detach()
    log_var = torch.full((8, d), -4.0)
    assert prior.log_responsibilities(codes).exp().max(dim=1).values.median() < 0.9
    term = prior.mixture_term(codes, log_var, codes)
    torch.testing.assert_close(term.double(), direct_term(prior, codes, log_var, codes, None), rtol=1e-6, atol=0)
    log_gamma = prior.log_responsibilities(codes)[:, :2]
    torch.testing.assert_close(log_gamma.double(), direct_log_gamma(prior, codes)[:, :2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("d", [64, 2048])
def test_sampled_codes_of_narrow_components_far_from_the_centre(d, tied):
    """At |m| = 10 and v = e^-4 the distribution of a code is nearly its component's: terms where 10^7 cancels."""
    prior = GaussianMixturePrior(8, d)
    far = 10 * torch.randn(4 if tied else 8, d).sign()
    if tied:
        far = (far.repeat_interleave(2, 0) + 0.02 * math.exp(-2) * torch.randn(8, d))[torch.randperm(8)]
    with torch.no_grad():
        prior.means.copy_(far)
        prior.log_vars.normal_(-4, 0.05)
    mu = far + 0.1 * math.exp(-2) * torch.randn(8, d)
    log_var = -4 + 0.3 * torch.randn(8, d)
    codes = mu + (0.5 * log_var).exp() * torch.randn(8, d)
    inputs = [mu, log_var, codes]
    value, slopes = value_and_gradients(prior, inputs, prior.mixture_term)
    wide = copy.deepcopy(prior).double()
    exact, exact_slopes = value_and_gradients(wide, inputs, functools.partial(direct_term, wide))
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    for name, slope in slopes.items():
        error = (slope.double() - exact_slopes[name]).norm() / exact_slopes[name].norm().clamp_min(1e-6)
        assert error < 1e-6, name


def value_and_gradients(prior: GaussianMixturePrior, inputs: list[Tensor], function: Callable):
    """A term of (mu, log_var, codes, None), and its gradients by name, in the precision of the prior."""
    inputs = [value.to(prior.means.dtype, copy=True).requires_grad_() for value in inputs]
    term = function(*inputs, None)
    names = ("mu", "log_var", "codes", "logits", "means", "log_vars")
    return term.detach(), dict(zip(names, torch.autograd.grad(term.sum(), [*inputs, *prior.parameters()]), strict=True))


@ASSIGN
def test_gradients_are_those_of_the_value(by_label):
    prior = random_prior(3, 4, limit=1.0).double()
    with torch.no_grad():
        prior.means.mul_(0.1)
    labels = torch.tensor([0, 2]) if by_label else None
    inputs = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def term(mu, log_var, codes, *_parameters):
        return prior.mixture_term(mu, log_var, codes, labels)

    assert torch.autograd.gradcheck(term, (*inputs, *prior.parameters()))


@ASSIGN
def test_gradient_flows_through_responsibilities(by_label):
    prior = GaussianMixturePrior(3, 4)
    mu, log_var, codes = (torch.randn(2, 4, requires_grad=True) for _ in range(3))
    prior.mixture_term(mu, log_var, codes, torch.tensor([0, 2]) if by_label else None).sum().backward()
    assert (codes.grad is None) == by_label  # gamma = onehot(y) does not read the code
    assert by_label or (codes.grad != 0).all()


def test_label_assignment_costs_minus_log_weight_beside_the_kl():
    prior = random_prior(5, 8, limit=1.0)
    mu, log_var, labels = torch.randn(3, 8), torch.randn(3, 8), torch.tensor([4, 0, 4])
    own = torch.distributions.Normal(prior.means[labels], (0.5 * prior.log_vars[labels]).exp())
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mu, (0.5 * log_var).exp()), own).sum(dim=1)
    term = prior.mixture_term(mu, log_var, codes=mu, targets=labels)
    torch.testing.assert_close(term, kl - prior.logits.log_softmax(0)[labels])


@pytest.mark.parametrize("k", [2, 15])
def test_separated_components_own_their_codes_at_2048_dimensions(k):
    prior = GaussianMixturePrior(k, 2048)
    with torch.no_grad():
        prior.means.copy_(torch.randn(k, 2048))
    gamma = prior.log_responsibilities(prior.means + 0.5 * torch.randn(k, 2048)).exp()
    assert gamma.diagonal().min() > 0.99


def test_responsibilities_far_from_every_component_do_not_become_uniform():
    prior = GaussianMixturePrior(3, 2048)
    with torch.no_grad():
        prior.log_vars.copy_(torch.tensor([0.0, 1.0, 2.0])[:, None].expand(3, 2048))
    log_gamma = prior.log_responsibilities(torch.full((2, 2048), 1e3))
    assert torch.isfinite(log_gamma).all()
    assert log_gamma.exp().tolist() == [[0, 0, 1]] * 2


def test_weights_count_once_whatever_the_dimension():
    prior = GaussianMixturePrior(4, 2048)
    with torch.no_grad():
        prior.logits.normal_()
        prior.means.zero_()
    gamma = prior.log_responsibilities(torch.randn(2, 2048)).exp()
    torch.testing.assert_close(gamma, prior.logits.softmax(0).expand(2, 4))


@ASSIGN
def test_no_tensor_of_codes_by_components_by_dimensions_is_made(by_label):
    b, k, d = 12, 700, 64
    prior, labels = GaussianMixturePrior(k, d), torch.arange(12) if by_label else None
    mu, log_var, codes = (torch.randn(b, d, requires_grad=True) for _ in range(3))
    with Largest() as largest:
        prior.mixture_term(mu, log_var, codes, labels).sum().backward()
    assert b * d <= largest.elements <= k * d


def test_largest_sees_the_definitions_tensors():
    prior = random_prior(20, 64)
    with Largest() as largest:
        direct_kl(prior, torch.randn(12, 64), torch.zeros(12, 64))
    assert largest.elements == 12 * 20 * 64


def test_log_variances_act_within_their_limits():
    wild, tame = random_prior(3, 4), random_prior(3, 4)
    tame.load_state_dict(wild.state_dict())
    with torch.no_grad():
        wild.log_vars[0], tame.log_vars[0] = 50.0, LOG_VAR_LIMIT
        wild.log_vars[1], tame.log_vars[1] = -50.0, -LOG_VAR_LIMIT
    args = (torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4))
    for labels in (None, torch.tensor([0, 1])):
        assert torch.equal(wild.mixture_term(*args, labels), tame.mixture_term(*args, labels))


@pytest.mark.parametrize("sign", [-1, 1])
def test_project_leads_an_overshot_component_back(sign):
    prior = GaussianMixturePrior(2, 4)
    with torch.no_grad():
        prior.log_vars[0] = sign * 50.0
    prior.project()
    torch.testing.assert_close(prior.log_vars[0], torch.full((4,), sign * LOG_VAR_LIMIT), rtol=1e-3, atol=0)
    assert (prior.log_vars[1] == 0).all()
    prior.mixture_term(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0])).sum().backward()
    assert (prior.log_vars.grad[0] * sign > 0).all()  # and the next step can leave the limit


def test_start_places_each_component_at_the_codes_of_its_class():
    prior, codes = GaussianMixturePrior(3, 4), torch.randn(31, 4, dtype=torch.float64)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    classes = (codes[:30], codes[30:])  # class 1 is absent, and there is one of class 2
    means, variances = torch.zeros(2, 3, 4, dtype=torch.float64)
    for c, members in zip((0, 2), classes, strict=True):
        means[c], variances[c] = members.mean(dim=0), members.var(dim=0, correction=0) + 0.3
    prior.start(torch.tensor([30.0, 0.0, 1.0]), means, variances)
    for c in (0, 2):
        torch.testing.assert_close(prior.means[c].double(), means[c])
        torch.testing.assert_close(prior.log_vars[c].double(), variances[c].log())
    assert torch.equal(prior.means[1], before["means"][1])
    assert torch.equal(prior.log_vars[1], before["log_vars"][1])
    torch.testing.assert_close(prior.log_weights().exp(), torch.tensor([30, 0.5, 1]) / 31.5)


@pytest.mark.parametrize("variance", [-1e-12, 0.0, 1e9])
def test_component_that_starts_at_a_limit_can_leave_it(variance):
    prior = GaussianMixturePrior(1, 4)
    prior.start(torch.ones(1), torch.zeros(1, 4), torch.full((1, 4), variance))
    prior.mixture_term(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 4)).sum().backward()
    assert torch.isfinite(prior.log_vars).all()
    assert (prior.log_vars.grad != 0).all()


def test_state_is_logits_means_and_log_variances():
    shapes = {name: tuple(value.shape) for name, value in GaussianMixturePrior(5, 7).state_dict().items()}
    assert shapes == {"logits": (5,), "means": (5, 7), "log_vars": (5, 7)}


def test_components_start_apart_and_equally_likely():
    prior = GaussianMixturePrior(15, 64)
    assert torch.pdist(prior.means).min() > 0.5
    assert prior.means.std().item() == pytest.approx(0.1, rel=0.1)
    torch.testing.assert_close(prior.log_weights().exp(), torch.full((15,), 1 / 15))


class Learner(nn.Module):
    """A prior beside a network, as the optimizer wants them."""

    def __init__(self, k: int, d: int) -> None:
        super().__init__()
        self.prior, self.network = GaussianMixturePrior(k, d), nn.Linear(1, 1)


def distance_left(prior_lr: float, separation: float) -> Tensor:
    """Distance of each component to its class mean after the recipe's 100 epochs on ChestXray, of 1 at the start.

    A batch is two codes of each class, one within-class standard deviation (1) from the class mean, weighted by the
    class's share: the expected step, without its noise. Each step stands for 80 (80 times the weight), 511 for 40,880.
    """
    shares = torch.tensor(DATASETS["ChestXray"].train_counts, dtype=torch.float32)
    shares = (shares / shares.sum()).repeat(2) / 2
    k, d = len(shares) // 2, 8
    model = Learner(k, d)
    start = model.prior.means.detach().clone()
    class_means = start + separation * torch.randn(k, d).sign()
    mu, log_var, labels = torch.cat([class_means - 1, class_means + 1]), torch.full((2 * k, d), -4.0), torch.arange(k)
    settings = argparse.Namespace(lr=5e-3, prior_lr=prior_lr, momentum=0.9, wd=1e-4)
    optimizer = build_optimizer(model, settings)
    for _ in range(511):
        loss = 80 * 1e-3 * (shares * model.prior.mixture_term(mu, log_var, mu, labels.repeat(2))).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        model.prior.project()
    return (model.prior.means.detach() - class_means).norm(dim=1) / (separation * math.sqrt(d))


@pytest.mark.parametrize("separation", [0.3, 1.0])
def test_recipe_leads_the_rarest_component_more_than_half_way(separation):
    left = distance_left(default_prior_lr(5e-3, 1e-3), separation)
    assert left.max() == left[14]
    assert left[14] < 0.5
    assert left[0] < 0.01


def test_rarest_component_would_stay_at_the_networks_learning_rate():
    assert distance_left(5e-3, 1.0)[14] > 0.99


def test_bounds_hold_at_once():
    prior = GaussianMixturePrior(3, 8)
    prior.bound_variances(2.0, 3.0)
    torch.testing.assert_close(prior.log_vars.detach().exp(), torch.full((3, 8), 2.0))
