#!/usr/bin/env python3
"""Make the Fashion-MNIST tables: choose settings on validation images, train all rows, measure all that is compared.

    python scripts/protocol.py tune table --jobs=2            two trainings at a time, one thread each
    python scripts/protocol.py table --jobs=12 --until=560    on a GPU; stops after 560 seconds and saves
    python scripts/protocol.py table --rows ce dgcmm --subsets 0
    python scripts/protocol.py tune table --list              the commands, nothing is run

Stages: tune (subsets 5 and 6: learning rates, then the own parameter of each row at the best of them; the choices are
in RESULTS/chosen.json), table (subsets 0 to 4), tune-tenth and tenth (a tenth of the images), tune-tenth-resnet18 and
tenth-resnet18 (the same with ResNet-18), third (a third of the images), imbalance (10 to 200 at the same number of
images), weights (weights of the loss terms, length of the code), confirm (comparisons that were written down first, on
the subsets 10 to 19). The last three are on a tenth of the images too, with ResNet-18; the stages before them that do
not name it have ResNet-32.

The same command goes on where it was: runs whose results lie in RESULTS are skipped at once, unfinished ones continued
from their checkpoints in RUNS. At the end of a run its small files are copied to RESULTS, from which scripts/claim.py
makes the tables. The exit status is 1 if a run failed.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.experiments import protocol
from scripts.experiments.choices import (
    Choice,
    Tried,
    best,
    choose_methods,
    read_choices,
    validated,
    write_choices,
)
from scripts.experiments.jobs import Job, Report, Runner, finished
from scripts.experiments.protocol import CHOSEN, MADE, TUNED, Places, Regime, Row, Selection
from utils.cli.common import Parser
from utils.cli.types import count, count_or_zero, path, positive
from utils.errors import UserError, run_script

RUNS, RESULTS = "./logs/fashion_mnist_lt", "results/fashion_mnist_lt"

Settings = dict[Row, list[Tried]]  # of each row that is tuned


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(description=__doc__, allow_abbrev=False)  # fashion_mnist_lt.sh looks for some flags
    add, names = parser.add_argument, tuple(protocol.BY_NAME)
    add("stages", nargs="+", choices=protocol.STAGES, metavar="STAGE", help=f"of {', '.join(protocol.STAGES)}")
    add("--data", type=path, default="/usr/share/datasets/fashion-mnist", metavar="PATH", help="default: %(default)s")
    add("--runs", type=path, default=RUNS, metavar="PATH", help="default: %(default)s")
    add("--results", type=path, default=RESULTS, metavar="PATH", help="default: %(default)s, in the repository")
    add("--jobs", type=count, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    add("--until", type=positive, metavar="S", help="stop after so many seconds; what runs is saved, status 0")
    add("--rows", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)} (default: the stage's)")
    add("--subsets", nargs="+", type=count_or_zero, metavar="N", help="default: the stage's")
    add("--rates-only", action="store_true", help="tune the learning rates alone, of all rows")
    add("--quick", action="store_true", help="an epoch of two steps each, to try a machine; wants --runs and --results")
    add("--list", action="store_true", help="print the commands of what is not finished, and run nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages one after the other; 1 if a run failed."""
    options = build_parser().parse_args(argv)
    published, given = (
        {(ROOT / place).resolve() for place in pair} for pair in ((RUNS, RESULTS), (options.runs, options.results))
    )
    if options.quick and published & given:
        raise UserError("--quick: its numbers mean nothing, name other folders for them (--runs and --results)")
    if options.rows:
        check_rows(options.stages, options.rows)
    options.rows = options.rows or tuple(protocol.BY_NAME)
    options.subsets = options.subsets and list(dict.fromkeys(options.subsets))  # each once
    for stage in options.stages:
        check_subsets(stage, options.subsets or ())
    deadline = time.monotonic() + options.until if options.until else None
    runner = Runner(ROOT, ROOT / options.runs, ROOT / options.results, options.jobs, deadline)
    failed = 0
    for stage in options.stages:
        report = run_tuning(stage, options, runner) if stage in TUNED else run_stage(stage, options, runner)
        print(f"{stage}: {len(report.done)} runs are there, {len(report.failed)} failed, {len(report.left)} are left")
        failed += len(report.failed)
        if report.left and not options.list:
            break
    return 1 if failed else 0


