"""How unlike the training images an image is: how far its code lies from its component, beside theirs.

Shapes: B batch, N training codes, K classes, D length of a code.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from models.dgcmm import DGCMM
from models.prior import GaussianMixturePrior
from utils.device import autocast, to_unit_range
from utils.distributed.world import World

QUANTILES = 101  # of the distances of a class's training codes, from the least to the largest


@torch.no_grad()
def code_distances(prior: GaussianMixturePrior, mu: Tensor, labels: Tensor) -> Tensor:
    """Compute the Mahalanobis distance of codes from the component of their class, squared: sum_d (mu - m_y)^2 / v_y.

    Args:
        prior: of the codes.
        mu: (B,D).
        labels: y, the true ones of training images, else the predicted ones, (B,).

    Returns:
        (B,) float32.
    """
    offsets = mu - prior.means[labels]
    return (offsets.square() * (-prior.clamped_log_vars()[labels]).exp()).sum(dim=1).float()


def distance_quantiles(distances: np.ndarray, labels: np.ndarray, num_classes: int) -> Tensor:
    """Compute the quantiles of each class's training distances that a checkpoint keeps.

    Args:
        distances, labels: of training images, (N,).
        num_classes: K.

    Returns:
        (K,QUANTILES) float32, rising in each row; NaN for a class without an image.
    """
    table = np.full((num_classes, QUANTILES), np.nan)
    for label in np.unique(labels):
        table[label] = np.quantile(distances[labels == label], np.linspace(0, 1, QUANTILES))
    return torch.from_numpy(table).float()


def atypicality(quantiles: Tensor, distances: Tensor, labels: Tensor) -> np.ndarray:
    """Compute the share of the class's training images whose codes lie nearer.

    Args:
        quantiles: as `distance_quantiles` gave them, (K,QUANTILES).
        distances: from the component of the predicted class, (B,).
        labels: predicted, (B,).

    Returns:
        (B,) in [0,1]; NaN where the class has no quantiles.
    """
    rows, shares = quantiles.cpu().numpy()[labels.cpu().numpy()], np.linspace(0, 1, QUANTILES)
    pairs = zip(distances.cpu().numpy(), rows, strict=True)
    return np.array([np.nan if np.isnan(row[0]) else np.interp(distance, row, shares) for distance, row in pairs])


@torch.inference_mode()
def measure_distances(model: DGCMM, batches: Iterable[Sequence[Tensor]], amp: str, world: World) -> Tensor | None:
    """Measure how far codes of training images lie from their components.

    Args:
        batches: images (B,C,S,S) uint8, labels (B,) and what else; those of this process.
        amp: the precision of the encoder.

    Returns:
        As `distance_quantiles`, over what all processes measured, in the main process; None in the others.
    """
    world.broadcast_buffers(model)
    model.eval()
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for images, targets, *_ in batches:
        labels = targets.to(world.device)
        with autocast(world.device, amp):
            features = model.features(to_unit_range(images, world.device))
        mu, _ = model.posterior(features, labels)
        parts.append((code_distances(model.prior, mu, labels).cpu().numpy(), targets.numpy()))
    found = world.gather_main(parts)
    if found is None:
        return None
    distances, targets = (np.concatenate(column) for column in zip(*itertools.chain(*found), strict=True))
    return distance_quantiles(distances, targets, model.num_classes)
