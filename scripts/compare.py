#!/usr/bin/env python3
"""Compare runs in one table: after training, after each re-training, and evaluations.

    python scripts/compare.py RUN [RUN ...] [--csv | --markdown] [--metrics=acsa,f_ma]

RUN is a run folder, or a folder with runs below it. Runs on the same test images that differ in nothing but their seeds
(--seed, --subset-seed) and places share a row: the mean and, after ±, the standard deviation over them. What a
re-training or an evaluation started from counts too, wherever it lies. A run that is not finished has a row of its own,
with the epoch it is at and what it had when it was last measured; so has one whose training is gone. Below the table
stands what the decoders have learned, as health.json says.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.experiments.results import mean_and_deviation
from utils.cli.common import Parser
from utils.cli.rules import DATA_FLAGS, MODEL_FLAGS, SCORING_FLAGS, flag_of
from utils.errors import UserError, run_script
from utils.training.layout import RESULTS, SHOWN, find_runs
from utils.training.reached import ERRORS, Result, Settings, read_results

OF_MODEL = {"dataset", "amp", *MODEL_FLAGS, *DATA_FLAGS, *SCORING_FLAGS}  # which a re-training takes from its training


class Row(NamedTuple):
    """A row of the table: results that differ in their seeds alone."""

    results: list[Result]
    differing: Settings  # settings that another row of the same script has otherwise

    def name(self) -> str:
        """Name the run, or several as a shell would: runs/{a0,a1}, the first and the last if they are many."""
        runs = [result.run for result in self.results]
        if len(runs) == 1:
            return str(runs[0])
        if len({run.is_absolute() for run in runs}) > 1:
            runs = [run.absolute() for run in runs]
        parent = Path(os.path.commonpath(runs))
        parts = [str(run.relative_to(parent)) for run in runs]
        parts = parts if len(parts) <= 4 else [parts[0], "...", parts[-1]]
        return f"{parent}/{{{','.join(parts)}}}"

    def epoch(self) -> str:
        """Say which epoch the numbers are of: '12', '9-12' for several runs, '7/20' of a run that is not finished."""
        first = self.results[0]
        if first.epochs:
            done, asked = first.epochs
            split = f" {first.row['split']}" if first.row.get("split", "test") != "test" else ""
            return f"{done}/{'?' if asked is None else asked}{split}"
        epochs = [int(result.row["epoch"]) for result in self.results]
        first, last = min(epochs), max(epochs)
        return str(first) if first == last else f"{first}-{last}"

    def differs_by(self) -> str:
        """Write the flags by which this script differs from that of other rows; the training's stand in its own row."""
        return " ".join(written(name, value) for name, value in self.differing.items())

    def values(self, metric: str) -> list[float]:
        """Take a metric of all results; [] where one says nothing."""
        texts = [result.row.get(metric, "") for result in self.results]
        return [float(text) for text in texts] if all(texts) else []


def written(name: str, value: object) -> str:
    """Write an argument as on a command line; a switch that is off as 'no --generative'."""
    if name == "dataset":
        return str(value)
    if isinstance(value, bool):
        return flag_of(name) if value else f"no {flag_of(name)}"
    return f"{flag_of(name)}={value}"


def group(results: Iterable[Result]) -> list[Row]:
    """Join results that differ in their seeds alone, in the order of their first runs."""
    results = list(results)
    joined: dict[str, list[list[Result]]] = {}
    for result in sorted(results, key=lambda result: list(RESULTS).index(result.suffix)):
        apart = result.epochs or result.outdated or not result.settings or result.training is None
        alone = str(result.run) if apart else ""
        kind = json.dumps([result.suffix, alone, result.data, result.settings, result.training], sort_keys=True)
        of_kind = joined.setdefault(kind, [])
        members = next((members for members in of_kind if all(map(result.same_images, members))), None)
        if members is None:
            of_kind.append([result])
        else:
            members.append(result)
    runs, rows = list(dict.fromkeys(result.run for result in results)), []
    for members in itertools.chain.from_iterable(joined.values()):
        first, training = members[0], members[0].training or {}
        others = [result.settings for result in results if result.suffix == first.suffix]
        differing = {
            name: value
            for name, value in first.settings.items()
            if (name not in OF_MODEL or training.get(name) != value)  # else the training's row has it
            and any(name in other and other[name] != value for other in others)
        }
        rows.append(Row(members, differing))
    return sorted(rows, key=lambda row: runs.index(row.results[0].run))  # stable: the scripts stay in their order