def check_rows(stages: Sequence[str], names: Sequence[str]) -> None:
    """Raise a `UserError` if a stage has none of the rows, or a row is in none of the stages."""
    for stage in stages:
        if not set(names) & set(rows_of(stage)):
            raise UserError(f"--rows: the stage {stage} has the rows {', '.join(rows_of(stage))}")
    for name in names:
        if not any(name in rows_of(stage) for stage in stages):
            raise UserError(f"--rows: {name} is a row of none of these stages ({', '.join(stages)}): leave it out")


def check_subsets(stage: str, asked: Sequence[int]) -> None:
    """Raise a `UserError` if a choice were made on the subset of a table, or a table on one of the choices."""
    allowed = protocol.subsets_of(stage)
    if not set(asked) <= set(allowed):
        raise UserError(f"--subsets: the stage {stage} has the subsets {', '.join(map(str, allowed))}")


def rows_of(stage: str) -> Sequence[str]:
    """Name the rows that a stage has."""
    if stage in CHOSEN:
        return CHOSEN[stage][0]
    return tuple(protocol.BY_NAME) if TUNED[stage] is protocol.ALL else protocol.IN_TENTH


def run_all(jobs: list[Job], options: argparse.Namespace, runner: Runner) -> Report:
    """Run jobs, or list their commands.

    Raises:
        UserError: there is something to run, and no folder of images.
    """
    waiting = [job for job in jobs if not finished(job, runner.results)]
    if not options.list:
        if waiting and not (ROOT / options.data).is_dir():
            raise UserError(
                f"--data {options.data} does not exist: name Fashion-MNIST's folder, or create one to download it"
            )
        return runner.run(jobs)
    for job in waiting:
        for step in job.steps:
            print(shlex.join(["python", *step.words]))
    return Report([job.folder for job in jobs if job not in waiting], [], [job.folder for job in waiting])


def joined(first: Report, second: Report) -> Report:
    """Join two reports; a run that is in both counts once."""
    return Report(*(list(dict.fromkeys(one + other)) for one, other in zip(first, second, strict=True)))


def run_tuning(stage: str, options: argparse.Namespace, runner: Runner) -> Report:
    """Try the learning rates of each row, then its own parameter at the best of them, and write what is best.

    With fewer `--subsets` the best setting is run on the others too: what the methods on its codes are given is always
    chosen on all, as one run is a poor judge of it. A row whose first part is not complete waits with the next for
    another call.
    """
    regime, subsets = TUNED[stage], options.subsets or protocol.TUNING
    rows = [protocol.BY_NAME[name] for name in options.rows if name in rows_of(stage)]
    grids = {row: [(rate, row.default) for rate in regime.rates] for row in rows}
    rates, report = try_grids(stage, grids, subsets, options, runner)
    best_rates = {row: rate for row, (rate, _) in best_of(stage, rates, subsets, runner).items()}
    grids = {row: [(rate, value) for value in row.values] for row, rate in best_rates.items()}
    if options.rates_only:  # but other values may be there from before
        own = {
            row: [pair for pair in pairs if validated(folder_of(stage, row, pair, runner), subsets)]
            for row, pairs in grids.items()
        }
    else:
        own, more = try_grids(stage, grids, subsets, options, runner)
        report = joined(report, more)
    found = best_of(stage, own, subsets, runner)
    alone = {row: [pair] for row, pair in found.items()}
    report = joined(report, try_settings(stage, alone, protocol.TUNING, options, runner))
    if not options.list:
        numbers = {row: len({*rates[row], *own[row]}) for row in found}
        write_best(stage, found, numbers, subsets, runner)
    return report


