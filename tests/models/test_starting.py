"""What a model takes from another one's weights, and what it starts anew."""

import copy
from types import SimpleNamespace

import pytest
import torch

from models.classifier import PlainClassifier
from models.dgcmm import DGCMM
from models.starting import start_from, take_weights
from utils.distributed.world import World

ARCH = "resnet32_vae3"
ARGS = SimpleNamespace(init="x.pth", initial_sigma=None, weight_gmm=0.001, warmup_epochs=0, prior_lr=0.1)
ALL = ["encoder", "mu_head", "log_var_head", "classifier", "decoder", "prior"]


def dgcmm(classes=5, z_dim=8, seed=0, **kwargs):
    """A model with weights of its own."""
    return drawn(DGCMM(ARCH, classes, z_dim, 32, **kwargs), seed)


def plain(classes=5, seed=0, **kwargs):
    return drawn(PlainClassifier("resnet32", classes, **kwargs), seed)


def drawn(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            value.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    ("model", "other", "same_classes", "whole", "in_part"),
    [
        (dgcmm(), dgcmm(seed=1), True, ALL, []),
        (dgcmm(), dgcmm(seed=1), False, ["encoder", "mu_head", "log_var_head"], ["decoder"]),
        (dgcmm(), dgcmm(7, seed=1), False, ["encoder", "mu_head", "log_var_head"], ["decoder"]),
        (dgcmm(), dgcmm(z_dim=9, seed=1), True, ["encoder"], ["decoder"]),
        (dgcmm(), dgcmm(seed=1, cosine=True), True, [part for part in ALL if part != "classifier"], []),
        (dgcmm(), dgcmm(seed=1, generative=True), True, ["encoder"], ["decoder"]),
        (dgcmm(generative=True), dgcmm(seed=1, generative=True), True, ALL, []),
        (dgcmm(generative=True), dgcmm(seed=1, generative=True), False, ["encoder"], ["decoder"]),
        (dgcmm(z_dim=64), plain(seed=1), True, ["encoder"], []),  # of the same shape, and yet of other codes
        (plain(), dgcmm(z_dim=64, seed=1), True, ["encoder"], []),
        (plain(), plain(seed=1), True, ["encoder", "classifier"], []),
        (plain(), plain(seed=1), False, ["encoder"], []),
        (plain(cosine=True), plain(seed=1), True, ["encoder"], []),
    ],
    ids=[
        "the same",
        "other classes, as many",
        "more classes",
        "longer codes",
        "by the cosine",
        "generative into one that is not",
        "generative",
        "generative, other classes",
        "plain into DGCMM",
        "DGCMM into plain",
        "plain",
        "plain, other classes",
        "plain into cosine",
    ],
)
def test_what_fits_is_taken_and_the_rest_stays(model, other, same_classes, whole, in_part):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = other.state_dict()
    taken, left = start_from(model, state, same_classes)
    assert set(taken) == {*whole, *in_part}
    assert set(left) == {name.partition(".")[0] for name in before} - set(whole)
    for name, value in model.state_dict().items():
        part = name.partition(".")[0]
        if part not in in_part:
            assert torch.equal(value, state[name] if part in whole else before[name]), name


def test_decoder_reads_no_codes_of_other_heads():
    model, other = dgcmm(), dgcmm(seed=1, generative=True)
    before, theirs = copy.deepcopy(model.decoder.state_dict()), other.decoder.state_dict()
    start_from(model, other.state_dict(), same_classes=True)
    for name, value in model.decoder.state_dict().items():
        assert torch.equal(value, (before if name.startswith("project") else theirs)[name]), name


@pytest.mark.parametrize(("moved", "started"), [(True, True), (True, False), (False, False)])
def test_prior_of_another_model_counts_as_started_if_it_was(moved, started):
    """Not if the other run was stopped within its first epoch, whose steps have moved components placed at random."""
    model, other = dgcmm(), dgcmm(seed=1)
    about = {"class_names": list("abcde")}
    run = SimpleNamespace(model=model, about=about, state={}, world=World(), args=ARGS)
    other.prior.logits.data.mul_(moved)
    start = {"state_dict": other.state_dict(), "prior_started": started, **about, "arch": ARCH, "dataset": "x"}
    take_weights(run, start | {"epoch": 1})
    assert torch.equal(model.prior.means, other.prior.means)
    assert run.state == {"prior_started": started}
    found = model.responsible_component(torch.zeros(1, 8))
    assert (found >= 0).item() is moved  # where it was not, components mean nothing


@pytest.mark.parametrize("flag", [{"weight_gmm": 0}, {"warmup_epochs": 1}, {"prior_lr": 0}])
def test_prior_of_another_model_is_not_taken_where_nothing_keeps_it_at_the_codes(flag):
    model, other = dgcmm(), dgcmm(seed=1)
    before, about = copy.deepcopy(model.prior.state_dict()), {"class_names": list("abcde")}
    args = SimpleNamespace(**vars(ARGS) | flag)
    run = SimpleNamespace(model=model, about=about, state={}, world=World(), args=args)
    take_weights(run, {"state_dict": other.state_dict(), **about, "arch": ARCH, "dataset": "x", "epoch": 1})
    assert run.state == {"prior_started": False}
    assert all(torch.equal(value, before[name]) for name, value in model.prior.state_dict().items())
    assert torch.equal(model.mu_head.weight, other.mu_head.weight)


def test_classes_of_other_names_are_others_however_many():
    """Or in another order."""
    model, other = dgcmm(), dgcmm(seed=1)
    before = model.classifier.weight.clone()
    about = {"class_names": list("abcde")}
    run = SimpleNamespace(model=model, about=about, state={}, world=World(), args=ARGS)
    start = {"state_dict": other.state_dict(), "class_names": list("abced"), "arch": ARCH, "dataset": "x", "epoch": 1}
    take_weights(run, start)
    assert torch.equal(model.classifier.weight, before)
    assert torch.equal(model.mu_head.weight, other.mu_head.weight)
    assert run.state == {"prior_started": False}


def test_decoder_for_other_classes_keeps_what_is_of_pixels():
    model, other = dgcmm(), dgcmm(7, seed=1)
    gain = model.decoder.norms[0].gain.clone()
    start_from(model, other.state_dict(), same_classes=False)
    assert torch.equal(model.decoder.convolutions[1].weight, other.decoder.convolutions[1].weight)
    assert torch.equal(model.decoder.norms[0].norm.running_var, other.decoder.norms[0].norm.running_var)
    assert torch.equal(model.decoder.norms[0].gain, gain)
