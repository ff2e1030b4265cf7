"""README and docs: what they name is there, and what they quote is what the code says."""

import argparse
import ast
import re
import statistics
import subprocess
import sys

import numpy as np
import pytest

import augment
import augment_ftl
import train
from datasets import DATASETS
from helpers.documents import DOCUMENTS, PAGES, commands, program
from helpers.project import ROOT, SMALL_MODEL
from scripts.experiments.posthoc import METHODS
from utils.files import read_rows

FOLDERS = ("models", "datasets", "utils", "scripts", "fig")
CODE = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
PATH = re.compile(r"`(?:\./)?((?:scripts|results|fig|models|datasets|utils|tests|docs)/[\w./]*)`")
MADE_BY_USERS = {"results/gpu/", "datasets/mine.py"}


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_exist(page):
    for target, anchor in LINK.findall((ROOT / page).read_text()):
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    named = set(PATH.findall((ROOT / page).read_text())) - MADE_BY_USERS
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_programs_of_the_commands_exist(document):
    assert {program(name) for name, *_ in commands(document) if not (ROOT / program(name)).exists()} == set()


def test_every_page_is_reached_from_the_readme():
    reached, found = {"README.md"}, {"README.md"}
    while found:
        links = {(page, link) for page in found for link, _ in LINK.findall((ROOT / page).read_text()) if link}
        paths = {str(((ROOT / page).parent / link).resolve().relative_to(ROOT)) for page, link in links}
        found = {path for path in paths if path in PAGES} - reached
        reached |= found
    assert reached == set(PAGES)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


@pytest.mark.parametrize("page", PAGES)
def test_lines_fit(page):
    assert [line for line in (ROOT / page).read_text().splitlines() if len(line) > 120] == []


def texts_of_the_code():
    """Every text in the code, with ... for what is filled in."""
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%(\.\d)?[a-z]", "...", node.value)


def test_messages_of_the_troubleshooting_table_are_the_codes_own():
    table = (ROOT / "docs/problems.md").read_text()
    messages = re.findall(r"^\| `(.*?)` \|", table, re.M)
    said = list(texts_of_the_code())
    assert len(messages) >= 10
    assert [message for message in messages if not any(message in text for text in said)] == []


@pytest.mark.parametrize("suffix", ["", "_aug_ftl", "_aug"])
def test_quick_start_ends_with_the_numbers_of_the_readme(suffix):
    last = read_rows(ROOT / f"results/quickstart/metrics{suffix}.csv")[-1]
    (said,) = re.findall(r"^`quickstart.sh` ends with .*? learned\.", (ROOT / "README.md").read_text(), re.M | re.S)
    assert f"{float(last['acsa']):.4f}" in said


def test_no_code_calls_nvidia_smi():
    scripts = [path for path in (ROOT / "scripts").rglob("*") if path.suffix in (".sh", ".sbatch")]
    code = [*CODE, *scripts]
    assert len(code) > 100
    assert [path for path in code if "nvidia-smi" in path.read_text()] == []


def test_code_page_names_what_is_there():
    text = (ROOT / "docs/code.md").read_text()
    code = "\n".join(path.read_text() for path in CODE)
    names = {part for quoted in re.findall(r"`([A-Za-z_.]+)`", text) for part in quoted.split(".")}
    names -= {"py", "csv", "metrics"}
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} <= {path.stem for path in CODE}


