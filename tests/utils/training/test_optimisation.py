"""Optimizer groups, and schedules as functions of the number of epochs."""

import argparse
import math
import warnings

import pytest
import torch
from torch import nn

from utils.training.optimisation import build_optimizer, build_scheduler, calmer, log_rates, step_schedule

BASE = argparse.Namespace(
    lr=0.1,
    prior_lr=2.0,
    momentum=0.9,
    wd=1e-4,
    lr_step=None,
    milestones=None,
    T_max=None,
    step_size=None,
    gamma=0.1,
    lr_warmup_epochs=0,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.prior = nn.Linear(2, 2)


def rates(flags: dict, epochs: int, done: int = 0) -> list[float]:
    args = argparse.Namespace(**vars(BASE) | flags)
    optimizer = build_optimizer(Model(), args)
    scheduler = build_scheduler(optimizer, args, [args.lr, args.prior_lr], done)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def cosine(epoch: int, t_max: int) -> float:
    return 1e-5 + (0.1 - 1e-5) * (1 + math.cos(math.pi * epoch / t_max)) / 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"lr_step": 2}, [0.1, 0.1, 0.01, 0.01, 0.001]),
        ({"step_size": 3, "gamma": 0.5}, [0.1, 0.1, 0.1, 0.05, 0.05]),
        ({"milestones": [1, 4]}, [0.1, 0.01, 0.01, 0.01, 0.001]),
        ({"T_max": 2}, [cosine(epoch, 2) for epoch in range(5)]),  # down, and up again
    ],
)
def test_schedules(flags, expected):
    assert rates(flags, 5) == pytest.approx(expected)


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("done", [0, 3])
def test_rate_of_0_stays_0_where_the_cosine_has_a_floor(done, warm):
    args = argparse.Namespace(**vars(BASE) | {"prior_lr": 0.0, "T_max": 4, "lr_warmup_epochs": warm})
    optimizer = build_optimizer(Model(), args)
    scheduler = build_scheduler(optimizer, args, [args.lr, args.prior_lr], done)
    for _ in range(done, 6):
        assert optimizer.param_groups[1]["lr"] == 0
        step_schedule(scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(cosine(6, 4))


@pytest.mark.parametrize("flags", [{"lr_step": 2}, {"milestones": [2, 4], "gamma": 0.5}, {"T_max": 5}])
def test_warm_up_rises_in_equal_parts_of_any_schedule_and_leaves_the_rest_as_it_is(flags):
    warm, cold = rates(flags | {"lr_warmup_epochs": 3}, 7), rates(flags, 7)
    assert warm[:3] == pytest.approx([cold[0] / 3, cold[1] * 2 / 3, cold[2]])
    assert warm[2:] == cold[2:]


def test_warm_up_is_that_of_ldam_drw_on_cifar():
    """Its cifar_train.py: lr epoch/5 in epochs 1 to 5, lr / 100 after epoch 160, lr / 10,000 after epoch 180."""
    found = rates({"milestones": [160, 180], "gamma": 0.01, "lr_warmup_epochs": 5}, 200)
    expected = [0.1 * epoch / 5 for epoch in range(1, 6)] + [0.1] * 155 + [1e-3] * 20 + [1e-5] * 20
    assert found == pytest.approx(expected)


def test_warm_up_is_of_the_prior_too():
    args = argparse.Namespace(**vars(BASE) | {"T_max": 4, "lr_warmup_epochs": 4})
    optimizer = build_optimizer(Model(), args)
    build_scheduler(optimizer, args, [args.lr, args.prior_lr], 0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 / 4, 2.0 / 4])


WARM = {"T_max": 4, "lr_warmup_epochs": 3}


@pytest.mark.parametrize("flags", [{"lr_step": 2}, {"milestones": [1, 4]}, {"T_max": 2}, WARM])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_schedule_of_a_resumed_run_continues_bit_for_bit(flags, done):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates(flags, 5 - done, done) == rates(flags, 5)[done:]


