"""The metrics of an evaluation: from targets and class probabilities to numbers in [0,1], by scikit-learn."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn import metrics as skm

from utils.errors import NotFinite

MANY_SHOT, FEW_SHOT = 100, 20  # more than MANY_SHOT training images: many; fewer than FEW_SHOT: low; else median
CALIBRATION_BINS = 15
# what to do about probabilities that are not finite, of a model as it is
NO_REDUCTION = "give --amp=off; if they stay so, the checkpoint is of a training astray"
Metrics = dict[str, float | None]
Row = dict[str, int | float | str | None]  # of metrics.csv, and the final JSON object


class Predictions(NamedTuple):
    """What an evaluation found, in the order of the data set."""

    indices: np.ndarray  # (N,)
    targets: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N,K)
    components: np.ndarray  # (N,) the most responsible component of the prior; -1 where there is none


@dataclass(frozen=True)
class Measurement:
    """All metrics of one evaluation.

    Attributes:
        numbers: the metrics, in [0,1], None where one is undefined; `live_components` of the prior, and
            `mutual_information` of component and class, in nats; both None without a prior.
        predictions: what they were computed from.
        ids: name of each image, (N,).
        classes: class names.
        train_counts: training images per class, (K,).
    """

    numbers: Row
    predictions: Predictions
    ids: np.ndarray
    classes: Sequence[str]
    train_counts: Sequence[int]

    @classmethod
    def of(
        cls, predictions: Predictions, ids: np.ndarray, classes: Sequence[str], train_counts: Sequence[int]
    ) -> "Measurement":
        """Compute all metrics. A component is live if it is the most responsible one for at least one image."""
        components, has_prior = predictions.components, bool((predictions.components >= 0).all())
        numbers: Row = {
            **compute_metrics(predictions.targets, predictions.probabilities, train_counts),
            "live_components": len(set(components.tolist())) if has_prior else None,
            "mutual_information": mutual_information(components, predictions.targets) if has_prior else None,
        }
        return cls(numbers, predictions, ids, classes, train_counts)


def exact(probabilities: np.ndarray) -> list[str]:
    """Write probabilities (K,) with as many digits as tell each from its neighbours: 9 of float32, 17 of float64."""
    digits = 9 if probabilities.dtype == np.float32 else 17
    return [f"{probability:.{digits}g}" for probability in probabilities.tolist()]


def require_finite(probabilities: Sequence[np.ndarray], remedy: str) -> None:
    """Raise `NotFinite` if a class probability is not finite; the `remedy` ends the message.

    The check of the loss sees the weights before a step; what the last step has done is first seen here.
    """
    if not all(np.isfinite(part).all() for part in probabilities):
        raise NotFinite(f"the probabilities are not finite: {remedy}")


def shot_group(train_count: int) -> str:
    """'many', 'median' or 'low', by the number of training images of a class."""
    if train_count > MANY_SHOT:
        return "many"
    return "low" if train_count < FEW_SHOT else "median"


def compute_metrics(targets: np.ndarray, probabilities: np.ndarray, train_counts: Sequence[int]) -> Metrics:
    """Compute all metrics of one evaluation; None where one is undefined.

    Args:
        targets: (N,) labels.
        probabilities: (N,K); the prediction is the argmax.
        train_counts: training images of each class, (K,), for many / median / low.
    """
    labels = np.arange(probabilities.shape[1])
    predictions = probabilities.argmax(axis=1)
    averaged = {"labels": labels, "zero_division": 0}
    recalls = skm.recall_score(targets, predictions, average=None, **averaged)
    specificities = _specificities(targets, predictions, labels)
    accuracy = float(skm.accuracy_score(targets, predictions))
    false_positive_rate = (1 - accuracy) / max(len(labels) - 1, 1)  # micro: N(1-acc) false among N(K-1) negatives
    result = {
        "acc": accuracy,
        "acsa": recalls.mean(),
        "pre_ma": skm.precision_score(targets, predictions, average="macro", **averaged),
        "rec_ma": recalls.mean(),
        "spe_ma": specificities.mean(),
        "f_ma": skm.f1_score(targets, predictions, average="macro", **averaged),
        "f_mi": skm.f1_score(targets, predictions, average="micro", **averaged),
        "g_ma": np.sqrt(recalls * specificities).mean(),
        "g_mi": math.sqrt(accuracy * (1 - false_positive_rate)),
        "auc": _mean([auc for auc in class_aucs(targets, probabilities) if auc is not None]),
    }
    groups = [shot_group(count) for count in train_counts]
    for name in ("many", "median", "low"):
        result[name] = _mean([recall for recall, group in zip(recalls, groups, strict=True) if group == name])
    return {name: None if value is None else float(value) for name, value in result.items()}


def per_class_metrics(
    targets: np.ndarray, probabilities: np.ndarray, train_counts: Sequence[int], classes: Sequence[str]
) -> list[Row]:
    """Compute a row per class: name, group, training and measured images, recall, precision, F1, specificity, AUC.

    Args:
        targets: (N,) labels.
        probabilities: (N,K); the prediction is the argmax.
        train_counts, classes: training images and name of each class, (K,).
    """
    labels = np.arange(probabilities.shape[1])
    predictions = probabilities.argmax(axis=1)
    precision, recall, f1, support = skm.precision_recall_fscore_support(
        targets, predictions, labels=labels, zero_division=0
    )
    specificities = _specificities(targets, predictions, labels)
    aucs = class_aucs(targets, probabilities)
    return [
        {
            "class": classes[c],
            "group": shot_group(train_counts[c]),
            "train_images": int(train_counts[c]),
            "images": int(support[c]),
            "recall": float(recall[c]),
            "precision": float(precision[c]),
            "f1": float(f1[c]),
            "specificity": float(specificities[c]),
            "auc": aucs[c],
        }
        for c in labels
    ]


def class_aucs(targets: np.ndarray, probabilities: np.ndarray) -> list[float | None]:
    """Compute the area under the ROC curve of each class against the rest: (N,) labels, (N,K) -> K values.

    None of a class without positives, or without negatives.
    """
    positives = [targets == c for c in range(probabilities.shape[1])]
    return [
        float(skm.roc_auc_score(positive, probabilities[:, c])) if positive.any() and not positive.all() else None
        for c, positive in enumerate(positives)
    ]


def mutual_information(components: np.ndarray, targets: np.ndarray) -> float:
    """Compute the mutual information of component (N,) and class (N,), in nats; ln K if K equal classes match."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn takes many clusters for a sign of regression targets
        return float(skm.mutual_info_score(targets, components))


