"""What every model is, an encoder and a classifier of its codes; and the plain classifier, which is no more than that.

Shapes: B batch, K classes, D length of a code, H = feature length, S = side of the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import ARCHITECTURES, CIFAR_RESNET, ResNetEncoder
from models.losses import LossTerms, LossWeights, widen


class ImageClassifier(nn.Module):
    """Base of the models: the encoder, and what training, evaluation and re-training ask of a model.

    Args:
        arch: a key of `models.encoder.ARCHITECTURES`.
        num_classes: K.
        pretrained: start the encoder from ImageNet weights.

    Attributes:
        z_dim: D.
        classifier: from codes (B,D) to logits (B,K).
        prior: of the codes, or None.
        generative: whether the code depends on the label.
    """

    z_dim: int
    classifier: nn.Module

    def __init__(self, arch: str, num_classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.num_classes, self.generative = num_classes, False
        self.prior: nn.Module | None = None
        self.encoder = ResNetEncoder(ARCHITECTURES[arch], pretrained)

    def train_under(self, weights: LossWeights) -> None:
        """Set requires_grad to False where `weights` gives no loss term: several processes must not wait for it."""
        self.requires_grad_(True)
        self.classifier.requires_grad_(bool(weights.cls))

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B,1 or 3,S,S) in [0,1] as h (B,H), float32 or wider whatever the autocast."""
        return widen(self.encoder(images))

    def posterior(self, features: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the distribution of the code: h (B,H), labels (B,) -> mu, log_var (B,D)."""
        raise NotImplementedError

    def components(self, mu: Tensor) -> Tensor:
        """Find the most responsible component of the prior at codes (B,D): -> (B,) int64; -1 without a prior."""
        raise NotImplementedError


class PlainClassifier(ImageClassifier):
    """A ResNet with a linear classifier on its features h, the baseline: no code distribution, decoder or prior.

    The arguments are those of `ImageClassifier`. The code is h itself, a distribution without spread.
    """

    def __init__(self, arch: str, num_classes: int, *, pretrained: bool = False) -> None:
        super().__init__(arch, num_classes, pretrained)
        self.z_dim = self.encoder.feature_dim
        self.classifier = nn.Linear(self.z_dim, num_classes)
        if ARCHITECTURES[arch] == CIFAR_RESNET:
            nn.init.kaiming_normal_(self.classifier.weight)  # as all its layers

    def posterior(self, features: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give mu = h and log_var = -inf, which is sigma = 0: h (B,H) -> (B,H), (B,H); labels are not read.

        Every draw from it is h: an augmentation re-trains the classifier on the frozen features, class-balanced.
        """
        return features, torch.full_like(features, -torch.inf)

    def components(self, mu: Tensor) -> Tensor:
        """Give -1 for each code (B,H)."""
        return torch.full((len(mu),), -1, device=mu.device)

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor | None, weights: LossWeights) -> LossTerms:
        """Compute the loss of a batch, weights.cls CE.

        Args:
            images: (B,1 or 3,S,S) in [0,1].
            labels: (B,) int64.
            noise: not read.
            weights: of the terms, of which there is one.
        """
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            cls = F.cross_entropy(self.classifier(features), labels)
        return LossTerms(weights.cls * cls, cls, None, None)
