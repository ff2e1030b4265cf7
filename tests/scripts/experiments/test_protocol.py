"""The protocol: every command parses, all rows are tuned alike, and what is chosen is what was best on validation."""

import argparse
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

import pytest

from datasets.splits import complete_data
from helpers import documents
from helpers.project import ROOT
from helpers.results import write_csv, write_run
from helpers.stand_ins import stand_in
from models.encoder import PLAIN_ARCHITECTURES, feature_dim
from scripts import protocol as script
from scripts.experiments import protocol
from scripts.experiments.choices import best, choose_methods, first_best, read_choices, write_choices
from scripts.experiments.jobs import Job
from scripts.experiments.protocol import BY_NAME, CHOSEN, MADE, ROWS, STAGES, TUNED, Places, Selection, beyond
from utils.cli.rules import check_start, check_training, complete, parse
from utils.errors import UserError

PLACES = Places("data", "runs")
CHOICES = {regime.name: script.defaults(regime) for regime in TUNED.values()}


def made(stage: str, rows: Sequence[str] = tuple(BY_NAME), subsets: Sequence[int] | None = None) -> list[Job]:
    """The jobs of a stage that is no tuning."""
    return MADE[stage](Selection(CHOICES, PLACES, rows, subsets))


def all_jobs() -> list[Job]:
    """Every job of every stage, with all settings that a tuning may try."""
    jobs = protocol.judge_jobs(PLACES)
    for stage in STAGES:
        if stage not in TUNED:
            jobs += made(stage)
            continue
        for row in ROWS:
            settings = {(rate, own) for rate in TUNED[stage].rates for own in (*row.values, row.default)}
            jobs += protocol.tuning_jobs(stage, row, sorted(settings), PLACES, protocol.TUNING)
    return jobs


def test_every_command_parses_and_none_is_made_twice():
    jobs = all_jobs()
    assert len({job.folder for job in jobs}) == len(jobs)
    commands = {step.words for job in jobs for step in job.steps}
    assert len(commands) == sum(len(job.steps) for job in jobs)
    of_one_subset = {re.sub(r"(subset|seed=)\d+", r"\g<1>0", "\0".join(words)): words for words in commands}
    parsers = {}
    for name, *argv in of_one_subset.values():
        if name not in parsers:
            parsers[name] = importlib.import_module(name.removesuffix(".py").replace("/", ".")).build_parser()
        parser = parsers[name]
        if name.startswith("scripts/"):
            parser.parse_args(argv)
            continue
        args, given = parse(parser, argv)
        if name == "train.py":
            complete(args, feature_dim(args.arch), args.arch in PLAIN_ARCHITECTURES, given)
            complete_data(args)
            check_training(args, given)
            check_start(args)
    assert set(parsers) == {"train.py", "augment.py", "augment_ftl.py", "scripts/baselines.py", "scripts/robustness.py"}


def arguments(job: Job, step: int = 0) -> argparse.Namespace:
    """What a training or re-training makes of its command; the first one of a job is train.py's."""
    name, *argv = job.steps[step].words
    return parse(importlib.import_module(name.removesuffix(".py")).build_parser(), argv)[0]


