"""By what a label is judged: for every label of every image, in evaluation (z = mu).

Shapes: B batch, K labels, D length of a code, H of the features, S side of the image.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.candidates import CandidateErrors, blocks
from models.prior import LOG_VAR_LIMIT, CandidateTerms, Pairs

if TYPE_CHECKING:
    from models.dgcmm import DGCMM, LossWeights

PAIRS = 1024  # of image and label at a time, which bounds the memory to about 100 MB


class Scorer:
    """Class probabilities by a model in evaluation, and what they are made of.

    A plain model's probabilities are those of the classifier at mu. With `generative` they are a softmax over c of
    -(weights.cls CE(c) + weights.reconst MSE_c + weights.gmm L_gmm,c) at mu(x,c), for each candidate label c. The
    encoder runs once per image, and the heads are linear: label c adds a row of its own to mu and log sigma^2.

    What depends on labels and weights alone is made when it is first needed, and kept: a scorer serves for as long as
    the weights stay as they are.

    Args:
        model: in evaluation.
        weights: of the loss terms; a term of weight 0 is not computed.
    """

    def __init__(self, model: "DGCMM", weights: "LossWeights") -> None:
        self.model, self.weights = model, weights

    def evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What a label is judged by: images (B,1 or 3,S,S) in [0,1] -> h (B,H), and the fixed part (B,K).

        The fixed part is what the classifier does not decide: zeros for a plain model, with `generative`
        -(weights.reconst MSE_c + weights.gmm L_gmm,c).
        """
        features = self.model.features(images)
        fixed = features.new_zeros(len(images), self.model.num_classes)
        if self.model.generative:
            with torch.autocast(images.device.type, enabled=False):
                mu = _without_label(self.model.mu_head, features)
                if self.weights.gmm:
                    fixed -= self.weights.gmm * self._terms(mu, self._pairs(features))
                if self.weights.reconst:
                    fixed -= self.weights.reconst * self._errors(mu, images)
        return features, fixed

    def probabilities(self, features: Tensor, fixed: Tensor) -> Tensor:
        """Class probabilities from what `evidence` gave: (B,H), (B,K) -> (B,K), float32 or wider."""
        with torch.autocast(features.device.type, enabled=False):
            logits = self.model.classifier(_without_label(self.model.mu_head, features))
            if not self.model.generative:
                return F.softmax(logits, dim=1)
            if self.weights.cls:
                fixed = fixed - self.weights.cls * self._cross_entropies(logits)
            return F.softmax(fixed, dim=1)

    def _pairs(self, features: Tensor) -> Iterator[Pairs]:
        """log sigma^2 of images under labels, some pairs at a time."""
        plain, rows = _without_label(self.model.log_var_head, features), self._rows(self.model.log_var_head)
        for images, labels in blocks(len(features), len(rows), PAIRS):
            yield images, labels, (plain[images, None] + rows[labels]).clamp_(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    def _cross_entropies(self, logits: Tensor) -> Tensor:
        """CE(c) of each candidate label c, whose row adds to all logits (B,K): -> (B,K)."""
        shifts, found = self._shifts, torch.empty_like(logits)
        for part in blocks(*logits.shape, PAIRS):
            images, labels = part
            found[part] = torch.logsumexp(logits[images, None] + shifts[labels], dim=2)
        return found.sub_(logits).sub_(shifts.diagonal())

    def _rows(self, head: nn.Linear) -> Tensor:
        """What each label adds to a linear layer of [h, onehot(y)]: (K,D)."""
        return head.weight[:, -self.model.num_classes :].T

    @cached_property
    def _terms(self) -> CandidateTerms:
        """L_gmm of codes under all labels."""
        prior = self.model.prior
        terms = prior.terms_of_own if self.model.gmm_assign == "label" else prior.terms_of_all
        return terms(self._rows(self.model.mu_head))

    @cached_property
    def _errors(self) -> CandidateErrors:
        return CandidateErrors(self.model.decoder, self._rows(self.model.mu_head))

    @cached_property
    def _shifts(self) -> Tensor:
        """What each label adds to the classifier's logits, (K,K)."""
        return self._rows(self.model.mu_head) @ self.model.classifier.weight.T


def _without_label(head: nn.Linear, features: Tensor) -> Tensor:
    """A linear layer of h (B,H), or of [h, onehot(y)] without what the label adds: (B,D)."""
    return F.linear(features, head.weight[:, : features.shape[1]], head.bias)
