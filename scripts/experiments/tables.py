"""The tables of the Fashion-MNIST experiments as Markdown, of whatever results there are.

A row of fewer subsets than its table is to have is marked with their number. Rows without a run are left out.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from scripts.experiments import protocol
from scripts.experiments.choices import Choice, read_choices
from scripts.experiments.comparison import (
    DGCMM_ROW,
    STRONG_DECODER,
    Comparison,
    compare,
    confirmations,
    contenders,
    jobs_of,
    read_runs_of,
)
from scripts.experiments.corruption import CORRUPTIONS, NOISE
from scripts.experiments.posthoc import METHODS
from scripts.experiments.protocol import (
    ALL,
    BY_NAME,
    CHOSEN,
    FACTORS,
    FEW,
    FRESH,
    FURTHER,
    JUDGES,
    TENTH,
    TENTH_18,
    VARIED,
    Regime,
    Row,
    subsets_of,
    varied_folder,
)
from scripts.experiments.results import (
    mean_and_deviation,
    read_decoder,
    read_generative_half,
    values_of,
    values_under,
)
from scripts.experiments.verdicts import NOTHING, RECOGNISED, besides, marked, points, verdict

HEADLINE = {"acsa": "ACSA", "f_ma": "F-macro", "g_ma": "G-macro", "many": "many", "median": "median", "low": "low"}
HEALTH = {
    "mse": "error",
    "mse_constant": "of a grey image",
    "mse_class_mean": "of the class mean",
    "acsa_reconstruction": "ACSA by reconstruction alone",
    "acsa_mixture": "ACSA by the mixture alone",
}
DIFFERENCES = ("each subset", "mean", "95 % interval", "p", "p (Holm)")
NUMBERS_OF_IMAGES = {900: ("tenth", TENTH.name), 3_000: ("third", ALL.name), 9_000: ("table", ALL.name)}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table; the first column is text."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else NOTHING


def main_table(results: Path, stage: str = "table", regime: str = ALL.name) -> str:
    """Write the rows of a stage: as trained, and by the method that was chosen on validation images."""
    lines = []
    for one in contenders(results, stage, regime):
        columns = [list(values_of(one.runs, one.method, name).values()) for name in (*HEADLINE, "calibration_error")]
        trained = list(values_of(one.runs, "trained", "acsa").values())
        then = "-" if one.method == "trained" else one.method
        cells = [mean_and_deviation(trained), then, *map(mean_and_deviation, columns)]
        lines.append([marked(one.row.title, len(one.values), len(subsets_of(stage))), *cells])
    return markdown(["row", "ACSA as trained", "then", *HEADLINE.values(), "calibration error"], lines)


def headline_table(results: Path, stage: str, regime: str) -> str:
    """Write ACSA of the rows of a stage: as trained, and by the method chosen, clean and under noise."""
    clean, noisy = (contenders(results, stage, regime, condition) for condition in (None, NOISE))
    lines = []
    for one, under_noise in zip(clean, noisy, strict=True):
        found = [values_of(one.runs, "trained", "acsa"), one.values, under_noise.values]
        trained, *chosen = (mean_and_deviation(list(values.values())) for values in found)
        then = "-" if one.method == "trained" else one.method
        lines.append([marked(one.row.title, len(one.values), len(subsets_of(stage))), trained, then, *chosen])
    return markdown(["row", "ACSA as trained", "then", "ACSA", "ACSA, noise of sd 0.2 (pixels 0 to 1)"], lines)


def methods_table(results: Path, stage: str = "table", regime: str = ALL.name) -> str:
    """Write the mean ACSA of every method on the codes of every row."""
    lines = []
    for one in contenders(results, stage, regime):
        means = [list(values_of(one.runs, method, "acsa").values()) for method in METHODS]
        cells = [f"{statistics.fmean(values):.4f}" if values else "-" for values in means]
        lines.append([marked(one.row.title, len(one.runs), len(subsets_of(stage))), *cells])
    return markdown(["row", *METHODS], lines)


def differences_table(results: Path, stage: str = "table", regime: str = ALL.name, condition: str | None = None) -> str:
    """Write the paired differences of DGCMM's rows to the best baseline, in points."""
    baseline, comparisons = compare(contenders(results, stage, regime, condition))
    if not comparisons:
        return NOTHING
    lines = [
        [marked(one.contender.title, len(one.difference.values), len(subsets_of(stage))), *_differences(one)]
        for one in comparisons
    ]
    return f"Against {baseline.title}:\n\n{markdown(['row', *DIFFERENCES], lines)}"