def try_grids(
    stage: str, grids: Settings, subsets: Sequence[int], options: argparse.Namespace, runner: Runner
) -> tuple[Settings, Report]:
    """Try the inner settings of a grid for each row, then an outer one beside the best; returns what was tried."""
    inner = {row: pairs[1:-1] for row, pairs in grids.items()}
    report = try_settings(stage, inner, subsets, options, runner)
    outer = {row: protocol.beyond(grids[row], pair) for row, pair in best_of(stage, inner, subsets, runner).items()}
    report = joined(report, try_settings(stage, outer, subsets, options, runner))
    return {row: [*pairs, *outer.get(row, ())] for row, pairs in inner.items()}, report


def try_settings(
    stage: str, settings: Settings, subsets: Sequence[int], options: argparse.Namespace, runner: Runner
) -> Report:
    """Run the settings of each row on the subsets, or list the commands."""
    places = Places(options.data, options.runs, options.quick)
    parts = [protocol.tuning_jobs(stage, row, pairs, places, subsets) for row, pairs in settings.items()]
    return run_all([job for part in parts for job in part], options, runner)


def folder_of(stage: str, row: Row, pair: Tried, runner: Runner) -> Path:
    """Name the folder of a setting's results."""
    return runner.results / protocol.tuning_folder(stage, row, *pair)


def best_of(stage: str, settings: Settings, subsets: Sequence[int], runner: Runner) -> dict[Row, Tried]:
    """Find the best setting of each row; rows of which a run is missing are left out."""
    found = {
        row: best({pair: folder_of(stage, row, pair, runner) for pair in pairs}, subsets)
        for row, pairs in settings.items()
    }
    return {row: pair for row, pair in found.items() if pair}


def write_best(
    stage: str, found: dict[Row, Tried], numbers: dict[Row, int], subsets: Sequence[int], runner: Runner
) -> None:
    """Write the best setting of each row, and what the methods on its codes are given, to the file of choices.

    Args:
        numbers: how many settings of each row were tried.
    """
    choices = read_choices(runner.results)
    for row, pair in found.items():
        folder = folder_of(stage, row, pair, runner)
        if validated(folder, protocol.TUNING):
            choice = Choice(*pair, *choose_methods(folder, protocol.TUNING), numbers[row], list(subsets))
            choices.setdefault(TUNED[stage].name, {})[row.name] = choice
            print(f"{stage}: {row.name}: lr {choice.rate:g}, {row.own} {choice.own:g}")
    if choices:
        write_choices(runner.results, choices)


def run_stage(stage: str, options: argparse.Namespace, runner: Runner) -> Report:
    """Run a stage with what was chosen before; rows of which nothing was chosen are named and left out.

    Raises:
        UserError: no row is left.
    """
    places = Places(options.data, options.runs, options.quick)
    choices = read_choices(runner.results)
    if options.quick or options.list:
        choices = {regime.name: defaults(regime) | choices.get(regime.name, {}) for regime in TUNED.values()}
    names, regime = CHOSEN[stage]
    chosen = choices.get(regime.name, {})
    missing = [name for name in options.rows if name in names and name not in chosen]
    rows = [name for name in options.rows if name not in missing]
    jobs = MADE[stage](Selection(choices, places, rows, options.subsets))
    if missing:
        said = f"{stage}: nothing is chosen for {', '.join(missing)}: run the stage that tunes first"
        if not jobs:
            raise UserError(said)
        print(f"{said}; the other rows are made")
    waiting = [job for job in jobs if protocol.needs_judges(job) and not finished(job, runner.results)]
    first = [job for job in jobs if job not in waiting]
    if not waiting:
        return run_all(first, options, runner)
    judges = protocol.judge_jobs(places)
    done, failed, left = run_all([*judges, *first], options, runner)
    theirs = [judge.folder for judge in judges]
    beside = [[folder for folder in part if folder not in theirs] for part in (done, left)]  # they are no runs of it
    return joined(Report(beside[0], failed, beside[1]), run_all(waiting, options, runner))


def defaults(regime: Regime) -> dict[str, Choice]:
    """Take the setting in the middle for each row: to list commands, and to try a machine."""
    middle = regime.rates[len(regime.rates) // 2]
    return {row.name: Choice(middle, row.default, {}, "trained", 0, ()) for row in protocol.ROWS}


if __name__ == "__main__":
    run_script(lambda: sys.exit(main()))
