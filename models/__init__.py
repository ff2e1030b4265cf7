"""The Deep Generative Mixture Model: ResNet encoder, VAE3 decoder, Gaussian-mixture prior, and what joins them."""

from models.dgcmm import DGCMM, LossWeights
from models.encoder import ARCHITECTURES, feature_dim
from models.scoring import Scorer

__all__ = ["ARCHITECTURES", "DGCMM", "LossWeights", "Scorer", "feature_dim"]
