"""What the steps of a re-training compute, and what it starts from."""

import argparse

import pytest
import torch
import torch.nn.functional as F

import augment
import augment_ftl
from codes import extract
from datasets.splits import complete_data, load_splits
from helpers.codes import ARGS, DIM, loader_of, model_of
from helpers.runs import run_without_folder
from models.samplers import FeatureTransferSampler, PosteriorSampler
from utils.cli.rules import parse
from utils.distributed.world import World
from utils.errors import UserError
from utils.randomness import standard_normal
from utils.training.folder import RunFolder
from utils.training.position import Position
from utils.training.resume import find_trained

COUNTS = (120, 30, 10)


def sampler_of(sampler_class):
    torch.manual_seed(1)
    targets = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    return sampler_class(torch.randn(160, DIM), torch.rand(160, DIM), targets, 3, ARGS.seed)


@pytest.mark.parametrize("sampler_class", [PosteriorSampler, FeatureTransferSampler])
def test_steps_are_those_of_a_plain_loop(sampler_class):
    sampler, model, plain = sampler_of(sampler_class), model_of(), model_of()
    settings = {"lr": ARGS.lr, "momentum": ARGS.momentum, "weight_decay": ARGS.wd}
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    run = run_without_folder(ARGS, model, torch.optim.SGD(model.classifier.parameters(), **settings))
    run.epoch = 2
    assert augment.train_epoch(run, sampler) == [120, 120, 120]
    optimizer = torch.optim.SGD(plain.classifier.parameters(), **settings)
    sources, labels = sampler.plan(2)
    for step in range(ARGS.max_steps):
        rows = slice(20 * step, 20 * step + 20)
        noise = standard_normal(20, DIM, ARGS.seed, 2, step)
        optimizer.zero_grad()
        codes = sampler.codes(sources[rows], labels[rows], noise)
        F.cross_entropy(plain.classifier(codes), labels[rows]).backward()
        optimizer.step()
    torch.testing.assert_close(model.classifier.weight, plain.classifier.weight)
    assert run.position == Position(6, 120, run.position.totals)


def test_first_loss_is_that_of_an_epoch_in_which_nothing_moves():
    sampler, model = sampler_of(PosteriorSampler), model_of()
    batches = augment.plan_batches(sampler, 0, ARGS, torch.device("cpu"))[: ARGS.max_steps]
    first = augment.measure_first_loss(model, sampler, batches, ARGS.seed)
    run = run_without_folder(ARGS, model, torch.optim.SGD(model.classifier.parameters(), lr=0.0))
    augment.train_epoch(run, sampler)
    assert run.mean_terms() == pytest.approx([first])


def test_flags_of_case_1_choose_the_counts_and_the_rank():
    source = sampler_of(PosteriorSampler)
    codes = {"mu": source.mu, "sigma": source.sigma, "targets": source.targets}
    args = argparse.Namespace(seed=5, rep_method="get_rep_nums2", ftl_rank=2)
    sampler = augment_ftl.transfer_sampler(codes, 3, args)
    assert sampler.wanted == [120, 120, 30]
    assert sampler.basis.shape == (DIM, 2)
    assert sampler.seed == augment.posterior_sampler(codes, 3, args).seed == 5


@pytest.mark.parametrize(
    ("start", "loss", "sampler", "says"),
    [
        ("adjusted", "ce", "instance", None),
        ("trained", "logit-adjust", "balanced", None),
        ("adjusted", "focal", "instance", None),
        ("adjusted", "logit-adjust", "instance", "--loss logit-adjust has balanced the classes already"),
        ("adjusted", "class-balanced", "instance", "--loss class-balanced has balanced the classes already"),
        ("adjusted", "ce", "balanced", "--sampler balanced has balanced the classes already"),
        ("adjusted", "ce", "sqrt", "--sampler sqrt has balanced the classes already"),
    ],
)
def test_classes_that_are_balanced_twice_are_told(start, loss, sampler, says, caplog):
    trained = {"args": {"sampler": sampler}, "class_counts": [400, 40, 4]}
    augment.check_adjusted_start(argparse.Namespace(start=start, loss=loss), trained)
    assert len(caplog.messages) == bool(says)
    assert (says or "") in caplog.text


def test_adjusted_start_is_the_trained_classifier_without_the_class_shares(trained_digits):
    flags = ["Digits_LT", "--start=adjusted", f"--logdir={trained_digits}", "--resume=auto", "--quiet"]
    args, given = parse(augment.build_parser(), flags)
    trained = find_trained(args, given, RunFolder(args.logdir, "_aug"))
    complete_data(args)
    model = augment.load_trained_model(args, trained, load_splits(args, augment=False), World())
    shares = torch.tensor([130, 110, 80, 60, 45, 35, 25, 20, 12, 6]) / 523
    torch.testing.assert_close(model.classifier.bias, trained["state_dict"]["classifier.bias"] - shares.log())
    assert torch.equal(model.classifier.weight, trained["state_dict"]["classifier.weight"])


def test_classifier_by_the_cosine_has_nothing_to_adjust():
    with pytest.raises(UserError, match="--start adjusted: the classifier of --loss ldam-drw .* no bias"):
        augment.check_adjusted_start(argparse.Namespace(start="adjusted", loss="ldam-drw"), {"args": {}})


def test_classifier_that_goes_astray_is_told_of_the_flags_of_a_re_training():
    model, loader = model_of(), loader_of(6, 3)
    codes = extract(model, loader, False, ARGS, torch.device("cpu"))
    with torch.no_grad():
        model.classifier.bias[1] = torch.nan
    with pytest.raises(
        UserError, match="^the probabilities are not finite: lower --lr, or give --clip-grad=5, or give --amp=off"
    ):
        augment.classify(model, codes, ARGS, World(torch.device("cpu")))


def test_signal_is_looked_for_before_each_batch_of_a_measurement(monkeypatch):
    model, loader, world, looked = model_of(), loader_of(6, 3), World(torch.device("cpu")), []
    codes = extract(model, loader, False, ARGS, world.device)
    monkeypatch.setattr(world, "check_stop", lambda: looked.append(len(looked)))
    augment.classify(model, codes, argparse.Namespace(**vars(ARGS) | {"batch_size": 4}), world)
    assert looked == [0, 1]
