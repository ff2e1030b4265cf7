"""The Deep Generative Mixture Model: ResNet encoder, VAE3 decoder, Gaussian-mixture prior, and what joins them.

The plain classifiers, its baselines, are an encoder and a linear layer. `load_model` is for code of one's own.
"""

from models.classifier import PlainClassifier
from models.dgcmm import DGCMM
from models.encoder import ARCHITECTURES, feature_dim
from models.loading import TrainedModel, load_model
from models.losses import LossWeights
from models.scoring import Scorer

__all__ = [
    "ARCHITECTURES",
    "DGCMM",
    "LossWeights",
    "PlainClassifier",
    "Scorer",
    "TrainedModel",
    "feature_dim",
    "load_model",
]
