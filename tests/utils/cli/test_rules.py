"""What flags mean together, beside a checkpoint's, and beside the main process's."""

import argparse

import pytest

import augment
import augment_ftl
import train
from utils.cli import rules
from utils.cli.rules import adopt, check_start, check_training, complete, default_prior_lr, follow, parse
from utils.errors import UserError

NEW_RUN_FLAGS = ("dataset", "evaluate", "start_epoch", "pretrained")  # of a command, which a continuation need not have
LAUNCH_FLAGS = ("multiprocessing_distributed", "ngpus", "world_size", "dist_backend")


def completed(*argv: str) -> argparse.Namespace:
    return parsed(*argv)[0]


def parsed(*argv: str) -> tuple[argparse.Namespace, set[str]]:
    """Arguments that are complete, and the names of those that were given."""
    args, given = parse(train.build_parser(), ["Digits_LT", *argv])
    complete(args, 512)
    return args, given


def test_dimensions_default_to_the_encoder():
    args = completed()
    assert (args.h_dim, args.z_dim, args.step_size) == (512, 512, 30)


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--h-dim=100"], "--h-dim 100"),
        (["--crop-size=300"], "--crop-size 300"),
        (["--cache-size=255"], "--cache-size 255 is smaller than --new-size 256"),
        (["--lr-step=3", "--T-max=4"], "--lr-step and --T-max"),
        (["--milestones=3", "--step-size=4"], "--milestones and --step-size"),
    ],
)
def test_flags_that_contradict_each_other(argv, word):
    with pytest.raises(UserError, match=word):
        completed(*argv)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--z-dim", "=8"),
        ("--generative", ""),
        ("--gmm-assign", "=label"),
        ("--initial-sigma", "=0.1"),
        ("--prior-lr", "=1"),
        ("--prior-variance", " 1 1"),
        ("--weight-reconst", "=0"),
        ("--weight-gmm", "=0"),
        ("--warmup-epochs", "=1"),
        ("--warmup-threshold", "=1"),
    ],
)
def test_plain_classifier_refuses_what_it_has_no_use_for_if_it_is_given(flag, value):
    args, given = parse(train.build_parser(), ["Digits_LT", "--arch=resnet32", *(flag + value).split()])
    with pytest.raises(UserError, match=rf"{flag}: resnet32 is a plain classifier.*--arch=resnet32_vae3"):
        complete(args, 64, plain=True, given=given)


@pytest.mark.parametrize(
    ("plain", "given", "weights"),
    [
        (False, [], (10.0, 0.1, 0.001)),
        (True, [], (1.0, 0.0, 0.0)),
        (True, ["--weight-cls=10"], (10.0, 0.0, 0.0)),
    ],
)
def test_cross_entropy_of_a_plain_classifier_has_weight_1_unless_said(plain, given, weights):
    args, names = parse(train.build_parser(), ["Digits_LT", *given])
    complete(args, 64, plain, names)
    assert (args.weight_cls, args.weight_reconst, args.weight_gmm) == weights


@pytest.mark.parametrize(
    "argv", [["--pretrained"], ["--resume=x.pth"], ["--resume=auto", "--evaluate"]], ids=lambda argv: argv[0]
)
def test_run_has_one_start(argv):
    args, _ = parse(train.build_parser(), ["Digits_LT", "--init=y.pth", *argv])
    with pytest.raises(UserError, match="--init.*give one of the two"):
        check_start(args)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--val-fraction=0.1", "--val-per-class=2"], "--val-fraction and --val-per-class.*give one of the two"),
        (["--prior-lr=1e-6", "--T-max=3"], "--prior-lr 1e-06 is below 1e-05, where the cosine of --T-max ends"),
        (["--weight-gmm=1000", "--T-max=3"], "--prior-lr, which is --lr over --weight-gmm, 5e-06 is below 1e-05"),
        (["--prior-variance", "2", "0.5"], "--prior-variance 2 0.5: the lower bound comes first"),
        (["--weight-gmm=0", "--prior-lr=1"], "^--prior-lr: --weight-gmm 0 leaves the prior as it is, leave it out"),
        (["--weight-gmm=0", "--prior-lr=1", "--prior-variance", "1", "2"], "--prior-lr and --prior-variance: --wei"),
    ],
)
def test_training_that_cannot_be_meant(argv, says):
    with pytest.raises(UserError, match=says):
        check_training(*parsed(*argv))


