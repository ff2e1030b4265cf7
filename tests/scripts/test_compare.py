"""The table of runs: what stands in a row, unfinished runs, and bad input."""

import csv
import io
import json

import pytest

from scripts import compare, figures
from utils.errors import UserError
from utils.figures.reading import is_of_another_model
from utils.training.folder import RunFolder

HEADER = "epoch,split,acc,acsa,f_ma,g_ma,many,median,low\n"


def run(path, value=0.5, suffix="", epochs=2, done=None, split="test", resumed=(), about=None, **flags):
    """A run folder in which a script has measured each epoch; its last row has `value`.

    Args:
        about: what args.json says beside the arguments: `started`, `data`, `model`.
    """
    path.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{n},{split},{value if n == (done or epochs) else 0},{value},0.5,0.5,0.5,0.5,\n"
        for n in range(1, (done or epochs) + 1)
    ]
    (path / f"metrics{suffix}.csv").write_text(HEADER + "".join(rows))
    arguments = {"epochs": epochs, "lr": 0.1, "seed": 0, "logdir": str(path), **flags}
    content = {"arguments": arguments, "resumed": list(resumed), "started": ""} | (about or {})
    (path / f"args{suffix}.json").write_text(json.dumps(content))
    return path


def table(capsys, *words):
    """The rows that a command prints, as dicts."""
    compare.main([*map(str, words), "--csv"])
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_one_run_has_a_row_for_each_script(tmp_path, capsys):
    for suffix, value in (("_aug", 0.75), ("", 0.25), ("_aug_ftl", 0.5), ("_eval", 0.5)):
        run(tmp_path / "a", value, suffix)
    compare.main([str(tmp_path / "a")])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "result", "runs", "epoch", "acc", "acsa", "f_ma", "g_ma", "many", "median", "low"]
    shown = [line.split("  ")[1].strip() for line in lines]
    assert shown == ["trained", "Case 1", "Case 2", "evaluated"]
    assert lines[0].split()[2:] == ["1", "2", "0.2500", "0.2500", "0.5000", "0.5000", "0.5000", "0.5000", "-"]


