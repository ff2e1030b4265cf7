"""Synthetic codes for re-training the classifier: Case 1 (feature transfer) and Case 2 (the posterior).

Both plan an epoch, which training code serves as which class, and turn a batch of the plan into codes. A code is a
fresh draw from N(mu_i, sigma_i^2) at every use.

Shapes: N training codes, B batch, K classes, D length of a code.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utils.errors import UserError
from utils.metrics import FEW_SHOT, MANY_SHOT
from utils.randomness import Stream, permutation

log = logging.getLogger("dgcmm")

ROWS = 1024  # codes that are summed up in float64 at a time


class PosteriorSampler:
    """Case 2: every class gets n_max codes an epoch, drawn from the posteriors of its own images.

    Args:
        mu, sigma: mean and standard deviation of each training image's code, (N,D).
        targets: (N,) labels.
        num_classes: K.
        seed: of the plans.

    Raises:
        UserError: a class has no training code.
    """

    def __init__(self, mu: Tensor, sigma: Tensor, targets: Tensor, num_classes: int, seed: int) -> None:
        self.mu, self.sigma, self.targets, self.seed = mu, sigma, targets, seed
        labels = targets.cpu()
        self.members = [torch.nonzero(labels == c).flatten() for c in range(num_classes)]
        self.counts = [len(members) for members in self.members]
        for c, number in enumerate(self.counts):
            if number == 0:
                raise UserError(f"class {c} has no training code: every class needs at least one image")

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """List an epoch's codes, shuffled: (indices of source codes, class each serves as), (M,) int64 on the CPU."""
        parts = [self._class_sources(c, epoch) for c in range(len(self.counts))]
        sources = torch.cat(parts)
        labels = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
        order = permutation(len(sources), self.seed, Stream.AUGMENTATION_PLAN, epoch, len(parts))  # no class's key
        return sources[order], labels[order]

    def _class_sources(self, c: int, epoch: int) -> Tensor:
        """Take each image once, then go round the shuffled class until there are n_max."""
        return self._round(self.members[c], max(self.counts), epoch, c)

    def _round(self, pool: Tensor, number: int, *keys: int) -> Tensor:
        order = permutation(len(pool), self.seed, Stream.AUGMENTATION_PLAN, *keys)
        return pool[order[torch.arange(number) % len(pool)]]

    def codes(self, sources: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Make the codes of a batch of the plan.

        Args:
            sources, labels: of the batch, (B,) int64 on the device of the training codes.
            noise: standard normal numbers, (B,D).

        Returns:
            (B,D), a draw from the posterior of each source.
        """
        mu, sigma = (values.index_select(0, sources) for values in (self.mu, self.sigma))
        return torch.addcmul(mu, sigma, noise)


class FeatureTransferSampler(PosteriorSampler):
    """Case 1: the spread of larger classes is carried over to smaller ones (Yin et al., CVPR 2019).

    A new code of class c from a draw z_j of another class is m_c + Q Q^T (z_j - m_{y_j}): m_c is the mean of mu over
    class c, Q the leading eigenvectors of the pooled within-class scatter of mu.

    Args:
        mu, sigma, targets, num_classes, seed: as in `PosteriorSampler`.
        rank: columns of Q; default D/2. Capped at the scatter's numerical rank.
        wanted: from the class counts to the number of codes each class shall have.
    """

    def __init__(
        self,
        mu: Tensor,
        sigma: Tensor,
        targets: Tensor,
        num_classes: int,
        seed: int,
        rank: int | None = None,
        wanted: Callable[[Sequence[int]], list[int]] | None = None,
    ) -> None:
        super().__init__(mu, sigma, targets, num_classes, seed)
        self.wanted = (wanted or to_largest)(self.counts)
        self.sources = transfer_sources(self.counts)
        self.means = class_means(mu, targets, num_classes)
        self.basis = scatter_basis(mu, self.means, targets, rank)

    def _class_sources(self, c: int, epoch: int) -> Tensor:
        """Take each image once, then as many codes of other classes as are wanted."""
        own = self.members[c]
        missing = self.wanted[c] - len(own)
        if missing <= 0 or not self.sources[c]:
            return own
        pool = torch.cat([self.members[other] for other in self.sources[c]])  # kept, those of 1,000 classes fill 700 MB
        return torch.cat([own, self._round(pool, missing, epoch, c)])

    def codes(self, sources: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Make the codes of a batch as in `PosteriorSampler`; foreign sources are transferred."""
        drawn, origins = super().codes(sources, labels, noise), self.targets[sources]
        transferred = self.means[labels] + (drawn - self.means[origins]) @ self.basis @ self.basis.T
        return torch.where((origins == labels)[:, None], drawn, transferred)


def transfer_sources(counts: Sequence[int]) -> list[list[int]]:
    """List the classes whose codes are carried over to each class.

    A class of more than 100 images: all larger many-shot classes; another: all many-shot classes. If there is no
    many-shot class: all larger classes, with a warning. The largest class gets none.
    """
    classes = range(len(counts))
    many = [c for c in classes if counts[c] > MANY_SHOT]
    if not many:
        log.warning("no class has more than %d codes: each class takes from all larger classes", MANY_SHOT)
        return [[other for other in classes if counts[other] > counts[c]] for c in classes]
    return [[other for other in many if counts[c] <= MANY_SHOT or counts[other] > counts[c]] for c in classes]


def to_largest(counts: Sequence[int]) -> list[int]:
    """Want every class as large as the largest (`get_rep_nums1`)."""
    return [max(counts)] * len(counts)


def to_next_group(counts: Sequence[int]) -> list[int]:
    """Want low-shot classes as large as the smallest median one, and median ones as the smallest many-shot one.

    That is `get_rep_nums2`. Where the group above is empty the one above it counts; where there is none a class stays
    as it is.
    """
    median = [n for n in counts if FEW_SHOT <= n <= MANY_SHOT]
    many = [n for n in counts if n > MANY_SHOT]

    def target(n: int) -> int:
        if n > MANY_SHOT:
            return n
        above = (median or many) if n < FEW_SHOT else many
        return min(above, default=n)

    return [target(n) for n in counts]


REP_METHODS = {"get_rep_nums1": to_largest, "get_rep_nums2": to_next_group}


def class_means(mu: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Compute m_c, the mean of mu over each class: (N,D), (N,) -> (K,D)."""
    sums = torch.zeros(num_classes, mu.shape[1], dtype=torch.float64, device=mu.device)
    for codes, labels in zip(mu.split(ROWS), targets.split(ROWS), strict=True):
        sums.index_add_(0, labels, codes.double())
    return (sums / torch.bincount(targets, minlength=num_classes)[:, None]).to(mu.dtype)


def scatter_basis(mu: Tensor, means: Tensor, targets: Tensor, rank: int | None) -> Tensor:
    """Compute Q, the leading eigenvectors of the pooled within-class scatter of mu.

    Args:
        mu: (N,D).
        means: of its classes, (K,D).
        targets: (N,) labels.
        rank: columns wanted; default D/2.

    Returns:
        (D,R) orthonormal columns, R at most the scatter's numerical rank.
    """
    count, dim = mu.shape
    wanted = rank or max(dim // 2, 1)
    scatter = torch.zeros(dim, dim, dtype=torch.float64, device=mu.device)
    for codes, labels in zip(mu.split(ROWS), targets.split(ROWS), strict=True):
        centered = (codes - means[labels]).double()
        scatter += centered.T @ centered
    values, vectors = torch.linalg.eigh(scatter)  # ascending
    # the rank of the centred codes: singular values are square roots of these, and as exact as the codes; the sums over
    # them are exact, so more codes bring no more noise
    floor = (dim * torch.finfo(mu.dtype).eps) ** 2
    numerical = int((values > values[-1].clamp_min(0) * floor).sum())
    used = min(wanted, numerical)
    reason = "" if used == wanted else f", as many as the scatter of {count} codes has"
    log.info("feature transfer: rank %d of %d%s", used, dim, reason)
    return vectors[:, dim - used :].to(mu.dtype)
