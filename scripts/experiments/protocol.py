"""The protocol of the Fashion-MNIST tables as data: which trainings there are, and by which commands they are made.

A row is a way to train, a regime how many images there are and for how long, a stage a list of jobs. Each row has the
same small grid: the learning rates of its regime, then three values of one parameter of its own at the best of them;
of both one value beyond where the best is the smallest or the largest. It is chosen on 500 validation images a class,
which the drawn subset leaves over, on the subsets `TUNING`; the tables are made on the subsets `TABLE`, whose runs have
no validation set and are measured on the test set once, after their last epoch. With a validation set train.py would
report the best epoch on it, and what is compared is the last. The stage "confirm" is on other subsets, `FRESH`, for
comparisons that were written down before any run on them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from scripts.experiments.choices import Choice
from scripts.experiments.jobs import Job, Step
from utils.training.layout import BASELINES, ROBUSTNESS

DATASET = "FashionMNIST_LT"
TUNING, TABLE, FEW, FRESH = (5, 6), (0, 1, 2, 3, 4), (0, 1), tuple(range(10, 20))  # subsets
VALIDATION = 500  # images a class: of 100, balanced accuracy has a standard error of 1.2 points, more than is chosen by
RETRAINING_EPOCHS = 10
PLAIN, DGCMM = "", "_vae3"  # what follows the encoder in --arch


Value = TypeVar("Value")


def beyond(grid: Sequence[Value], best: Value) -> Sequence[Value]:
    """Give the outer value of a grid, if its neighbour is the best of the inner ones."""
    if best == grid[1]:
        return grid[:1]
    return grid[-1:] if best == grid[-2] else ()


class Row(NamedTuple):
    """A way to train.

    Attributes:
        name: of its folders.
        title: in tables.
        kind: `PLAIN` or `DGCMM`.
        flags: of train.py that the row consists of.
        own: the flag that is tuned beside the learning rate.
        values: its five, in ascending order; an outer one is tried where its neighbour is the best of the inner three.
        default: the one that the learning rate is tuned with.
    """

    name: str
    title: str
    kind: str
    flags: tuple[str, ...]
    own: str
    values: tuple[float, ...]
    default: float

    @property
    def plain(self) -> bool:
        """Tell whether it is a baseline, a classifier without a generative half."""
        return self.kind == PLAIN

    @property
    def codes_are_free(self) -> bool:
        """Tell whether the code of a test image does not depend on a label."""
        return "--generative" not in self.flags


class Regime(NamedTuple):
    """What all rows of a stage share.

    Attributes:
        name: its key in chosen.json, and the stage on few images.
        flags: of train.py that choose the images.
        epochs, batch: how long they are trained on.
        encoder: the ResNet.
        rates: learning rates, in ascending order, the outer two as of `Row.values`.
    """

    name: str
    flags: tuple[str, ...]
    epochs: int
    batch: int
    encoder: str = "resnet32"
    rates: tuple[float, ...] = (0.0075, 0.015, 0.03, 0.06, 0.12)


SCALES = (0.3, 1.0, 3.0, 10.0, 30.0)  # of the loss: with a clipped gradient not the same as a learning rate
DECAYS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
DECODER = ("--weight-reconst", (16.0, 40.0, 100.0, 200.0, 400.0), 100.0)
# the error of a generative model's decoder scores the candidate labels too
DECODER_OF_LABEL = ("--weight-reconst", (0.1, 1.0, 10.0, 100.0, 400.0), 10.0)
MIXTURE = ("--weight-gmm", (0.0001, 0.0003, 0.001, 0.003, 0.01), 0.001)
MIXUP = ("--mixup", (0.1, 0.2, 0.5, 1.0, 2.0), 0.2)
LABEL, NARROW = "--gmm-assign=label", "--initial-sigma=0.135"
ALIVE = (LABEL, NARROW, "--weight-reconst=400")
ALIVE_CHOSEN = (*ALIVE, "--weight-gmm=0.003")  # as chosen for "dgcmm-alive" at a tenth

ROWS = (
    Row("ce", "cross-entropy", PLAIN, (), "--weight-cls", SCALES, 1.0),
    Row("ce-control", "cross-entropy times 10 (control)", PLAIN, ("--weight-cls=10",), "--wd", DECAYS, 1e-4),
    Row("balanced", "balanced sampling", PLAIN, ("--sampler=balanced",), "--weight-cls", SCALES, 10.0),
    Row("sqrt", "square-root sampling", PLAIN, ("--sampler=sqrt",), "--weight-cls", SCALES, 10.0),
    Row("class-balanced", "class-balanced weights", PLAIN, ("--loss=class-balanced",), "--weight-cls", SCALES, 10.0),
    Row("focal", "focal loss", PLAIN, ("--loss=focal",), "--weight-cls", SCALES, 10.0),
    Row("ldam-drw", "LDAM-DRW", PLAIN, ("--loss=ldam-drw",), "--weight-cls", SCALES, 10.0),
    Row("logit-adjust", "logit adjustment", PLAIN, ("--loss=logit-adjust",), "--weight-cls", SCALES, 10.0),
    Row("mixup", "mixup", PLAIN, ("--weight-cls=10",), *MIXUP),
    Row("sqrt-mixup", "square-root sampling, with mixup", PLAIN, ("--sampler=sqrt", "--weight-cls=10"), *MIXUP),
    Row("dgcmm", "DGCMM, learned mixture", DGCMM, (LABEL, NARROW), *DECODER),
    Row("dgcmm-frozen", "DGCMM, frozen mixture", DGCMM, (LABEL, NARROW, "--prior-lr=0"), *DECODER),
    Row("dgcmm-off", "DGCMM, no mixture", DGCMM, (LABEL, NARROW, "--weight-gmm=0"), *DECODER),
    Row("dgcmm-mixup", "DGCMM, learned mixture, with mixup", DGCMM, (LABEL, NARROW, "--weight-reconst=100"), *MIXUP),
    Row("dgcmm-alive", "DGCMM, strong decoder", DGCMM, ALIVE, *MIXTURE),
    Row("dgcmm-alive-mixup", "DGCMM, strong decoder, with mixup", DGCMM, ALIVE_CHOSEN, *MIXUP),
    Row("dgcmm-recipe", "DGCMM, the paper's weights", DGCMM, (LABEL, "--weight-reconst=0.1"), "--wd", DECAYS, 1e-4),
    Row("dgcmm-posterior", "DGCMM, components from the code", DGCMM, (NARROW,), *DECODER),
    Row("dgcmm-generative", "DGCMM, generative", DGCMM, (LABEL, NARROW, "--generative"), *DECODER_OF_LABEL),
)
BY_NAME = {row.name: row for row in ROWS}
DGCMM_IN_TENTH = ("dgcmm", "dgcmm-frozen", "dgcmm-off", "dgcmm-mixup", "dgcmm-alive", "dgcmm-alive-mixup")
FURTHER = ("dgcmm", "dgcmm-frozen", "ce-control", "logit-adjust")  # rows of the further tables
IN_TENTH = tuple(row.name for row in ROWS if row.plain or row.name in DGCMM_IN_TENTH)

ALL = Regime("all", (), 20, 100)
THIRD = Regime("third", ("--subset-scale=0.3333",), 40, 100)
TENTH = Regime("tenth", ("--subset-scale=0.1",), 60, 50)
RATES_18 = (0.001875, 0.00375, 0.0075, 0.015, 0.03, 0.06, 0.12)
TENTH_18 = TENTH._replace(name="tenth-resnet18", encoder="resnet18", rates=RATES_18)
FACTORS = (10, 20, 50, 100, 200)  # of an exponential profile: 100 has other counts than the other stages
VARIED = {  # of the row "dgcmm", one flag at a time; what it has itself is in the stage on a tenth
    "--weight-reconst": (0.1, 1, 10, 100, 392),
    "--weight-gmm": (0.0001, 0.01, 0.1),
    "--z-dim": (16, 64, 256),
}
JUDGES = {"resnet18": 10, "resnet32": 20}  # encoder of a classifier that looks at decoded images -> epochs
CASES = ("case-1", "case-1-adjusted", "case-2", "case-2-adjusted")
# stage -> the rows that it has, and the regime for which their settings were chosen
CHOSEN: dict[str, tuple[Sequence[str], Regime]] = {
    "table": (tuple(BY_NAME), ALL),
    "tenth": (IN_TENTH, TENTH),
    "tenth-resnet18": (IN_TENTH, TENTH_18),
    "third": (FURTHER, ALL),
    "imbalance": ((*FURTHER, "mixup"), TENTH_18),  # the best baseline at the DGC paper's counts
    "weights": (("dgcmm",), TENTH_18),
    "confirm": (("sqrt", "mixup", "dgcmm-alive-mixup"), TENTH_18),
}


def subsets_of(stage: str) -> tuple[int, ...]:
    """Name the subsets that a stage may have."""
    if stage in TUNED:
        return TUNING
    return FRESH if stage == "confirm" else TABLE


class Places(NamedTuple):
    """Where data and runs lie, as commands name them; `quick` tries all with an epoch of two steps."""

    data: str
    runs: str
    quick: bool = False


def judge_jobs(places: Places) -> list[Job]:
    """Make the jobs of the classifiers that look at decoded images: trained on 18,000 images, as many of each class.

    There are several, as they disagree: decoded images are blurred, which a ResNet-32 minds more than a ResNet-18.
    """
    jobs = []
    for encoder, epochs in JUDGES.items():
        folder = judge_folder(encoder)
        regime = Regime(folder, ("--imbalance-factor=1", "--subset-scale=2"), epochs, 100, encoder)
        row = Row(folder, "", PLAIN, (), "--weight-cls", (), 10.0)
        jobs.append(Job(folder, (train_step(places, folder, row, regime, 0.03, row.default, 7),), kept=False))
    return jobs


def judge_folder(encoder: str) -> str:
    """Name the run folder of a judge."""
    return f"judge-{encoder}"


def needs_judges(job: Job) -> bool:
    """Tell whether a command of a job takes the judges' checkpoints."""
    return any(word.startswith("--judge=") for step in job.steps for word in step.words)


