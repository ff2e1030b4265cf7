"""The terms of the loss, their weights, and what the classification term can be (`--loss`).

Shapes: B batch, K classes. n_c are the training images of class c, N their sum, x the logits, y the label.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES = ("ce", "focal", "class-balanced", "ldam-drw", "logit-adjust")
COSINE_LOSSES = ("ldam-drw",)  # with a classifier by the cosine
BALANCING_LOSSES = ("class-balanced", "ldam-drw", "logit-adjust")  # balance the classes, as a sampler may
# -log of a probability of the label: these learn p(c|x) under some class shares, whose entropy bounds their mean
LIKELIHOOD_LOSSES = ("ce", "logit-adjust")
FOCUS = 2.0  # gamma of the focal loss
BETA = 0.9999  # of the effective number of images
LARGEST_MARGIN = 0.5  # of LDAM, between cosines
COSINE_SCALE = 30.0  # from cosines to logits

Average = Callable[[Tensor], Tensor]


class LossWeights(NamedTuple):
    """Weights of the loss terms; a term of weight 0 is not computed and gives its parameters no gradient."""

    cls: float
    reconst: float = 0.0
    gmm: float = 0.0


class LossTerms(NamedTuple):
    """The loss of one batch, scalars, float32 or wider; None for a term that was not computed."""

    total: Tensor
    cls: Tensor | None
    reconst: Tensor | None = None
    gmm: Tensor | None = None


def widen(tensor: Tensor) -> Tensor:
    """Convert to at least float32, for losses and softmaxes whatever the autocast made of their inputs."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def of_one_process(value: Tensor) -> Tensor:
    """Average a scalar over all processes where there is one."""
    return value


class ClassificationLoss(nn.Module):
    """A mean over the batch of losses of its images; with class weights w the mean weighted by w_y.

    A weight multiplies the finished loss of an image, and the weighted mean is over the batch of all processes: one
    process alone gives what `F.cross_entropy(weight=)` gives.

    Args:
        class_weights: w, (K,), or None.
        average: averages a scalar over all processes.
    """

    def __init__(self, class_weights: Tensor | None = None, average: Average = of_one_process) -> None:
        super().__init__()
        self.average = average
        self._keep("class_weights", class_weights)

    def _keep(self, name: str, value: Tensor | None) -> None:
        """Hold a constant (K,) that follows the model to its device; checkpoints need not."""
        self.register_buffer(name, None if value is None else value.to(torch.get_default_dtype()), persistent=False)

    def image_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of each image: logits (B,K), labels (B,) -> (B,); here the cross-entropy."""
        return F.cross_entropy(logits, labels, reduction="none")

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch: logits (B,K), labels (B,) -> a scalar."""
        losses = self.image_losses(logits, labels)
        if self.class_weights is None:
            return losses.mean()
        weights = self.class_weights[labels]
        return (weights * losses).mean() / self.average(weights.mean())


class FocalLoss(ClassificationLoss):
    """(1 - p)^FOCUS * -log p with p = softmax(x)_y (Lin et al., ICCV 2017): images that are recognised count less."""

    def image_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of each image: logits (B,K), labels (B,) -> (B,)."""
        cross_entropies = super().image_losses(logits, labels)
        return (1 - (-cross_entropies).exp()) ** FOCUS * cross_entropies


class LDAMLoss(ClassificationLoss):
    """Cross-entropy after a margin m_y is taken off the label's cosine (Cao et al., NeurIPS 2019), see `margins`.

    It is for the logits of a `CosineClassifier`.
    """

    def __init__(self, class_margins: Tensor, class_weights: Tensor | None, average: Average) -> None:
        super().__init__(class_weights, average)
        self._keep("margins", class_margins)

    def image_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of each image: logits (B,K), labels (B,) -> (B,)."""
        taken_off = F.one_hot(labels, logits.shape[1]) * (COSINE_SCALE * self.margins)
        return super().image_losses(logits - taken_off, labels)


class LogitAdjustedLoss(ClassificationLoss):
    """Cross-entropy of x + log(n_c / N) (Menon et al., ICLR 2021, tau = 1); predictions are by x as it is."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self._keep("log_shares", (class_counts / class_counts.sum()).log())

    def image_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of each image: logits (B,K), labels (B,) -> (B,)."""
        return super().image_losses(logits + self.log_shares, labels)


def effective_number_weights(class_counts: Tensor) -> Tensor:
    """Compute w_c = (1 - BETA) / (1 - BETA^n_c), scaled to the sum K (Cui et al., CVPR 2019): (K,) -> (K,) float64.

    In float32 BETA^n_c of a small class would lose the digits that its weight is made of.
    """
    weights = (1 - BETA) / (1 - BETA ** class_counts.double())
    return weights * (len(weights) / weights.sum())


def margins(class_counts: Tensor) -> Tensor:
    """Compute LDAM's margins n_c^(-1/4), scaled to the largest of `LARGEST_MARGIN`: (K,) -> (K,) float64."""
    values = class_counts.double() ** -0.25
    return values * (LARGEST_MARGIN / values.max())


def build_loss(
    name: str,
    class_counts: Sequence[int],
    reweighted: bool = False,
    average: Average = of_one_process,
) -> nn.Module:
    """Build the classification term.

    Args:
        name: of `LOSSES`.
        class_counts: training images of each class, at least one, as the run drew them, (K,).
        reweighted: whether the last part of 'ldam-drw' has begun, deferred re-weighting, with the class weights of
            'class-balanced'; the others do not read it.
        average: averages a scalar over all processes.

    Raises:
        ValueError: there is no such loss.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    if name == "ce":
        return nn.CrossEntropyLoss()
    if name == "focal":
        return FocalLoss()
    if name == "class-balanced":
        return ClassificationLoss(effective_number_weights(counts), average)
    if name == "ldam-drw":
        return LDAMLoss(margins(counts), effective_number_weights(counts) if reweighted else None, average)
    if name == "logit-adjust":
        return LogitAdjustedLoss(counts)
    raise ValueError(f"build_loss has no loss {name}")


def implied_shares(name: str, class_counts: Sequence[int], power: float, reweighted: bool = False) -> Tensor:
    """Compute the class shares s that a classifier's probabilities imply: they are in proportion to s_c p(x|c).

    Cross-entropy learns them in the shares in which the classes were drawn, and logit adjustment, whose predictions are
    by x alone, divides these by n_c / N. Class weights multiply them, but only about: the loss is divided by each
    batch's own sum of weights. The focal loss and LDAM's margins learn no probabilities; of them the shares are about
    those of their images and class weights.

    Args:
        name, class_counts, reweighted: as for `build_loss`.
        power: q of the sampler, which draws a class in proportion to n_c^q.

    Returns:
        (K,) float64, of sum 1.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    shares = counts**power
    if name == "class-balanced" or (name == "ldam-drw" and reweighted):
        shares = shares * effective_number_weights(counts)
    if name == "logit-adjust":
        shares = shares / counts
    return shares / shares.sum()


def first_reweighted_epoch(epochs: int) -> int:
    """Number the epoch, from 0, that begins the deferred re-weighting of 'ldam-drw': after 80 % of them, rounded up.

    Cao et al. (NeurIPS 2019) re-weight from epoch 160 of 200 on.
    """
    return math.ceil(4 * epochs / 5)
