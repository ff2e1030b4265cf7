"""The end of a script: its result, then its figures, as files and in TensorBoard.

A figure never costs the result: that is printed first, and a figure that cannot be drawn is a warning.
"""

import contextlib
import logging
import os
from pathlib import Path

from utils.errors import UserError
from utils.figures.reading import find_codes, read_codes
from utils.metrics import Row
from utils.streams import print_result
from utils.training.board import Board
from utils.training.folder import RunFolder
from utils.training.layout import FIGURES

log = logging.getLogger("dgcmm")

MOST_PROJECTED = 5000  # codes in TensorBoard's projector


def report(result: Row, folder: RunFolder, figures: bool) -> None:
    """Print the result of a script that has just ended; then draw its figures, and show them in TensorBoard."""
    if figures:
        log.info("figures follow in %s; scripts/figures.py draws them too", folder.figures)
    print_result(result)
    if figures:
        try:
            with folder.open():
                show_figures(make_figures(folder), folder, result["epoch"])
        except UserError as error:
            log.warning("no figures: %s", error)


def make_figures(folder: RunFolder, since: float = 0.0) -> dict[str, Path]:
    """Draw the figures of one script's results from the files of its run folder.

    Args:
        folder: with the script's suffix.
        since: draw those too that are newer than the files they show, but older than this time.

    Returns:
        What was drawn: a name of `FIGURES` -> its PNG.
    """
    try:
        os.environ["MPLBACKEND"] = "agg"  # another may be unknown to matplotlib, and none is needed
        # here alone: importing matplotlib may fail, or make a cache of fonts, and only figures need it
        from utils.figures import drawing
    except ImportError as error:
        log.warning("no figures: %s; pip install -r requirements.txt", error)
        return {}
    made = {}
    for name in FIGURES:
        try:
            if needs := drawing.sources(name, folder):
                path = drawing.path_of(name, folder)
                if not _newer(path, needs) or path.stat().st_mtime < since:
                    made[name] = drawing.save(name, folder)
        except Exception as error:  # whatever it is, the run is complete without this figure
            bug = not isinstance(error, UserError)  # whose traceback goes into log.txt
            log.warning("figure %s is left out: %s", name, _line(error), exc_info=bug)
    return made


def show_figures(made: dict[str, Path], folder: RunFolder, epoch: int) -> None:
    """Show figures in TensorBoard, as pictures of an epoch, and with the codes' figure the codes themselves."""
    if not made:
        return
    try:
        with contextlib.closing(Board(folder.board, folder.board_suffix, None)) as board:
            for name, path in made.items():
                board.picture(epoch, f"figures/{FIGURES.index(name) + 1} {name.replace('_', ' ')}", path)
            if "codes" in made:
                codes = read_codes(*find_codes(folder), MOST_PROJECTED, MOST_PROJECTED)
                board.codes(codes.codes, [(codes.names[c], int(codes.counts[c])) for c in codes.targets])
    except Exception as error:
        log.warning("TensorBoard shows no figures: %s", _line(error), exc_info=not isinstance(error, UserError))


def _newer(path: Path, than: list[Path]) -> bool:
    return path.exists() and path.stat().st_mtime > max(other.stat().st_mtime for other in than)


def _line(error: Exception) -> str:
    """Say in a line what went wrong."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())
