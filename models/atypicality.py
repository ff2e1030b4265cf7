"""How unlike the training images an image is: how far its code lies from its component, beside theirs.

Shapes: B batch, N training codes, K classes, D length of a code.
"""

import numpy as np
import torch
from torch import Tensor

from models.prior import GaussianMixturePrior

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
    with torch.autocast(mu.device.type, enabled=False):
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
