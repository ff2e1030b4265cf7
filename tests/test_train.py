"""The loops of train.py: what a step sees, and what an epoch and an evaluation give."""

import argparse
import itertools
import math
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import train
from datasets.base import ArrayDataset
from datasets.loading import BatchLoader, EvaluationBatches, TrainBatches
from helpers.runs import run_without_folder
from models import starting
from models.dgcmm import DGCMM
from models.loading import build_model
from models.losses import LossTerms, LossWeights
from models.mixup import mix
from models.starting import start_prior
from utils import stopping
from utils.cli.rules import parse
from utils.device import to_unit_range
from utils.distributed.world import Vote, World
from utils.errors import UserError
from utils.metrics import require_finite
from utils.stopping import Stopped
from utils.training import step as step_module
from utils.training.optimisation import build_optimizer
from utils.training.position import Position

WEIGHTS = LossWeights(10.0, 0.1, 0.001)
CPU = torch.device("cpu")
ARGS = argparse.Namespace(
    **{"seed": 0, "amp": "off", "quiet": True, "print_freq": 100},
    **{"max_steps": None, "clip_grad": 0.0, "save_every": 0, "mixup": 0.0, "evaluate": False},
    **{"lr": 5e-3, "prior_lr": 5.0, "momentum": 0.9, "wd": 1e-4},
    **{"weight_cls": 10.0, "weight_reconst": 0.1, "weight_gmm": 0.001},
)


def as_tensor(image):
    return torch.from_numpy(np.asarray(image).copy())[None]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    targets = np.array([0] * 12 + [1] * 6 + [2] * 3)
    images = rng.integers(0, 80, (21, 32, 32), dtype=np.uint8) + (60 * targets).astype(np.uint8)[:, None, None]
    return ArrayDataset(images, "abc", targets, [f"i{n}" for n in range(21)], as_tensor)


def model_of(data, **kwargs):
    torch.manual_seed(0)
    return DGCMM("resnet18_vae3", 3, 8, 32, **kwargs)


class Recorder(nn.Module):
    """Stands for the model: records what the loop hands it, and whether it is in training mode."""

    def __init__(self, z_dim=4, loss=1.0):
        super().__init__()
        self.z_dim, self.loss = z_dim, loss
        self.weight = nn.Parameter(torch.ones(()))
        self.prior = nn.Identity()
        self.prior.project = lambda: None
        self.calls = []

    def forward(self, images, labels, noise, weights, mixed):
        assert self.training
        self.calls.append((images, labels, noise, weights, mixed))
        total = self.weight * self.loss
        return LossTerms(total, total, None, total)


def run(model, data, epoch=0, batch=8, **changes):
    args = argparse.Namespace(**vars(ARGS) | changes)
    loader = BatchLoader(data, TrainBatches(len(data), batch, args.seed), 0, False)
    optimizer = build_optimizer(model, args) if hasattr(model, "encoder") else torch.optim.SGD(model.parameters(), 0.1)
    started = run_without_folder(args, model, optimizer)
    started.epoch = epoch
    return train_epoch(started, loader)


def train_epoch(run, loader):
    train.train_epoch(run, run.model, loader, WEIGHTS)
    losses = train.mean_losses(run, WEIGHTS)
    run.epoch, run.position = run.epoch + 1, Position()
    return losses


def evaluate(model, data, batch):
    loader = BatchLoader(data, EvaluationBatches(len(data), batch), 0, False)
    return train.evaluate(model, loader, ARGS, World(), data.class_counts).predictions


def test_a_step_sees_images_in_0_1_labels_and_noise_of_their_size(data):
    model = Recorder()
    model.eval()
    run(model, data)
    assert [len(labels) for _, labels, *_ in model.calls] == [8, 8, 5]
    images, _, noise, weights, _ = model.calls[0]
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert noise.shape == (8, 4)
    assert weights is WEIGHTS


