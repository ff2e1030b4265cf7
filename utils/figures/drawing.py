"""Which files each figure is drawn from, and drawing it; all that needs matplotlib is behind this module."""

import logging
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.figures.calibration import reliability
from utils.figures.classes import confusion, recall_by_size
from utils.figures.codes import CLASSES, IMAGES, codes_in_the_plane
from utils.figures.curves import learning_curves
from utils.figures.reading import (
    find_codes,
    is_of_another_model,
    read_answers,
    read_classes,
    read_codes,
    read_history,
    titles_of,
)
from utils.figures.sheets import reconstructions, samples
from utils.figures.style import LOOK, defaults, fit
from utils.files import write_atomically, writing
from utils.training.folder import RunFolder
from utils.training.layout import RESULTS

RUN_NAME = 36  # characters of a run's name in a title

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its warnings of fonts and caches


def path_of(name: str, folder: RunFolder) -> Path:
    """Name the PNG of a figure of one script's results; training and re-training share two of them."""
    shared = name in ("recall", "codes") and folder.suffix != "_eval"
    return (RunFolder(folder.path) if shared else folder).figure(name)


def sources(name: str, folder: RunFolder) -> list[Path]:
    """Name the files that a figure is drawn from; none if the script has no such figure, or not all files are there."""
    trained, evaluated = folder.suffix == "", folder.suffix == "_eval"
    predictions, pictures = folder.file("predictions.csv"), folder.file("pictures.npz")
    match name:  # only what this figure needs is looked at: another file may be damaged
        case "learning_curves":
            found = [] if evaluated else [folder.file("metrics.csv")]
        case "recall":
            found = list(_tables(folder).values())
        case "confusion":
            found = [predictions, folder.file("metrics_per_class.csv")]
        case "reliability":
            found = [predictions]
        case "codes":
            found = [] if trained or evaluated else find_codes(folder)
        case "reconstructions":
            found = [pictures] if trained else []
        case "samples":
            found = [pictures] if trained and _has_samples(pictures) else []
    return found if all(path.exists() for path in found) else []


def _has_samples(pictures: Path) -> bool:
    """Tell whether pictures hold samples of components: of a prior that never started there are none."""
    if not zipfile.is_zipfile(pictures):
        return True  # who draws them says what is wrong
    with zipfile.ZipFile(pictures) as archive:
        return "samples.npy" in archive.namelist()


def _tables(folder: RunFolder) -> dict[str, Path]:
    """Find the results by class that are shown together; an evaluation may be of other images and stands alone.

    A re-training of another model is left out, also of this one before its training went on.
    """
    suffixes = ["_eval"] if folder.suffix == "_eval" else [suffix for suffix in RESULTS if suffix != "_eval"]
    folders = [RunFolder(folder.path, suffix) for suffix in suffixes]
    tables = {one.suffix: one.file("metrics_per_class.csv") for one in folders if not is_of_another_model(one)}
    return {suffix: path for suffix, path in tables.items() if path.exists()}


def draw(name: str, folder: RunFolder) -> Figure:
    """Draw a figure from its `sources`."""
    run, paths = fit(folder.path.resolve().name, RUN_NAME), sources(name, folder)
    title = f"{run}: {RESULTS[folder.suffix]}"
    match name:
        case "learning_curves":
            return learning_curves(read_history(*paths), title)
        case "recall":
            tables = _tables(folder)
            results = {suffix: read_classes(path) for suffix, path in tables.items()}
            return recall_by_size(results, run, titles_of(folder, tables))
        case "confusion":
            return confusion(read_answers(paths[0]), read_classes(paths[1]), title)
        case "reliability":
            return reliability(read_answers(*paths), title)
        case "codes":
            return codes_in_the_plane(read_codes(*paths, CLASSES, IMAGES), run)
        case "reconstructions":
            return reconstructions(np.load(*paths), f"{run}: images and their reconstructions")
        case "samples":
            return samples(np.load(*paths), f"{run}: samples of the components")
    raise ValueError(f"no figure {name}")


def save(name: str, folder: RunFolder) -> Path:
    """Draw a figure in matplotlib's own defaults, whatever the user's are, and write its PNG; returns its path."""
    image, path = BytesIO(), path_of(name, folder)
    with defaults(LOOK), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font has not, means of nothing
        draw(name, folder).savefig(image, format="png")
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda file: file.write(image.getvalue()))
    return path
