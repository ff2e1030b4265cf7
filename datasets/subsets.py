"""Which images belong to a long-tailed subset, and which are held out of the training data."""

from collections.abc import Sequence

import numpy as np

from utils.errors import UserError
from utils.randomness import Stream, permutation


def exponential_counts(largest: int, num_classes: int, factor: float) -> tuple[int, ...]:
    """Give the images per class of an exponential profile, from `largest` down to `largest / factor`.

    n_i = int(n_max mu^(i/(K-1))) with mu = 1 / factor, cut and not rounded (Cao et al., NeurIPS 2019, LDAM-DRW's
    imbalance_cifar.py).
    """
    return tuple(int(largest * (1 / factor) ** (label / (num_classes - 1))) for label in range(num_classes))


def scaled_counts(counts: Sequence[int], scale: float) -> tuple[int, ...]:
    """Give `scale` times as many images of each class, rounded, half an image up, and at least one."""
    return tuple(max(int(count * scale + 0.5), 1) for count in counts)


def draw_long_tailed(targets: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Draw `counts[c]` images of each class c without replacement.

    Returns:
        Sorted indices into `targets`, sum(counts) of them; another seed draws another subset.

    Raises:
        UserError: a class has fewer images than asked for.
    """
    chosen = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(targets == label)
        if len(members) < count:
            raise UserError(
                f"class {label} has {len(members)} images, the subset needs {count}: the data is incomplete, or "
                "--subset-scale asks for more than there is"
            )
        chosen.append(members[permutation(len(members), seed, Stream.SUBSET, label).numpy()[:count]])
    return np.sort(np.concatenate(chosen))


def hold_out(
    targets: np.ndarray, num_classes: int, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (kept, held out), stratified: about `fraction` of every class is held out.

    A class of one is kept. With `groups`, all images of a group go to the same side, and no class gives more than its
    share. Rare classes choose their groups first; what comes along of others counts against their shares. A class of
    two or more images has at least one on each side, unless each of its groups exceeds the share of some class.

    Returns:
        Two sorted index arrays.
    """
    groups = np.arange(len(targets)) if groups is None else groups
    counts = np.bincount(targets, minlength=num_classes)
    shares = np.minimum(np.maximum(np.round(fraction * counts), 1), counts - 1)
    taken = np.zeros(num_classes, dtype=np.int64)
    held = np.zeros(len(targets), dtype=np.bool_)
    members_of = _members(groups)
    for label in np.argsort(counts, kind="stable"):
        own = np.unique(groups[targets == label])
        for group in own[permutation(len(own), seed, Stream.HOLD_OUT, int(label)).numpy()].tolist():
            members = members_of[group]
            after = taken + np.bincount(targets[members], minlength=num_classes)
            if held[members[0]] or np.any((after > taken) & (after > shares)):
                continue
            held[members] = True
            taken = after
    return np.flatnonzero(~held), np.flatnonzero(held)


def spread(targets: np.ndarray, count: int) -> np.ndarray:
    """Choose at most `count` sorted indices, round the classes in turn; at least one of each class."""
    rank = np.empty(len(targets), dtype=np.int64)  # how many of its class come before each image
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        rank[members] = np.arange(len(members))
    order = np.lexsort((targets, rank))
    return np.sort(order[: max(count, int((rank == 0).sum()))])


def _members(groups: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