def test_noise_is_fresh_at_each_step_and_repeats_with_the_seed(data):
    one, two, other = Recorder(), Recorder(), Recorder()
    for model, epoch in ((one, 0), (two, 0), (other, 1)):
        run(model, data, epoch)
    noises = [[call[2] for call in model.calls] for model in (one, two, other)]
    assert not torch.equal(noises[0][0], noises[0][1])
    assert all(torch.equal(a, b) for a, b in zip(noises[0], noises[1], strict=True))
    assert not torch.equal(noises[0][0], noises[2][0])


def test_an_epoch_visits_every_image_once(data):
    model = Recorder()
    run(model, data)
    labels = torch.cat([call[1] for call in model.calls])
    assert torch.bincount(labels).tolist() == [12, 6, 3]


def test_mixup_draws_a_share_for_each_step_from_seed_and_epoch(data):
    models = {(seed, epoch): Recorder() for seed in (0, 1) for epoch in (0, 1)}
    for (seed, epoch), model in models.items():
        run(model, data, epoch, mixup=0.5, seed=seed)
    shares = [mixed.share for model in models.values() for *_, mixed in model.calls]
    assert len(set(shares)) == len(shares)
    assert all(0 <= share <= 1 for share in shares)
    again = Recorder()
    run(again, data, 1, mixup=0.5)
    assert [call[-1].share for call in again.calls] == [call[-1].share for call in models[0, 1].calls]


def test_step_sees_the_images_that_were_mixed_and_without_mixup_none_is(data):
    plain, model = Recorder(), Recorder()
    run(plain, data)
    run(model, data, mixup=0.5)
    for (images, labels, *_, nothing), (found, own, *_, mixed) in zip(plain.calls, model.calls, strict=True):
        expected, other = mix(images, labels, mixed.share)
        assert nothing is None
        assert torch.equal(found, expected)
        assert (own.tolist(), mixed.labels.tolist()) == (labels.tolist(), other.labels.tolist())


def test_steps_keep_the_variances_of_the_prior_within_their_bounds(data):
    model = model_of(data)
    model.prior.bound_variances(1.0, 1.0)
    run(model, data, max_steps=2)
    assert not model.prior.log_vars.any()
    assert model.prior.means.grad.any()


def test_max_steps_ends_the_epoch(data):
    model = Recorder()
    run(model, data, max_steps=2)
    assert len(model.calls) == 2


def test_first_loss_is_that_of_a_run_that_begins_and_of_a_begun_epoch_not_known(data):
    loader = BatchLoader(data, TrainBatches(len(data), 8, 0), 0, False)
    firsts = []
    for position in (Position(), Position(step=1, seen=8, totals=(5.0,) * 4)):
        model = model_of(data)
        started = run_without_folder(ARGS, model, build_optimizer(model, ARGS))
        started.position = position
        firsts.append(train.train_epoch(started, model, loader, WEIGHTS))
    assert firsts[1] == math.inf
    model = model_of(data)  # one step, whose mean is that of its batch before it
    one = run_without_folder(argparse.Namespace(**vars(ARGS) | {"max_steps": 1}), model, build_optimizer(model, ARGS))
    assert train.train_epoch(one, model, loader, WEIGHTS) == pytest.approx(firsts[0])
    losses = train.mean_losses(one, WEIGHTS)
    assert firsts[0] == pytest.approx(losses["loss_cls"])
    assert losses["loss"] > 2 * losses["loss_cls"]


def test_terms_of_weight_0_are_none(data):
    model = model_of(data)
    started = run_without_folder(ARGS, model, torch.optim.SGD(model.parameters(), 0.1))
    started.position = Position(1, 4, (8.0, 4.0, 0.0, 2.0))
    losses = train.mean_losses(started, LossWeights(1.0, 0.0, 2.0))
    assert losses == {"loss": 2.0, "loss_cls": 1.0, "loss_reconst": None, "loss_gmm": 0.5}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite_changes_no_weight(data, bad):
    model = Recorder(loss=bad)
    with pytest.raises(UserError, match="epoch 3, step 1"):
        run(model, data, epoch=2)
    assert model.weight.item() == 1.0


