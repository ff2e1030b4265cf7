"""The command lines: frozen flags, values in range, and what a checkpoint contributes."""

import argparse
import os
import re

import pytest

import augment
import augment_ftl
import predict
import train
from helpers.project import ROOT
from utils.cli.rules import parse
from utils.cli.types import path

COMMON = [
    "--help",
    "--datadir",
    "--logdir",
    "--dummy",
    "--cache-dir",
    "--csv",
    "--names",
    "--imbalance-factor",
    "--subset-scale",
    "--train-transform",
    "--cache-size",
    "--bad-images",
    "--overwrite",
    "--quiet",
    "--no-figures",
    "--dataset-manifest",
    "--download-jobs",
    "--keep-archives",
    "--print-freq",
    "--arch",
    "--h-dim",
    "--z-dim",
    "--new-size",
    "--crop-size",
    "--generative",
    "--subset-seed",
    "--epochs",
    "--batch-size",
    "--lr",
    "--learning-rate",
    "--momentum",
    "--wd",
    "--weight-decay",
    "--clip-grad",
    "--max-steps",
    "--save-every",
    "--eval-every",
    "--seed",
    "--lr-step",
    "--lr-warmup-epochs",
    "--milestones",
    "--T-max",
    "--gamma",
    "--step-size",
    "--workers",
    "--gpu",
    "--amp",
    "--deterministic",
    "--resume",
]
TRAIN = [
    "--evaluate",
    "--start-epoch",
    "--pretrained",
    "--init",
    "--freeze-encoder",
    "--compile",
    "--val-fraction",
    "--val-per-class",
    "--loss",
    "--sampler",
    "--mixup",
    "--weight-cls",
    "--weight-reconst",
    "--weight-gmm",
    "--gmm-assign",
    "--initial-sigma",
    "--prior-lr",
    "--prior-variance",
    "--warmup-epochs",
    "--warmup-threshold",
    "--multiprocessing-distributed",
    "--ngpus",
    "--world-size",
    "--rank",
    "--dist-url",
    "--dist-backend",
    "--dist-timeout",
    "--sync-bn",
]
PREDICT = [
    "--help",
    "--out",
    "--codes",
    "--prior",
    "--overwrite",
    "--quiet",
    "--batch-size",
    "--workers",
    "--gpu",
    "--amp",
]
SHORT = {"-h", "-p", "-a", "-b", "-j"}
SCRIPTS = {
    "train": (train, {*COMMON, *TRAIN, *SHORT, "-e"}),
    "augment": (augment, {*COMMON, *SHORT, "--start"}),
    "augment_ftl": (augment_ftl, {*COMMON, *SHORT, "--start", "--rep-method", "--ftl-rank"}),
    "predict": (predict, {*PREDICT, "--amp", "-h", "-b", "-j"}),
}
# every numeric flag of train.py with values that it must refuse
OUT_OF_RANGE = {
    "--download-jobs": ["0", "-1", "1.5", "nan", "2147483648"],
    "--epochs": ["0", "-1", "1.5", "nan", "x", "100001"],
    "--batch-size": ["0", "-1", "nan", "2147483648"],
    "--workers": ["-1", "nan", "2147483648"],
    "--start-epoch": ["-1", "nan", "2147483648"],
    "--lr": ["0", "-1", "nan", "inf"],
    "--momentum": ["-0.1", "1", "nan"],
    "--wd": ["-1", "nan", "inf"],
    "--clip-grad": ["-1", "nan", "inf"],
    "--lr-warmup-epochs": ["-1", "nan", "2147483648"],
    "--lr-step": ["0", "-1", "nan", "2147483648"],
    "--milestones": ["0", "-3", "nan", "30,20", "30,30", "2147483648"],
    "--T-max": ["0", "-1", "nan", "2147483648"],
    "--gamma": ["0", "-1", "1.1", "nan"],
    "--step-size": ["0", "-1", "nan", "2147483648"],
    "--print-freq": ["0", "-1", "nan", "2147483648"],
    "--seed": ["-1", "nan", "9223372036854775808"],
    "--subset-seed": ["-1", "nan"],
    "--gpu": ["-1", "nan", "2147483648"],
    "--new-size": ["0", "-1", "nan", "65537"],
    "--crop-size": ["0", "-1", "nan", "65537"],
    "--cache-size": ["-1", "nan", "65537"],
    "--imbalance-factor": ["0", "0.5", "nan", "inf"],
    "--subset-scale": ["0", "-1", "nan", "inf", "1e308"],
    "--val-fraction": ["-0.1", "1", "nan"],
    "--val-per-class": ["-1", "1.5", "nan", "2147483648"],
    "--warmup-epochs": ["-1", "nan", "2147483648"],
    "--warmup-threshold": ["0", "-1", "nan"],
    "--z-dim": ["0", "-1", "nan", "1048577", "4000000000000000000", "100000000000000000000"],
    "--h-dim": ["0", "-1", "nan", "1048577", "4000000000000000000", "100000000000000000000"],
    "--mixup": ["-1", "nan", "inf"],
    "--weight-cls": ["-1", "nan", "inf"],
    "--weight-reconst": ["-1", "nan", "inf"],
    "--weight-gmm": ["-1", "nan", "inf"],
    "--prior-lr": ["-1", "nan", "inf"],
    "--initial-sigma": ["0", "-1", "nan", "1e3"],
    "--prior-variance": ["1", "0 1", "-1 1", "1 nan", "1 1e5"],
    "--max-steps": ["0", "-1", "nan", "2147483648"],
    "--eval-every": ["0", "-1", "nan", "2147483648"],
    "--save-every": ["-1", "nan", "2147483648"],
    "--ngpus": ["0", "-1", "nan", "2147483648"],
    "--world-size": ["0", "-1", "nan", "2147483648"],
    "--rank": ["-1", "nan", "2147483648"],
    "--dist-timeout": ["0", "-1", "nan", "99999999999"],
}


