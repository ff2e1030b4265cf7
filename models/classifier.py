"""What every model is, an encoder and a classifier of its codes; and the plain classifier, which is no more than that.

Shapes: B batch, K classes, D length of a code, H = feature length, S = side of the image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import CIFAR_RESNETS, ResNetEncoder, resnet_of
from models.losses import COSINE_SCALE, LossTerms, LossWeights, widen
from models.mixup import Mixed


class CosineClassifier(nn.Module):
    """Logits that are `COSINE_SCALE` times the cosine between a code and the direction of each class; no bias.

    It is the classifier of LDAM (Cao et al., NeurIPS 2019), whose margins are between cosines.

    Args:
        z_dim: D.
        num_classes: K.
    """

    def __init__(self, z_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, z_dim).uniform_(-1, 1), dim=1))

    def projections(self, codes: Tensor) -> Tensor:
        """Compute the logits times the length of each code, which are linear: (B,D) -> (B,K)."""
        return F.linear(codes, COSINE_SCALE * F.normalize(self.weight, dim=1))

    def forward(self, codes: Tensor) -> Tensor:
        """Compute logits: (B,D) -> (B,K)."""
        return self.projections(F.normalize(codes, dim=1))


def build_classifier(z_dim: int, num_classes: int, cosine: bool) -> nn.Module:
    """Build the classifier of codes: linear, or by the cosine."""
    return CosineClassifier(z_dim, num_classes) if cosine else nn.Linear(z_dim, num_classes)


@torch.no_grad()
def subtract_class_shares(classifier: nn.Linear, class_counts: Sequence[int]) -> None:
    """Subtract log(n_c / N) from the bias of a classifier that was trained on n_c images of each class c, in place.

    A classifier trained by cross-entropy estimates p(y|z), in proportion to p(z|y) times the class shares; without them
    it prefers no class (logit adjustment after training, Menon et al., ICLR 2021, section 4.1, tau = 1). That holds for
    a generative model too, whose classification term is that of a classifier of codes, for each candidate label; its
    other terms stay as they are.

    Args:
        classifier: changed.
        class_counts: n_c, at least one each, (K,).
    """
    counts = torch.tensor(class_counts, dtype=torch.float64, device=classifier.bias.device)
    classifier.bias -= (counts / counts.sum()).log().to(classifier.bias.dtype)


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
        criterion: the classification term, from logits (B,K) and labels (B,), see `losses.build_loss`; cross-entropy
            until training sets another.
        frozen: whether the encoder stays as it is, see `freeze_encoder`.
    """

    z_dim: int
    classifier: nn.Module

    def __init__(self, arch: str, num_classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.num_classes, self.generative = num_classes, False
        self.prior: nn.Module | None = None
        self.encoder = ResNetEncoder(resnet_of(arch), pretrained)
        self.criterion: nn.Module = nn.CrossEntropyLoss()
        self.frozen = False

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is: no gradient, no decay, and batch norm by its statistics, which do not change."""
        self.frozen = True
        self.encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ImageClassifier":
        """Set training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def train_under(self, weights: LossWeights) -> None:
        """Set requires_grad to False where `weights` gives no loss term: several processes must not wait for it."""
        self.requires_grad_(True)
        self.encoder.requires_grad_(not self.frozen)
        self.classifier.requires_grad_(bool(weights.cls))

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B,1 or 3,S,S) in [0,1] as h (B,H), float32 or wider whatever the autocast."""
        return widen(self.encoder(images))

    def posterior(self, features: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the distribution of the code: h (B,H), labels (B,) or their shares (B,K) -> mu, log_var (B,D)."""
        raise NotImplementedError

    def responsible_component(self, mu: Tensor) -> Tensor:
        """Find the most responsible component of the prior at codes (B,D): -> (B,) int64; -1 where there is none."""
        raise NotImplementedError

    def classification_term(self, codes: Tensor, labels: Tensor, mixed: Mixed | None) -> Tensor:
        """Compute the classification term of a batch: codes (B,D), labels (B,) -> a scalar.

        Args:
            mixed: with mixup, the labels of the partners and the share of the own ones.
        """
        logits = self.classifier(codes)
        own = self.criterion(logits, labels)
        return own if mixed is None else torch.lerp(self.criterion(logits, mixed.labels), own, mixed.share)


class PlainClassifier(ImageClassifier):
    """A ResNet with a linear classifier on its features h, the baseline: no code distribution, decoder or prior.

    The code is h itself, a distribution without spread.

    Args:
        arch, num_classes, pretrained: as in `ImageClassifier`.
        cosine: classify by the cosine.
    """

    def __init__(self, arch: str, num_classes: int, *, cosine: bool = False, pretrained: bool = False) -> None:
        super().__init__(arch, num_classes, pretrained)
        self.z_dim = self.encoder.feature_dim
        self.classifier = build_classifier(self.z_dim, num_classes, cosine)
        if resnet_of(arch) in CIFAR_RESNETS and not cosine:
            nn.init.kaiming_normal_(self.classifier.weight)  # as all its layers

    def posterior(self, features: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give mu = h and log_var = -inf, which is sigma = 0: h (B,H) -> (B,H), (B,H); labels are not read.

        Every draw from it is h: an augmentation re-trains the classifier on the frozen features, class-balanced.
        """
        return features, torch.full_like(features, -torch.inf)

    def responsible_component(self, mu: Tensor) -> Tensor:
        """Give -1 for each code (B,H)."""
        return torch.full((len(mu),), -1, device=mu.device)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        noise: Tensor | None,
        weights: LossWeights,
        mixed: Mixed | None = None,
    ) -> LossTerms:
        """Compute the loss of a batch, weights.cls times the classification term.

        Args:
            images: (B,1 or 3,S,S) in [0,1].
            labels: (B,) int64.
            noise: not read.
            weights: of the terms, of which there is one.
            mixed: what was mixed into the images, if anything.
        """
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            cls = self.classification_term(features, labels, mixed)
        return LossTerms(weights.cls * cls, cls)
