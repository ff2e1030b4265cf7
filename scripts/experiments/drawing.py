"""The figures of the Fashion-MNIST experiments. Each carries a digest of the numbers that it shows."""

import hashlib
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.experiments.comparison import DGCMM_ROW, best_baseline, contenders
from scripts.experiments.corruption import NOISE
from scripts.experiments.protocol import ALL, BY_NAME, FURTHER, TABLE, TENTH_18
from scripts.experiments.results import RETRAINED, Run, retrained_file
from scripts.experiments.tables import NUMBERS_OF_IMAGES
from scripts.experiments.verdicts import marked
from utils.figures.style import BLACK, BLUE, GREEN, PURPLE, RED, defaults
from utils.files import read_rows, write_atomically
from utils.training.layout import BASELINES_BY_CLASS

COLOURS = (BLUE, RED, GREEN, PURPLE, BLACK)
MARKERS = "osD^v"
STYLES = {"clean": "-", NOISE: "--"}
DIGEST = "Description"  # of a PNG's texts

Curve = dict[str, list[float]]  # "x", "y", "subsets"


def class_recalls(run: Run, method: str) -> dict[str, tuple[int, float]]:
    """Read the recall of each class by a method: name -> (training images, recall); nothing where it is not there.

    Both cases are taken from their scripts, where these were run, as the tables do.
    """
    if method == "trained":
        path = run.folder / "metrics_per_class.csv"
    else:
        path = run.folder / BASELINES_BY_CLASS
        for name in (name for name, case in RETRAINED.items() if case == method):
            own = retrained_file(run.folder, "metrics_per_class.csv", name)
            path = own if own.exists() else path
    rows = [row for row in read_rows(path) if row.get("method", method) == method] if path.exists() else []
    return {row["class"]: (int(row["train_images"]), float(row["recall"])) for row in rows}


def recall_curves(results: Path, stage: str = "table", regime: str = ALL.name) -> dict[str, Curve]:
    """Gather recall against class size, means over the subsets.

    Of DGCMM as trained, after both cases, and by the method chosen on validation images; and of the best baseline.
    """
    rows, wanted = contenders(results, stage, regime), []
    for one in (row for row in rows if row.row.name == DGCMM_ROW):
        steps = {"trained": "as trained", "case-1": "then Case 1", "case-2": "then Case 2"}
        cases = {method: f"{one.row.title}, {step}" for method, step in steps.items()}
        titles = cases if one.method in cases else cases | {one.method: one.title}
        wanted += [(title, one.runs, method) for method, title in titles.items()]
    if best := best_baseline(rows):
        wanted.append((best.title, best.runs, best.method))
    curves = {}
    for title, runs, method in wanted:
        found = [recalls for run in runs if (recalls := class_recalls(run, method))]
        if found:
            curves[marked(title, len(found), len(TABLE))] = _mean_curve(found)
    return curves


def _mean_curve(found: list[dict[str, tuple[int, float]]]) -> Curve:
    names = sorted(found[0], key=lambda name: found[0][name][0])
    x = [float(found[0][name][0]) for name in names]
    return {"x": x, "y": [statistics.fmean(recalls[name][1] for recalls in found) for name in names]}


def image_curves(results: Path) -> dict[str, Curve]:
    """Gather ACSA against the number of images, clean and under noise; means, and over how many subsets.

    Nothing while the rows have been run on one number of images alone.
    """
    curves: dict[str, Curve] = {}
    for condition in ("clean", NOISE):
        for images, stage in NUMBERS_OF_IMAGES.items():
            for one in contenders(results, *stage, condition):
                if one.row.name in FURTHER:
                    curve = curves.setdefault(f"{one.row.title}, {condition}", {"x": [], "y": [], "subsets": []})
                    curve["x"].append(float(images))
                    curve["y"].append(one.mean)
                    curve["subsets"].append(len(one.values))
    return curves if any(len(curve["x"]) > 1 for curve in curves.values()) else {}


def draw_recall(ax: Axes, curves: dict[str, Curve]) -> None:
    """Draw recall of each class against its training images."""
    for (title, curve), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
        ax.plot(curve["x"], curve["y"], color=colour, marker=marker, markersize=4, linewidth=1.2, label=title)
    ax.set_xlabel("training images of the class")
    ax.set_ylabel("recall")


def draw_images(ax: Axes, curves: dict[str, Curve]) -> None:
    """Draw balanced accuracy against the number of images; a row has a colour, a condition a style.

    Below a number of images stands over how many subsets the means are.
    """
    looks = {
        f"{BY_NAME[name].title}, {condition}": {"color": COLOURS[row], "marker": MARKERS[row], "linestyle": style}
        for row, name in enumerate(FURTHER)
        for condition, style in STYLES.items()
    }
    for title, curve in curves.items():
        ax.plot(curve["x"], curve["y"], markersize=4, label=title, **looks[title])
    subsets: dict[float, set[float]] = {}
    for curve in curves.values():
        for x, number in zip(curve["x"], curve["subsets"], strict=True):
            subsets.setdefault(x, set()).add(number)
    labels = [f"{x:,.0f}\n{' or '.join(map(str, sorted(numbers)))} subsets" for x, numbers in subsets.items()]
    ax.set_xticks(list(subsets), labels)
    ax.set_xlabel("training images")
    ax.set_ylabel("balanced accuracy")


# file below fig/ -> what it shows, and how
FIGURES: dict[str, tuple[Callable[[Path], dict[str, Curve]], Callable[[Axes, dict[str, Curve]], None]]] = {
    "fashion_mnist_recall.png": (recall_curves, draw_recall),
    "fashion_mnist_tenth_recall.png": (partial(recall_curves, stage=TENTH_18.name, regime=TENTH_18.name), draw_recall),
    "fashion_mnist_images.png": (image_curves, draw_images),
}


def digest(curves: dict[str, Curve]) -> str:
    """Hash what a figure shows."""
    return hashlib.sha256(json.dumps(curves).encode()).hexdigest()


def draw(path: Path, curves: dict[str, Curve], plot: Callable[[Axes, dict[str, Curve]], None]) -> None:
    """Draw a figure into a PNG, in matplotlib's own defaults, whatever the user's are."""
    with defaults():
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        ax = figure.add_subplot()
        ax.set_xscale("log")
        ax.set_xticks(sorted({x for curve in curves.values() for x in curve["x"]}))
        ax.minorticks_off()
        ax.xaxis.set_major_formatter("{x:,.0f}")
        plot(ax, curves)
        ax.grid(alpha=0.3, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
        metadata = {DIGEST: digest(curves)}
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150, metadata=metadata))
