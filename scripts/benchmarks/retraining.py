"""Re-training the classifier on codes, at ChestXray's size.

release           a DataLoader with workers over per-sample tensors, noise for each batch
Case 1, Case 2    `train_epoch` of augment.py; the plan is made before, as it serves 25 times as many steps
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import augment
import augment_ftl
from codes import Codes
from models.dgcmm import DGCMM
from models.samplers import PosteriorSampler
from scripts.benchmarks.setup import Sizes, next_epoch, script_args
from scripts.benchmarks.timing import Ratio, Side, slowdown, speedup
from utils.distributed.world import World
from utils.training.optimisation import build_sgd
from utils.training.run import Run

BATCH = 100
CASE_2_TARGET, CASE_1_TARGET = 3.0, 8.0


def retraining(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare Case 2 with the release's way, and the time of Case 1 with that of Case 2."""
    codes, count = make_codes(sizes.counts, sizes.dim, sizes.device), BATCH * sizes.code_steps
    release = Side(release_steps(codes, sizes), count)
    case_2 = Side(case(sizes, codes, augment.posterior_sampler), count)
    yield speedup("retraining: Case 2 / release's way", case_2, release, CASE_2_TARGET, 3 * repeats, "codes/s")
    case_1 = Side(case(sizes, codes, augment_ftl.transfer_sampler), count)
    yield slowdown("retraining: time of Case 1 / Case 2", case_1, case_2, CASE_1_TARGET, repeats, "codes/s")


def make_codes(counts: Sequence[int], dim: int, device: torch.device) -> Codes:
    """Draw 'mu', 'sigma' (N,D) and 'targets' (N,) of so many codes of each class, in mixed order."""
    torch.manual_seed(0)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    targets = targets[torch.randperm(len(targets))].to(device)
    mu, sigma = torch.randn(len(targets), dim, device=device), torch.rand(len(targets), dim, device=device)
    return {"mu": mu, "sigma": sigma, "targets": targets}


def case(sizes: Sizes, codes: Codes, make_sampler: augment.MakeSampler) -> Callable[[], None]:
    """Make a call that takes the steps of one of the two augmentations."""
    run, sampler = make_run(sizes, codes, make_sampler)
    return steps_of(run, sampler, sampler.plan(0))


def steps_of(run: Run, sampler: PosteriorSampler, plan: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """Make a call that takes the steps of a plan that is made already."""
    sampler.plan = lambda epoch: plan

    def call() -> None:
        augment.train_epoch(run, sampler)
        next_epoch(run)

    return call


def make_run(sizes: Sizes, codes: Codes, make_sampler: augment.MakeSampler) -> tuple[Run, PosteriorSampler]:
    """Begin a re-training that writes nothing, whose epochs end after `sizes.code_steps`."""
    flags = ("--resume=auto", f"--batch-size={BATCH}", f"--max-steps={sizes.code_steps}")
    args = script_args(augment_ftl.build_parser(), sizes, *flags)
    world, classes = World(sizes.device), len(sizes.counts)
    model = DGCMM(args.arch, classes, args.z_dim, args.crop_size).requires_grad_(False).to(world.device)
    model.classifier.requires_grad_(True)
    optimizer = build_sgd(model.classifier.parameters(), args)
    return Run("aug", args, model, optimizer, None, "test", {}, world), make_sampler(codes, classes, args)


def release_steps(codes: Codes, sizes: Sizes) -> Callable[[], None]:
    """Make a call that takes steps in the public release's way: samples are collated one by one, by workers."""
    # sigma stands for the log-variance, which is as long
    data = TensorDataset(*(codes[name].cpu() for name in ("mu", "sigma", "targets")))
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=sizes.workers, persistent_workers=sizes.workers > 0)
    classifier = nn.Linear(sizes.dim, len(sizes.counts), device=sizes.device)
    optimizer = torch.optim.SGD(classifier.parameters(), 1e-2, momentum=0.9, weight_decay=1e-4)

    def call() -> None:
        for batch in itertools.islice(loader, sizes.code_steps):
            mu, log_var, labels = (part.to(sizes.device) for part in batch)
            loss = F.cross_entropy(classifier(mu + (0.5 * log_var).exp() * torch.randn_like(mu)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return call
