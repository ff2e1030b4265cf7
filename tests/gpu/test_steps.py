"""Steps, processes and scores on a GPU: the CPU's numbers, no hidden wait, nothing that is not finite in a weight."""

import argparse
import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch.amp import GradScaler

import augment
import train
from datasets.loading import BatchLoader, EvaluationBatches, TrainBatches
from helpers import ranks
from helpers.runs import run_without_folder
from helpers.trained import trained_like
from models.dgcmm import LossWeights
from models.samplers import FeatureTransferSampler, PosteriorSampler
from models.scoring import Scorer
from models.starting import start_prior
from utils.distributed.plan import Launch
from utils.distributed.spawn import spawn
from utils.distributed.world import World
from utils.errors import UserError
from utils.randomness import standard_normal
from utils.training.optimisation import build_optimizer, build_sgd
from utils.training.position import Position
from utils.training.run import Run
from utils.training.step import Stepper

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
RATE = 1e-4  # so low that rounding does not grow beyond what is compared


def run_of(model, device, scaler=None, **changes):
    """A run without a folder, whose steps are those of train.py."""
    args = argparse.Namespace(**vars(ranks.ARGS) | changes)
    run = run_without_folder(args, model, build_optimizer(model, args), World(device))
    run._stepper = Stepper(run.optimizer, args.clip_grad, run.world, scaler)
    return run


def losses(device, dtype, frozen, monkeypatch):
    """The terms of 20 steps in `dtype`, with the same noise on every device: (20,4).

    With batch norm `frozen`, as rounding grows a thousandfold where it is not.
    """

    def noise(count, dim, seed, epoch, step, where):
        return standard_normal(count, dim, seed, epoch, step).to(where, torch.get_default_dtype())

    seen, original = [], Run.step

    def noted(self, terms, ids):
        seen.append(torch.stack([term.detach() for term in terms]).double().cpu())
        original(self, terms, ids)

    data = ranks.images(40)
    model = ranks.small_model().to(device, dtype)
    if frozen:
        ranks.freeze_batch_norm(model)
    monkeypatch.setattr(torch, "get_default_dtype", lambda: dtype)  # of images and noise alone
    monkeypatch.setattr(train, "standard_normal", noise)
    monkeypatch.setattr(Run, "step", noted)
    run = run_of(model, device, lr=RATE, prior_lr=1000 * RATE)
    loader = BatchLoader(data, TrainBatches(len(data), 20, 0), 0, device.type == "cuda")
    for run.epoch in range(10):
        run.position = Position()
        train.train_epoch(run, model, loader, ranks.WEIGHTS)
    return torch.stack(seen)


@pytest.mark.parametrize(
    ("dtype", "frozen", "tolerance"),
    [(torch.float64, False, 1e-6), (torch.float32, True, 1e-3)],
    ids=["float64", "float32, frozen batch norm"],
)
def test_losses_of_20_steps_are_those_of_the_cpu_in_float64(dtype, frozen, tolerance, device, full_float32):
    with pytest.MonkeyPatch.context() as patch:
        expected = losses(CPU, torch.float64, frozen, patch)
    with pytest.MonkeyPatch.context() as patch:
        found = losses(device, dtype, frozen, patch)
    assert len(expected) == 20
    assert expected[-1, 0] < expected[0, 0]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


def watch(run, free=3):
    """Have each step of a run after the first few fail where it waits for the GPU; between the steps it may."""
    steps = run.steps

    def watched(*arguments):
        for number, batch in enumerate(steps(*arguments)):
            torch.cuda.set_sync_debug_mode("error" if number >= free else "default")
            yield batch
            torch.cuda.set_sync_debug_mode("default")

    run.steps = watched


@pytest.fixture
def _waiting_allowed_after(cuda):
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_waiting_allowed_after")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize(("generative", "assign"), [(False, "posterior"), (True, "label")])
def test_step_has_no_hidden_wait(amp, generative, assign, cuda):
    data, model = ranks.images(60), ranks.small_model(generative=generative, gmm_assign=assign).to(cuda)
    run = run_of(model, cuda, GradScaler("cuda", enabled=amp == "fp16"), amp=amp)
    watch(run)
    train.train_epoch(run, model, BatchLoader(data, TrainBatches(len(data), 10, 0), 0, True), ranks.WEIGHTS)
    assert run.position.step == 6


@pytest.mark.usefixtures("_waiting_allowed_after")
def test_a_wait_would_be_seen(cuda):
    value = torch.ones((), device=cuda)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        value.item()


