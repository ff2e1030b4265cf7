"""A checkpoint found for a command is that of its run, or the user hears what differs."""

import shutil
from types import SimpleNamespace

import pytest

import augment
import train
from utils.cli.rules import BEFORE, adopt, parse
from utils.errors import UserError
from utils.preprocessing import Preprocessing
from utils.training.checkpoint import load_checkpoint, save_checkpoint
from utils.training.folder import RunFolder
from utils.training.resume import (
    adopt_places,
    description,
    find_checkpoint,
    find_trained,
    goes_back,
    require_same_data,
    terms_of_change,
)

SCHEDULES = {"T_max": 2, "lr_step": None, "step_size": None, "milestones": None}
STORED = {"epochs": 2, "batch_size": 50, "gamma": 0.1, **SCHEDULES}


@pytest.mark.parametrize("lies_here", [True, False])
def test_table_is_kept_by_its_place_unless_it_lies_in_the_folder_of_the_data(lies_here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if lies_here:
        (tmp_path / "t.csv").touch()
    args, _ = parse(train.build_parser(), ["CSV", "--csv=t.csv", "--datadir=data"])
    kept = description(args, ("a", "b"), [2, 1], {}, Preprocessing(True, "centre", 0, 16, 16))["args"]
    assert kept["csv"] == (str(tmp_path / "t.csv") if lies_here else "t.csv")
    assert kept["datadir"] == str(tmp_path / "data")


@pytest.mark.parametrize(("nodes", "batch_size"), [(1, 64), (2, 32), (64, 1)])
def test_batch_of_a_node_follows_from_the_number_of_nodes(nodes, batch_size, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}"])
    assert find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes)["epoch"] == 2
    assert args.batch_size == batch_size


@pytest.mark.parametrize("flags", [[], ["--evaluate"]], ids=["going on", "evaluation"])
def test_weights_of_the_loss_terms_come_from_the_checkpoint(flags, tmp_path, trained_digits):
    """By which a generative model scores labels, too."""
    checkpoint = load_checkpoint(trained_digits / "checkpoint.pth")
    weights = {"weight_cls": 3.0, "weight_reconst": 2.0, "weight_gmm": 0.5}
    save_checkpoint(tmp_path / "checkpoint.pth", checkpoint | {"args": checkpoint["args"] | weights})
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}", *flags])
    find_checkpoint(args, given, RunFolder(str(tmp_path), "_eval" if flags else ""), nodes=1)
    assert {name: getattr(args, name) for name in weights} == weights


def test_folders_come_from_the_checkpoint_unless_they_are_named():
    args = SimpleNamespace(datadir=".", cache_dir=None)
    adopt_places(args, set(), {"datadir": "/data", "cache_dir": None}, "there")
    assert args == SimpleNamespace(datadir="/data", cache_dir=None)
    args = SimpleNamespace(datadir="mine", cache_dir=None)
    adopt_places(args, {"datadir"}, {"datadir": "/data", "cache_dir": "/cache"}, "there")
    assert args == SimpleNamespace(datadir="mine", cache_dir="/cache")


def test_steps_that_nodes_cannot_share_are_named(tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}"])
    with pytest.raises(UserError, match="64 images a step, which 3 nodes cannot share"):
        find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes=3)


def test_batch_of_the_checkpoint_that_processes_cannot_share_is_named(tmp_path, trained_digits):
    words = ["Digits_LT", "--epochs=3", f"--resume={trained_digits}/checkpoint.pth"]
    args, given = parse(train.build_parser(), words)
    with pytest.raises(UserError, match="--batch-size 64 is the node's and cannot be shared by its 3 processes"):
        train.resolve(args, given, RunFolder(str(tmp_path)), SimpleNamespace(nodes=1, local_size=3))


