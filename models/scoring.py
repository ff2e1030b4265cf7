"""Class probabilities: of a plain model by its classifier, of a generative one by scores of every candidate label.

Shapes: B batch, K labels, D length of a code, H of the features, S side of the image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import CosineClassifier, ImageClassifier
from models.losses import LossWeights
from models.prior import LOG_VAR_LIMIT

# pairs of image and label at a time: what the decoder makes of them shall stay in a CPU's cache, while the other terms
# are matrix products, which like many rows; a GPU is kept busy, with about 1 GiB of its memory at codes of 2048
DECODER_PAIRS, PAIRS = 64, 1024
GPU_PAIRS = 4096
SHORTEST = 1e-12  # length of a code that is divided by, as in F.normalize


class LabelledSum(NamedTuple):
    """A linear map of [h, onehot(y)] to length N, kept as an image part and a label part that add up."""

    of_images: Tensor  # (B,N)
    of_labels: Tensor  # (K,N)

    @classmethod
    def of(cls, head: nn.Linear, features: Tensor) -> "LabelledSum":
        """Apply a head to h (B,H) and all labels."""
        length = features.shape[1]
        return cls(F.linear(features, head.weight[:, :length], head.bias), head.weight[:, length:].T)

    def through(self, layer: nn.Linear) -> "LabelledSum":
        """Apply a linear layer."""
        return LabelledSum(layer(self.of_images), F.linear(self.of_labels, layer.weight))

    def at(self, labels: Tensor) -> Tensor:
        """Add up the pairs of all images with k of the labels, image by image: (B*k,N)."""
        return (self.of_images[:, None] + self.of_labels[labels]).flatten(0, 1)


class Scorer:
    """Judge labels of images by a model in evaluation (z = mu).

    Without `generative` the probabilities are those of the classifier at mu. With it they are a softmax over c of
    -(weights.cls CE(c) + weights.reconst MSE_c + weights.gmm L_gmm,c) at mu(x,c), for each candidate label c. The
    encoder runs once per image; heads, classifier and the decoder's first layer are linear, so label c adds a row of
    its own to what they make of the image.

    CE is the plain cross-entropy whatever `--loss` the model was trained with, -log of the classifier's probability:
    the margins, shifts and class weights of the losses say how much an image of a class teaches. In a comparison of
    labels for one image a weight or a margin of the label's class would be a bias: w_c CE(c) is small where w_c is,
    which prefers the head classes, and a margin holds back the tail classes that it was to help. Logit adjustment
    trains x + log pi so that x, as it is, suits balanced classes. Of the focal loss, too, the logits are what counts:
    it falls with the probability as CE does, only elsewhere.

    Args:
        model: in evaluation.
        weights: of the loss terms; a term of weight 0 is not computed.
    """

    def __init__(self, model: ImageClassifier, weights: LossWeights) -> None:
        self.model, self.weights = model, weights
        if model.generative:
            self._basis, self._triangle = torch.linalg.qr(model.decoder.resize_matrix.double())

    def evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what a label is judged by: images (B,1 or 3,S,S) in [0,1] -> h (B,H), and the fixed part (B,K).

        The fixed part is what the classifier does not decide: zeros without `generative`, else
        -(weights.reconst MSE_c + weights.gmm L_gmm,c).
        """
        features = self.model.features(images)
        fixed = features.new_zeros(len(images), self.model.num_classes)
        if self.model.generative:
            with torch.autocast(images.device.type, enabled=False):
                if self.weights.gmm:
                    fixed -= self.weights.gmm * self._mixture_terms(features)
                if self.weights.reconst:
                    fixed -= self.weights.reconst * self._squared_errors(features, images)
        return features, fixed

    def probabilities(self, features: Tensor, fixed: Tensor) -> Tensor:
        """Compute class probabilities from what `evidence` gave: (B,H), (B,K) -> (B,K).

        Of a generative model in float64: by a weighted sum many would be 0 in float32, and none ranked above another.
        """
        with torch.autocast(features.device.type, enabled=False):
            if not self.model.generative:
                mu, _ = self.model.posterior(features, None)
                return F.softmax(self.model.classifier(mu), dim=1)
            if self.weights.cls:
                fixed = fixed - self.weights.cls * self._cross_entropies(self._mu(features))
            return F.softmax(fixed.double(), dim=1)

    def _cross_entropies(self, mu: LabelledSum) -> Tensor:
        """Compute CE(c) of each candidate label c, (B,K)."""
        classifier, count, columns = self.model.classifier, len(mu.of_images), []
        by_cosine = isinstance(classifier, CosineClassifier)
        sums = LabelledSum(*map(classifier.projections, mu)) if by_cosine else mu.through(classifier)
        for labels in self._label_blocks(count, PAIRS):
            logits = sums.at(labels)
            if by_cosine:
                logits = logits / mu.at(labels).norm(dim=1, keepdim=True).clamp_min(SHORTEST)
            columns.append(F.cross_entropy(logits, labels.repeat(count), reduction="none").view(count, -1))
        return torch.cat(columns, dim=1)

    def _mixture_terms(self, features: Tensor) -> Tensor:
        """Compute L_gmm of each candidate label, (B,K)."""
        model, count = self.model, len(features)
        all_mu, all_log_var = self._mu(features), LabelledSum.of(model.log_var_head, features)
        components, columns = model.prior.components(), []
        crosses = LabelledSum(  # the energies' part that is linear in mu
            (all_mu.of_images.double() - components.centre) @ components.scaled.T,
            all_mu.of_labels.double() @ components.scaled.T,
        )
        for labels in self._label_blocks(count, PAIRS):
            mu = all_mu.at(labels)
            log_var = all_log_var.at(labels).clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)
            if model.gmm_assign == "label":
                terms = model.prior.mixture_term(mu, log_var, mu, labels.repeat(count))
            else:
                energies = components.energies(mu, crosses.at(labels))
                terms = model.prior.posterior_term(components, energies, energies, log_var)
            columns.append(terms.view(count, -1))
        return torch.cat(columns, dim=1)

    def _squared_errors(self, features: Tensor, images: Tensor) -> Tensor:
        """Compute the mean over pixels and channels of each candidate's squared error, (B,K)."""
        decoder, count = self.model.decoder, len(images)
        linear, normalise = decoder.project[0], decoder.project[1:]
        projected = self._mu(features).through(linear)
        # a rendered image y is resized to R y R^T. With R = Q U, Q orthonormal and U small,
        # |R y R^T - x|^2 = |U y U^T - Q^T x Q|^2 + |x|^2 - |Q^T x Q|^2, and the large image x is dealt with once
        basis, wide = self._basis, images.double()
        pulled = basis.T @ wide @ basis
        rest = (wide.square().sum(dim=(2, 3)) - pulled.square().sum(dim=(2, 3)))[:, None]
        # what is left of each pair is a sum of squares: float32 is enough for it, and several times as fast on a GPU
        dtype = torch.float64 if images.device.type == "cpu" else images.dtype
        triangle, pulled = self._triangle.to(dtype), pulled.to(dtype)[:, None]
        columns = []
        for labels in self._label_blocks(count, DECODER_PAIRS):
            rendered = decoder.render(normalise(projected.at(labels)), labels.repeat(count))
            y = rendered.to(dtype).unflatten(0, (count, -1))  # (B,k,3,41,41)
            errors = (triangle @ y @ triangle.T - pulled).square().sum(dim=(3, 4)) + rest
            columns.append(errors.mean(dim=2) / images[0, 0].numel())
        return torch.cat(columns, dim=1).to(images.dtype)

    def _mu(self, features: Tensor) -> LabelledSum:
        return LabelledSum.of(self.model.mu_head, features)

    def _label_blocks(self, images: int, pairs: int) -> tuple[Tensor, ...]:
        """Split the labels into blocks, with which so many images have about so many pairs."""
        device = self.model.classifier.weight.device
        pairs = pairs if device.type == "cpu" else GPU_PAIRS
        return torch.arange(self.model.num_classes, device=device).split(max(pairs // images, 1))