def repeated(row: Row) -> str:
    """Say in a line that runs of a row repeat one another, so that its deviation means little; nothing if none does.

    Where nothing is drawn, another `--subset-seed` is no other run.
    """
    runs: dict[tuple[object, ...], list[str]] = {}
    for result in row.results:
        seed, subset_seed, own_seed = result.seeds
        runs.setdefault((seed, result.trained_on or subset_seed, own_seed), []).append(str(result.run))
    same = [names for names in runs.values() if len(names) > 1]
    return "; ".join(
        f"{' and '.join(names)} have the same training images and --seed: is one a copy?" for names in same
    )


def outdated(row: Row) -> str:
    """Say in a line that a result is of a model that has changed since; nothing where it is not."""
    what = RESULTS[row.results[0].suffix]
    return (
        f"{row.name()}: {what} is of the model before its training, or re-training, went on"
        if row.results[0].outdated
        else ""
    )


def of_another_epoch(row: Row) -> str:
    """Say, a line for each run, that a re-training took the model of another epoch than its training is measured at."""
    lines = []
    for result in row.results:
        if result.epochs_apart and not result.outdated:
            taken, measured = result.epochs_apart
            what = f"{RESULTS[result.suffix]} is of the model of epoch {taken}"
            lines.append(f"{result.run}: {what}, {RESULTS['']} of that of epoch {measured}")
    return "\n".join(lines)


def decoder(row: Row) -> str:
    """Say in a line what the decoders of a row have learned; nothing where one does not say."""
    healths = [result.health for result in row.results]
    if not all(healths):
        return ""
    errors = [f"{what} {mean_and_deviation([health[name] for health in healths])}" for name, what in ERRORS.items()]
    return f"{row.name()}: squared error of " + ", of ".join(errors)


def cells(row: Row, metrics: Sequence[str]) -> list[str]:
    """Write a row for people."""
    numbers = [mean_and_deviation(row.values(metric)) for metric in metrics]
    what = RESULTS[row.results[0].suffix]
    return [row.name(), what, str(len(row.results)), row.epoch(), *numbers, row.differs_by()]


def csv_row(row: Row, metrics: Sequence[str]) -> dict[str, object]:
    """Write a row for programs: all digits, the standard deviation in a column of its own."""
    found: dict[str, object] = {"run": row.name(), "result": RESULTS[row.results[0].suffix], "runs": len(row.results)}
    found["epoch"] = row.epoch()
    for metric in metrics:
        values = row.values(metric)
        found[metric] = statistics.mean(values) if values else None
        found[f"{metric}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    return found | {"differs_by": row.differs_by()}


def lay_out(rows: Sequence[Row], metrics: Sequence[str], markdown: bool) -> str:
    """Lay rows out as text, or as Markdown; the last column is left out where it is empty."""
    header = ["run", "result", "runs", "epoch", *metrics, "differs by"]
    lines = [header, *(cells(row, metrics) for row in rows)]
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [word.ljust(width) for word, width in zip(line, widths, strict=True)] for line in zip(*columns, strict=True)
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded)
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def metric_names(text: str) -> list[str]:
    """Read the argument of --metrics."""
    return [name.strip() for name in text.split(",")]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder with runs below it"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="all digits, comma-separated (default: text for a terminal)")
    form.add_argument("--markdown", action="store_true", help="a table for a README")
    parser.add_argument(
        "--metrics",
        type=metric_names,
        default=",".join(SHOWN),
        metavar="NAME,NAME",
        help="columns of metrics.csv to show (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Read the runs that the command line names and print their table."""
    args = build_parser().parse_args(argv)
    runs: dict[Path, Path] = {}
    for run in (run for place in args.places for run in find_runs(place)):
        runs.setdefault(run.resolve(), run)  # each once, however it is named
    results = [result for run in runs.values() for result in read_results(run)]
    columns = dict.fromkeys(column for result in results for column in result.row if column not in ("epoch", "split"))
    if columns and (unknown := [name for name in args.metrics if name not in columns]):
        raise UserError(f"--metrics: no run has {unknown[0]!r}; there are {', '.join(columns)}")
    rows = group(results)
    remarks = "\n".join(filter(None, (say(row) for say in (repeated, outdated, of_another_epoch) for row in rows)))
    if args.csv:
        lines = [csv_row(row, args.metrics) for row in rows]
        writer = csv.DictWriter(sys.stdout, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        if remarks:
            print(remarks, file=sys.stderr)
    else:
        decoders = "\n".join(filter(None, map(decoder, rows)))
        print(*filter(None, (lay_out(rows, args.metrics, args.markdown), decoders, remarks)), sep="\n\n")


if __name__ == "__main__":
    run_script(main)
