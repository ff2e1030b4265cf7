"""The Deep Generative Mixture Model: encoder, classifier, decoder and prior joined, with its three loss terms.

Shapes: B batch, K classes, D = z_dim, H = feature length, S = side of the image.
"""

import math

import torch
from torch import Tensor, nn

from models.classifier import ImageClassifier, build_classifier
from models.decoder import VAE3Decoder
from models.losses import LossTerms, LossWeights, widen
from models.mixup import Mixed, one_hot
from models.prior import LOG_VAR_LIMIT, GaussianMixturePrior

INITIAL_MU_SCALE = 0.1  # of torch's initialisation
INITIAL_LOG_VAR = -1.0


class DGCMM(ImageClassifier):
    """Deep Generative Mixture Model (Wang et al., TPAMI 45(3), 2023).

    Args:
        arch: a key of `models.encoder.ARCHITECTURES`, one with a decoder.
        num_classes: K, the number of classes and of the prior's components.
        z_dim: length D of the code.
        image_size: side S of the images.
        generative: the encoder is q(z|x,y) and the prediction is the label with the best score.
        gmm_assign: 'posterior' takes the responsibilities from the code, 'label' from the label.
        cosine: classify by the cosine.
        pretrained: start the encoder from ImageNet weights.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        z_dim: int,
        image_size: int,
        *,
        generative: bool = False,
        gmm_assign: str = "posterior",
        cosine: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__(arch, num_classes, pretrained)
        self.z_dim, self.generative, self.gmm_assign = z_dim, generative, gmm_assign
        inputs = self.encoder.feature_dim + (num_classes if generative else 0)
        self.mu_head = nn.Linear(inputs, z_dim)
        self.log_var_head = nn.Linear(inputs, z_dim)
        self.classifier = build_classifier(z_dim, num_classes, cosine)
        self.decoder = VAE3Decoder(z_dim, num_classes, image_size)
        self.prior = GaussianMixturePrior(num_classes, z_dim)
        self._start_small()

    @torch.no_grad()
    def _start_small(self) -> None:
        """Start with short codes and sigma = 0.6.

        With torch's own initialisation the features (norm 30) make long codes and spread sigma: the cross-entropy,
        weighted by 10, then throws log_var to its limit within tens of steps. The recipe's learning rate needs a
        clipped gradient all the same (`--clip-grad`).
        """
        self.mu_head.weight.mul_(INITIAL_MU_SCALE)
        self.start_spread(math.exp(0.5 * INITIAL_LOG_VAR))

    @torch.no_grad()
    def start_spread(self, sigma: float) -> None:
        """Start with codes of the standard deviation `sigma`, whatever the image."""
        self.log_var_head.weight.zero_()
        self.log_var_head.bias.fill_(2 * math.log(sigma))

    def train_under(self, weights: LossWeights) -> None:
        """Set requires_grad to False where `weights` gives no loss term: several processes must not wait for it."""
        super().train_under(weights)
        self.decoder.requires_grad_(bool(weights.reconst))
        self.prior.requires_grad_(bool(weights.gmm))

    def posterior(self, features: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute q(z|x), or q(z|x,y) with `generative`: h (B,H), labels (B,) or shares (B,K) -> mu, log_var (B,D).

        The labels are read with `generative` only; log_var is clamped to +-10.
        """
        if self.generative:
            features = torch.cat([features, one_hot(labels, self.num_classes, features.dtype)], dim=1)
        with torch.autocast(features.device.type, enabled=False):
            return self.mu_head(features), self.log_var_head(features).clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    def responsible_component(self, mu: Tensor) -> Tensor:
        """Find the most responsible component of the prior at codes (B,D): -> (B,) int64; -1 before it has started."""
        if not self.prior.started:
            return torch.full((len(mu),), -1, device=mu.device)
        return self.prior.log_responsibilities(mu).argmax(dim=1)

    def forward(
        self, images: Tensor, labels: Tensor, noise: Tensor, weights: LossWeights, mixed: Mixed | None = None
    ) -> LossTerms:
        """Compute the loss of a batch, weights.cls CE + weights.reconst MSE + weights.gmm L_gmm, and its terms.

        Args:
            images: (B,1 or 3,S,S) in [0,1]; also the target of the reconstruction.
            labels: (B,) int64.
            noise: standard normal eps of z = mu + sigma*eps, (B,D).
            weights: of the three terms; CE, or what `criterion` is in its place, and L_gmm are means over the batch,
                MSE over pixels and channels too.
            mixed: what was mixed into the images, if anything.
        """
        targets = labels if mixed is None else mixed.label_shares(labels, self.num_classes)
        mu, log_var = self.posterior(self.features(images), targets)
        codes = mu + (0.5 * log_var).exp() * noise
        cls = reconst = gmm = None
        if weights.reconst:  # under the autocast: the decoder may be narrower, its error is not
            reconst = (widen(self.decoder(codes, targets)) - images).square().mean()
        with torch.autocast(images.device.type, enabled=False):
            if weights.cls:
                cls = self.classification_term(codes, labels, mixed)
            if weights.gmm:
                assigned = targets if self.gmm_assign == "label" else None
                gmm = self.prior.mixture_term(mu, log_var, codes, assigned).mean()
        terms = zip(weights, (cls, reconst, gmm), strict=True)
        total = sum(weight * term for weight, term in terms if term is not None)
        return LossTerms(total, cls, reconst, gmm)

    def reconstructions(self, images: Tensor, labels: Tensor) -> Tensor:
        """Rebuild images at z = mu under their own labels: (B,1 or 3,S,S), (B,) -> (B,3,S,S) in [0,1]."""
        mu, _ = self.posterior(self.features(images), labels)
        return widen(self.decoder(mu, labels))

    def samples(self, components: Tensor, noise: Tensor) -> Tensor:
        """Decode draws m_c + sqrt(v_c) * noise of components c under their labels: (B,), (B,D) -> (B,3,S,S) in [0,1].

        Noise 0 gives what the decoder makes of a component's mean.
        """
        prior = self.prior
        codes = prior.means[components] + (0.5 * prior.clamped_log_vars()[components]).exp() * noise
        return widen(self.decoder(codes, components))
