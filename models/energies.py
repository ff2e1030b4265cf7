"""Squared distances of codes to all components of the mixture, as matrix products.

The energy of component c at x is E_c(x) = sum_d( log v_cd + (x_d - m_cd)^2 / v_cd ), which is -2 log N(x; m_c, v_c)
but for a constant. Expanding the square leaves products of (B,D) with (D,K), so no (B,K,D) tensor exists. What it
costs is that a code close to its mean becomes the small difference of large terms: at |m| = 10, v = e^-4 and D = 2048
they are near 10^7, which leaves float32 no correct digit behind the point. Yet most products can be float32, on a CPU
twice as fast as float64:

- The energies of the codes are float64 products: the responsibilities need their differences.
- Those of N(mu, sigma^2) are these plus a change, whose terms are as small as codes - mu = sigma eps and sigma^2
  are. It is a float32 product, summed in an order in which its terms stay small.
- The gradients are float32 products of codes and means that are shifted to the means' centre. Their error is what a
  rounding error of codes and means makes of them: of the gradient of a log-variance, (m / sigma)^2 10^-7.

Shapes: B batch, K components, D length of a code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 336  # components that are widened at a time, so that what is made of them stays in a CPU's cache
TURN = 4  # columns, see `_in_turns`


def energies(codes: Tensor, means: Tensor, log_vars: Tensor, precisions: Tensor) -> Tensor:
    """E_c of every component at codes x: (B,D), (K,D) thrice -> (B,K), float64 throughout; precisions are 1/v."""
    x, parts = codes.double(), []
    squares = x.square()
    blocks = (value.split(BLOCK) for value in (means, log_vars, precisions))
    for m, log_v, p in zip(*blocks, strict=True):
        m, p = m.double(), p.double()
        scaled = m * p
        fixed = torch.einsum("kd,kd->k", m, scaled) + log_v.sum(dim=1, dtype=torch.float64)
        parts.append(torch.addmm(fixed, x, scaled.T, alpha=-2).addmm_(squares, p.T))
    return torch.cat(parts, dim=1)


class EnergiesOfSums:
    """E_c at the sums of any code and some fixed rows r: (R,D), (K,D) thrice.

    E_c(x + r) is E_c(x) + E_c(r) - E_c(0) + 2 sum_d( x_d r_d / v_cd ): of a sum one product is left, not two, and what
    depends on the rows alone is made once.
    """

    def __init__(self, rows: Tensor, means: Tensor, log_vars: Tensor, precisions: Tensor) -> None:
        self.components = (means, log_vars, precisions)
        self.wide, self.doubled = precisions.double(), rows.double().mul_(2)
        self.at_rows = energies(rows, *self.components) - energies(torch.zeros_like(rows[:1]), *self.components)

    def at_codes(self, codes: Tensor) -> Tensor:
        """E_c(x): (B,D) -> (B,K), float64."""
        return energies(codes, *self.components)

    def __call__(self, codes: Tensor, at_codes: Tensor, those: slice) -> Tensor:
        """E_c(x + r) for n of the rows: codes (B,D), their energies (B,K) -> (B,n,K), float64."""
        products = (codes.double()[:, None] * self.doubled[those]) @ self.wide.T
        return products.add_(at_codes[:, None]).add_(self.at_rows[those])


class MixtureEnergies(torch.autograd.Function):
    """What the mixture term needs of all components, with a backward pass that keeps nothing of float64.

    Called as `MixtureEnergies.apply(codes, mu, variances, means, log_vars)`, (B,D) thrice and (K,D) twice; it returns
    E_c(codes) and the mean of E_c over N(mu, variances), (B,K) each, float64.
    """

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, mu: Tensor, variances: Tensor, means: Tensor, log_vars: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The energies at the codes, and at the distribution of each."""
        center = means.mean(dim=0)
        precisions = (-log_vars).exp_()
        scaled = (means - center).mul_(precisions)
        at_codes = energies(codes, means, log_vars, precisions)
        steps = codes - mu
        # (mu - m)^2 + sigma^2 = (x - m)^2 + sigma^2 - (x - mu)(x + mu - 2 m)
        own = _in_turns(variances - steps * (steps + 2 * (mu - center)), 2 * steps)
        parts = zip(precisions.split(BLOCK), scaled.split(BLOCK), strict=True)
        change = torch.cat([own @ _in_turns(p, s).T for p, s in parts], dim=1)
        ctx.save_for_backward(codes, mu, variances, means, precisions, scaled)
        return at_codes, change.double().add_(at_codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_codes: Tensor, at_mu: Tensor) -> tuple[Tensor, ...]:
        """The gradients of codes, mu, variances, means and log_vars, in their own precision."""
        codes, mu, variances, means, precisions, scaled = ctx.saved_tensors
        center = means.mean(dim=0)
        x, m = torch.cat([codes, mu]).sub_(center), means - center
        slopes = torch.cat([at_codes, at_mu]).to(x.dtype)
        by_squares = slopes @ precisions
        by_codes, by_mu = (by_squares * x).sub_(slopes @ scaled).mul_(2).chunk(2)
        by_variances = by_squares[len(codes) :]
        # with the sum over the batch of slopes, of slopes x and of slopes x^2, those of slopes (x - m) and (x - m)^2
        total = slopes.sum(dim=0)[:, None]
        first = (slopes.T @ x).addcmul_(m, total, value=-1)
        x.square_()[len(codes) :] += variances
        second = (slopes.T @ x).addcmul_(m, first, value=-2).addcmul_(m.square_(), total, value=-1)
        by_log_vars = second.mul_(precisions).neg_().add_(total)
        by_means = first.mul_(precisions).mul_(-2)
        return by_codes, by_mu, by_variances, by_means, by_log_vars


def _in_turns(first: Tensor, second: Tensor) -> Tensor:
    """(N,D), (N,D) -> (N,2D), TURN columns of each in turns, zeros at the end.

    In a product of two such, what cancels is added at once, before the sums grow large. A CPU's products run several
    sums beside each other, over columns in turns: hence TURN, not 1.
    """
    if missing := -first.shape[1] % TURN:
        first, second = F.pad(first, (0, missing)), F.pad(second, (0, missing))
    return torch.stack([first.unflatten(1, (-1, TURN)), second.unflatten(1, (-1, TURN))], dim=2).flatten(1)
