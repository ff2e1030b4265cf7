"""The Deep Generative Mixture Model: ResNet encoder, VAE3 decoder, Gaussian-mixture prior, and what joins them.

The plain classifiers, its baselines, are an encoder and a linear layer.
"""

from models.classifier import PlainClassifier
from models.dgcmm import DGCMM
from models.encoder import ARCHITECTURES, feature_dim
from models.losses import LossWeights
from models.scoring import Scorer

__all__ = ["ARCHITECTURES", "DGCMM", "LossWeights", "PlainClassifier", "Scorer", "feature_dim"]