@pytest.mark.usefixtures("_waiting_allowed_after")
@pytest.mark.parametrize("sampler", [PosteriorSampler, FeatureTransferSampler])
def test_step_of_an_augmentation_has_no_hidden_wait(sampler, cuda):
    targets = (torch.arange(300) // 150 + (torch.arange(300) > 290)).to(cuda)
    mu, sigma = torch.randn(300, 8, device=cuda), torch.rand(300, 8, device=cuda)
    model = ranks.small_model().to(cuda)
    args = argparse.Namespace(**vars(ranks.ARGS) | {"batch_size": 50})
    run = run_without_folder(args, model, build_sgd(model.classifier.parameters(), args), World(cuda), "aug")
    watch(run)
    augment.train_epoch(run, sampler(mu, sigma, targets, 3, 0))
    assert run.position.step > 5


def test_noise_is_that_of_the_seed_and_leaves_the_global_generator_alone(device):
    before = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    first, again, later = (standard_normal(12, 5, 1, 2, step, device) for step in (3, 3, 4))
    assert first.device == device
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert abs(standard_normal(1000, 100, 0, 0, 0, device).std().item() - 1) < 0.02
    after = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    assert torch.equal(before, after)


def backends(device):
    """The processes' GPUs, and how they talk: NCCL has a GPU for each, while over gloo two can share one."""
    gpu = 0 if device.type == "cuda" else None
    return {"nccl": [gpu], "gloo": [gpu, gpu]}


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_processes_take_the_steps_of_one(backend, device, tmp_path):
    """In float64, with batch norm frozen; the noise is that of the whole batch, of which each process has its rows."""
    gpus = backends(device)[backend]
    launch = Launch(len(gpus), local_size=len(gpus), spawns=True, backend=backend, timeout=120)
    spawn(ranks.on_a_device, launch, gpus, str(tmp_path))
    found = torch.load(tmp_path / "found.pth", weights_only=True)
    ranks.on_a_device(World(device), str(tmp_path))
    alone = torch.load(tmp_path / "found.pth", weights_only=True)
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def made(device, late=None, scaler=None):
    """Two weights, their optimizer and its steps."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], device=device))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    return weight, Stepper(optimizer, 0.0, World(device), scaler, late)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_loss_reaches_no_weight_and_is_known_a_step_later(bad, scaled, device):
    weight, stepper = made(device, late=True, scaler=GradScaler(device.type) if scaled else None)
    stepper.take(weight.sum(), "step 1", torch.tensor([1]))
    before = weight.detach().clone()
    stepper.take(weight.sum() * bad, "step 2", torch.tensor([2]))
    with pytest.raises(UserError, match=r"not finite \(step 2, rank 0, images \[2\]"):
        stepper.take(weight.sum(), "step 3", torch.tensor([3]))
    assert torch.equal(weight, before)


def test_overflow_lowers_the_scale_and_skips_the_step(device):
    scaler = GradScaler(device.type, init_scale=2.0**12)
    weight, stepper = made(device, late=True, scaler=scaler)
    before = weight.detach().clone()
    stepper.take(weight.sum() * 1e38, "", torch.tensor([1]))
    stepper.settle()
    assert torch.equal(weight, before)
    assert scaler.get_scale() == 2.0**11
    stepper.take(weight.sum(), "", torch.tensor([1]))
    stepper.settle()
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("assign", ["posterior", "label"])
@torch.inference_mode()
def test_scores_of_candidate_labels_are_those_of_the_cpu(assign, device, full_float32):
    model, images = trained_like(64, assign), torch.rand(8, 1, 64, 64)
    found = []
    for where, images_at_a_time in ((CPU, 8), (device, 8), (device, 3)):
        there = copy.deepcopy(model).to(where)
        scorer = Scorer(there, LossWeights(1.0, 10.0, 0.01))
        parts = [scorer.evidence(part.to(where)) for part in images.split(images_at_a_time)]
        columns = [(fixed, scorer.probabilities(features, fixed)) for features, fixed in parts]
        found.append([torch.cat(column).cpu() for column in zip(*columns, strict=True)])
    for (fixed, probabilities), (other_fixed, other) in itertools.product(found[:1], found[1:]):
        torch.testing.assert_close(other_fixed, fixed, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(other, probabilities, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("generative", [False, True], ids=["plain", "generative"])
def test_evaluation_and_the_prior_are_those_of_the_cpu(generative, device, full_float32):
    data, found = ranks.images(), []
    for where in (CPU, device):
        model = ranks.small_model(generative=generative).to(where)
        run = run_of(model, where)
        loader = BatchLoader(data, TrainBatches(len(data), 20, 0), 0, where.type == "cuda")
        start_prior(run, loader, loader.batches.sizes)
        loader = BatchLoader(data, EvaluationBatches(len(data), 20), 0, where.type == "cuda")
        measured = train.evaluate(model, loader, run.args, run.world, data.class_counts)
        found.append((model.prior.means.detach().cpu(), measured.predictions))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found[1][1].indices, found[0][1].indices)
    np.testing.assert_allclose(found[1][1].probabilities, found[0][1].probabilities, atol=1e-3)