def imported_modules(path):
    """The names that a module imports, in full, within its functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    ("package", "imports"), [("models", {"models", "utils"}), ("datasets", {"datasets", "utils"}), ("utils", {"utils"})]
)
def test_packages_import_what_the_code_page_lets_them(package, imports):
    ours = {"models", "datasets", "utils", "scripts", *(path.stem for path in ROOT.glob("*.py"))}
    paths = (ROOT / package).rglob("*.py")
    found = {(path.name, name.partition(".")[0]) for path in paths for name in imported_modules(path)}
    assert {name for _, name in found} & ours == imports, found


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("", set()),
        ("cli", set()),
        ("distributed", set()),
        ("training", {"cli", "distributed"}),
        ("figures", {"training"}),
    ],
)
def test_packages_of_utils_import_those_below_them(package, others):
    paths = (ROOT / "utils" / package).glob("*.py")
    names = [name.split(".") for path in paths for name in imported_modules(path)]
    folders = {path.name for path in (ROOT / "utils").iterdir() if path.is_dir()}
    assert {name[1] for name in names if name[0] == "utils"} & folders - {package} == others


def test_modules_that_say_that_they_do_not_import_torch_can_do_without():
    says = [path.relative_to(ROOT) for path in CODE if "othing here imports torch" in path.read_text()]
    names = [".".join(path.with_suffix("").parts) for path in says]
    assert {"utils.cli.rules", "utils.distributed.plan", "utils.training.layout"} <= set(names)
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def listed_options():
    """Each option of the page, in order: its flags, and what stands in brackets behind them."""
    items = re.findall(r"^- ((?:`-[^`]+`(?:, )?)+)(?: \(([^)]*)\))?:", (ROOT / "docs/options.md").read_text(), re.M)
    return {tuple(flag.split()[0] for flag in re.findall(r"`([^`]+)`", flags)): default for flags, default in items}


def options_of(module):
    """The options of a script, in the order of its help."""
    groups = module.build_parser()._action_groups
    options = [action for group in groups for action in group._group_actions if action.option_strings]
    return {tuple(action.option_strings): action for action in options if action.dest != "help"}


def test_options_page_has_every_option_in_the_order_of_the_help():
    own = {flags: None for script in (augment, augment_ftl) for flags in options_of(script)}
    assert list(listed_options()) == [*options_of(train), *(flags for flags in own if flags not in options_of(train))]


def test_options_page_has_the_defaults_and_choices_of_the_code():
    text = (ROOT / "docs/options.md").read_text()
    actions = [pair for script in (train, augment, augment_ftl) for pair in options_of(script).items()]
    for flags, action in actions:
        default = listed_options()[flags]
        if isinstance(action, argparse._StoreTrueAction):
            assert default == "", flags
        elif action.default is not None:
            assert str(action.default) in re.split(r"[`; ]+", default), flags
        if action.choices and action.dest != "arch":
            assert f"`{flags[-1]} {{{','.join(action.choices)}}}`" in text


@pytest.mark.parametrize(("script", "rate"), [(train, 5e-3), (augment, 1e-2), (augment_ftl, 1e-2)])
def test_learning_rates_are_those_of_the_published_commands(script, rate):
    assert script.build_parser().get_default("lr") == rate


def test_methods_of_the_baselines_page_are_those_of_the_code():
    """With the value of each that has no validation set to choose by."""
    text = (ROOT / "docs/baselines.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \| .* \| .*\(`?([a-z0-9.]+)`?\) \|$", text, re.M)
    listed = {name: default for names, default in rows for name in re.findall("`(.*?)`", names)}
    defaults = {name: method.default for name, method in METHODS.items() if method.parameter}
    assert listed == {name: f"{value:g}" if isinstance(value, float) else value for name, value in defaults.items()}


def test_data_set_of_the_readme_trains(script, tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    names = {}
    exec(code, names)
    monkeypatch.setitem(DATASETS, "Mine", names["MINE"])
    rng = np.random.default_rng(0)
    for part, counts in (("train", (8, 4)), ("test", (3, 3))):
        np.save(tmp_path / f"{part}_images.npy", rng.integers(0, 256, (sum(counts), 20, 24, 3), dtype=np.uint8))
        np.save(tmp_path / f"{part}_labels.npy", np.repeat([0, 1], counts))
    run = [*SMALL_MODEL, f"--datadir={tmp_path}", f"--logdir={tmp_path}/log", "--epochs=1", "--batch-size=6"]
    done = script("train", "Mine", *run)
    assert done.status == 0, done.err
    assert "imbalance: 2 classes, largest cat 8, smallest dog 4" in done.out


@pytest.mark.parametrize(("name", "suffix"), [("trained", ""), ("Case 1", "_aug_ftl"), ("Case 2", "_aug")])
def test_first_table_of_the_readme_is_what_its_runs_left(name, suffix):
    """`claim.py --check` looks at the others."""
    runs = [ROOT / f"results/fashion_mnist_lt/plain/subset{subset}/metrics{suffix}.csv" for subset in range(3)]
    rows = [read_rows(run)[-1] for run in runs]
    values = {metric: [float(row[metric]) for row in rows] for metric in ("acsa", "f_ma", "g_ma", "many", "median")}
    means = [f"{statistics.fmean(found):.4f}" for found in values.values()]
    cells = [f"{mean} ±{statistics.stdev(values[metric]):.4f}" for metric, mean in zip(values, means[:3], strict=False)]
    assert f"| {name} | {' | '.join(cells + means[3:])} |" in (ROOT / "README.md").read_text()
