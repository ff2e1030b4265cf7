"""Made-up results of the experiments, in the files that runs leave."""

import csv
import json
from pathlib import Path

from helpers.project import METRIC_NAMES


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Write a CSV file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def metrics(acsa: float) -> dict[str, float]:
    """All metrics of a measurement, of which balanced accuracy alone is told apart."""
    return dict.fromkeys(METRIC_NAMES, 0.5) | {"acsa": acsa}


def write_run(folder: Path, acsa: float, methods: dict[str, float] | None = None, split: str = "test") -> None:
    """Write a run: balanced accuracy after the last epoch, and of methods on its codes."""
    rows = [{"epoch": 1, "split": "", **dict.fromkeys(METRIC_NAMES, "")}, {"epoch": 2, "split": split, **metrics(acsa)}]
    write_csv(folder / "metrics.csv", rows)
    per_class = [{"class": c, "train_images": 10 ** (3 - c), "recall": acsa - 0.1 * c} for c in range(3)]
    write_csv(folder / "metrics_per_class.csv", per_class)
    of_methods = [
        {"method": name, "class": c, "train_images": 10 ** (3 - c), "recall": value - 0.1 * c}
        for name, value in {"trained": acsa, **(methods or {})}.items()
        for c in range(3)
    ]
    write_csv(folder / "metrics_per_class_baselines.csv", of_methods)
    baselines = [
        {"method": name, "parameter": "", "value": "", "split": split, **metrics(value), "calibration_error": 0.1}
        for name, value in {"trained": acsa, **(methods or {})}.items()
    ]
    write_csv(folder / "metrics_baselines.csv", baselines)
    write_conditions(folder, {"trained": acsa, **(methods or {})})


def write_conditions(folder: Path, methods: dict[str, float]) -> None:
    """Write what robustness.py measures: under noise a method has a balanced accuracy that is 0.1 lower."""
    conditions = [
        {"classifier": name, "condition": condition, **metrics(value - loss), "calibration_error": 0.1}
        for name, value in methods.items()
        for condition, loss in (("clean", 0.0), ("noise 0.2", 0.1))
    ]
    write_csv(folder / "metrics_robustness.csv", conditions)


def write_health(folder: Path, **values: float | None) -> None:
    """Write what robustness.py says of a generative half."""
    (folder / "generative_half.json").write_text(json.dumps(values))