def test_clipping_bounds_the_network_and_leaves_the_prior_alone(data, monkeypatch):
    model = model_of(data)
    seen = {}
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: seen.update({n: p.grad.clone() for n, p in model.named_parameters()})
    )
    run(model, data, clip_grad=1e-3, max_steps=1)
    network = torch.stack([grad.norm() for name, grad in seen.items() if not name.startswith("prior.")]).norm()
    assert network.item() == pytest.approx(1e-3, rel=1e-3)
    clipped = seen["prior.means"]
    model = model_of(data)
    run(model, data, max_steps=1)
    torch.testing.assert_close(clipped, seen["prior.means"])


def test_training_lowers_the_loss(data):
    model = model_of(data)
    loader = BatchLoader(data, TrainBatches(len(data), 21, 0), 0, False)
    args = argparse.Namespace(**vars(ARGS) | {"clip_grad": 5.0})
    started = run_without_folder(args, model, build_optimizer(model, args))
    losses = [train_epoch(started, loader)["loss_cls"] for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]


class Reads(TorchFunctionMode):
    """Counts what waits for the device where a tensor is on one."""

    WAITING = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.WAITING:
            self.seen.append(function.__name__)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(("print_freq", "logged"), [(100, 0), (5, 2)])
def test_steps_of_a_gpu_wait_for_no_tensor_between_log_lines(print_freq, logged, monkeypatch):
    # the flag that has arrived on the host, and the vote, which never leaves it, cost no wait
    monkeypatch.setattr(step_module, "_on_its_way", lambda flag: SimpleNamespace(read=lambda: (False, False)))
    monkeypatch.setattr(Vote, "result", lambda self: (0, False))
    model = nn.Linear(4, 3)
    args = argparse.Namespace(**vars(ARGS) | {"print_freq": print_freq})
    started = run_without_folder(args, model, torch.optim.SGD(model.parameters(), 0.1, fused=True))
    started._stepper.late = True
    with Reads() as reads:
        for images in started.steps([torch.randn(2, 4)] * 10, [2] * 10):
            started.step([model(images).square().mean()], torch.arange(2))
    assert reads.seen == ["item"] * logged + ["tolist"]  # the totals, once at the end


def test_evaluation_is_of_every_image_once_in_evaluation_mode(data):
    model = model_of(data)
    model.train()
    found = evaluate(model, data, 8)
    assert found.indices.tolist() == list(range(21))
    assert found.targets.tolist() == data.targets.tolist()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    images = to_unit_range(torch.stack([data[index][0] for index in range(21)]), CPU)
    with torch.no_grad():
        mu, _ = model.eval().posterior(model.features(images), None)
        expected = model.classifier(mu).softmax(dim=1).numpy()
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4, atol=1e-6)


def test_batch_size_changes_no_prediction(data):
    model = model_of(data)
    found = [evaluate(model, data, size) for size in (4, 21)]
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, rtol=1e-4, atol=1e-6)


def test_component_of_an_image_is_found_without_its_label(data):
    """Of a generative model whose codes, and so their components, are those of the label that it is given."""
    model = model_of(data, generative=True)
    with torch.no_grad():
        model.mu_head.weight[:, -3:].normal_(std=5.0)
        model.prior.means.copy_(model.mu_head.weight[:, -3:].T)
        model.prior.logits.fill_(math.log(1 / 3))
    found = evaluate(model, data, 21)
    assert np.array_equal(found.components, found.probabilities.argmax(axis=1))
    assert not np.array_equal(found.components, data.targets)


