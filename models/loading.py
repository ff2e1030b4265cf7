"""Models by their descriptions: anew from the arguments of a run, trained from a checkpoint."""

import argparse
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.atypicality import atypicality, code_distances
from models.classifier import ImageClassifier, PlainClassifier
from models.dgcmm import DGCMM
from models.encoder import PLAIN_ARCHITECTURES
from models.losses import COSINE_LOSSES, LOSSES, LossWeights
from models.scoring import Scorer
from utils.device import autocast
from utils.distributed.world import World
from utils.errors import UserError
from utils.preprocessing import Preprocessing
from utils.randomness import Stream, global_seed
from utils.training.checkpoint import Checkpoint, load_checkpoint, load_model_state


def create_model(args: argparse.Namespace, num_classes: int, pretrained: bool = False) -> ImageClassifier:
    """Create the model that the arguments describe.

    Raises:
        UserError: this version of the code has no such model or loss.
    """
    if args.loss not in LOSSES:
        raise UserError(f"--loss {args.loss}: this version of the code has no such loss")
    cosine = args.loss in COSINE_LOSSES
    if args.arch in PLAIN_ARCHITECTURES:
        return PlainClassifier(args.arch, num_classes, cosine=cosine, pretrained=pretrained)
    return DGCMM(
        arch=args.arch,
        num_classes=num_classes,
        z_dim=args.z_dim,
        image_size=args.crop_size,
        generative=args.generative,
        gmm_assign=args.gmm_assign,
        cosine=cosine,
        pretrained=pretrained,
    )


def build_model(world: World, args: argparse.Namespace, num_classes: int, pretrained: bool = False) -> ImageClassifier:
    """Create a model as the seed says, on the device of this process, ready to be trained or measured.

    Raises:
        UserError: as `create_model`.
    """
    with global_seed(args.seed, Stream.INITIALISATION):
        model = create_model(args, num_classes, pretrained).to(world.device)
    if args.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if args.freeze_encoder:
        model.freeze_encoder()
    if args.compile:
        model.encoder.resnet.compile()  # at the first use, in place: the names of the weights stay
        if isinstance(model, DGCMM):
            model.decoder.compile()
    return model


def all_weights(args: argparse.Namespace) -> LossWeights:
    """Weigh the loss terms as the arguments say: in training after the warm-up, and to score candidate labels."""
    return LossWeights(args.weight_cls, args.weight_reconst, args.weight_gmm)


class Classified(NamedTuple):
    """What a model says of a batch.

    Attributes:
        labels: the predictions, (B,) int64.
        probabilities: of the classes, (B,K).
        mu, log_var: of the code, (B,D); of a generative model under the predicted label, of a plain classifier the
            features h and -inf.
        atypicality: (B,) in [0,1]; NaN where it is not known.
    """

    labels: Tensor
    probabilities: Tensor
    mu: Tensor
    log_var: Tensor
    atypicality: np.ndarray


class TrainedModel(nn.Module):
    """A trained model as its checkpoint describes it, in evaluation mode.

    Args:
        checkpoint: of train.py or an augmentation.
        source: its file, for messages.

    Attributes:
        class_names: in the order of the labels, (K,).
        class_counts: training images of each class, (K,).
        image_size: side S of the images that it takes.
        transform: from a PIL image of any kind to a tensor (C,S,S) in [0,1], as in the evaluation of the training; None
            where the checkpoint does not say, which is older than that.
        network: the model itself.
        distance_quantiles: of training codes from their components, (K,Q), see `models.atypicality`; None before the
            training has ended, where the model has no prior that started, and in older checkpoints.
        weights: of the loss terms, by which a generative model scores candidate labels.

    Raises:
        UserError: the weights do not fit.
    """

    def __init__(self, checkpoint: Checkpoint, source: str) -> None:
        super().__init__()
        args = argparse.Namespace(**checkpoint["args"])
        self.class_names, self.class_counts = tuple(checkpoint["class_names"]), tuple(checkpoint["class_counts"])
        self.image_size: int = args.crop_size
        facts = checkpoint.get("preprocessing")
        self.transform = Preprocessing(**facts) if facts else None
        self.network = create_model(args, len(self.class_names))
        load_model_state(self.network, checkpoint, source)
        self.distance_quantiles: Tensor | None = checkpoint.get("distance_quantiles")
        self.weights = all_weights(args)
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B,C,S,S) in [0,1], as `transform` gives them: the encoder's features h (B,H)."""
        with torch.no_grad():
            return self.network.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the class probabilities of images (B,C,S,S) in [0,1], as `transform` gives them: (B,K)."""
        return self.classify(images).probabilities

    def classify(self, images: Tensor, amp: str = "off", correction: Tensor | None = None) -> Classified:
        """Classify images and compute their codes.

        Args:
            images: (B,C,S,S) in [0,1], as `transform` gives them.
            amp: precision of the encoder, a key of `utils.device.PRECISIONS`.
            correction: log of what the probability of each class is multiplied by, (K,); None for no correction.
        """
        with torch.no_grad():
            scorer = Scorer(self.network, self.weights)
            with autocast(images.device, amp):
                features, fixed = scorer.evidence(images)
            probabilities = scorer.probabilities(features, fixed)
            if correction is not None:
                tiny = torch.finfo(torch.float64).tiny
                logits = probabilities.double().clamp_min(tiny).log() + correction.to(probabilities.device)
                probabilities = logits.softmax(dim=1).to(probabilities.dtype)
            labels = probabilities.argmax(dim=1)
            mu, log_var = self.network.posterior(features, labels)
            found = np.full(len(labels), np.nan)
            if self.distance_quantiles is not None:
                found = atypicality(self.distance_quantiles, code_distances(self.network.prior, mu, labels), labels)
        return Classified(labels, probabilities, mu, log_var, found)


def load_model(path: str | PathLike[str], device: torch.device | str = "cpu") -> TrainedModel:
    """Load a checkpoint of train.py, augment.py or augment_ftl.py; the file is enough, wherever it lies.

    Args:
        path: of the checkpoint.
        device: where the model shall be.

    Raises:
        UserError: the file is missing, damaged or no checkpoint.
    """
    return TrainedModel(load_checkpoint(Path(path)), str(path)).to(device)
