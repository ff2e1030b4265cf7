"""Methods against imbalance that start from the stored codes of a trained model and its classifier.

Each has one parameter of its own. The encoder stays as it is, so a method takes seconds. They are measured on codes
without noise.

Shapes: N training codes, M codes to classify, K classes, D length of a code.
"""

import argparse
import copy
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestCentroid, NearestNeighbors
from torch import Tensor, nn

from models.classifier import CosineClassifier, build_classifier, subtract_class_shares
from models.samplers import FeatureTransferSampler, PosteriorSampler
from utils.cli.rules import COSINE_FLOOR
from utils.errors import UserError
from utils.randomness import Stream, derive_seed, global_seed, standard_normal
from utils.training.optimisation import build_scheduler, build_sgd, step_schedule

EPOCHS, BATCH, MOMENTUM, DECAY, CLIP = 10, 100, 0.9, 1e-4, 5.0  # of a re-training, as the recipe's augment.py has them
NEIGHBOURS = 5  # of SMOTE
TAUS = tuple(step / 4 for step in range(1, 13))
RATES = (1e-4, 1e-3, 1e-2, 1e-1)
LEAVE_OUT = "leave this method out, or give another --fixed"  # where it has no numbers, or such as are of no use

Classify = Callable[[Tensor], np.ndarray]  # codes (M,D) -> probabilities (M,K)


class TrainedCodes(NamedTuple):
    """The training codes of a model, on the CPU, and its classifier.

    Attributes:
        mu, sigma: mean and standard deviation of each image's code, (N,D); sigma is 0 for a plain classifier.
        targets: (N,) int64.
        classifier: of codes, linear or by the cosine.
        seed: of every draw.
    """

    mu: Tensor
    sigma: Tensor
    targets: Tensor
    classifier: nn.Module
    seed: int

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classifier.weight)

    @property
    def class_counts(self) -> Tensor:
        """Count the training images of each class, (K,)."""
        return torch.bincount(self.targets, minlength=self.num_classes)

    @property
    def linear(self) -> bool:
        """Tell whether the classifier is linear."""
        return not isinstance(self.classifier, CosineClassifier)


class Method(NamedTuple):
    """A method: how it is fitted, and the parameter of its own.

    Attributes:
        fit: from (training codes, value of the parameter) to a classifier of codes.
        parameter: its name; '' where there is none.
        grid: its values, of which the validation set chooses.
        default: without a validation set.
        linear: whether it needs a linear classifier.
    """

    fit: Callable[[TrainedCodes, float | str], Classify]
    parameter: str = ""
    grid: tuple[float | str, ...] = ("",)
    default: float | str = ""
    linear: bool = False


def softmax_of(scores: Callable[[Tensor], Tensor]) -> Classify:
    """Classify by the softmax of scores (M,K)."""

    def classify(codes: Tensor) -> np.ndarray:
        with torch.no_grad():
            return F.softmax(scores(codes), dim=1).numpy()

    return classify


def as_trained(codes: TrainedCodes, _: str) -> Classify:
    """Classify as the model does."""
    return softmax_of(codes.classifier)


def logit_adjustment(codes: TrainedCodes, tau: float) -> Classify:
    """Subtract tau log(class share) from the logits (Menon et al., ICLR 2021, the form after training)."""
    counts = codes.class_counts
    shift = tau * (counts / counts.sum()).log()
    return softmax_of(lambda mu: codes.classifier(mu) - shift)


def tau_normalisation(codes: TrainedCodes, tau: float) -> Classify:
    """Divide the weights of each class by their norm to the power of tau; no bias (Kang et al., ICLR 2020)."""
    weight = codes.classifier.weight.detach()
    weight = weight / weight.norm(dim=1, keepdim=True) ** tau
    return softmax_of(lambda mu: mu @ weight.T)


def nearest_mean(codes: TrainedCodes, distance: str) -> Classify:
    """Take the class with the nearest mean code (NCM; Kang et al., ICLR 2020); scores are squared distances.

    Args:
        distance: 'euclidean', or 'unit', between codes brought to length 1.
    """

    def form(mu: Tensor) -> np.ndarray:
        return (F.normalize(mu, dim=1) if distance == "unit" else mu).numpy()

    model = NearestCentroid()
    _fit("ncm", model, form(codes.mu), codes.targets)
    means = model.centroids_
    return softmax_of(lambda mu: -torch.from_numpy(pairwise_distances(form(mu), means)).double().square())


def discriminant_analysis(codes: TrainedCodes, shrinkage: float) -> Classify:
    """Classify by linear discriminants under equal class shares (LDA).

    The covariance is the mean of those of the classes, as scikit-learn has it for given shares, not that of all
    images pooled.
    """
    shares = np.full(codes.num_classes, 1 / codes.num_classes)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=shares)
    _fit("lda", model, codes.mu.double().numpy(), codes.targets)
    return lambda mu: model.predict_proba(mu.double().numpy())


