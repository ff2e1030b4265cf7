#!/usr/bin/env python3
"""Print the results of run folders as one table: base, Case 1 and Case 2, mean over the folders.

    python scripts/table.py RUN_FOLDER [RUN_FOLDER ...]

The numbers are the last rows of metrics.csv, metrics_aug_ftl.csv and metrics_aug.csv. With several folders each cell
is the mean, and the standard deviation over the folders stands behind it. Below it stands what health.json says of the
decoder.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

METRICS = ("acc", "acsa", "f_ma", "g_ma", "many", "median", "low")
ROWS = {"base": "metrics.csv", "Case 1": "metrics_aug_ftl.csv", "Case 2": "metrics_aug.csv"}


def last_row(path: Path) -> dict[str, str]:
    """Read the last row of a metrics file: the headline."""
    with path.open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    if row["split"] != "test":
        raise ValueError(f"{path}: the run is not finished")
    return row


def cell(values: list[str]) -> str:
    """Mean and standard deviation of what the folders say; '-' where one says nothing."""
    if not all(values):
        return "-"
    numbers = [float(value) for value in values]
    mean = f"{statistics.mean(numbers):.4f}"
    return f"{mean} ±{statistics.stdev(numbers):.4f}" if len(numbers) > 1 else mean


def table(folders: list[Path]) -> str:
    """Write the table as Markdown."""
    width = 15 if len(folders) > 1 else 6
    lines = [
        "|        | " + " | ".join(name.ljust(width) for name in METRICS) + " |",
        "|--------|-" + "-|-".join("-" * width for _ in METRICS) + "-|",
    ]
    for label, name in ROWS.items():
        found = [last_row(folder / name) for folder in folders]
        cells = (cell([row[metric] for row in found]).ljust(width) for metric in METRICS)
        lines.append(f"| {label} | ".replace("base", "base  ") + " | ".join(cells) + " |")
    return "\n".join(lines)


def health(folders: list[Path]) -> str:
    """Say in a line what the decoder rebuilds, mean over the folders; nothing if one does not say."""
    files = [folder / "health.json" for folder in folders]
    if not all(file.is_file() for file in files):
        return ""
    found = [json.loads(file.read_text()) for file in files]
    names = {"reconstructions": "mse", "a constant grey": "mse_constant", "the class's mean image": "mse_class_mean"}
    return "squared error of " + ", of ".join(
        f"{label} {cell([row[name] for row in found])}" for label, name in names.items()
    )


def main() -> None:
    """Read the folders named on the command line and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="finished run folders")
    try:
        folders = parser.parse_args().folders
        print(*filter(None, (table(folders), health(folders))), sep="\n\n")
    except (OSError, IndexError, KeyError, ValueError) as error:
        parser.error(f"{error}: name run folders in which all three scripts have finished")


if __name__ == "__main__":
    main()
