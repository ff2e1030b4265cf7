"""Figures of whole run folders: that they come, that nothing in them is cut off, and that none can end a run."""

import builtins
import contextlib
import json
import logging
import os
import shutil
import time
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.made_up import made_up_run
from helpers.runs import make_older
from scripts import figures
from utils.errors import UserError
from utils.figures import codes, drawing
from utils.figures.make import make_figures, report, show_figures
from utils.figures.reading import find_codes, read_codes, titles_of
from utils.figures.style import LOOK, fit
from utils.files import read_rows
from utils.training.board import Board
from utils.training.checkpoint import digest, save_checkpoint
from utils.training.folder import RunFolder
from utils.training.layout import FIGURES, RESULTS

SCRIPTS = ("", "_aug_ftl", "_aug")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("made up") / "run", 5)


@pytest.fixture(scope="module")
def drawn(run, tmp_path_factory):
    """A run with its figures, in the order of the scripts, and what each of them has drawn."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("drawn") / "run")
    return folder, {suffix: list(make_figures(RunFolder(str(folder), suffix))) for suffix in SCRIPTS}


@pytest.fixture
def own_run(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def names_in(run):
    return sorted(path.name for path in (run / "figures").glob("*"))


def test_training_and_re_training_leave_their_figures(drawn):
    folder, made = drawn
    own = ["learning_curves", "confusion", "reliability"]  # the recall of all three is there after the first
    assert made == {"": [name for name in FIGURES if name != "codes"], "_aug_ftl": [*own, "codes"], "_aug": own}
    each = [f"{name}{suffix}.png" for name in ("confusion", "learning_curves", "reliability") for suffix in SCRIPTS]
    assert names_in(folder) == sorted([*each, "recall.png", "codes.png", "reconstructions.png", "samples.png"])
    for path in (folder / "figures").glob("*"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200
        assert pixels.std() > 5


def test_codes_of_length_1_are_drawn(own_run, monkeypatch):
    monkeypatch.setattr(codes, "ITERATIONS", 250)
    stored = torch.load(own_run / "checkpoint_codes.pth", weights_only=True)
    stored["train"]["mu"] = stored["train"]["mu"][:, :1]
    prior = torch.load(own_run / "checkpoint.pth", weights_only=True)["state_dict"]
    prior["prior.means"] = prior["prior.means"][:, :1]
    stored["key"]["weights"] = digest(prior)
    save_checkpoint(own_run / "checkpoint_codes.pth", stored)
    save_checkpoint(own_run / "checkpoint.pth", {"state_dict": prior})
    assert len(read_codes(own_run / "checkpoint_codes.pth", 3, 10).means) == 3
    assert drawing.draw("codes", RunFolder(str(own_run), "_aug_ftl")) is not None


def test_results_of_the_model_before_its_training_went_on_are_not_shown_as_those_after_it(own_run):
    def started(suffix, *moments):
        path = RunFolder(str(own_run), suffix).file("args.json")
        first, *others = ({"started": moment} for moment in moments)
        path.write_text(json.dumps(json.loads(path.read_text()) | first | {"resumed": others}))

    started("", "2026-01-01T00:00:00+00:00")
    started("_aug", "2026-01-02T00:00:00+00:00")
    started("_aug_ftl", "2026-01-04T00:00:00+00:00")
    assert len(drawing.sources("recall", RunFolder(str(own_run)))) == 3
    started("", "2026-01-01T00:00:00+00:00", "2026-01-03T00:00:00+00:00")
    for suffix in ("", "_aug", "_aug_ftl"):
        shown = [path.name for path in drawing.sources("recall", RunFolder(str(own_run), suffix))]
        assert shown == ["metrics_per_class.csv", "metrics_per_class_aug_ftl.csv"]


def test_epochs_of_the_models_are_told_where_a_retraining_took_another_one(own_run):
    tables = {suffix: own_run / f"metrics_per_class{suffix}.csv" for suffix in ("", "_aug", "_aug_ftl")}
    assert titles_of(RunFolder(str(own_run)), tables) == RESULTS
    path = own_run / "args_aug.json"
    measured = int(read_rows(tables[""])[0]["epoch"])
    content = json.loads(path.read_text()) | {"model": {"epoch": measured + 1, "step": 0}}
    path.write_text(json.dumps(content))
    found = titles_of(RunFolder(str(own_run)), tables)
    assert found[""] == f"trained, model of epoch {measured}"
    assert found["_aug"] == f"Case 2, model of epoch {measured + 1}"
    assert titles_of(RunFolder(str(own_run), "_eval"), {"_eval": own_run / "metrics_per_class.csv"}) == RESULTS


def test_retraining_of_a_model_of_another_folder_is_not_shown_as_one_of_this(own_run):
    here = own_run / "checkpoint_codes.pth"
    path = own_run / "args_aug.json"
    content = json.loads(path.read_text())
    assert find_codes(RunFolder(str(own_run), "_aug")) == [here]
    other = own_run.parent / "other"
    other.mkdir()
    shutil.copyfile(here, other / here.name)
    content["arguments"]["resume"] = str(Path(content["arguments"]["logdir"]).parent / "other" / "checkpoint.pth")
    path.write_text(json.dumps(content))
    assert [one.resolve() for one in find_codes(RunFolder(str(own_run), "_aug"))] == [other / here.name]
    shown = [path.name for path in drawing.sources("recall", RunFolder(str(own_run)))]
    assert shown == ["metrics_per_class.csv", "metrics_per_class_aug_ftl.csv"]


def test_means_of_components_are_not_shown_beside_the_codes_of_before_the_training_went_on(own_run):
    path = own_run / "checkpoint_codes.pth"
    assert len(read_codes(path, 3, 10).means) == 3
    trained = torch.load(own_run / "checkpoint.pth", weights_only=True)
    trained["state_dict"]["prior.means"] += 1
    save_checkpoint(own_run / "checkpoint.pth", trained)
    assert len(read_codes(path, 3, 10).means) == 0


def test_codes_that_are_all_the_same_are_not_drawn(own_run):
    """As of an encoder that has died; t-SNE would end the process."""
    found = read_codes(own_run / "checkpoint_codes.pth", 3, 100)
    with pytest.raises(UserError, match="all codes are the same"):
        codes.codes_in_the_plane(found._replace(codes=np.zeros_like(found.codes)), "run")


def test_class_whose_name_begins_with_an_underscore_is_in_the_legend(own_run, monkeypatch):
    monkeypatch.setattr(codes, "ITERATIONS", 250)
    found = read_codes(own_run / "checkpoint_codes.pth", 3, 100)
    names = ["_hidden", *found.names[1:]]
    figure = codes.codes_in_the_plane(found._replace(names=names), "run")
    shown = [text.get_text().strip() for text in figure.legends[0].get_texts()]
    assert len(shown) == 3
    assert any(text.startswith("_hidden (") for text in shown)


def test_long_names_differ_at_their_ends_too():
    names = [f"a rather long name of the class number {number}" for number in (1, 2)]
    assert [fit(name) for name in names] == ["a rather l… number 1", "a rather l… number 2"]
    assert fit("of $20, a class") == r"of \$20, a class"


def test_figure_is_drawn_again_when_what_it_shows_has_changed(drawn, tmp_path):
    folder = RunFolder(str(shutil.copytree(drawn[0], tmp_path / "run")), "_aug")
    assert make_figures(folder) == {}
    os.utime(folder.file("metrics.csv"))
    assert list(make_figures(folder)) == ["learning_curves"]


def test_evaluation_has_what_needs_no_training(own_run):
    for name in ("predictions", "metrics_per_class"):
        (own_run / f"{name}.csv").rename(own_run / f"{name}_eval.csv")
    assert list(make_figures(RunFolder(str(own_run), "_eval"))) == ["recall", "confusion", "reliability"]
    assert names_in(own_run) == ["confusion_eval.png", "recall_eval.png", "reliability_eval.png"]


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_text_is_whole_and_labels_do_not_overlap(num_classes, tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "IMAGES", 100)
    monkeypatch.setattr(codes, "ITERATIONS", 250)
    folder = RunFolder(str(made_up_run(tmp_path / "run", num_classes)))
    retrained = RunFolder(str(folder.path), "_aug")
    with matplotlib.rc_context(LOOK):
        for name in FIGURES:
            figure = drawing.draw(name, retrained if name == "codes" else folder)
            figure.draw_without_rendering()
            drawn, page = figure.get_tightbbox(), figure.bbox_inches.padded(0.02)
            assert page.contains(*drawn.min), name
            assert page.contains(*drawn.max), name
            for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
                first, last = sorted(axis.get_view_interval())
                ticks = [tick for tick in axis.get_major_ticks() if first <= tick.get_loc() <= last]
                labels = [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]
                upright = [label for label in labels if label.get_text() and label.get_rotation() in (0, 90)]
                boxes = [label.get_window_extent() for label in upright]
                assert not any(one.overlaps(other) for one, other in pairwise(boxes)), name
            text = figure.get_suptitle() + "".join(ax.get_title() for ax in figure.axes)
            if name == "codes" and num_classes > 16:
                assert f"16 of {num_classes} classes" in text
            if name == "samples" and num_classes > 15:
                assert f"15 of {num_classes}" in text


def test_one_epoch_undefined_metrics_and_names_of_foreign_scripts_are_drawn(tmp_path, caplog):
    run = made_up_run(tmp_path / "run", 3, epochs=1)
    for name in ("metrics.csv", "metrics_per_class.csv"):
        lines = (run / name).read_text().replace("class 1 with $a long name", "龍 $x_").splitlines()
        (run / name).write_text("\n".join(lines) + "\n")
    head, row = (run / "metrics.csv").read_text().splitlines()
    blank = [
        value if name in ("epoch", "split", "lr") else ""
        for name, value in zip(head.split(","), row.split(","), strict=True)
    ]
    (run / "metrics.csv").write_text(f"{head}\n{','.join(blank)}\n")
    assert len(make_figures(RunFolder(str(run)))) == 6
    assert not caplog.messages


def test_prior_that_never_started_has_no_samples_and_that_is_no_warning(own_run, caplog):
    with np.load(own_run / "pictures.npz") as archive:
        kept = {name: archive[name] for name in ("inputs", "reconstructions", "labels")}
    np.savez(own_run / "pictures.npz", **kept)
    made = make_figures(RunFolder(str(own_run)))
    assert "reconstructions" in made
    assert "samples" not in made
    assert not caplog.messages


def test_figure_that_fails_is_a_warning_and_the_others_come(own_run, caplog):
    caplog.set_level(logging.INFO, "dgcmm")
    (own_run / "metrics.csv").write_text("epoch,split\none,test\n")
    (own_run / "pictures.npz").write_bytes(b"half a fi")
    made = make_figures(RunFolder(str(own_run)))
    assert list(made) == ["recall", "confusion", "reliability"]
    assert [message.split(":")[0] for message in caplog.messages] == [
        "figure learning_curves is left out",
        "figure reconstructions is left out",
        "figure samples is left out",
    ]


@pytest.mark.parametrize(
    ("content", "said"), [("{", "TMP/args_aug.json is damaged"), ('{"arguments": {}}', "KeyError: 'resume'")]
)
def test_damaged_arguments_of_a_retraining_cost_only_the_figures_that_need_them(
    content, said, own_run, caplog, monkeypatch
):
    monkeypatch.setattr(drawing, "save", lambda name, folder: drawing.path_of(name, folder))
    (own_run / "args_aug.json").write_text(content)
    assert {"learning_curves", "confusion", "reliability"} <= make_figures(RunFolder(str(own_run))).keys()
    make_figures(RunFolder(str(own_run), "_aug"))
    told = dict(record.getMessage().split(": ", 1) for record in caplog.records)
    assert set(told) == {"figure recall is left out", "figure codes is left out"}
    assert all(text.startswith(said.replace("TMP", str(own_run))) for text in told.values())


def at_import_of_drawing(action, monkeypatch):
    def importing(name, *args, **kwargs):
        if name == "utils.figures" and "drawing" in (args[2] or ()):
            action()
        return imported(name, *args, **kwargs)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", importing)


def test_backend_that_matplotlib_does_not_know_costs_no_figure(own_run, monkeypatch):
    found = []
    monkeypatch.setenv("MPLBACKEND", "Qt4Agg")  # of an old setup: the import would end with an error
    monkeypatch.setattr(drawing, "sources", lambda *_: [])
    at_import_of_drawing(lambda: found.append(os.environ["MPLBACKEND"]), monkeypatch)
    make_figures(RunFolder(str(own_run)))
    assert found == ["agg"]


def test_result_is_printed_first_and_alone_whatever_happens_to_the_figures(own_run, monkeypatch, capsys, caplog):
    def no_matplotlib():
        raise ImportError("No module named 'matplotlib'")

    at_import_of_drawing(no_matplotlib, monkeypatch)
    report({"epoch": 5, "acc": 0.5}, RunFolder(str(own_run)), figures=True)
    assert capsys.readouterr().out == '{"epoch": 5, "acc": 0.5}\n'
    assert any("no figures: No module named 'matplotlib'" in message for message in caplog.messages)
    assert not (own_run / "figures").exists()


def test_folder_that_takes_no_figures_is_a_warning(own_run, capsys, caplog):
    (own_run / "figures").touch()
    report({"epoch": 5}, RunFolder(str(own_run)), figures=True)
    assert capsys.readouterr().out == '{"epoch": 5}\n'
    said = f"is left out: {own_run}/figures cannot be written (File exists): choose another folder"
    assert len([message for message in caplog.messages if said in message]) == 6
    assert "TensorBoard" not in caplog.text
    with pytest.raises(UserError, match=f"no figure of {own_run}: no epoch has ended there, or a warning above says"):
        figures.main([str(own_run)])


def test_tensorboard_shows_the_figures_in_order_and_the_codes(drawn, tmp_path, capsys):
    path, made = drawn
    folder = RunFolder(str(shutil.copytree(path, tmp_path / "run")), "_aug_ftl")
    pictures = {name: drawing.path_of(name, folder) for name in made["_aug_ftl"]}
    with contextlib.closing(Board(folder.board, "_aug_ftl", 0)) as board:
        for epoch in range(1, 9):  # of which the fifth was the best
            board.scalars(epoch, {"epoch": epoch, "split": "val", "acsa": 0.5})
    for _ in range(2):  # the second time with figures that were made anew
        make_older(folder.board)
        show_figures(pictures, folder, 5)
    assert capsys.readouterr().out == ""
    events = EventAccumulator(str(folder.board)).Reload()
    assert [scalar.step for scalar in events.Scalars("val/acsa")] == list(range(1, 9))
    names = ["1 learning curves", "3 confusion", "4 reliability", "5 codes"]
    assert events.Tags()["images"] == [f"figures/{name}" for name in names]
    assert {image.step for image in events.Images("figures/5 codes")} == {5}
    assert (folder.board / "projector_config.pbtxt").read_text().count("tensor_path") == 1
    labels = (folder.board / "00000/codes/metadata.tsv").read_text().splitlines()
    assert labels[:2] == ["class\ttraining images", "class 0 with $a long name\t4"]
    assert len((folder.board / "00000/codes/tensors.tsv").read_text().splitlines()) == len(labels) - 1 == 20


def test_figures_drawn_anew_are_drawn_once_each(own_run, capsys, monkeypatch):
    (own_run / "figures").mkdir(exist_ok=True)
    for name in ("recall.png", "codes.png", "confusion.png"):
        (own_run / "figures" / name).write_bytes(b"newer than its files")
    drawn = []

    def saved(name: str, folder: RunFolder) -> Path:
        path, now = drawing.path_of(name, folder), time.time()
        drawn.append(path)
        path.write_bytes(b"drawn")
        os.utime(path, (now, now))  # the clock of the files is a little behind
        return path

    monkeypatch.setattr(drawing, "save", saved)
    figures.main([str(own_run)])
    assert {path.name for path in drawn} >= {"recall.png", "codes.png", "confusion.png"}
    assert len(set(drawn)) == len(drawn)
    assert capsys.readouterr().out.splitlines() == list(map(str, drawn))


def test_overwriting_deletes_a_scripts_figures(drawn, tmp_path):
    folder = shutil.copytree(drawn[0], tmp_path / "run")
    (folder / "figures" / "mine.png").touch()
    RunFolder(str(folder), "_aug").open(overwrite=True).close()
    assert [name for name in names_in(folder) if name.endswith("_aug.png")] == []
    assert "confusion.png" in names_in(folder)
    RunFolder(str(folder)).open(overwrite=True).close()
    assert names_in(folder) == ["mine.png"]
