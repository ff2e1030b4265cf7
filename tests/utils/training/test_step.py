"""What is not finite reaches no weight, whether the host learns of it at once or a step late, as on a GPU."""

import math

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from utils.distributed.world import World
from utils.errors import UserError
from utils.training.step import LOWEST_SCALE, Stepper


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.prior = nn.Linear(1, 1)


def take(stepper, model, step, factor=1.0):
    loss = (model.weight.sum() + model.prior.weight.sum()) * factor
    return stepper.take(loss, f"epoch 5, step {step + 1}", torch.tensor([10 + step, 20 + step]))


def made(late, clip=0.0, scaler=None):
    torch.manual_seed(0)
    model = Model()
    groups = [{"params": [model.weight]}, {"params": model.prior.parameters(), "name": "prior"}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=late)
    return model, optimizer, Stepper(optimizer, clip, World(), scaler, late=late)


@pytest.mark.parametrize("late", [False, True])
def test_finite_steps_are_those_of_the_optimizer_alone(late):
    model, _, stepper = made(late)
    for step in range(3):
        assert take(stepper, model, step) == 0
    stepper.settle()
    plain, reference, _ = made(False)
    for _ in range(3):
        reference.zero_grad()
        (plain.weight.sum() + plain.prior.weight.sum()).backward()
        reference.step()
    torch.testing.assert_close(model.weight, plain.weight)
    torch.testing.assert_close(model.prior.weight, plain.prior.weight)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_bad_loss_changes_no_weight_and_is_named(late, factor):
    model, _, stepper = made(late)
    take(stepper, model, 0)
    before = model.weight.detach().clone()
    with pytest.raises(UserError, match=r"epoch 5, step 2, rank 0, images \[11, 21\]"):  # noqa: PT012
        for step in (1, 2):
            take(stepper, model, step, factor if step == 1 else 1.0)
    assert torch.equal(model.weight, before)


def test_late_bad_loss_spoils_its_gradient_by_which_other_processes_learn_of_it():
    model, _, stepper = made(True)
    stepper.take(model.weight.sum() + math.inf, "", torch.tensor([1]))  # whose own gradient is finite
    assert model.weight.grad.isnan().all()


@pytest.mark.parametrize("late", [False, True])
def test_bad_last_step_is_found_before_anything_is_saved(late):
    model, _, stepper = made(late)
    before = model.weight.detach().clone()
    with pytest.raises(UserError, match="step 1"):  # noqa: PT012
        take(stepper, model, 0, math.nan)
        stepper.settle()
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("part", ["network", "prior"])
def test_finite_loss_with_a_gradient_that_is_not(part, late):
    model, _, stepper = made(late)
    before = [value.detach().clone() for value in model.parameters()]
    bad, good = (model.weight, model.prior.weight) if part == "network" else (model.prior.weight, model.weight)
    with pytest.raises(UserError, match="not finite"):  # noqa: PT012
        loss = good.sum() + (bad - bad.detach()).abs().sqrt().sum()  # slope at 0 is infinite
        stepper.take(loss, "", torch.tensor([1]))
        stepper.settle()
    assert all(map(torch.equal, model.parameters(), before))


def test_network_is_clipped_and_the_prior_is_not():
    model, _, stepper = made(False, clip=0.5)
    take(stepper, model, 0)
    assert model.weight.grad.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert model.prior.weight.grad.item() == 1.0


LATE = pytest.mark.parametrize("late", [False, True])


@LATE
def test_scaled_loss_takes_the_same_steps(late):
    models = []
    for scaler in (None, GradScaler("cpu", init_scale=2.0**12)):
        model, _, stepper = made(late, clip=0.5, scaler=scaler)
        for step in range(3):
            assert take(stepper, model, step) == 0
        stepper.settle()
        models.append(model)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other)


@LATE
def test_overflow_skips_the_step_and_lowers_the_scale(late):
    scaler = GradScaler("cpu", init_scale=2.0**12)
    model, _, stepper = made(late, scaler=scaler)
    before = model.weight.detach().clone()
    take(stepper, model, 0, 1e38)  # which the scale carries beyond float32
    stepper.settle()
    assert torch.equal(model.weight, before)
    assert scaler.get_scale() == 2.0**11
    take(stepper, model, 1)
    stepper.settle()
    assert not torch.equal(model.weight, before)


@LATE
def test_overflow_at_the_lowest_scale_ends_the_run(late):
    model, _, stepper = made(late, scaler=GradScaler("cpu", init_scale=1.5 * LOWEST_SCALE))
    stepper.take((model.weight - model.weight.detach()).abs().sqrt().sum(), "", torch.tensor([1]))  # infinite slope
    with pytest.raises(UserError, match="--amp fp16: the gradient overflows"):
        stepper.settle()


@LATE
def test_scaled_loss_that_is_not_finite_is_named(late):
    model, _, stepper = made(late, scaler=GradScaler("cpu"))
    before = model.weight.detach().clone()
    with pytest.raises(UserError, match="step 1"):  # noqa: PT012
        take(stepper, model, 0, math.nan)
        stepper.settle()
    assert torch.equal(model.weight, before)


def test_process_whose_own_loss_is_bad_is_named_before_those_that_share_its_gradient():
    class Two(World):
        def gather(self, value: object) -> list:
            return [((False, True), [10]), ((True, True), [20])]

    model, optimizer, _ = made(late=False)
    stepper = Stepper(optimizer, 0.0, Two(), late=False)
    with pytest.raises(UserError, match=r"rank 1, images \[20\]"):
        stepper.take(model.weight.sum() * math.nan, "epoch 5, step 2", torch.tensor([10]))