def test_steps_that_nodes_cannot_share_may_be_of_another_size(tmp_path, trained_digits, caplog):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    flags = ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}", "--epochs=3", "--batch-size=20"]
    args, given = parse(train.build_parser(), flags)
    find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes=3)
    assert args.batch_size == 20
    assert "--batch-size is 20 now, 21.33 before: from epoch 3 on this is another run" in caplog.text


def going_on(*argv, epoch=2, step=0, kind="train", start_epoch=None):
    """What a command that goes on from a run with `STORED` makes of its flags."""
    args, given = parse(train.build_parser(), ["Digits_LT", *argv])
    stored = STORED | {"start_epoch": start_epoch}
    terms = terms_of_change(args, given, {"args": stored, "epoch": epoch, "step": step, "kind": kind})
    adopt(args, given, STORED, tuple(STORED), "there", terms=terms)
    return args


def test_more_epochs_may_have_another_schedule_which_takes_the_place_of_the_first():
    assert (going_on("--epochs=4").T_max, going_on("--epochs=4", "--T-max=4").T_max) == (2, 4)
    stepped = going_on("--epochs=4", "--lr-step=3", "--gamma=0.5")
    assert (stepped.T_max, stepped.lr_step, stepped.gamma, stepped.batch_size) == (None, 3, 0.5, 50)


def test_new_run_that_starts_at_epoch_0_goes_nowhere_back():
    stored = {"args": {"start_epoch": None}}
    assert [goes_back(SimpleNamespace(start_epoch=epoch), None) for epoch in (None, 0, 1)] == [False, False, True]
    assert [goes_back(SimpleNamespace(start_epoch=epoch), stored) for epoch in (None, 0, 1)] == [False, True, True]
    assert not goes_back(SimpleNamespace(start_epoch=0), {"args": {"start_epoch": 0}})


def test_run_that_has_gone_back_to_its_beginning_goes_on_by_the_same_command(trained_digits, tmp_path):
    content = load_checkpoint(trained_digits / "checkpoint.pth")
    content |= {"epoch": 0, "step": 3, "args": content["args"] | {"start_epoch": 0}}
    save_checkpoint(tmp_path / "checkpoint.pth", content)
    words = ["Digits_LT", f"--logdir={tmp_path}", "--resume=auto", "--start-epoch=0"]
    args, given = parse(train.build_parser(), [*words, f"--batch-size={content['args']['batch_size']}"])
    assert find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes=1)["step"] == 3


def test_batch_size_may_change_where_an_epoch_begins():
    assert going_on("--epochs=3", "--batch-size=25").batch_size == 25
    assert going_on("--batch-size=25", epoch=1).batch_size == 25
    assert going_on("--batch-size=25", "--start-epoch=1", epoch=1, step=3).batch_size == 25
    gone_back = {"epoch": 1, "step": 3, "start_epoch": 1}
    with pytest.raises(UserError, match="leave --batch-size out, give --start-epoch=0 too, or name"):
        going_on("--batch-size=25", "--start-epoch=1", **gone_back)
    assert going_on("--batch-size=25", "--start-epoch=0", **gone_back).batch_size == 25
    with pytest.raises(UserError, match="leave --batch-size out, or name another checkpoint"):
        going_on("--batch-size=25", epoch=0, step=3, start_epoch=0)


@pytest.mark.parametrize(
    ("argv", "where", "says"),
    [
        (["--T-max=4"], {}, "--T-max is 4 here but 2 in there: leave --T-max out, give more --epochs too, or name"),
        (["--T-max=4", "--epochs=2"], {"epoch": 1}, "leave --T-max out, give more --epochs too, or name another"),
        (["--gamma=0.5", "--epochs=1"], {"epoch": 1}, "--gamma is 0.5 here"),
        (["--batch-size=25"], {}, "leave --batch-size out, give more --epochs too, or name another"),
        (["--batch-size=25"], {"epoch": 1, "step": 3}, "leave --batch-size out, give --start-epoch=1 too, or name"),
        (["--batch-size=25"], {"epoch": 1, "step": 3, "kind": "aug"}, "leave --batch-size out, or name another"),
    ],
)
def test_what_may_not_change_is_named_with_what_would_allow_it(argv, where, says):
    with pytest.raises(UserError, match=says):
        going_on(*argv, **where)