@pytest.mark.parametrize(
    ("flags", "done", "planned", "level", "said"),
    [
        ({"T_max": 4}, 0, None, "", ""),
        ({"lr_step": 2}, 0, None, "", ""),
        ({"lr_step": 2}, 1, 4, "", ""),
        ({"T_max": 4}, 1, 2, "INFO", "learning rate 0.0854 in epoch 2, 0.0147 in epoch 4"),
        ({"lr_step": 2}, 3, 3, "INFO", "learning rate 0.01 in epoch 4"),
        (
            *({"T_max": 2}, 0, None, "INFO"),
            "--T-max 2 of 4 epochs: the learning rate rises again from epoch 4 on, to 0.05 in epoch 4",
        ),
        (
            {"step_size": 30, "lr_warmup_epochs": 2},
            *(0, None, "INFO"),
            "learning rate 0.05 in epoch 1, 0.1 in epoch 2, 0.1 in epoch 4",
        ),
        ({"step_size": 30, "lr_warmup_epochs": 9}, *(3, None, "INFO"), "learning rate 0.0444 in epoch 4"),
        ({"step_size": 30, "lr_warmup_epochs": 2}, *(2, None, "", "")),
        ({"lr_step": 4}, 0, None, "WARNING", "--lr-step 4 of 4 epochs: the learning rate stays 0.1"),
        ({"milestones": [4, 9]}, 0, None, "WARNING", "--milestones 4 9 of 4 epochs: the learning rate stays 0.1"),
        ({"milestones": [3, 9]}, 0, None, "", ""),
        (
            *({"T_max": 1}, 2, 2, "WARNING"),
            "--T-max 1 of 4 epochs: the learning rate rises again from epoch 3 on, to 0.1 in epoch 3; --T-max=4 would "
            "not",
        ),
    ],
)
def test_where_the_learning_rate_goes_is_said(flags, done, planned, level, said, caplog):
    caplog.set_level("INFO", "dgcmm")
    log_rates(argparse.Namespace(**vars(BASE) | flags, epochs=4), done, planned)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == ([(level, said)] if said else [])


def test_schedule_ignores_the_rate_that_a_checkpoint_restored():
    args = argparse.Namespace(**vars(BASE) | {"T_max": 4})
    optimizer = build_optimizer(Model(), args)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["initial_lr"] = 0.007
    build_scheduler(optimizer, args, [args.lr, args.prior_lr], 2)
    assert optimizer.param_groups[0]["lr"] == rates({"T_max": 4}, 3)[2]


def test_prior_is_a_group_of_its_own_without_decay():
    model = Model()
    network, prior = build_optimizer(model, BASE).param_groups
    assert (prior["lr"], prior["weight_decay"], prior["momentum"]) == (2.0, 0.0, 0.9)
    assert (network["lr"], network["weight_decay"]) == (0.1, 1e-4)
    assert {id(p) for p in prior["params"]} == {id(p) for p in model.prior.parameters()}
    assert {id(p) for p in network["params"]} == {id(p) for p in model.head.parameters()}


def test_no_momentum_and_no_decay_reach_what_has_no_gradient():
    model = Model()
    optimizer = build_optimizer(model, BASE)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.head(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_part_whose_first_gradient_comes_later_starts_with_its_own_momentum():
    """As after a warm-up; compared with plain SGD, which keeps no momentum for the part until then."""
    model = Model()
    network, prior = list(model.head.parameters()), list(model.prior.parameters())
    plain = [value.detach().clone().requires_grad_() for value in (*network, *prior)]
    reference = torch.optim.SGD(
        [{"params": plain[:2]}, {"params": plain[2:], "lr": BASE.prior_lr, "weight_decay": 0.0}],
        **{"lr": BASE.lr, "momentum": BASE.momentum, "weight_decay": BASE.wd, "foreach": False},
    )
    optimizer = build_optimizer(model, BASE)
    for step, late in enumerate((False, True, True)):
        torch.manual_seed(step)
        for value, other in zip((*network, *prior), plain, strict=True):
            gradient = torch.randn_like(value)
            if late or value is network[0]:
                value.grad, other.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    for value, other in zip((*network, *prior), plain, strict=True):
        torch.testing.assert_close(value, other)


def test_flags_that_calm_a_training_are_those_it_has():
    """Clipping that is off cannot be lowered."""
    assert calmer(5.0, True) == "lower --lr, --prior-lr or --clip-grad (now 5)"
    assert calmer(0.0) == "lower --lr, or give --clip-grad=5"