def _fit(name: str, model: NearestCentroid | LinearDiscriminantAnalysis, codes: np.ndarray, targets: Tensor) -> None:
    """Fit a method of scikit-learn.

    Raises:
        UserError: such codes do not suffice, as one image of every class for LDA.
    """
    with warnings.catch_warnings():
        # of classes with one image, as a long tail has, and of NCM's spread within the classes, which is not used
        warnings.simplefilter("ignore")
        try:
            model.fit(codes, targets.numpy())
        except ValueError as error:
            raise UserError(f"{name}: {error} ({LEAVE_OUT})") from error


def drawn_codes(codes: TrainedCodes) -> PosteriorSampler:
    """Plan codes as augment.py does: n_max of every class, each a fresh draw."""
    return PosteriorSampler(codes.mu, codes.sigma, codes.targets, codes.num_classes, codes.seed)


def transferred_codes(codes: TrainedCodes) -> FeatureTransferSampler:
    """Plan codes as augment_ftl.py does."""
    return FeatureTransferSampler(codes.mu, codes.sigma, codes.targets, codes.num_classes, codes.seed)


def balanced_codes(codes: TrainedCodes) -> PosteriorSampler:
    """Plan the codes themselves, without noise, n_max of every class."""
    return drawn_codes(codes._replace(sigma=torch.zeros_like(codes.mu)))


def as_it_is(codes: TrainedCodes) -> nn.Module:
    """Copy the classifier."""
    return copy.deepcopy(codes.classifier)


def adjusted(codes: TrainedCodes) -> nn.Linear:
    """Copy the classifier, log(class share) subtracted from its bias: what re-training starts at if so asked."""
    classifier = as_it_is(codes)
    subtract_class_shares(classifier, codes.class_counts.tolist())
    return classifier


def new(codes: TrainedCodes) -> nn.Module:
    """Make a new classifier, at random, as that of cRT is (Kang et al., ICLR 2020)."""
    with global_seed(codes.seed, Stream.INITIALISATION):
        return build_classifier(codes.mu.shape[1], codes.num_classes, not codes.linear)


class ScaledLogits(nn.Module):
    """The classifier, fixed, with logits scaled class by class (LWS; Kang et al., ICLR 2020).

    The scales s (K,) are learned and start at 1.
    """

    def __init__(self, codes: TrainedCodes) -> None:
        super().__init__()
        self.classifier = as_it_is(codes).requires_grad_(False)
        self.scales = nn.Parameter(torch.ones(codes.num_classes))

    def forward(self, codes: Tensor) -> Tensor:
        """Compute logits: (B,D) -> (B,K)."""
        return self.classifier(codes) * self.scales


def retrained(classifier: nn.Module, sampler: PosteriorSampler, lr: float, seed: int) -> nn.Module:
    """Train a classifier on planned codes, with the optimiser, schedule and noise that augment.py has."""
    args = argparse.Namespace(lr=lr, momentum=MOMENTUM, wd=DECAY, T_max=EPOCHS, lr_warmup_epochs=0)
    parameters = [value for value in classifier.parameters() if value.requires_grad]
    optimizer = build_sgd(parameters, args)
    scheduler = build_scheduler(optimizer, args, [lr], 0)
    for epoch in range(EPOCHS):
        sources, labels = sampler.plan(epoch)
        for step, (source, label) in enumerate(zip(sources.split(BATCH), labels.split(BATCH), strict=True)):
            noise = standard_normal(len(source), sampler.mu.shape[1], seed, epoch, step)
            loss = F.cross_entropy(classifier(sampler.codes(source, label, noise)), label)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
        step_schedule(scheduler)
    return classifier


def retraining(
    start: Callable[[TrainedCodes], nn.Module], plan: Callable[[TrainedCodes], PosteriorSampler]
) -> Callable[[TrainedCodes, float], Classify]:
    """Make the method that re-trains the classifier of `start` on the codes of `plan`, by a learning rate."""
    return lambda codes, lr: softmax_of(retrained(start(codes), plan(codes), lr, codes.seed))