def test_checkpoint_from_before_a_flag_does_not_take_it_now(trained_digits, tmp_path):
    content = load_checkpoint(trained_digits / "checkpoint.pth")
    content["args"] = {name: value for name, value in content["args"].items() if name not in BEFORE}
    save_checkpoint(tmp_path / "checkpoint.pth", content)
    assert load_checkpoint(tmp_path / "checkpoint.pth")["args"].items() >= BEFORE.items()
    args, given = parse(train.build_parser(), ["Digits_LT", f"--logdir={tmp_path}", "--resume=auto", "--mixup=0.2"])
    with pytest.raises(UserError, match="--mixup is 0.2 here but 0.0 in .*: leave --mixup out"):
        find_checkpoint(args, given, RunFolder(args.logdir), nodes=1)


def test_run_that_another_starts_from_is_not_overwritten_by_it(tmp_path):
    (tmp_path / "metrics.csv").touch()
    argv = ["Digits_LT", f"--init={tmp_path}/checkpoint.pth", f"--logdir={tmp_path}", "--overwrite"]
    args, given = parse(train.build_parser(), argv)
    with pytest.raises(UserError, match="--overwrite would delete the run that --init starts from: name another --log"):
        find_checkpoint(args, given, RunFolder(args.logdir), nodes=1)
    args.logdir = str(tmp_path / "another")
    assert find_checkpoint(args, given, RunFolder(args.logdir), nodes=1) is None


def test_run_whose_checkpoint_is_gone_is_not_told_to_resume(tmp_path):
    (tmp_path / "metrics.csv").touch()
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}"])
    with pytest.raises(UserError, match="holds a run whose checkpoint.pth is gone: --overwrite it, or name another"):
        find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes=1)


@pytest.mark.parametrize("best", [None, {"epoch": 2}])
@pytest.mark.parametrize(
    ("name", "epochs", "told"),
    [
        ("checkpoint.pth", 2, ""),
        ("checkpoint.pth", 9, "checkpoint.pth is of a training that has not ended: 2 of 9 epochs"),
        ("model_best.pth", 2, ""),
        ("model_best.pth", 9, "model_best.pth is of a training that has not ended: 2 of 9 epochs"),
    ],
)
def test_training_that_has_not_ended_is_told_before_a_retraining(
    name, epochs, told, best, tmp_path, trained_digits, caplog
):
    """Also where its last epoch so far is the best; of the best one the last tells."""
    checkpoint = load_checkpoint(trained_digits / "checkpoint.pth")
    checkpoint["args"]["epochs"] = epochs
    save_checkpoint(tmp_path / "checkpoint.pth", checkpoint | {"best": best})
    save_checkpoint(tmp_path / "model_best.pth", checkpoint | {"epoch": 1, "best": {"epoch": 1}})
    argv = ["Digits_LT", f"--resume={tmp_path / name}", f"--logdir={tmp_path}"]
    args, given = parse(augment.build_parser(), argv)
    find_trained(args, given, RunFolder(str(tmp_path), "_aug"))
    assert [record.getMessage() for record in caplog.records if "has not ended" in record.getMessage()] == (
        [f"{tmp_path}/{told}"] if told else []
    )


def test_best_epoch_is_retrained_though_the_last_checkpoint_is_damaged(tmp_path, trained_digits, caplog):
    checkpoint = load_checkpoint(trained_digits / "checkpoint.pth")
    save_checkpoint(tmp_path / "model_best.pth", checkpoint | {"best": {"epoch": 1}})
    (tmp_path / "checkpoint.pth").write_bytes(b"half a check")
    argv = ["Digits_LT", f"--resume={tmp_path / 'model_best.pth'}", f"--logdir={tmp_path}"]
    args, given = parse(augment.build_parser(), argv)
    found = find_trained(args, given, RunFolder(str(tmp_path), "_aug"))
    assert found["epoch"] == checkpoint["epoch"]
    assert "model_best.pth: whether its training has ended cannot be told:" in caplog.text