def test_runs_that_differ_in_their_seeds_share_a_row_with_mean_and_deviation(tmp_path, capsys):
    for seed, value in enumerate((0.2, 0.4)):
        habits = {"save_every": seed, "print_freq": seed, "download_jobs": seed}
        run(tmp_path / f"subset{seed}", value, seed=seed, subset_seed=seed, **habits)
        run(tmp_path / f"subset{seed}", 0.5, "_aug", seed=seed)
    compare.main([str(tmp_path), "--markdown"])
    lines = [[word.strip() for word in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert set("".join(lines[1])) == {"-"}
    assert lines[2][:6] == [f"{tmp_path}/{{subset0,subset1}}", "trained", "2", "2", "0.3000 ±0.1414", "0.3000 ±0.1414"]
    assert lines[3][1:5] == ["Case 2", "2", "2", "0.5000 ±0.0000"]
    assert len(lines) == 4
    (base, _) = table(capsys, tmp_path / "subset0", tmp_path / "subset1")
    assert (float(base["acc"]), float(base["acc_sd"])) == pytest.approx((0.3, 0.02**0.5))


def test_run_from_before_a_flag_shares_a_row_with_those_that_have_its_default(tmp_path, capsys):
    run(tmp_path / "old", seed=0)
    run(tmp_path / "new", seed=1, val_per_class=0, subset_scale=1.0)
    run(tmp_path / "other", seed=2, val_per_class=5, subset_scale=1.0)
    rows = table(capsys, tmp_path)
    found = {(row["runs"], row["differs_by"]) for row in rows}
    assert found == {("2", "--val-per-class=0"), ("1", "--val-per-class=5")}


def test_what_the_decoders_have_learned_stands_below_where_all_runs_of_a_row_say(tmp_path, capsys):
    for seed, error in enumerate((0.1, 0.2)):
        folder = run(tmp_path / f"subset{seed}", seed=seed)
        compare.main([str(tmp_path)])
        assert "squared error" not in capsys.readouterr().out
        (folder / "health.json").write_text(json.dumps({"mse": error, "mse_constant": 0.3, "mse_class_mean": 0.2}))
    compare.main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "",
        f"{tmp_path}/{{subset0,subset1}}: squared error of reconstructions 0.1500 ±0.0707, of a constant grey 0.3000 "
        "±0.0000, of the class's mean image 0.2000 ±0.0000",
    ]


def test_runs_on_other_test_images_stand_apart(tmp_path, capsys):
    for name in "ab":
        run(tmp_path / name, about={"data": {"test": name}})
    assert [row["runs"] for row in table(capsys, tmp_path)] == ["1", "1"]


def test_runs_on_other_training_images_stand_apart_unless_another_subset_seed_drew_them(tmp_path, capsys):
    for place in "ab":
        for seed in (0, 1):
            flags = {"subset_seed": seed, "datadir": place, "csv": f"{place}/t.csv"}
            run(tmp_path / f"{place}{seed}", about={"data": {"test": "same", "train": f"{place}{seed}"}}, **flags)
    names = [f"{tmp_path}/{{{place}0,{place}1}}" for place in "ab"]
    assert [row["run"] for row in table(capsys, tmp_path)] == names


def test_copy_of_a_run_is_told(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, seed=seed)
    compare.main([str(tmp_path)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{tmp_path}/a and {tmp_path}/b have the same training images and --seed: is one a copy?"
    resume = str(tmp_path / "c/checkpoint.pth")
    again = [run(tmp_path / f"again{seed}", suffix="_aug", resume=resume, seed=seed) for seed in (0, 1)]
    compare.main(list(map(str, again)))
    assert "is one a copy?" not in capsys.readouterr().out  # of one training, re-trained with two


def test_metric_that_one_run_of_a_row_has_not_has_no_mean(tmp_path, capsys):
    for seed in (0, 1):
        folder = run(tmp_path / f"s{seed}", seed=seed)
    path = folder / "metrics.csv"
    path.write_text(path.read_text().replace("0.5,\n", "0.5,0.25\n"))  # the column low
    (row,) = table(capsys, tmp_path)
    assert (row["runs"], row["low"], row["median"]) == ("2", "", "0.5")


def test_runs_of_other_flags_stand_apart_and_say_by_what(tmp_path, capsys):
    run(tmp_path / "a", lr=0.1)
    run(tmp_path / "b", lr=0.2, workers=7)
    for name, lr in (("a", 0.1), ("b", 0.2)):
        run(tmp_path / name, suffix="_aug", lr=0.5, wd=lr)
    rows = table(capsys, tmp_path)
    assert [(row["result"], row["differs_by"]) for row in rows] == [
        ("trained", "--lr=0.1"),
        ("Case 2", "--wd=0.1"),
        ("trained", "--lr=0.2"),
        ("Case 2", "--wd=0.2"),
    ]


def test_runs_on_other_numbers_of_nodes_stand_apart(tmp_path, capsys):
    """Each node takes --batch-size images a step; where a launcher starts them, no flag says how many there are."""
    run(tmp_path / "old", seed=0, batch_size=32)
    for seed, nodes in ((1, 1), (2, 2), (3, 2)):
        run(tmp_path / f"run{seed}", seed=seed, batch_size=32, about={"nodes": nodes})
    rows = [(row["runs"], row["differs_by"]) for row in table(capsys, tmp_path)]
    assert rows == [("2", "--world-size=1"), ("2", "--world-size=2")]


def test_data_set_and_switches_are_written_as_on_a_command_line(tmp_path, capsys):
    for name, generative in (("A", True), ("B", False)):
        run(tmp_path / name, dataset=name, generative=generative)
    assert [row["differs_by"] for row in table(capsys, tmp_path)] == ["A --generative", "B no --generative"]


def test_flag_of_a_re_training_that_its_training_has_too_is_said(tmp_path, capsys):
    """What a re-training takes from its training stands in the row of that."""
    for name, start, epochs in (("a", "trained", 2), ("b", "adjusted", 4)):
        run(tmp_path / name, arch=name)
        run(tmp_path / name, suffix="_aug", arch=name, start=start, epochs=epochs)
    rows = [(row["result"], row["differs_by"]) for row in table(capsys, tmp_path)]
    assert rows == [
        ("trained", "--arch=a"),
        ("Case 2", "--start=trained --epochs=2"),
        ("trained", "--arch=b"),
        ("Case 2", "--start=adjusted --epochs=4"),
    ]


def test_re_trainings_of_other_trainings_are_never_averaged(tmp_path, capsys):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        run(tmp_path / name, lr=lr)
        run(tmp_path / name, suffix="_aug")
    assert [row["runs"] for row in table(capsys, tmp_path)] == ["1", "1", "1", "1"]


@pytest.mark.parametrize("moved", [False, True])
def test_evaluation_and_re_training_elsewhere_are_of_their_training(moved, tmp_path, capsys):
    """Of two seeds of one training and of another one, measured and re-trained in folders of their own."""
    place = tmp_path / "logs"
    for name, flags in (("a0", {}), ("a1", {"seed": 1}), ("b0", {"lr": 0.2})):
        run(place / "trained" / name, **flags)
        run(place / "trained" / name, suffix="_aug", wd=0.5)
        for suffix, checkpoint in (
            ("_eval", "checkpoint.pth"),
            ("_eval", "checkpoint_aug.pth"),
            ("_aug", "checkpoint.pth"),
        ):
            resume = str(place / "trained" / name / checkpoint)
            run(place / "found" / f"{checkpoint}{suffix}-{name}", suffix=suffix, resume=resume)
    if moved:
        place = place.rename(tmp_path / "moved")
    rows = table(capsys, place / "found")
    assert sorted((row["result"], row["runs"]) for row in rows) == [
        *[("Case 2", "1"), ("Case 2", "2")],
        *[("evaluated", "1"), ("evaluated", "1"), ("evaluated", "2"), ("evaluated", "2")],
    ]


def test_evaluations_of_other_re_trainings_stand_apart(tmp_path, capsys):
    for name, wd in (("a", 0.1), ("b", 0.2)):
        folder = run(tmp_path / name)
        run(folder, suffix="_aug", wd=wd)
        run(folder, suffix="_eval", resume=str(folder / "checkpoint_aug.pth"))
    rows = table(capsys, tmp_path)
    assert [row["runs"] for row in rows if row["result"] == "evaluated"] == ["1", "1"]


def test_re_trainings_of_other_checkpoints_of_a_training_stand_apart(tmp_path, capsys):
    for name, checkpoint in (("a", "checkpoint.pth"), ("b", "model_best.pth")):
        folder = run(tmp_path / name)
        run(folder, suffix="_aug", resume=str(folder / checkpoint))
    rows = table(capsys, tmp_path)
    assert [row["differs_by"] for row in rows if row["result"] == "Case 2"] == [
        "--resume=checkpoint.pth",
        "--resume=model_best.pth",
    ]


def test_evaluation_of_a_re_training_in_a_folder_of_its_own_is_of_its_training(tmp_path, capsys):
    for name, flags in (("a0", {}), ("a1", {"seed": 1}), ("b0", {"lr": 0.2})):
        trained = run(tmp_path / name, about={"started": "1"}, **flags)
        retrained = run(
            trained / "adjusted", suffix="_aug", about={"started": "2"}, resume=str(trained / "checkpoint.pth")
        )
        run(retrained, suffix="_eval", about={"started": "3"}, resume=str(retrained / "checkpoint_aug.pth"))
    evaluated = [row for row in table(capsys, tmp_path) if row["result"] == "evaluated"]
    assert [row["runs"] for row in evaluated] == ["2", "1"]
    run(tmp_path / "b0/adjusted", suffix="_aug", about={"started": "4"}, resume=str(tmp_path / "b0/checkpoint.pth"))
    compare.main([str(tmp_path)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{tmp_path}/b0/adjusted: evaluated is of the model before its training, or re-training, went on"


def test_evaluations_that_do_not_say_of_what_stand_alone(tmp_path, capsys):
    for name in "ab":
        (run(tmp_path / name, suffix="_eval") / "args_eval.json").unlink()
    assert [row["runs"] for row in table(capsys, tmp_path)] == ["1", "1"]


def test_tables_of_other_names_are_other_data(tmp_path, capsys):
    for place in ("a.csv", "b.csv", "elsewhere/b.csv"):
        for seed in (0, 1):
            run(tmp_path / f"{place}{seed}", csv=place, subset_seed=seed, seed=seed)
    assert [(row["runs"], row["differs_by"]) for row in table(capsys, tmp_path)] == [
        ("2", "--csv=a.csv"),
        ("4", "--csv=b.csv"),
    ]


def test_evaluations_whose_training_is_gone_stand_alone(tmp_path, capsys):
    for name in "ab":
        run(tmp_path / name, suffix="_eval", resume=f"logs/{name}/checkpoint.pth")
    assert [row["runs"] for row in table(capsys, tmp_path)] == ["1", "1"]


def test_run_that_is_not_finished_stands_apart_with_its_epoch(tmp_path, capsys):
    run(tmp_path / "a", 0.2, epochs=3)
    run(tmp_path / "b", 0.4, epochs=3, done=2, seed=1)
    run(tmp_path / "c", 0.6, epochs=3, split="val", seed=2)  # the test set is still to come
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "args.json").write_text((tmp_path / "a" / "args.json").read_text())
    rows = table(capsys, tmp_path)
    assert [(row["epoch"], row["acc"]) for row in rows] == [
        ("3", "0.2"),
        ("2/3", "0.4"),
        ("3/3 val", "0.6"),
        ("0/3", ""),
    ]


def test_best_epoch_of_a_hold_out_and_more_epochs_of_a_resumed_run_count(tmp_path, capsys):
    folder = run(tmp_path / "a", 0.5, epochs=3, split="val")
    with (folder / "metrics.csv").open("a") as file:
        file.write("2,test,0.9,0.9,0.9,0.9,0.9,0.9,\n")
    assert [(row["epoch"], row["acc"]) for row in table(capsys, folder)] == [("2", "0.9")]
    longer = run(tmp_path / "b", done=3, resumed=[{"after_epoch": 2, "changed": {"epochs": [2, 4]}}])
    assert [row["epoch"] for row in table(capsys, longer)] == ["3/4"]


def test_run_that_was_changed_on_its_way_is_none_of_those_that_began_so(tmp_path, capsys):
    """Whether in its own folder or in that of another run, whose arguments are then those of now."""
    began_so = [run(tmp_path / f"s{seed}", seed=seed, batch_size=64, start_epoch=None) for seed in (0, 1)]
    changed = [{"after_epoch": 2, "changed": {"batch_size": [32, 64], "epochs": [2, 4]}}]
    changed.append({"after_epoch": 3, "changed": {"batch_size": [64, 16], "start_epoch": [None, 0]}})
    for place, batch_size in (("own", 32), ("other", 64)):
        folder = run(tmp_path / place, epochs=4, seed=2, batch_size=batch_size, start_epoch=None, resumed=changed)
        rows = table(capsys, *began_so, folder)
        assert [row["runs"] for row in rows] == ["2", "1"]
        assert set(rows[1]["differs_by"].removeprefix("--").split(" --")) == {
            "epochs=4",
            "batch-size=32, from epoch 3 on 64, from epoch 4 on 16",
            "start-epoch=None, from epoch 4 on 0",
        }


def test_epochs_that_were_not_measured_are_passed_over(tmp_path, capsys):
    folder = run(tmp_path / "a", 0.5, epochs=5, done=2)
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,,,,,,,,\n")
    assert [(row["epoch"], row["acc"]) for row in table(capsys, folder)] == [("3/5", "0.5")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (None, None, "is no run folder, and none is below it"),
        ("args.json", "[]", "args.json is damaged"),
        ("args.json", "{", "args.json is damaged"),
        ("metrics.csv", "a,b\n1,2\n", "metrics.csv is not a table of this project"),
        ("metrics.csv", "\0\xff", "metrics.csv"),
        ("metrics.csv", "epoch,split,acc\n1,test,abc\n", "metrics.csv is not a table of this project"),
        ("metrics.csv", "epoch,split,acc\n1,test,0.5,0.5\n", "metrics.csv is not a table of this project"),
        ("metrics.csv", "epoch,split,acc\n1,test,nan\n", "metrics.csv is not a table of this project"),
        ("metrics.csv", "epoch,split,acc\n1.0,test,0.5\n", "metrics.csv is not a table of this project"),
    ],
)
def test_bad_input_is_one_line(name, content, said, tmp_path):
    if name:
        (run(tmp_path / "a") / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=said):
        compare.main([str(tmp_path)])


def test_metric_that_no_run_has_is_named_with_those_that_there_are(tmp_path, capsys):
    run(tmp_path / "a")
    with pytest.raises(UserError, match="no run has 'ac'; there are acc, acsa"):
        compare.main([str(tmp_path), "--metrics=acc,ac"])
    assert list(table(capsys, tmp_path, "--metrics=low")[0]) == [
        "run",
        "result",
        "runs",
        "epoch",
        "low",
        "low_sd",
        "differs_by",
    ]


def test_one_run_under_two_names_counts_once(tmp_path, capsys, monkeypatch):
    folder = run(tmp_path / "a")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert [row["runs"] for row in table(capsys, "a", folder, "link")] == ["1"]


def test_runs_named_by_relative_and_absolute_paths_share_a_row(tmp_path, capsys, monkeypatch):
    run(tmp_path / "a", seed=0)
    other = run(tmp_path / "b", seed=1)
    monkeypatch.chdir(tmp_path)
    assert [row["run"] for row in table(capsys, "a", other)] == [f"{tmp_path}/{{a,b}}"]


@pytest.mark.parametrize("script", [compare, figures], ids=["compare", "figures"])
def test_command_without_a_run_is_one_line(script, capsys):
    with pytest.raises(SystemExit) as end:
        script.main([])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: the following arguments are required: RUN")


def test_column_that_is_no_number_is_no_metric(tmp_path):
    with pytest.raises(UserError, match="no run has 'split'; there are acc"):
        compare.main([str(run(tmp_path / "a")), "--csv", "--metrics=acsa,split"])


def test_result_of_the_model_before_the_training_went_on_is_told_and_stands_alone(tmp_path, capsys):
    went_on = [{"changed": {}, "started": "2026-01-03T00:00:00+00:00"}]
    for seed, resumed in enumerate(((), went_on)):
        folder = run(tmp_path / f"s{seed}", seed=seed, about={"started": "2026-01-01T00:00:00+00:00"}, resumed=resumed)
        run(folder, 0.75, "_aug", seed=seed, about={"started": "2026-01-02T00:00:00+00:00"})
    assert [(row["result"], row["runs"]) for row in table(capsys, tmp_path)] == [
        ("trained", "2"),
        ("Case 2", "1"),
        ("Case 2", "1"),
    ]
    for flag in ([], ["--csv"]):
        compare.main([str(tmp_path), *flag])
        out, err = capsys.readouterr()
        said = err if flag else out
        assert f"{tmp_path}/s1: Case 2 is of the model before its training, or re-training, went on" in said
        assert f"{tmp_path}/s0: Case 2" not in out + err


@pytest.mark.parametrize(
    ("taken", "epoch", "outdated"),
    [("checkpoint.pth", 1, True), ("checkpoint.pth", 2, False), ("model_best.pth", 1, False), ("copy.pth", 1, False)],
)
def test_result_of_an_epoch_before_the_last_is_told(taken, epoch, outdated, tmp_path, capsys):
    """Of a re-training that began while the training was at work."""
    folder = run(tmp_path / "a", about={"started": "2026-01-01T00:00:00+00:00"})
    about = {"started": "2026-01-02T00:00:00+00:00", "model": {"epoch": epoch, "step": 0}}
    run(folder, 0.75, "_aug", resume=str(folder / taken), about=about)
    compare.main([str(tmp_path)])
    said = capsys.readouterr().out
    assert ("Case 2 is of the model before its training" in said) == outdated
    apart = f"{folder}: Case 2 is of the model of epoch 1, trained of that of epoch 2"
    assert (apart in said) == (epoch == 1 and not outdated)
    assert is_of_another_model(RunFolder(folder, "_aug")) == outdated


def test_epoch_of_the_model_is_told_of_each_run_that_took_another_one(tmp_path, capsys):
    for seed, taken in enumerate((2, 1, 3)):
        folder = run(tmp_path / f"s{seed}", seed=seed)
        flags = {"seed": seed, "resume": str(folder / "model_best.pth")}
        run(folder, 0.75, "_aug", about={"model": {"epoch": taken, "step": 0}}, **flags)
    compare.main([str(tmp_path)])
    said = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert said == [
        f"{tmp_path}/s1: Case 2 is of the model of epoch 1, trained of that of epoch 2",
        f"{tmp_path}/s2: Case 2 is of the model of epoch 3, trained of that of epoch 2",
    ]


def test_another_subset_seed_where_nothing_is_drawn_is_a_copy(tmp_path, capsys):
    for seed in (0, 1):
        about = {"data": {"test": "same", "train": "same"}}
        run(tmp_path / f"s{seed}", seed=7, subset_seed=seed, about=about)
    compare.main([str(tmp_path)])
    said = f"{tmp_path}/s0 and {tmp_path}/s1 have the same training images and --seed: is one a copy?"
    assert capsys.readouterr().out.splitlines()[-1] == said
