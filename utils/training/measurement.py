"""The numbers of one evaluation, and the files that say what they were computed from."""

from dataclasses import dataclass
from typing import Any

from utils.metrics import compute_metrics, mutual_information, per_class_metrics
from utils.training.engine import Predictions
from utils.training.folder import RunFolder

SHOWN = ("acc", "acsa", "f_ma", "g_ma", "many", "median", "low")


@dataclass(frozen=True)
class Measurement:
    """All metrics of one evaluation.

    Attributes:
        numbers: name -> value in [0,1] or None, the prior's live components, their mutual information with the class.
        predictions: what they were computed from.
        dataset: the images, with their ids and class names.
        train_counts: training images per class.
    """

    numbers: dict[str, Any]
    predictions: Predictions
    dataset: Any
    train_counts: list[int]

    @classmethod
    def of(cls, predictions: Predictions, dataset: Any, train_counts: list[int]) -> "Measurement":
        """Compute all metrics. A component is live if it is the most responsible one for at least one image."""
        numbers: dict[str, Any] = compute_metrics(predictions.targets, predictions.probabilities, train_counts)
        numbers["live_components"] = len(set(predictions.components.tolist()))
        numbers["mutual_information"] = mutual_information(predictions.components, predictions.targets)
        return cls(numbers, predictions, dataset, train_counts)

    def write(self, folder: RunFolder, epoch: int, split: str) -> None:
        """metrics_per_class.csv and predictions.csv."""
        data, found = self.dataset, self.predictions
        rows = per_class_metrics(found.targets, found.probabilities, self.train_counts, data.classes)
        folder.write_rows("metrics_per_class.csv", [{"epoch": epoch, "split": split} | row for row in rows])
        folder.write_predictions(data.ids[found.indices], found.targets, found.probabilities, data.classes)


def shown(numbers: dict[str, Any]) -> str:
    """The headline metrics in a line."""
    return ", ".join(f"{name} {'-' if numbers[name] is None else format(numbers[name], '.4f')}" for name in SHOWN)