def actions(module) -> list[argparse.Action]:
    return module.build_parser()._actions


@pytest.mark.parametrize("name", SCRIPTS)
def test_set_of_flags_is_frozen(name):
    module, expected = SCRIPTS[name]
    assert {flag for action in actions(module) for flag in action.option_strings} == expected


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_is_read(name):
    module, _ = SCRIPTS[name]
    sources = [ROOT / f"{script}.py" for script in {name, "augment" if name == "augment_ftl" else name}]
    if name != "predict":  # which hands its arguments to nobody
        sources += [path for folder in ("utils", "models", "datasets") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in sources if path.name != "arguments.py")
    assert {action.dest for action in actions(module)} - {"help"} <= set(re.findall(r"args\.(\w+)", code))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_has_help_and_says_its_default(name):
    for action in actions(SCRIPTS[name][0]):
        assert action.help, action
        if action.option_strings and action.nargs != 0 and not action.required:  # it takes a value
            assert "(default: " in action.help, action
            assert action.default is not None or "%(default)s" not in action.help, action


def test_epoch_and_worker_are_prefixes_of_one_flag_each():
    args, given = parse(train.build_parser(), ["Digits_LT", "--epoch=7", "--worker=3"])
    assert (args.epochs, args.workers) == (7, 3)
    assert {"epochs", "workers", "dataset"} == given


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, values in OUT_OF_RANGE.items() for value in values]
)
def test_value_out_of_range_is_refused(flag, value, script):
    words = [flag, *value.split()] if " " in value else [f"{flag}={value}"]
    done = script("train", "Digits_LT", *words)
    assert done.status == 2
    assert flag in done.error


def test_path_in_an_old_encoding_is_refused(script):
    done = script("train", "Digits_LT", "--logdir=" + os.fsdecode(b"caf\xe9"))
    assert done.status == 2
    assert r"--logdir: the path 'caf\udce9', or the locale, is not UTF-8: rename it" in done.error


def test_every_number_of_train_is_tried_out_of_range():
    numeric = {a.option_strings[-1] if a.option_strings[-1] in OUT_OF_RANGE else a.option_strings[0] for a in numbers()}
    assert numeric <= set(OUT_OF_RANGE)


def numbers() -> list[argparse.Action]:
    return [a for a in actions(train) if a.type not in (None, path)]


@pytest.mark.parametrize("flag", ["--ftl-rank=0", "--ftl-rank=nan", "--ftl-rank=1048577", "--rep-method=other"])
def test_value_of_augment_ftl_out_of_range_is_refused(flag, script):
    done = script("augment_ftl", "Digits_LT", "--resume=auto", flag)
    assert done.status == 2
    assert flag.partition("=")[0] in done.error


@pytest.mark.parametrize(("text", "epochs"), [(["30,60"], [30, 60]), (["30", "60"], [30, 60]), (["5"], [5])])
def test_milestones_with_commas_or_blanks(text, epochs):
    args, _ = parse(train.build_parser(), ["Digits_LT", "--milestones", *text])
    assert args.milestones == epochs
