"""Re-training the classifier on codes, at ChestXray's size: codes a second, and memory.

    release   a DataLoader with 2 workers over per-sample tensors, noise for each batch
    Case 1, Case 2   the project's: steps of a `RetrainingRun`, with their share of the time that an epoch's plan takes

Memory is the peak of resident memory of a process of its own above what it had after its imports: it reads a file of
codes, takes some steps of Case 1, which needs more than Case 2, and measures the test split. Its ratio is to
the codes, mu and log_var of both splits in float32.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from utils.training.engine import Position
from utils.training.retraining import RetrainingRun, take_training_codes

from models.dgcmm import DGCMM, LossWeights
from models.samplers import FeatureTransferSampler, PosteriorSampler
from scripts.benchmarks.memory import peak_of
from scripts.benchmarks.timing import Ratio, interleave
from utils.distributed.world import World
from utils.training.checkpoint import read_verified, save_checkpoint

# single-label training images of each class of ChestXray, and all its test images
COUNTS = (50500, 3414, 777, 2788, 7327, 1696, 2248, 234, 1241, 829, 397, 587, 551, 817, 65)
TEST = 17_853
BATCH, DIM, WORKERS = 100, 2048, 2
ARCH, IMAGE_SIZE = "resnet50_vae3", 224
TARGETS = {"release": 3.0, "cases": 8.0, "memory": 1.2}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument(
        "--retraining-counts",
        **{"type": int, "nargs": "+", "default": COUNTS, "metavar": "N"},
        help="training codes of each class (default: ChestXray's)",
    )
    parser.add_argument(
        "--retraining-steps", type=int, default=300, metavar="N", help="steps of a timed pass (default: 300)"
    )


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Codes a second against the release's way, Case 1 against Case 2, memory against the codes.

    Args:
        options: `repeats`; `retraining_counts`, `retraining_steps`, see `add_flags`.
    """
    world = World()
    world.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = _memory(options.retraining_counts)
    codes, steps = make_codes(options.retraining_counts, world.device), options.retraining_steps
    runs = {case: make_run(case, codes, len(options.retraining_counts), steps, world) for case in (1, 2)}
    seconds = interleave(
        {
            "release": _release(codes, steps, world.device),
            **{f"Case {case}": _steps(run) for case, run in runs.items()},
        },
        options.repeats,
    )
    for case, run in runs.items():
        del run.sampler.plan  # the cut one
        taken, count = planning(run.sampler)
        seconds[f"Case {case}"] += taken * min(BATCH * steps / count, 1)
    rate = {way: BATCH * steps / taken for way, taken in seconds.items()}
    return [
        _faster(rate, "Case 2", "release", TARGETS["release"]),
        Ratio(
            "re-training: time of Case 1 / Case 2",
            f"{seconds['Case 1'] / steps * 1e3:.2f} and {seconds['Case 2'] / steps * 1e3:.2f} ms a step",
            *(seconds["Case 1"] / seconds["Case 2"], TARGETS["cases"], False),
        ),
        memory,
    ]


def make_codes(counts: Sequence[int], device: torch.device, dim: int | None = None) -> dict[str, Tensor]:
    """'mu', 'sigma' (N,D) and 'targets' (N,) of so many codes of each class, in mixed order; D = DIM by default."""
    dim = dim or DIM
    source = torch.Generator(device).manual_seed(0)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))].to(device)
    mu = torch.randn(len(targets), dim, generator=source, device=device)
    sigma = torch.rand(len(targets), dim, generator=source, device=device)
    return {"mu": mu, "sigma": sigma, "targets": targets}


def make_run(
    case: int, codes: dict[str, Tensor], classes: int, steps: int, world: World, arch: str | None = None
) -> RetrainingRun:
    """A re-training by Case 1 or 2 whose epochs have so many steps, of a model that is ARCH by default."""
    sampler_class = {1: FeatureTransferSampler, 2: PosteriorSampler}[case]
    args = argparse.Namespace(
        **{"lr": 1e-2, "momentum": 0.9, "wd": 1e-4, "clip_grad": 0.0, "seed": 0, "max_steps": steps},
        **{"batch_size": BATCH, "print_freq": 100, "save_every": 0, "quiet": True},
    )
    model = DGCMM(arch or ARCH, classes, codes["mu"].shape[1], IMAGE_SIZE).to(world.device)
    sampler = sampler_class(codes["mu"], codes["sigma"], codes["targets"], classes, args.seed)
    about = {"class_counts": torch.bincount(codes["targets"].cpu(), minlength=classes).tolist()}
    return RetrainingRun(
        *(args, model, None, "test", about, world),
        **{"kind": "aug", "sampler": sampler, "codes": {}, "datasets": {}},
        **{"weights": LossWeights(10.0, 0.1, 0.001), "trained_sha256": ""},
    )