def tuning_folder(stage: str, row: Row, rate: float, own: float) -> str:
    """Name the folder of a setting that is tried, below which its subsets lie."""
    return f"{stage}/{row.name}/lr{rate:g}_{row.own.strip('-')}{own:g}"


def tuning_jobs(
    stage: str, row: Row, settings: Sequence[tuple[float, float]], places: Places, subsets: Sequence[int]
) -> list[Job]:
    """Make the jobs that try settings (learning rate, own parameter) of a row."""
    jobs = []
    for subset in subsets:
        for rate, own in settings:
            folder = f"{tuning_folder(stage, row, rate, own)}/subset{subset}"
            training = train_step(places, folder, row, TUNED[stage], rate, own, subset, validation=True)
            jobs.append(Job(folder, (training, *baseline_steps(places, folder, row, {}))))
    return jobs


class Selection(NamedTuple):
    """Which rows and subsets of a stage are made, and with what.

    Attributes:
        choices: regime -> row -> what was chosen.
        places: where data and runs lie.
        rows: names, of which those are taken that the stage has.
        subsets: None: the stage's.
    """

    choices: dict[str, dict[str, Choice]]
    places: Places
    rows: Sequence[str]
    subsets: Sequence[int] | None = None

    def of(self, stage: str, subsets: Sequence[int]) -> Iterator[tuple[Row, int]]:
        """Go through the rows of a stage and subsets, subset by subset."""
        names, _ = CHOSEN[stage]
        for subset in subsets if self.subsets is None else self.subsets:
            yield from ((BY_NAME[name], subset) for name in names if name in self.rows)

    def full_job(self, folder: str, row: Row, regime: Regime, chosen_for: Regime, subset: int) -> Job:
        """Make the job of a run with all that is measured on one.

        A DGCMM is re-trained by augment.py and augment_ftl.py themselves; what they do to a plain classifier is in
        baselines.py, in one process.
        """
        choice = self.choices[chosen_for.name][row.name]
        train = train_step(self.places, folder, row, regime, choice.rate, choice.own, subset)
        steps = [train, *baseline_steps(self.places, folder, row, choice.values)]
        if not row.plain:
            steps += retraining_steps(self.places, folder, choice.values, subset)
        return Job(folder, (*steps, robustness_step(self.places, folder, row, choice)))

    def short_job(self, folder: str, row: Row, regime: Regime, subset: int, flag: str) -> Job:
        """Make the job of a run under another flag of train.py that is measured on its codes alone."""
        choice = self.choices[regime.name][row.name]
        train = train_step(self.places, folder, row, regime, choice.rate, choice.own, subset, flags=[flag])
        return Job(folder, (train, *baseline_steps(self.places, folder, row, choice.values)))