def test_rows_are_tuned_alike_and_the_tables_have_no_validation_set():
    for row in ROWS:
        assert list(row.values) == sorted(row.values)
        assert len(row.values) == 5
        assert row.default in row.values[1:-1]
    assert protocol.ALL.rates == protocol.TENTH.rates == (0.0075, 0.015, 0.03, 0.06, 0.12)
    jobs = protocol.tuning_jobs("tune", BY_NAME["ce-control"], [(0.03, 1e-4)], PLACES, (5,))
    assert (arguments(jobs[0]).val_per_class, arguments(jobs[0]).weight_cls) == (500, 10)
    for job in made("table"):
        args = arguments(job)
        assert (args.val_per_class, args.subset_seed) == (0, int(job.folder[-1]))
    assert [arguments(job).subset_scale for job in made("tenth", ["dgcmm"])] == [0.1] * 5
    assert {arguments(job).arch for job in made("tenth", ["dgcmm", "ce"])} == {"resnet32_vae3", "resnet32"}
    assert {arguments(job).arch for job in made("tenth-resnet18", ["dgcmm", "ce"])} == {"resnet18_vae3", "resnet18"}
    assert [arguments(job).subset_scale for job in made("third", ["dgcmm"])] == [0.3333] * 2
    assert {(arguments(job).gmm_assign, arguments(job).prior_lr) for job in made("table", ["dgcmm-posterior"])} == {
        ("posterior", None)
    }
    assert {arguments(job).weight_reconst for job in made("table", ["dgcmm-recipe"])} == {0.1}
    judges = {arguments(job).subset_seed for job in protocol.judge_jobs(PLACES)}
    assert judges.isdisjoint((*protocol.TABLE, *protocol.TUNING))  # they have seen none of the images that are left out
    assert {
        (arguments(job).arch, arguments(job).subset_scale) for job in made("imbalance", ["dgcmm", "ce-control"])
    } == {
        ("resnet18_vae3", 0.1),
        ("resnet18", 0.1),
    }
    factors = [arguments(job).imbalance_factor for job in made("imbalance", ["dgcmm"])]
    assert factors == [10, 10, 20, 20, 50, 50, 100, 100, 200, 200]
    weights = made("weights", ["dgcmm"], [0])
    assert [arguments(job).weight_reconst for job in weights[:5]] == [0.1, 1, 10, 100, 392]


def test_fresh_subsets_are_new_and_their_runs_those_of_the_tenth():
    """But for subset, seed and folder; nobody has chosen or trained on these subsets, nor have the judges."""
    judges = {arguments(job).subset_seed for job in protocol.judge_jobs(PLACES)}
    assert judges.isdisjoint(protocol.FRESH)
    assert set(protocol.FRESH).isdisjoint((*protocol.TABLE, *protocol.TUNING))
    confirm, tenth = made("confirm", subsets=[10]), made("tenth-resnet18", CHOSEN["confirm"][0], [0])
    for fresh, before in zip(confirm, tenth, strict=True):
        steps = [[" ".join(step.words) for step in job.steps] for job in (fresh, before)]
        as_before = [re.sub(r"(subset|seed=)10\b", r"\g<1>0", words) for words in steps[0]]
        assert [words.replace("/confirm/", "/tenth-resnet18/") for words in as_before] == steps[1]


def test_outer_setting_of_a_grid_is_tried_beside_the_best_alone():
    assert [beyond((1, 2, 3, 4, 5), best) for best in (2, 3, 4)] == [(1,), (), (5,)]


def test_what_was_not_chosen_is_not_made_up(tmp_path):
    with pytest.raises(UserError, match="table: nothing is chosen for ce, ce-control, .*: run the stage that tunes"):
        script.main(["table", f"--results={tmp_path}", f"--data={tmp_path}"])


def test_data_that_is_not_there_is_told_once(tmp_path):
    with pytest.raises(UserError, match="--data nowhere does not exist: name Fashion-MNIST's folder, or create one"):
        script.main(["tune", "--data=nowhere", f"--results={tmp_path}"])


