"""What the processes of the distributed tests do: each function is the work of one process."""

import argparse
import contextlib
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

import train
from datasets.base import ArrayDataset
from datasets.loading import BatchLoader, ClassPairs, EvaluationBatches, TrainBatches, shared_batches
from helpers.plain_ranks import preparing
from helpers.runs import run_without_folder
from models.atypicality import measure_distances
from models.dgcmm import DGCMM
from models.health import measure_health
from models.losses import LossWeights
from models.starting import start_prior
from utils.cli.rules import parse
from utils.training.optimisation import build_optimizer
from utils.training.position import Position
from utils.training.step import Stepper

WEIGHTS = LossWeights(10.0, 0.1, 0.001)
ARGS = argparse.Namespace(
    **{"seed": 3, "amp": "off", "quiet": True, "print_freq": 100, "max_steps": None, "clip_grad": 5.0, "save_every": 0},
    **{"mixup": 0.0, "evaluate": False},
    **{"lr": 5e-3, "prior_lr": 5.0, "momentum": 0.9, "wd": 1e-4},
    **{"weight_cls": 10.0, "weight_reconst": 0.1, "weight_gmm": 0.001},
)
COUNT, BATCH, EPOCHS = 37, 8, 4  # 4 batches of 8 and one of 5, which two processes share as 2 and 2; 20 steps


def images(count=COUNT):
    """Three classes of grey images, told apart by their brightness."""
    rng = np.random.default_rng(0)
    targets = np.arange(count) % 3
    pixels = rng.integers(0, 80, (count, 32, 32), dtype=np.uint8) + (60 * targets).astype(np.uint8)[:, None, None]
    return ArrayDataset(pixels, "abc", targets, [f"i{n}" for n in range(count)], as_tensor)


def as_tensor(image):
    return torch.from_numpy(np.asarray(image).copy())[None]


def small_model(**kwargs):
    torch.manual_seed(0)
    return DGCMM("resnet32_vae3", 3, 8, 32, **kwargs)


def freeze_batch_norm(model):
    """Batch norm by its running statistics, in training too."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module


def train_together(world, data, frozen):
    """20 steps in float64; the run, its loader and the mean losses of the last epoch."""
    model = small_model()
    if frozen:
        freeze_batch_norm(model)
    batches = TrainBatches(len(data), BATCH, ARGS.seed, world.rank, world.size)
    loader = BatchLoader(data, batches, 0, False)
    module, optimizer = world.parallel(model), build_optimizer(model, ARGS)
    run = run_without_folder(ARGS, model, optimizer, world)
    for run.epoch in range(EPOCHS):
        run.position = Position()
        train.train_epoch(run, module, loader, WEIGHTS)
    return run, loader, train.mean_losses(run, WEIGHTS)


def together(world, folder):
    """What only two processes can show, one after the other in one group: each spawned group imports torch twice."""
    crashed_and_continued(world, folder)
    preparing(world, folder)
    every_weight(world, folder)
    equalities(world, folder)


def equalities(world, folder):
    """Everything that is compared with one process, saved by the main one."""
    torch.set_default_dtype(torch.float64)
    data = images()
    found = {}
    for name, frozen in (("own statistics", False), ("frozen", True)):
        run, loader, losses = train_together(world, data, frozen)
        state = {key: value.clone() for key, value in run.model.state_dict().items()}
        loader.batches.set_epoch(0)
        start_prior(run, loader, loader.batches.sizes)
        found[name] = {"state": state, "losses": losses, "prior": run.model.prior.state_dict()}
    for generative in (False, True):
        model = small_model(generative=generative)
        if world.rank:  # evaluation must use the main process's statistics
            model.encoder.resnet.bn1.running_mean.add_(1.0)
        loader = BatchLoader(data, EvaluationBatches(len(data), BATCH, world.rank, world.size), 0, False)
        measured = train.evaluate(model, loader, ARGS, world, data.class_counts)
        if world.is_main:
            columns = [torch.from_numpy(column) for column in measured.predictions]
            found["generative" if generative else "plain"] = columns
    if world.rank:
        run.model.encoder.resnet.bn1.running_mean.add_(1.0)
    found["health"] = measured_health(world, run.model, data)
    if world.rank:
        run.model.encoder.resnet.bn1.running_mean.add_(1.0)
    found["distances"] = measured_distances(world, run.model, data)
    if world.is_main:
        torch.save(found, Path(folder) / "found.pth")


def measured_health(world, model, data):
    """What the decoder rebuilds of three classes, which two processes cannot share evenly."""
    pairs = ClassPairs(data, data, 10, world.rank, world.size, 0, False)
    health = measure_health(model, pairs, pairs.rounds, argparse.Namespace(**vars(ARGS), batch_size=BATCH), world)
    return health and health._asdict()


def measured_distances(world, model, data):
    """Quantiles of the distances of all codes from their components."""
    loader = BatchLoader(data, EvaluationBatches(len(data), BATCH, world.rank, world.size), 0, False)
    return measure_distances(model, shared_batches(loader, ARGS, world, "codes"), "off", world)


def on_a_device(world, folder):
    """Two epochs on `world.device` in float64 with batch norm frozen, the prior's start, an evaluation; what they gave.

    The batches are such that two processes share them.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        data, model = images(36), small_model().to(world.device)
        freeze_batch_norm(model)
        pinned = world.device.type == "cuda"
        loader = BatchLoader(data, TrainBatches(len(data), BATCH, ARGS.seed, world.rank, world.size), 0, pinned)
        run = run_without_folder(ARGS, model, build_optimizer(model, ARGS), world)
        module = world.parallel(model)
        for run.epoch in range(2):
            run.position = Position()
            train.train_epoch(run, module, loader, WEIGHTS)
        found = {name: torch.tensor(mean) for name, mean in train.mean_losses(run, WEIGHTS).items()}
        loader.batches.set_epoch(run.epoch)
        start_prior(run, loader, loader.batches.sizes)
        parts = BatchLoader(data, EvaluationBatches(len(data), BATCH, world.rank, world.size), 0, pinned)
        measured = train.evaluate(model, parts, ARGS, world, data.class_counts)
    finally:
        torch.set_default_dtype(default)
    if world.is_main:
        found |= {name: value.cpu() for name, value in model.state_dict().items()}
        found["probabilities"] = torch.from_numpy(measured.predictions.probabilities)
        torch.save(found, Path(folder) / "found.pth")