def full_jobs(selection: Selection, stage: str, regime: Regime, subsets: Sequence[int] = TABLE) -> list[Job]:
    """List the runs of a stage on which all is measured, with what was chosen for them."""
    _, chosen_for = CHOSEN[stage]
    return [
        selection.full_job(f"{stage}/{row.name}/subset{subset}", row, regime, chosen_for, subset)
        for row, subset in selection.of(stage, subsets)
    ]


def imbalance_jobs(selection: Selection) -> list[Job]:
    """List the runs at other imbalances, on a tenth of the images, one imbalance after the other."""
    return [
        selection.short_job(
            f"imbalance/{factor}/{row.name}/subset{subset}", row, TENTH_18, subset, f"--imbalance-factor={factor}"
        )
        for factor in FACTORS
        for row, subset in selection.of("imbalance", FEW)
    ]


def varied_folder(flag: str, value: float) -> str:
    """Name the folder of DGCMM's row under another value of a flag, below which its subsets lie."""
    return f"weights/{flag.strip('-')}{value:g}"


def weights_jobs(selection: Selection) -> list[Job]:
    """List the runs with one flag of DGCMM at another value, on a tenth of the images."""
    return [
        selection.short_job(f"{varied_folder(flag, value)}/subset{subset}", row, TENTH_18, subset, f"{flag}={value:g}")
        for flag, values in VARIED.items()
        for value in values
        for row, subset in selection.of("weights", FEW)
    ]