def _steps(run: RetrainingRun) -> Callable[[], None]:
    """Each call takes the first steps of another epoch; all epochs have the first one's plan, cut to those steps."""
    plan = tuple(part[: BATCH * run.args.max_steps] for part in run.sampler.plan(0))
    epochs = itertools.count()
    run.sampler.plan = lambda epoch: plan

    def steps() -> None:
        run.epoch, run.position = next(epochs), Position()
        assert list(run.train_steps()) == []

    return steps


def planning(sampler: PosteriorSampler) -> tuple[float, int]:
    """(seconds that it takes to plan an epoch and to cut it into batches, codes of the epoch)."""
    started = time.perf_counter()
    sources, labels = sampler.plan(0)
    list(zip(sources.split(BATCH), labels.split(BATCH), strict=True))
    return time.perf_counter() - started, len(sources)


def _release(codes: dict[str, Tensor], steps: int, device: torch.device) -> Callable[[], None]:
    """The public release's way: samples are collated one by one, by 2 workers."""
    data = TensorDataset(codes["mu"].cpu(), codes["sigma"].cpu().log().mul_(2), codes["targets"].cpu())
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    step = _classifier(codes)

    def run() -> None:
        for mu, log_var, labels in itertools.islice(loader, steps):
            mu, log_var, labels = mu.to(device), log_var.to(device), labels.to(device)
            step(mu + (0.5 * log_var).exp() * torch.randn_like(mu), labels)

    return run


def _classifier(codes: dict[str, Tensor]) -> Callable[[Tensor, Tensor], None]:
    """A step of a linear classifier on (codes, labels)."""
    classifier = nn.Linear(codes["mu"].shape[1], int(codes["targets"].max()) + 1, device=codes["mu"].device)
    optimizer = torch.optim.SGD(classifier.parameters(), 1e-2, momentum=0.9, weight_decay=1e-4)

    def step(batch: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(classifier(batch), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _faster(rate: dict[str, float], ours: str, other: str, target: float) -> Ratio:
    detail = f"{rate[ours]:,.0f} and {rate[other]:,.0f} codes/s"
    return Ratio(f"re-training: {ours} / {other}", detail, rate[ours] / rate[other], target, True)


def _memory(counts: Sequence[int]) -> Ratio:
    """Peak memory of a re-training over the codes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.pth"
        size = write_codes(path, counts)
        peak = peak_of(read_and_retrain, path, len(counts))
    detail = f"{peak / 1e6:.0f} MB, codes {size / 1e6:.0f} MB"
    return Ratio("re-training: peak memory / codes", detail, peak / size, TARGETS["memory"], False)


def write_codes(path: Path, counts: Sequence[int]) -> int:
    """Write a file of codes as `load_or_extract` does; returns the bytes of mu and log_var."""
    splits = {"train": make_codes(counts, torch.device("cpu")), "test": make_codes((TEST,), torch.device("cpu"))}
    for codes in splits.values():
        codes["log_var"] = codes.pop("sigma").log_().mul_(2)
    save_checkpoint(path, {"key": None, **splits})
    return sum(codes[name].nbytes for codes in splits.values() for name in ("mu", "log_var"))


def read_and_retrain(path: Path, classes: int) -> None:
    """What augment_ftl.py does once it has a file of codes: some steps of Case 1, and a measurement."""
    stored = read_verified(path)
    codes = {name: stored.pop(name) for name in ("train", "test")}
    run = make_run(1, take_training_codes(codes, torch.device("cpu")), classes, 20, World())
    run.codes, run.datasets = codes, {"test": None}
    list(run.train_steps())
    run.measure("test")