@pytest.mark.parametrize("argv", [["--prior-lr=0", "--T-max=3"], ["--prior-lr=1e-6"], ["--prior-variance", "1", "1"]])
def test_prior_may_stay_where_it_is(argv):
    check_training(*parsed(*argv))


def test_default_prior_rate_undoes_the_weight():
    assert default_prior_lr(5e-3, 1e-3) == pytest.approx(5)
    assert default_prior_lr(5e-3, 0) == 5e-3


def test_start_beside_auto_is_for_a_run_that_does_not_exist():
    args, _ = parse(train.build_parser(), ["Digits_LT", "--init=y.pth", "--resume=auto"])
    check_start(args)


def test_adopt_takes_what_was_not_given_and_refuses_what_differs():
    args = argparse.Namespace(lr=1.0, momentum=0.9, seed=3)
    adopt(args, {"seed"}, {"lr": 2.0, "seed": 3}, ("lr", "momentum", "seed"), "there")
    assert args == argparse.Namespace(lr=2.0, momentum=0.9, seed=3)
    args.epochs = 9
    adopt(args, {"epochs"}, {"epochs": 5}, ("epochs",), "there")
    assert args.epochs == 9
    adopt(args, set(), {"epochs": 5}, ("epochs",), "there")
    assert args.epochs == 5
    with pytest.raises(UserError, match="--lr is 2.0 here but 5.0 in there"):
        adopt(args, {"lr"}, {"lr": 5.0}, ("lr",), "there")


def test_ranks_follow_the_main_one_but_in_what_is_their_own():
    mine, _ = parse(train.build_parser(), ["Digits_LT", "--datadir=mine", "--workers=1"])
    main, _ = parse(train.build_parser(), ["Digits_LT", "--datadir=theirs"])
    resolved, _ = parse(train.build_parser(), ["Digits_LT", "--datadir=theirs", "--lr=0.5"])
    follow(mine, {"datadir", "workers"}, main, resolved, 1)
    assert (mine.datadir, mine.workers, mine.lr) == ("mine", 1, 0.5)
    mine, _ = parse(train.build_parser(), ["Digits_LT", "--workers=1"])
    follow(mine, {"workers"}, main, resolved, 1)  # a folder that it does not name is that of the main one
    assert mine.datadir == "theirs"
    other, _ = parse(train.build_parser(), ["Digits_LT", "--momentum=0.5"])
    with pytest.raises(UserError, match=r"--momentum is 0.5 for rank 3 but 0.9 for rank 0"):
        follow(other, {"momentum"}, main, resolved, 3)


@pytest.mark.parametrize(
    ("script", "own"),
    [
        (train, (*rules.TRAINING_FLAGS, *LAUNCH_FLAGS)),
        (augment, rules.RETRAINING_FLAGS),
        (augment_ftl, (*rules.RETRAINING_FLAGS, *augment_ftl.FLAGS)),
    ],
    ids=["train", "augment", "augment_ftl"],
)
def test_every_option_is_of_one_group(script, own):
    """One of no group would be lost where a run goes on, and its other value accepted without a word."""
    of_the_model = (*rules.MODEL_FLAGS, *rules.DATA_FLAGS, *rules.SCORING_FLAGS)
    compared, not_compared = (*of_the_model, *own), {*rules.SAME_RUN_FLAGS, *NEW_RUN_FLAGS}
    assert len(compared) == len(set(compared))
    assert not_compared.isdisjoint(compared)
    options = {action.dest for action in script.build_parser()._actions if action.dest != "help"}
    assert options <= not_compared.union(compared)
    assert set(own) <= options