def confirmation_table(results: Path) -> str:
    """Write how the comparisons on the fresh subsets have ended."""
    lines = []
    for one in confirmations(results):
        ours, theirs = (f"{mean:.4f}" for mean in one.means)
        _, *differences, _, p = _differences(one)
        baseline = marked(one.baseline.title, len(one.difference.values), len(FRESH))
        lines.append([one.baseline.condition or "clean", ours, baseline, theirs, *differences, p])
    return markdown(["test images", "DGCMM", "baseline", "ACSA", "points", "95 % interval", "p (Holm)"], lines)


def confirmations_table(results: Path) -> str:
    """Write the paired differences on the fresh subsets, in points."""
    lines = []
    for one in confirmations(results):
        title = marked(one.baseline.title, len(one.difference.values), len(FRESH))
        lines.append([title, one.baseline.condition or "clean", *_differences(one)])
    return markdown(["baseline", "test images", *DIFFERENCES], lines)


def _differences(one: Comparison) -> list[str]:
    found = one.difference
    interval = "-" if found.low is None else f"{points(found.low)} to {points(found.high)}"
    tests = ["-" if p is None else f"{p:.3f}" for p in (found.p, one.p)]
    return [" ".join(map(points, found.values)), points(found.mean), interval, *tests]


def settings_table(results: Path) -> str:
    """Write what was chosen on validation images: for each row, and the values of its methods."""
    lines = []
    for regime, choices in read_choices(results).items():
        for row in protocol.ROWS:
            if row.name in choices:
                lines.append([row.title, regime, *_setting(row, choices[row.name])])
    header = ["row", "images", "learning rate", "own parameter", "settings tried", "on subset", "then", "values"]
    return markdown(header, lines)


def _setting(row: Row, choice: Choice) -> list[str]:
    values = ", ".join(f"{name} {value}" for name, value in choice.values.items())
    tried = [str(choice.settings), " ".join(map(str, choice.subsets))]
    return [f"{choice.rate:g}", f"`{row.own}={choice.own:g}`", *tried, choice.method, values]


def robustness_table(results: Path, stage: str = "table", regime: str = ALL.name) -> str:
    """Write ACSA and calibration error of every row under each condition."""
    columns = [("acsa", condition) for condition in CORRUPTIONS]
    columns += [("calibration_error", condition) for condition in ("clean", NOISE)]
    lines = []
    for one in contenders(results, stage, regime):
        found = [values_under(one.runs, one.method, condition, metric) for metric, condition in columns]
        cells = [mean_and_deviation(list(values.values())) for values in found]
        if any(found):
            lines.append([marked(one.title, len(found[0]), len(subsets_of(stage))), *cells])
    return markdown(["row", *CORRUPTIONS, "calibration error, clean", f"calibration error, {NOISE}"], lines)


def health_table(results: Path, stage: str = "table", regime: str = ALL.name) -> str:
    """Write how alive the generative half of each row is."""
    lines = []
    for one in contenders(results, stage, regime):
        found = [health for run in one.runs if (health := read_generative_half(run))]
        cells = [mean_and_deviation([health[name] for health in found if name in health], 3) for name in HEALTH]
        if found:
            lines.append([marked(one.row.title, len(found), len(subsets_of(stage))), *cells])
    return markdown(["row", *HEALTH.values()], lines)


def recognised_table(results: Path, stage: str = "table", regime: str = ALL.name) -> str:
    """Write what each judge recognises of images, and of each row's reconstructions and samples."""
    lines = []
    for one in contenders(results, stage, regime):
        found = [read_generative_half(run) for run in one.runs]
        for judge in JUDGES:
            shares = [f"recognised_{what}_by_{judge}" for what in RECOGNISED]
            cells = [mean_and_deviation([health[name] for health in found if name in health], 3) for name in shares]
            seen = sum(any(name in health for name in shares) for health in found)
            if seen:
                lines.append([marked(one.row.title, seen, len(subsets_of(stage))), judge, *cells])
    return markdown(["row", "judge", "images", "blurred images", "reconstructions", "samples"], lines)