TUNED = {"tune": ALL, "tune-tenth": TENTH, "tune-tenth-resnet18": TENTH_18}  # stage -> the regime that it chooses for
MADE: dict[str, Callable[[Selection], list[Job]]] = {
    "table": partial(full_jobs, stage="table", regime=ALL),
    "tenth": partial(full_jobs, stage="tenth", regime=TENTH),
    "tenth-resnet18": partial(full_jobs, stage="tenth-resnet18", regime=TENTH_18),
    "third": partial(full_jobs, stage="third", regime=THIRD, subsets=FEW),
    "imbalance": imbalance_jobs,
    "weights": weights_jobs,
    "confirm": partial(full_jobs, stage="confirm", regime=TENTH_18, subsets=FRESH),
}
STAGES = (*TUNED, *MADE)


def train_step(
    places: Places,
    folder: str,
    row: Row,
    regime: Regime,
    rate: float,
    own: float,
    subset: int,
    *,
    validation: bool = False,
    flags: Sequence[str] = (),
) -> Step:
    """Make the command of a training; of a flag that is given twice the last counts."""
    epochs = 1 if places.quick else regime.epochs
    words = [
        *("train.py", DATASET, f"--datadir={places.data}", f"--logdir={places.runs}/{folder}"),
        f"--arch={regime.encoder}{row.kind}",
        *("--new-size=32", "--crop-size=32", f"--epochs={epochs}", f"--T-max={epochs}", f"--batch-size={regime.batch}"),
        *(f"--lr={rate:g}", f"{row.own}={own:g}", f"--subset-seed={subset}", f"--seed={subset}"),
        *(f"--eval-every={regime.epochs}", "--workers=0", "--no-figures"),
        *([f"--val-per-class={VALIDATION}"] if validation else []),
        *(["--max-steps=2"] if places.quick else []),
        *(*regime.flags, *row.flags, *flags, "--resume=auto"),
    ]
    return Step(tuple(words), record="args.json")


def retraining_steps(places: Places, folder: str, values: dict[str, float | str], subset: int) -> list[Step]:
    """Make the commands of both cases from both starts; the adjusted ones lie in a folder of their own below."""
    steps = []
    epochs = 1 if places.quick else RETRAINING_EPOCHS
    run = f"{places.runs}/{folder}"
    for start in ("trained", "adjusted"):
        for script, case in (("augment_ftl.py", "case-1"), ("augment.py", "case-2")):
            rate = values.get(case if start == "trained" else f"{case}-adjusted", 0.01)
            below = "" if start == "trained" else "adjusted/"
            record = f"{below}args_{'aug_ftl' if case == 'case-1' else 'aug'}.json"
            place = f"{run}/{below}".rstrip("/")
            words = [
                *(script, DATASET, f"--datadir={places.data}", f"--logdir={place}", f"--resume={run}/checkpoint.pth"),
                *(f"--epochs={epochs}", f"--T-max={epochs}", "--batch-size=100", f"--lr={rate:g}", f"--seed={subset}"),
                *(f"--start={start}", f"--eval-every={RETRAINING_EPOCHS}", "--workers=0", "--no-figures"),
                *(["--max-steps=2"] if places.quick else []),
            ]
            steps.append(Step(tuple(words), record=record))
    return steps


def baseline_steps(places: Places, folder: str, row: Row, values: dict[str, float | str]) -> list[Step]:
    """Make the command of the methods on stored codes, with the values chosen; a generative model has none."""
    if not row.codes_are_free:
        return []
    words = ["scripts/baselines.py", f"{places.runs}/{folder}", *fixed_values(values)]
    return [Step(tuple(words), BASELINES, "args_baselines.json")]


def robustness_step(places: Places, folder: str, row: Row, choice: Choice) -> Step:
    """Make the command of what is measured under conditions: as trained, logit adjustment, and the method chosen.

    Both cases of a DGCMM are re-trained by their scripts, and found in its folder.
    """
    words = ["scripts/robustness.py", f"{places.runs}/{folder}"]
    if row.codes_are_free:
        methods = sorted({"logit-adjustment", choice.method} - {"trained", *(() if row.plain else CASES)})
        words += ["--methods", *methods]
        words += fixed_values({name: choice.values[name] for name in methods if name in choice.values})
    if not row.plain:
        words += [f"--judge={places.runs}/{judge_folder(encoder)}/checkpoint.pth" for encoder in JUDGES]
    return Step(tuple(words), ROBUSTNESS, "args_robustness.json")


def fixed_values(values: dict[str, float | str]) -> list[str]:
    """Write the flag that fixes the parameters of methods."""
    return ["--fixed", *(f"{name}={value}" for name, value in values.items())] if values else []