def test_validation_images_that_have_changed_come_or_gone_are_named():
    """The best epoch on them is the result, so a run that has them is another one."""
    without, stored = {"train": "1", "test": "2"}, {"train": "1", "val": "3", "test": "2"}
    require_same_data(stored, dict(stored), "there")
    for before, now in ((stored, stored | {"val": "4"}), (without, stored), (stored, without)):
        with pytest.raises(UserError, match="the val images are not those of there"):
            require_same_data(before, now, "there")


def test_image_that_can_be_read_again_after_it_was_left_out_is_thought_of():
    with pytest.raises(UserError, match="check --datadir, remove one that --bad-images=skip had left out and that can"):
        require_same_data({"train": "1"}, {"train": "2"}, "there", skips=True)


def test_table_of_other_images_that_a_checkpoint_brings_is_told_aloud(tmp_path, trained_digits, caplog):
    """The labels of 1.jpg there are not those of 1.jpg here."""
    checkpoint = load_checkpoint(trained_digits / "checkpoint.pth")
    table = tmp_path / "labels.csv"
    table.touch()
    checkpoint |= {"dataset": "CSV", "args": checkpoint["args"] | {"datadir": "/then", "csv": str(table)}}
    save_checkpoint(tmp_path / "checkpoint.pth", checkpoint)
    caplog.set_level("INFO", "dgcmm")
    for place, level in (("/then", "INFO"), ("/now", "WARNING")):
        words = ["CSV", "--evaluate", f"--datadir={place}", f"--resume={tmp_path}/checkpoint.pth"]
        args, given = parse(train.build_parser(), words)
        find_checkpoint(args, given, RunFolder(str(tmp_path / "new"), "_eval"), nodes=1)
        (told,) = (record for record in caplog.records if "--csv" in record.getMessage())
        assert (told.levelname, told.getMessage()) == (level, f"--csv: {table}, as in {tmp_path}/checkpoint.pth")
        caplog.clear()


def test_continued_run_says_how_it_began_whatever_its_command(tmp_path, trained_digits, caplog):
    for began in (False, True):
        checkpoint = load_checkpoint(trained_digits / "checkpoint.pth")
        checkpoint["args"]["pretrained"] = began
        save_checkpoint(tmp_path / "checkpoint.pth", checkpoint)
        argv = ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}", *([] if began else ["--pretrained"])]
        args, given = parse(train.build_parser(), argv)
        find_checkpoint(args, given, RunFolder(str(tmp_path)), nodes=1)
        assert args.pretrained == began
    assert caplog.text.count("did not start from ImageNet weights, and is continued as it is") == 1


def test_batch_of_a_run_on_several_nodes_is_that_of_all(tmp_path, trained_digits):
    checkpoint = load_checkpoint(trained_digits / "checkpoint.pth")
    save_checkpoint(tmp_path / "checkpoint.pth", checkpoint | {"nodes": 2})
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto", f"--logdir={tmp_path}"])
    find_checkpoint(args, given, RunFolder(str(tmp_path)), 1)
    assert args.batch_size == 128


def test_run_whose_checkpoint_is_a_link_to_another_disk_goes_on(trained_digits, tmp_path):
    folder, disk = shutil.copytree(trained_digits, tmp_path / "run"), tmp_path / "disk"
    disk.mkdir()
    shutil.move(folder / "checkpoint.pth", disk / "checkpoint.pth")
    (folder / "checkpoint.pth").symlink_to(disk / "checkpoint.pth")
    args, given = parse(train.build_parser(), ["Digits_LT", "--resume=auto"])
    assert find_checkpoint(args, given, RunFolder(folder), nodes=1)["epoch"] == 2