def every_weight(world, folder):
    """An epoch for each loss term left out, and one after a warm-up, all on the same model; which parts moved."""
    data = images(16)
    model, optimizer = small_model(), None
    changed = {}
    for name, weights in PHASES.items():
        model.train_under(weights)
        module = world.parallel(model)
        optimizer = optimizer or build_optimizer(model, ARGS)
        loader = BatchLoader(data, TrainBatches(16, 8, 0, world.rank, world.size), 0, False)
        before = {key: value.clone() for key, value in model.named_parameters()}
        run = run_without_folder(ARGS, model, optimizer, world)
        train.train_epoch(run, module, loader, weights)  # two steps: the second would wait for what the first left
        parts = ("encoder", "classifier", "decoder", "prior")
        changed[name] = {
            part: any(not torch.equal(before[k], v) for k, v in model.named_parameters() if k.startswith(part))
            for part in parts
        }
        states = world.gather([value.detach() for value in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(states[0], states[-1], strict=True))
    if world.is_main:
        torch.save({"moved": changed}, Path(folder) / "moved.pth")


PHASES = {
    "warm-up": LossWeights(10.0, 0.0, 0.0),
    "after warm-up": WEIGHTS,
    "no classifier": WEIGHTS._replace(cls=0.0),
    "no decoder": WEIGHTS._replace(reconst=0.0),
    "no prior": WEIGHTS._replace(gmm=0.0),
}


def poisoned(world, args, given, folder):
    """A training in which rank 1 meets a loss that is not finite in epoch 2, step 2."""
    forward, calls, seen = DGCMM.forward, [], {}

    def spoilt(self, *inputs):
        calls.append(1)
        terms = forward(self, *inputs)
        if len(calls) == 3 + 2:  # three steps an epoch
            seen.update({name: value.detach().clone() for name, value in self.named_parameters()}, model=self)
            if world.rank == 1:
                return terms._replace(total=terms.total * float("nan"))
        return terms

    DGCMM.forward = spoilt
    try:
        train.work(world, args, given)
    finally:
        model = seen.pop("model")
        same = all(torch.equal(value, seen[name]) for name, value in model.named_parameters())
        Path(folder, f"unchanged{world.rank}").write_text(str(same))


class Crash(Exception):
    """Stands for a fault."""


def crashed_and_continued(world, folder):
    """The same command uninterrupted, and elsewhere until a crash in the fifth step, and then continued."""
    small = ["--arch=resnet32_vae3", "--new-size=16", "--crop-size=16", "--z-dim=8", "--workers=0", "--no-figures"]
    flags = ["--epochs=5", "--batch-size=24", "--T-max=5", "--max-steps=3", "--save-every=1", "--eval-every=3"]
    baseline = ["--loss=ldam-drw", "--sampler=balanced", "--mixup=1", "--freeze-encoder", "--quiet"]
    argv = ["Digits_LT", *small, *flags, *baseline]
    take, calls = Stepper.take, []

    def crashing(self, *inputs):
        calls.append(1)
        if len(calls) == 5:
            raise Crash
        return take(self, *inputs)

    leave, world.leave = world.leave, lambda: None  # these runs follow one another in one group
    for name, step in (("whole", take), ("broken", crashing), ("broken", take)):
        args, given = parse(train.build_parser(), [*argv, f"--logdir={folder}/{name}", "--resume=auto"])
        Stepper.take = step
        with contextlib.suppress(Crash):
            train.work(world, args, given)
    world.leave = leave
    assert len(calls) == 5


def work_with_own_weights(world, args, given):
    """The work of train.py, where the one file that lies in torch.hub's cache has ResNet-50's published weights."""
    (path,) = Path(torch.hub.get_dir(), "checkpoints").glob("*.pth")
    torchvision.models.ResNet50_Weights.IMAGENET1K_V1.value.url = f"https://example.org/{path.name}"
    train.work(world, args, given)