class SmoteSampler(PosteriorSampler):
    """SMOTE (Chawla et al., JAIR 2002): codes between two of their class fill it up to the largest.

    They are made where a batch needs them.
    """

    def __init__(self, codes: TrainedCodes) -> None:
        made = fill_up(codes.mu.numpy(), codes.targets.numpy(), codes.seed)
        self.first, self.second, self.shares = map(torch.from_numpy, (made.first, made.second, made.shares))
        super().__init__(codes.mu, torch.zeros(0), codes.targets[self.first], codes.num_classes, codes.seed)

    def codes(self, sources: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Make the codes of a batch of the plan: (B,), (B,) -> (B,D); there is no noise in them."""
        first, second = self.mu[self.first[sources]], self.mu[self.second[sources]]
        return first + self.shares[sources, None] * (second - first)


class Between(NamedTuple):
    """Codes between two: z_i + u (z_j - z_i); arrays of i, j and u, (M,) each."""

    first: np.ndarray
    second: np.ndarray
    shares: np.ndarray


def fill_up(codes: np.ndarray, targets: np.ndarray, seed: int) -> Between:
    """Fill every class up to the largest by SMOTE: i at random, j among its class's `NEIGHBOURS` nearest, u in [0,1).

    A class of fewer has fewer neighbours, a single code is repeated.

    Args:
        codes, targets: (N,D), (N,).
        seed: of the choices.

    Returns:
        First the codes themselves, in their order (u is 0), then those that are filled in, class by class.
    """
    rng = np.random.default_rng(derive_seed(seed, Stream.AUGMENTATION_PLAN))
    counts = np.bincount(targets)
    themselves = np.arange(len(codes))
    parts = [Between(themselves, themselves, np.zeros(len(codes), dtype=codes.dtype))]
    for label, count in enumerate(counts):
        own, missing = np.flatnonzero(targets == label), counts.max() - count
        k = min(NEIGHBOURS, count - 1)
        chosen = rng.integers(count, size=missing)
        others = chosen
        if k and missing:  # a single code has no other beside it
            nearest = NearestNeighbors(n_neighbors=k).fit(codes[own]).kneighbors(return_distance=False)
            others = nearest[chosen, rng.integers(k, size=missing)]
        parts.append(Between(own[chosen], own[others], rng.random(missing).astype(codes.dtype)))
    return Between(*map(np.concatenate, zip(*parts, strict=True)))


METHODS = {
    "trained": Method(as_trained),
    "logit-adjustment": Method(logit_adjustment, "tau", TAUS, 1.0),
    "tau-normalisation": Method(tau_normalisation, "tau", TAUS, 1.0, linear=True),
    "ncm": Method(nearest_mean, "distance", ("euclidean", "unit"), "unit"),
    "lda": Method(discriminant_analysis, "shrinkage", (0.01, 0.1, 0.5, 0.9), 0.1),
    "crt": Method(retraining(new, balanced_codes), "lr", RATES, 1e-1),
    "lws": Method(retraining(ScaledLogits, balanced_codes), "lr", RATES, 1e-2),
    "smote": Method(retraining(as_it_is, SmoteSampler), "lr", RATES, 1e-2),
    "case-1": Method(retraining(as_it_is, transferred_codes), "lr", RATES, 1e-2),
    "case-1-adjusted": Method(retraining(adjusted, transferred_codes), "lr", RATES, 1e-2, linear=True),
    "case-2": Method(retraining(as_it_is, drawn_codes), "lr", RATES, 1e-2),
    "case-2-adjusted": Method(retraining(adjusted, drawn_codes), "lr", RATES, 1e-2, linear=True),
}


def fixed_of(pairs: Sequence[tuple[str, float | str]], names: Sequence[str]) -> dict[str, float | str]:
    """Gather what `--fixed` gives: name of a method -> value.

    Raises:
        UserError: a method is there twice, or is none of `names`, which are measured.
    """
    fixed = dict(pairs)
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise UserError(f"--fixed {twice[0]}: this method has two values, leave one out")
    if unused := sorted(fixed.keys() - set(names)):
        raise UserError(f"--fixed {unused[0]}: this method is not measured, leave it out")
    return fixed


def method_value(text: str) -> tuple[str, float | str]:
    """Parse NAME=VALUE of a method (an argparse type)."""
    name, _, value = text.partition("=")
    method = METHODS.get(name)
    if method is None or not method.parameter:
        raise argparse.ArgumentTypeError(f"{text!r} names none of {', '.join(n for n in METHODS if n != 'trained')}")
    if isinstance(method.default, str):
        if value not in method.grid:
            raise argparse.ArgumentTypeError(f"{name}: {value!r} is none of {', '.join(map(str, method.grid))}")
        return name, value
    most = 1 if method.parameter == "shrinkage" else float("inf")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most or number == float("inf"):
        to = "on" if most > 1 else f"to {most}"
        raise argparse.ArgumentTypeError(f"{name}: {value!r} is no number from 0 {to}")
    if method.parameter == "lr" and 0 < number < COSINE_FLOOR:
        raise argparse.ArgumentTypeError(f"{name}: {value} is below {COSINE_FLOOR:g}, where its cosine ends")
    return name, number
