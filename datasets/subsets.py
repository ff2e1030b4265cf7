"""Which images belong to a long-tailed subset, which are left over by it, and which are held out of it."""

from collections.abc import Sequence

import numpy as np

from utils.choice import rank_in_class
from utils.errors import UserError
from utils.randomness import Stream, permutation


def exponential_counts(largest: int, num_classes: int, factor: float) -> tuple[int, ...]:
    """Give the images per class of an exponential profile, from `largest` down to `largest / factor`.

    n_i = int(n_max mu^(i/(K-1))) with mu = 1 / factor, cut and not rounded (Cao et al., NeurIPS 2019, LDAM-DRW's
    imbalance_cifar.py), but never to 0.

    Raises:
        UserError: the smallest class would have no image.
    """
    if factor > largest:
        raise UserError(
            f"--imbalance-factor {factor:g} leaves no image of the smallest class, as the largest has {largest}: give "
            f"{largest} or less"
        )
    shares = ((1 / factor) ** (label / (num_classes - 1)) for label in range(num_classes))
    return tuple(max(int(largest * share), 1) for share in shares)


def scaled_counts(counts: Sequence[int], scale: float) -> tuple[int, ...]:
    """Give `scale` times as many images of each class, rounded, half an image up, and at least one."""
    return tuple(max(int(count * scale + 0.5), 1) for count in counts)


def draw_long_tailed(targets: np.ndarray, classes: Sequence[str], counts: Sequence[int], seed: int) -> np.ndarray:
    """Draw `counts[c]` images of each class c without replacement.

    Args:
        classes: names of the classes, for a message.

    Returns:
        Sorted indices into `targets`, sum(counts) of them; another seed draws another subset.

    Raises:
        UserError: a class has fewer images than asked for.
    """
    chosen = []
    for label, count in enumerate(counts):
        members = _shuffled(targets, label, seed)
        if len(members) < count:
            raise UserError(
                f"class {classes[label]} has {len(members)} images, the subset needs {count}: the data is incomplete, "
                "or --subset-scale asks for more than there is"
            )
        chosen.append(members[:count])
    return np.sort(np.concatenate(chosen))


def draw_left_over(
    targets: np.ndarray, classes: Sequence[str], chosen: np.ndarray, count: int, seed: int, groups: np.ndarray | None
) -> np.ndarray:
    """Draw `count` images of each class that a subset leaves over.

    A class's images are shuffled as for the subset, which takes the first ones, and these are the last ones: as long as
    there are enough, they are the same whatever the counts of the subset.

    Args:
        classes: names of the classes, for a message.
        chosen: indices of the subset.
        groups: group of each image; one of which the subset has an image leaves none over. None: each is its own.

    Returns:
        Sorted indices into `targets`, K * count of them.

    Raises:
        UserError: the subset leaves fewer images of a class.
    """
    groups = np.arange(len(targets)) if groups is None else groups
    free = ~np.isin(groups, groups[chosen])
    shuffled = [_shuffled(targets, label, seed) for label in range(len(classes))]
    left = [members[free[members]] for members in shuffled]
    scarcest = min(range(len(classes)), key=lambda label: len(left[label]))
    if (most := len(left[scarcest])) < count:
        fewer = f"give at most {most}, or " if most else "give "
        raise UserError(
            f"--val-per-class {count}: the training images leave {most} of class {classes[scarcest]} over: {fewer}"
            "--val-fraction, which holds training images out"
        )
    return np.sort(np.concatenate([members[-count:] for members in left]))


def _shuffled(targets: np.ndarray, label: int, seed: int) -> np.ndarray:
    """Indices of the images of a class, in the order in which a subset draws them."""
    members = np.flatnonzero(targets == label)
    return members[permutation(len(members), seed, Stream.SUBSET, label).numpy()]


def hold_out(
    targets: np.ndarray, num_classes: int, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (kept, held out), stratified: about `fraction` of every class is held out.

    A class of one is kept. With `groups`, all images of a group go to the same side, and no class gives more than its
    share. Rare classes choose their groups first; what comes along of others counts against their shares. A class of
    two or more images keeps at least one, and gives at least one unless each of its groups exceeds what is left of the
    share of some class.

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
            if taken[label] >= shares[label]:
                break
            members = members_of[group]
            after = taken + np.bincount(targets[members], minlength=num_classes)
            if held[members[0]] or np.any((after > taken) & (after > shares)):
                continue
            held[members] = True
            taken = after
    return np.flatnonzero(~held), np.flatnonzero(held)


def spread(targets: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` sorted indices, if there are so many, round the classes in turn; at least one of each class."""
    ranks = rank_in_class(targets)
    order = np.lexsort((targets, ranks))
    return np.sort(order[: max(count, int((ranks == 0).sum()))])


def some_of_each(targets: np.ndarray, limit: int) -> dict[int, np.ndarray]:
    """Choose at most `limit` images of each class, spread over its list: label -> sorted indices into `targets`."""
    return {
        label: members[np.linspace(0, len(members), min(limit, len(members)), endpoint=False).astype(np.int64)]
        for label, members in _members(targets).items()
    }


def _members(groups: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