def test_published_commands_find_their_runs_and_need_no_data(tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    for path in (ROOT / script.RESULTS).iterdir():
        if path.is_dir():
            (results / path.name).symlink_to(path)
    shutil.copy(ROOT / script.RESULTS / "chosen.json", results)
    choices = (results / "chosen.json").read_text()
    listed = [words for name, *words in documents.commands("docs/experiments.md") if name == "scripts.protocol"]
    published = [words for words in listed if not {"--list", "--data=datasets/FashionMNIST"}.intersection(words)]
    assert len(published) >= 4
    for words in published:
        assert script.main([*words, "--data=nowhere", f"--results={results}"]) == 0
        assert " 0 failed, 0 are left" in capsys.readouterr().out.splitlines()[-1]
    assert (results / "chosen.json").read_text() == choices


def test_row_that_was_not_chosen_keeps_no_other_from_being_made(tmp_path, monkeypatch, capsys):
    write_choices(tmp_path, {"tenth": {"ce": CHOICES["tenth"]["ce"]}})
    monkeypatch.setattr(script.Runner, "run", lambda self, jobs: script.Report([job.folder for job in jobs], [], []))
    assert script.main(["tenth", "--rows", "focal", "ce", f"--results={tmp_path}", f"--data={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tenth: nothing is chosen for focal: run the stage that tunes first; the other rows are made",
        "tenth: 5 runs are there, 0 failed, 0 are left",
    ]


@pytest.mark.parametrize("words", [[], ["--results=x"], ["--runs=x"], ["--runs=x", f"--results=./{script.RESULTS}/"]])
def test_trials_are_kept_apart(words):
    with pytest.raises(UserError, match="--quick: its numbers mean nothing"):
        script.main(["table", "--quick", *words])


@pytest.mark.parametrize(
    ("stages", "subset", "says"),
    [
        (["tune"], "4", "tune has the subsets 5, 6$"),
        (["tune", "table"], "5", "table has the subsets 0, 1, 2, 3, 4$"),
        (["confirm"], "0", "confirm has the subsets 10, 11, 12, 13, 14, 15, 16, 17, 18, 19$"),
        (["tenth-resnet18"], "10", "tenth-resnet18 has the subsets 0, 1, 2, 3, 4$"),
    ],
)
def test_subsets_of_choices_and_of_tables_are_kept_apart(stages, subset, says):
    with pytest.raises(UserError, match=f"^--subsets: the stage {says}"):
        script.main([*stages, "--subsets", subset])


@pytest.mark.parametrize(
    ("stages", "names", "says"),
    [
        (["third"], ["mixup"], "the stage third has the rows dgcmm, dgcmm-frozen, ce-control, logit-adjust"),
        (["tune-tenth"], ["dgcmm-recipe"], "the stage tune-tenth has the rows ce, "),
        (["tune", "third"], ["mixup"], "the stage third has the rows dgcmm, "),
        (["third", "weights"], ["dgcmm", "mixup"], r"mixup is a row of none of these stages \(third, weights\)"),
    ],
)
def test_rows_that_a_stage_does_not_have_are_refused(stages, names, says):
    with pytest.raises(UserError, match=f"--rows: {says}"):
        script.main([*stages, "--rows", *names])


def test_best_setting_and_methods_are_those_of_validation(tmp_path, monkeypatch, capsys):
    """A stand-in for the runner leaves results in which 0.12 and 400 are best by the best method.

    Both are beyond the three that are tried first. As trained, and on the test set, all is the reverse.
    """
    tried = []

    def run(self: object, jobs: list[Job]) -> script.Report:
        for job in jobs:
            args, folder = arguments(job), tmp_path / job.folder
            tried.append((args.lr, args.weight_reconst, args.subset_seed))
            value = args.lr + args.weight_reconst / 1e4 + args.subset_seed / 1e3
            write_run(folder, 1 - value, split="val")
            rows = [
                {"method": method, "value": number, "split": split, "acsa": acsa if split == "val" else 1 - acsa}
                for method, number, acsa in (
                    *(("trained", "", 0.1 - value), ("crt", 0.1, value), ("crt", 0.001, value + 0.1)),
                    ("ncm", "unit", 0.01),
                )
                for split in ("val", "test")
            ]
            write_csv(folder / "metrics_baselines.csv", rows)
        return script.Report([job.folder for job in jobs], [], [])

    places = [f"--results={tmp_path}", f"--data={tmp_path}"]
    monkeypatch.setattr(script.Runner, "run", run)
    assert script.main(["tune", "--rows", "dgcmm", *places]) == 0
    rates = [(rate, 100.0, subset) for subset in (5, 6) for rate in (0.015, 0.03, 0.06)]
    rates += [(0.12, 100.0, subset) for subset in (5, 6)]
    values = [(0.12, value, subset) for subset in (5, 6) for value in (40.0, 100.0, 200.0)]
    last = [(0.12, 400.0, subset) for subset in (5, 6)]
    assert tried == rates + values + last + last  # the best one is asked for again
    choice = read_choices(tmp_path)["all"]["dgcmm"]
    assert choice == (0.12, 400.0, {"crt": 0.001, "ncm": "unit"}, "crt", 7, [5, 6])
    assert "dgcmm: lr 0.12, --weight-reconst 400" in capsys.readouterr().out
    assert script.main(["tune", "--rows", "dgcmm", "--rates-only", *places]) == 0
    assert read_choices(tmp_path)["all"]["dgcmm"] == choice  # what is there counts
    tried.clear()
    assert script.main(["tune", "--rows", "dgcmm", "--subsets", "5", *places]) == 0
    assert {subset for *_, subset in tried[:-2]} == {5}
    assert tried[-2:] == last  # the methods on its codes are chosen on both
    assert read_choices(tmp_path)["all"]["dgcmm"] == choice._replace(subsets=[5])


def test_runs_have_what_was_chosen_for_their_regime():
    """The methods on their codes, and the four re-trainings, too."""
    values = {"logit-adjustment": 0.75, "case-1": 0.1, "case-2-adjusted": 0.001}
    chosen = protocol.Choice(0.07, 123.0, values, "case-2", 6, [5, 6])
    choices = {"tenth": {"dgcmm": chosen}, "tenth-resnet18": {"dgcmm": chosen._replace(rate=0.05, own=45.0)}}
    selection = Selection(choices, PLACES, ["dgcmm"], [3])
    fixed = ("--fixed", "logit-adjustment=0.75", "case-1=0.1", "case-2-adjusted=0.001")
    (job,) = MADE["tenth"](selection)
    for one, rate, own in ((job, 0.07, 123.0), *((short, 0.05, 45.0) for short in MADE["imbalance"](selection))):
        args = arguments(one)
        assert (args.lr, args.weight_reconst, args.seed, args.subset_seed) == (rate, own, 3, 3)
        assert one.steps[1].words[2:] == fixed
    retrained = [(job.steps[step].words[0], arguments(job, step)) for step in (2, 3, 4, 5)]
    assert [(name, args.start, args.lr, args.seed) for name, args in retrained] == [
        ("augment_ftl.py", "trained", 0.1, 3),
        ("augment.py", "trained", 0.01, 3),
        ("augment_ftl.py", "adjusted", 0.01, 3),
        ("augment.py", "adjusted", 0.001, 3),
    ]
    assert "logit-adjustment=0.75" in job.steps[6].words


@pytest.mark.parametrize("stage", MADE)
def test_rows_that_a_stage_has_are_those_that_must_be_chosen(stage):
    """For that regime and no other."""
    names, regime = CHOSEN[stage]
    for row in ROWS:
        jobs = MADE[stage](Selection({regime.name: script.defaults(regime)}, PLACES, [row.name]))
        assert bool(jobs) == (row.name in names)


def test_best_setting_has_the_best_mean_of_all_subsets(tmp_path):
    """Not the best, the worst, the first or the last of them."""
    values = {0.01: (0.5, 0.9), 0.02: (0.8, 0.7), 0.03: (0.9, 0.3), 0.04: (0.72, 0.72)}
    settings = {(rate, 1.0): tmp_path / str(rate) for rate in values}
    for folder, (first, _) in zip(settings.values(), values.values(), strict=True):
        write_run(folder / "subset5", first, split="val")
    for folder, (_, second) in zip(settings.values(), values.values(), strict=True):
        assert best(settings, (5, 6)) is None
        write_run(folder / "subset6", second, split="val")
    assert best(settings, (5, 6)) == (0.02, 1.0)


@pytest.mark.parametrize("file", ["metrics.csv", "metrics_baselines.csv"])
@pytest.mark.parametrize("content", ["split,acsa\nval", "split\nval\n", "split,acsa\nval,high\n"])
def test_damaged_file_of_a_setting_is_one_line(file, content, tmp_path):
    (tmp_path / "subset5").mkdir()
    (tmp_path / "subset5" / file).write_text(content)
    with pytest.raises(UserError, match="subset5 has a damaged file: move the folder away"):
        choose_methods(tmp_path, (5,))


def test_of_equal_settings_the_first_is_the_best():
    """Though a mean may differ from an equal one in its last bits."""
    assert first_best({"first": 0.8, "equal": 0.8 + 2e-16, "worse": 0.7999}) == "first"
    assert first_best({"first": 0.8, "better": 0.8001}) == "better"


def test_a_model_without_methods_on_its_codes_is_chosen_as_trained(tmp_path):
    """So it is with a generative one. Of its epochs the last counts, not the one before nor the test."""
    settings = {(rate, 10.0): tmp_path / str(rate) for rate in (0.015, 0.03)}

    def write(rate: float, *validated: float) -> None:
        rows = [{"epoch": epoch, "split": "val", "acsa": acsa} for epoch, acsa in enumerate(validated, start=1)]
        rows.append({"epoch": 1, "split": "test", "acsa": 1 - validated[-1]})
        write_csv(settings[rate, 10.0] / "subset5" / "metrics.csv", rows)

    write(0.015, 0.1, 0.8)
    assert best(settings, (5,)) is None  # the other is not done
    write(0.03, 0.9, 0.7)
    assert best(settings, (5,)) == (0.015, 10.0)
    assert choose_methods(settings[0.015, 10.0], (5,)) == ({}, "trained")


def test_commands_are_listed_and_nothing_is_run(tmp_path, capsys):
    assert script.main(["table", "--list", "--rows", "ce", "--subsets", "0", f"--results={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    programs = [line.split()[1] for line in lines[:-1]]
    assert programs == ["train.py", "scripts/baselines.py", "scripts/robustness.py"]
    assert not list(tmp_path.iterdir())
    assert script.main(["tenth-resnet18", "--list", f"--results={tmp_path}"]) == 0
    *listed, count = capsys.readouterr().out.splitlines()
    assert count == "tenth-resnet18: 0 runs are there, 0 failed, 80 are left"
    rates = {word for line in listed if "resnet18_vae3" in line for word in line.split() if word.startswith("--lr=")}
    assert rates == {"--lr=0.015"}  # the middle of five


def test_subset_that_is_named_twice_is_run_once(tmp_path, capsys):
    script.main(["table", "--rows", "ce", "--subsets", "1", "1", "--list", f"--results={tmp_path}"])
    assert sum("--subset-seed=1" in line for line in capsys.readouterr().out.splitlines()) == 1


def test_entry_script_takes_its_results_from_the_environment(tmp_path, capsys):
    """Which both of its commands are given; a shortened flag, which it would not see, is none."""
    with pytest.raises(SystemExit):
        script.main(["table", "--res=results/mine", "--list"])
    assert "unrecognized arguments: --res=results/mine" in capsys.readouterr().err
    words = ["bash", ROOT / "scripts/fashion_mnist_lt.sh", "./data", "./runs", "--results=results/mine"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: --results: name the folder by RESULTS, which the tables are made from too\n"


def test_entry_script_runs_its_stages_and_then_writes_the_tables(tmp_path):
    """A stand-in for Python writes down what it is given."""
    told = tmp_path / "told"
    stand_in(tmp_path / "python", f'printf "%s\\0" "$@" >>{told}; printf "\\n" >>{told}')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STAGES": "tune-tenth tenth", "JOBS": "12"}
    environment["RESULTS"] = str(tmp_path)
    words = ["bash", ROOT / "scripts/fashion_mnist_lt.sh", "./data", "./runs", "--until=500"]
    subprocess.run(words, env=environment, check=True)
    first, second = (line.split("\0")[:-1] for line in told.read_text().splitlines())
    options = script.build_parser().parse_args(first[1:])
    assert (first[0], options.stages, options.jobs) == ("scripts/protocol.py", ["tune-tenth", "tenth"], 12)
    assert (options.data, options.runs, options.results, options.until) == ("./data", "./runs", str(tmp_path), 500)
    assert second == ["scripts/claim.py", f"--results={tmp_path}"]


@pytest.mark.parametrize(
    ("status", "flags", "tables"),
    [(0, [], True), (1, [], True), (2, [], False), (130, [], False), (0, ["--list"], False), (0, ["--quick"], False)],
)
def test_entry_script_writes_tables_of_runs_that_have_ended_alone(status, flags, tables, tmp_path):
    """Not after wrong input, a signal or a list of commands; nor of two steps each."""
    told = tmp_path / "told"
    stand_in(tmp_path / "python", f"echo $1 >>{told}; [ $1 != scripts/protocol.py ] || exit {status}")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RESULTS": str(tmp_path)}
    done = subprocess.run(["bash", ROOT / "scripts/fashion_mnist_lt.sh", "./data", "./runs", *flags], env=environment)
    assert done.returncode == status
    assert told.read_text().split() == ["scripts/protocol.py"] + ["scripts/claim.py"] * tables


def test_what_is_measured_under_noise_is_what_was_chosen():
    """Both cases of a DGCMM are re-trained by their scripts, and not a second time on its codes."""
    values = {"logit-adjustment": 0.75, "crt": 0.01, "case-2": 0.1}

    def flags(name: str, method: str) -> list[str]:
        choice = protocol.Choice(0.03, 1.0, values, method, 1, [5])
        step = protocol.robustness_step(PLACES, "run", BY_NAME[name], choice)
        return [word for word in step.words[2:] if not word.startswith("--judge")]

    alone = ["--methods", "logit-adjustment", "--fixed", "logit-adjustment=0.75"]
    assert flags("ce", "trained") == flags("dgcmm", "case-2") == alone
    both = ["--methods", "crt", "logit-adjustment", "--fixed", "crt=0.01", "logit-adjustment=0.75"]
    assert flags("ce", "crt") == flags("dgcmm", "crt") == both
    assert flags("ce", "case-2")[1:3] == ["case-2", "logit-adjustment"]
    assert flags("dgcmm-generative", "trained") == []


def test_judges_are_trained_beside_what_does_not_wait_for_it(tmp_path, monkeypatch):
    write_choices(tmp_path, CHOICES)
    asked = []

    def run(self: object, jobs: list[Job]) -> script.Report:
        asked.append([job.folder for job in jobs])
        return script.Report(asked[-1], [], [])

    monkeypatch.setattr(script.Runner, "run", run)
    places = ["--subsets", "0", "1", f"--results={tmp_path}", f"--data={tmp_path}"]
    assert script.main(["tenth", "--rows", "dgcmm", "ce", *places]) == 0
    assert asked == [
        ["judge-resnet18", "judge-resnet32", "tenth/ce/subset0", "tenth/ce/subset1"],
        ["tenth/dgcmm/subset0", "tenth/dgcmm/subset1"],
    ]
    asked.clear()
    assert script.main(["tenth", "--rows", "ce", *places]) == 0
    assert asked == [["tenth/ce/subset0", "tenth/ce/subset1"]]


def test_results_that_are_no_folder_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/chosen.json cannot be read \(Not a directory\): name another --results"):
        read_choices(tmp_path / "file")
