"""The mixture term at a large K, forward and backward: its share of a ResNet-50 training step, and its memory.

    step      of torchvision's ResNet-50, the faster of float32 and bfloat16; of few images, scaled to the batch
    term      `GaussianMixturePrior.mixture_term` with responsibilities from the code, and all its gradients

The memory of a call is its peak of resident memory above that of its inputs, in a process of its own.
"""

import argparse
from collections.abc import Callable

import torch

from models.prior import GaussianMixturePrior
from scripts.benchmarks.memory import peak_above
from scripts.benchmarks.step import bare_step
from scripts.benchmarks.timing import Ratio, interleave

SHARE = 0.05  # of the step
MEMORY_MB = 1000


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    for name, size, what in (("components", 1000, "K"), ("batch", 256, "B"), ("dim", 2048, "D")):
        parser.add_argument(
            f"--mixture-{name}", type=int, default=size, metavar=what, help=f"{what} of the mixture (default: {size})"
        )
    add = parser.add_argument
    add("--mixture-images", type=int, default=16, metavar="N", help="images of the step that is timed (default: 16)")
    add("--mixture-size", type=int, default=224, metavar="PX", help="their side (default: 224)")


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Measure the term's share of a training step's time, and its memory.

    Args:
        options: `repeats`, timed calls of each; the sizes, see `add_flags`.
    """
    k, b, d = options.mixture_components, options.mixture_batch, options.mixture_dim
    images, side = options.mixture_images, options.mixture_size
    steps = {
        amp: bare_step("resnet_vae3", images, side, amp, torch.channels_last, _device()) for amp in ("off", "bf16")
    }
    seconds = interleave({**steps, "term": term(k, b, d)}, options.repeats)
    step, taken = min(seconds[amp] for amp in steps) * b / images, seconds["term"]
    memory = peak_above(_warm_term, k, b, d) / 1e6
    sizes = f"K={k}, B={b}, D={d}"
    return [
        Ratio("mixture: term / ResNet-50 step", f"{taken:.3f} and {step:.1f} s, {sizes}", taken / step, SHARE, False),
        Ratio(f"mixture: memory / {MEMORY_MB} MB", f"{memory:.0f} MB, {sizes}", memory / MEMORY_MB, 1.0, False),
    ]


def term(components: int, batch: int, dim: int) -> Callable[[], None]:
    """Return a call of the mixture term with its gradients."""
    torch.manual_seed(0)
    device = _device()
    prior = GaussianMixturePrior(components, dim).to(device)
    mu, log_var, codes = (torch.randn(batch, dim, device=device, requires_grad=True) for _ in range(3))
    inputs = (mu, log_var, codes, *prior.parameters())

    def call() -> None:
        for value in inputs:
            value.grad = None
        prior.mixture_term(mu, log_var, codes).mean().backward()

    return call


def _warm_term(components: int, batch: int, dim: int) -> Callable[[], None]:
    """Return the call, after a small one that has loaded what torch loads at the first."""
    term(2, 2, 2)()
    return term(components, batch, dim)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