def calibration_error(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute the expected calibration error of the predictions (Guo et al., ICML 2017, eq. 3), in [0,1].

    Args:
        targets: (N,) labels.
        probabilities: (N,K); the prediction is the argmax, and its probability the confidence.
    """
    return confidence_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets)


def confidence_error(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Compute the expected calibration error of predictions of which only this is known.

    It is the mean over the images of |share of correct predictions - mean confidence| in the image's bin, one of
    `CALIBRATION_BINS` of equal width over [0,1].

    Args:
        confidences: (N,) in [0,1]; one on the border of two bins belongs to the lower.
        correct: (N,) whether the prediction is the label.
    """
    confidences = np.asarray(confidences, dtype=np.float64)
    members = np.maximum(np.ceil(confidences * CALIBRATION_BINS).astype(np.int64) - 1, 0)
    gaps = np.bincount(members, weights=correct - confidences)
    return float(np.abs(gaps).sum() / len(confidences))


def _specificities(targets: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    tables = skm.multilabel_confusion_matrix(targets, predictions, labels=labels)
    true_negatives, false_positives = tables[:, 0, 0], tables[:, 0, 1]
    negatives = true_negatives + false_positives
    return np.divide(true_negatives, negatives, out=np.zeros(len(labels)), where=negatives > 0)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
