#!/usr/bin/env python3
"""Measure what atypicality is worth: does it tell Fashion-MNIST's test images from images of another kind?

    python scripts/atypicality.py CHECKPOINT [--datadir=/usr/share/datasets/fashion-mnist]

CHECKPOINT is of FashionMNIST_LT. The others are scikit-learn's handwritten digits, enlarged to 28x28, and 2,000 images
of uniform noise. The scores are atypicality, 1 - confidence, the squared error of the reconstruction, and how short the
code is. Of each the table has the area under the ROC curve (0.5: tells nothing; below: misleads) and the share of the
other images that pass where 95 % of the test images pass; for all images, and apart by the size of the predicted class
in the training.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets import DATASETS
from datasets.splits import complete_data
from models.loading import TrainedModel, load_model
from train import build_parser
from utils.cli.common import Parser
from utils.cli.rules import parse
from utils.errors import UserError, run_script
from utils.metrics import shot_group

DATASET = "FashionMNIST_LT"
SIDE, NOISE, BATCH = 28, 2000, 250
RECALL = 0.95  # of the test images
FEWEST = 20  # images of a group, for a number
KINDS = ("atypicality", "1 - confidence", "reconstruction error", "short code")
GROUPS = ("all", "many", "median", "low")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table as Markdown."""
    parser = Parser(description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--datadir", default="/usr/share/datasets/fashion-mnist", metavar="PATH")
    args = parser.parse_args(argv)
    model = load_model(args.checkpoint)
    if model.class_names != DATASETS[DATASET].classes:
        raise UserError(f"{args.checkpoint} has other classes than {DATASET}: name a checkpoint of that data set")
    if model.distance_quantiles is None:
        raise UserError(
            f"{args.checkpoint} has no distances of training codes: name one of a DGCMM with a mixture, of this "
            "version of train.py, whose training has ended"
        )
    data_args, _ = parse(build_parser(), [DATASET, f"--datadir={args.datadir}"])
    complete_data(data_args)
    test = DATASETS[DATASET].load(data_args).test
    usual, usual_groups = score(model, [test.read(int(row)) for row in test.rows])
    print("| images | score |", " | ".join(GROUPS), "|")
    print("|---|---|" + "---|" * len(GROUPS))
    for name, images in {"digits": digits(), "noise": noise()}.items():
        other, other_groups = score(model, images)
        for kind in KINDS:
            cells = [
                cell(usual[kind][belongs(usual_groups, group)], other[kind][belongs(other_groups, group)])
                for group in GROUPS
            ]
            print(f"| {name} | {kind} |", " | ".join(cells), "|")


def digits() -> list[Image.Image]:
    """Enlarge scikit-learn's 1,797 handwritten digits."""
    grey = (Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)) for image in load_digits().images)
    return [image.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in grey]


def noise() -> list[Image.Image]:
    """Draw images of independent pixels."""
    draws = np.random.default_rng(0).integers(0, 256, (NOISE, SIDE, SIDE), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in draws]


def score(model: TrainedModel, images: Sequence[Image.Image]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compute the scores of images, (N,) each, and the group of the predicted class, (N,)."""
    scores: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    groups: list[str] = []
    for start in range(0, len(images), BATCH):
        batch = torch.stack([model.transform(image) for image in images[start : start + BATCH]])
        found = model.classify(batch)
        with torch.no_grad():
            errors = (model.network.decoder(found.mu, found.labels) - batch).square().mean(dim=(1, 2, 3))
        uncertain, short = 1 - found.probabilities.amax(dim=1), -found.mu.norm(dim=1)
        values = (found.atypicality, uncertain.numpy(), errors.numpy(), short.numpy())
        for parts, value in zip(scores.values(), values, strict=True):
            parts.append(value)
        groups += [shot_group(model.class_counts[label]) for label in found.labels.tolist()]
    return {kind: np.concatenate(parts) for kind, parts in scores.items()}, np.array(groups)


def belongs(groups: np.ndarray, group: str) -> np.ndarray:
    """Tell which images are in a group, (N,)."""
    return groups == group if group != "all" else np.ones(len(groups), dtype=np.bool_)


def cell(usual: np.ndarray, other: np.ndarray) -> str:
    """Write AUROC and the share of others that pass; '-' where there are too few of either."""
    if min(len(usual), len(other)) < FEWEST:
        return "-"
    is_other = np.repeat([0, 1], [len(usual), len(other)])
    passing = (other <= np.quantile(usual, RECALL)).mean()
    return f"{roc_auc_score(is_other, np.concatenate([usual, other])):.3f}, {passing:.2f}"


if __name__ == "__main__":
    run_script(main)