def test_prior_starts_at_the_classes_codes_and_loses_its_momentum(data):
    model = model_of(data)
    loader = BatchLoader(data, TrainBatches(len(data), 21, 0), 0, False)
    started = run_without_folder(ARGS, model, build_optimizer(model, ARGS))
    train_epoch(started, loader)
    before = {name: value.clone() for name, value in model.named_buffers() if not name.startswith("prior.")}
    start_prior(started, loader, loader.batches.sizes)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers() if name in before)
    remembered = {name for name, value in model.named_parameters() if value in started.optimizer.state}
    assert remembered == {name for name, _ in model.named_parameters() if not name.startswith("prior.")}
    images = to_unit_range(torch.stack([data[index][0] for index in range(21)]), CPU)
    with torch.no_grad():
        mu, log_var = model.train().posterior(model.features(images), None)  # as a step does
    for c in range(3):
        own = torch.from_numpy(data.targets == c)
        torch.testing.assert_close(model.prior.means[c], mu[own].mean(dim=0), rtol=1e-4, atol=1e-5)
        spread = mu[own].var(dim=0, correction=0) + log_var[own].exp().mean(dim=0)
        torch.testing.assert_close(model.prior.log_vars[c], spread.log(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.prior.log_weights().exp(), torch.tensor([12, 6, 3]) / 21)


def test_priors_start_takes_the_images_of_an_epochs_steps_alone(data):
    model = model_of(data)
    args = argparse.Namespace(**vars(ARGS) | {"max_steps": 2})
    loader = BatchLoader(data, TrainBatches(len(data), 8, 0), 0, False)
    start_prior(run_without_folder(args, model, build_optimizer(model, args)), loader, loader.batches.sizes)
    labels = torch.cat([labels for _, labels, _ in itertools.islice(loader, 2)])
    torch.testing.assert_close(model.prior.log_weights().exp(), torch.bincount(labels, minlength=3) / 16)


def test_stop_within_the_priors_start_leaves_it_as_it_was(data, monkeypatch):
    model = model_of(data)
    before = {name: value.clone() for name, value in model.prior.state_dict().items()}
    started = run_without_folder(ARGS, model, build_optimizer(model, ARGS))
    loader = BatchLoader(data, TrainBatches(len(data), 8, 0), 0, False)

    def signalled(images, device):
        os.kill(os.getpid(), signal.SIGUSR1)
        return to_unit_range(images, device)

    monkeypatch.setattr(starting, "to_unit_range", signalled)
    with stopping.handled(), stopping.held(), pytest.raises(Stopped):
        start_prior(started, loader, loader.batches.sizes)
    assert not started.state["prior_started"]
    assert all(torch.equal(value, before[name]) for name, value in model.prior.state_dict().items())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probability_that_is_not_finite_is_the_users_to_mend(value):
    good, bad = np.full((2, 3), 1 / 3), np.array([[0.5, value, 0.5]])
    require_finite([good], "mend it")
    with pytest.raises(UserError, match="^the probabilities are not finite: mend it$"):
        require_finite([good, bad], "mend it")


def test_compilation_keeps_the_names_of_the_weights(monkeypatch):
    """By a stand-in for the compiler, whose import alone takes ten seconds."""
    monkeypatch.setattr(torch, "compile", lambda call: call)
    flags = ["Digits_LT", "--arch=resnet18_vae3", "--z-dim=8", "--crop-size=32", "--compile"]
    args, _ = parse(train.build_parser(), flags)
    compiled = build_model(World(), args, 3)
    assert compiled.encoder.resnet._compiled_call_impl is not None
    assert compiled.decoder._compiled_call_impl is not None
    args.compile = False
    assert list(compiled.state_dict()) == list(build_model(World(), args, 3).state_dict())


def test_prior_at_rate_0_stays_at_the_classes_codes_while_the_network_learns(data):
    model = model_of(data, gmm_assign="label")
    args = argparse.Namespace(**vars(ARGS) | {"prior_lr": 0.0})
    started = run_without_folder(args, model, build_optimizer(model, args))
    loader = BatchLoader(data, TrainBatches(len(data), 8, 0), 0, False)
    start_prior(started, loader, loader.batches.sizes)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for _ in range(2):
        train_epoch(started, loader)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert not {name for name in changed if name.startswith("prior.")}