def imbalance_table(results: Path) -> str:
    """Write ACSA against the imbalance, at the same number of images."""
    stages = {str(factor): (f"imbalance/{factor}", TENTH_18.name) for factor in FACTORS}
    return _by_column(results, stages, CHOSEN["imbalance"][0])


def images_table(results: Path) -> str:
    """Write ACSA against the number of images, at the same imbalance."""
    return _by_column(results, {f"{images:,}": stage for images, stage in NUMBERS_OF_IMAGES.items()}, FURTHER)


def _by_column(results: Path, stages: dict[str, tuple[str, str]], rows: Sequence[str]) -> str:
    """Write ACSA of rows, by their names, a column for each (stage, regime); how many subsets in brackets."""
    columns = [{one.row.name: one for one in contenders(results, *stage)} for stage in stages.values()]
    lines = []
    for name in rows:
        if any(name in column for column in columns):
            values = [list(column[name].values.values()) if name in column else [] for column in columns]
            lines.append([BY_NAME[name].title, *map(_counted, values)])
    return markdown(["row", *stages], lines)


def _counted(values: list[float]) -> str:
    """Write mean and standard deviation, and of how many subsets."""
    return f"{mean_and_deviation(values)} ({len(values)})" if values else mean_and_deviation(values)


def weights_table(results: Path) -> str:
    """Write what a flag of DGCMM's row does, the others as they were chosen, and what the decoder learns then."""
    chosen = read_choices(results).get(TENTH_18.name, {})
    jobs = jobs_of(TENTH_18.name, TENTH_18.name, chosen) | jobs_of("weights", TENTH_18.name, chosen)
    titles = {f"`{flag}={value:g}`": varied_folder(flag, value) for flag, values in VARIED.items() for value in values}
    if DGCMM_ROW in chosen:
        own = f"`{BY_NAME[DGCMM_ROW].own}={chosen[DGCMM_ROW].own:g}`, as chosen"
        titles = {own: f"{TENTH_18.name}/{DGCMM_ROW}"} | titles
    lines = []
    for title, folder in titles.items():
        runs = [run for run in read_runs_of(jobs, results, folder) if run.subset in FEW]
        methods = [values_of(runs, method, "acsa") for method in ("trained", "logit-adjustment")]
        cells = [mean_and_deviation(list(values.values())) for values in methods]
        errors = [health["mse"] / health["mse_class_mean"] for health in map(read_decoder, runs) if health]
        if runs:
            lines.append([marked(title, len(runs), len(FEW)), *cells, mean_and_deviation(errors, 2)])
    return markdown(["flag", "ACSA as trained", "after logit adjustment", "error, by the class mean's"], lines)


def of_few(regime: Regime, prefix: str) -> dict[str, Callable[[Path], str]]:
    """Make the tables of a stage on few images, which is named as its regime; names begin with `prefix`."""

    def made(table: Callable[..., str], *other: str) -> Callable[[Path], str]:
        return lambda results: table(results, regime.name, regime.name, *other)

    return {
        f"{prefix} verdict": made(verdict),
        f"{prefix} headline": made(headline_table),
        f"{prefix} besides": made(besides),
        f"{prefix} strong decoder": made(besides, STRONG_DECODER),
        f"{prefix} main": made(main_table),
        f"{prefix} differences": made(differences_table),
        f"{prefix} methods": made(methods_table),
        f"{prefix} noise differences": made(differences_table, NOISE),
        f"{prefix} robustness": made(robustness_table),
        f"{prefix} health": made(health_table),
        f"{prefix} recognised": made(recognised_table),
    }


TABLES: dict[str, Callable[[Path], str]] = {
    "verdict": verdict,
    "besides": besides,
    "main": main_table,
    "differences": differences_table,
    "methods": methods_table,
    "settings": settings_table,
    "robustness": robustness_table,
    "health": health_table,
    "recognised": recognised_table,
    **of_few(TENTH, "tenth"),
    **of_few(TENTH_18, "resnet18"),
    "images": images_table,
    "imbalance": imbalance_table,
    "weights": weights_table,
    "confirmation": confirmation_table,
    "confirmations": confirmations_table,
    "confirm robustness": partial(robustness_table, stage="confirm", regime=TENTH_18.name),
    "confirm health": partial(health_table, stage="confirm", regime=TENTH_18.name),
    "confirm recognised": partial(recognised_table, stage="confirm", regime=TENTH_18.name),
}
