"""The mixture term, forward and backward, over the plain product of its codes and means, at growing K.

    plain     mu meansᵀ and its gradients with respect to both, float32
    term      `GaussianMixturePrior.mixture_term` with responsibilities from the code, and all its gradients

The memory of a call is its peak of resident memory above that of its inputs, in a process of its own.
"""

import argparse
from collections.abc import Callable

import torch

from models.prior import GaussianMixturePrior
from scripts.benchmarks.memory import peak_above
from scripts.benchmarks.timing import Ratio, interleave

GROWTH = 10  # of K, over which linearity is shown
LINEAR = 1.2  # of a tenfold K's tenfold time
MEMORY_MB = 150


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    for name, size, what in (("components", 1000, "K"), ("batch", 256, "B"), ("dim", 2048, "D")):
        parser.add_argument(
            f"--mixture-{name}", type=int, default=size, metavar=what, help=f"{what} of the mixture (default: {size})"
        )


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Time over the plain product, memory, and the time at K over that at K / 10 as a share of 10.

    Args:
        options: `repeats`, timed calls of each; `mixture_components`, `mixture_batch`, `mixture_dim`.
    """
    k, b, d = options.mixture_components, options.mixture_batch, options.mixture_dim
    few = max(k // GROWTH, 1)
    ways = {"plain": plain_product(k, b, d), "term": term(k, b, d), "few": term(few, b, d)}
    seconds = interleave(ways, 3 * options.repeats)  # calls of a tenth of a second
    plain, whole, part = (1000 * seconds[name] for name in ("plain", "term", "few"))
    memory = peak_above(_warm_term, k, b, d) / 1e6
    sizes = f"K={k}, B={b}, D={d}"
    return [
        Ratio("mixture: term / plain product", f"{whole:.1f} and {plain:.1f} ms, {sizes}", whole / plain, 6.0, False),
        Ratio(f"mixture: K={k} / {k // few} times K={few}", f"{part:.1f} ms", whole / part / (k // few), LINEAR, False),
        Ratio(f"mixture: memory / {MEMORY_MB} MB", f"{memory:.0f} MB, {sizes}", memory / MEMORY_MB, 1.0, False),
    ]


def term(components: int, batch: int, dim: int) -> Callable[[], None]:
    """A call of the mixture term with its gradients."""
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


def plain_product(components: int, batch: int, dim: int) -> Callable[[], None]:
    """A call of codes times means with its gradients."""
    torch.manual_seed(0)
    codes, means = (torch.randn(rows, dim, device=_device(), requires_grad=True) for rows in (batch, components))
    slopes = torch.randn(batch, components, device=_device())

    def call() -> None:
        codes.grad = means.grad = None
        (codes @ means.T).backward(slopes)

    return call


def _warm_term(components: int, batch: int, dim: int) -> Callable[[], None]:
    """The call, where a small one has loaded what torch loads at the first."""
    term(2, 2, 2)()
    return term(components, batch, dim)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
