"""The Gaussian-mixture prior of the code: one component per class, learned with the network.

Notation of the DGCMM paper (TPAMI 45(3), 2023) in comments: q(z|x) = N(mu, sigma^2) is the encoder's distribution,
the prior is p(z) = sum_c pi_c N(z; m_c, v_c), gamma_c is the responsibility of component c.

Shapes: B batch, K components, D length of a code.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_VAR_LIMIT = 10.0
PROJECTION_MARGIN = 1e-3
INITIAL_MEAN_STD = 0.1


class Components(NamedTuple):
    """The components as matrices of float64, with their means shifted to a common centre.

    The energy E_c(z) = sum_d( log v_cd + (z_d - m_cd)^2 / v_cd ) is -2 log N(z; m_c, v_c) less a constant. Its square
    is expanded, so that it takes two matrix products and no (B,K,D) tensor. A code close to a mean is then a small
    difference of large terms, hence the shift and float64.
    """

    centre: Tensor  # (D,), of the means
    precisions: Tensor  # 1 / v, (K,D)
    scaled: Tensor  # (m - centre) / v, (K,D)
    fixed: Tensor  # sum_d( log v + (m - centre)^2 / v ), (K,)

    def energies(self, codes: Tensor, crosses: Tensor | None = None) -> Tensor:
        """Compute E_c of every component at codes z: (B,D) -> (B,K), float64.

        Args:
            crosses: (z - centre) scaled^T, (B,K), from a caller that has it for less than a product.
        """
        shifted = codes.double() - self.centre
        crosses = shifted @ self.scaled.T if crosses is None else crosses
        return shifted.square() @ self.precisions.T - 2 * crosses + self.fixed

    def divergences(self, at_mu: Tensor, log_var: Tensor) -> Tensor:
        """Compute KL( N(mu, sigma^2) || N(m_c, v_c) ) of every component: E_c at mu (B,K), log_var (B,D) -> (B,K)."""
        # (E_c averaged over N(mu, sigma^2) - sum_d( log sigma^2 + 1 )) / 2
        spread = log_var.exp().double() @ self.precisions.T
        return 0.5 * (at_mu + spread - (log_var.double() + 1).sum(dim=1, keepdim=True))


class ClassMoments:
    """Sums over codes z ~ N(mu, sigma^2), class by class in float64, of which each process may have a part.

    Attributes:
        counts: codes of each class, (K,).
        sums, squares: of mu, and of mu^2 + sigma^2, (K,D).
    """

    def __init__(self, num_classes: int, dim: int, device: torch.device) -> None:
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.sums = torch.zeros(num_classes, dim, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.sums)

    def add(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> None:
        """Add a batch of codes: mu, log_var (B,D), labels (B,)."""
        members = F.one_hot(labels, len(self.counts)).double()
        mu = mu.double()
        self.counts += members.sum(dim=0)
        self.sums += members.T @ mu
        self.squares += members.T @ (mu.square() + log_var.double().exp())

    def means_and_variances(self) -> tuple[Tensor, Tensor]:
        """Compute the mean and the variance of each class's codes: (K,D), (K,D)."""
        counts = self.counts.clamp_min(1)[:, None]
        means = self.sums / counts
        return means, self.squares / counts - means.square()


class GaussianMixturePrior(nn.Module):
    """K diagonal Gaussians over codes of length D, with their weights.

    Args:
        num_components: K.
        z_dim: D.
    """

    def __init__(self, num_components: int, z_dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, z_dim) * INITIAL_MEAN_STD)
        self.log_vars = nn.Parameter(torch.zeros(num_components, z_dim))
        inside = LOG_VAR_LIMIT - PROJECTION_MARGIN
        self.log_var_bounds = (-inside, inside)  # where `project` keeps them

    @property
    def started(self) -> bool:
        """Tell whether `start` has placed the components, or training has moved them; they are random before that."""
        return bool(self.logits.any())  # the log of a share is never 0

    def log_weights(self) -> Tensor:
        """Return log pi, shape (K,)."""
        return F.log_softmax(self.logits, dim=0)

    def clamped_log_vars(self) -> Tensor:
        """Return log v within +-LOG_VAR_LIMIT, shape (K,D)."""
        return self.log_vars.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    def bound_variances(self, low: float, high: float) -> None:
        """Keep the variances of all components from `low` to `high` from now on; equal bounds hold them there."""
        self.log_var_bounds = (math.log(low), math.log(high))
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Put the log-variances back inside their bounds, after an optimizer step; by default just inside the limits.

        Beyond the limits, and with some versions of torch at them, the clamp has no gradient: a component that
        overshot once would be stuck there.
        """
        self.log_vars.clamp_(*self.log_var_bounds)

    @torch.no_grad()
    def start(self, counts: Tensor, means: Tensor, variances: Tensor) -> None:
        """Set component c to the codes of class c; a class without codes keeps its component.

        Args:
            counts: codes of each class, (K,); the weights become their shares, an absent class counting as half a code.
            means, variances: of each class's codes, (K,D); the variance is that of mu plus the mean of sigma^2.
        """
        present = counts > 0
        self.logits.copy_((counts.clamp_min(0.5) / counts.sum()).log())
        self.means[present] = means[present].to(self.means.dtype)
        smallest = math.exp(-LOG_VAR_LIMIT)  # a variance that is the difference of sums may be rounded below 0
        self.log_vars[present] = variances[present].clamp_min(smallest).log().to(self.log_vars.dtype)
        self.project()

    def log_responsibilities(self, codes: Tensor) -> Tensor:
        """Compute log gamma_c = log softmax_c( log pi_c + log N(z; m_c, v_c) ) at codes z: (B,D) -> (B,K).

        log pi_c counts once, not once per dimension; the constant of the normal density cancels in the softmax.
        """
        return self._log_gamma(self.components().energies(codes)).to(codes.dtype)

    def mixture_term(
        self,
        mu: Tensor,
        log_var: Tensor,
        codes: Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Compute L_gmm = sum_c gamma_c KL( N(mu, sigma^2) || N(m_c, v_c) ) + KL(gamma || pi) of each image.

        Args:
            mu, log_var: the encoder's distribution, (B,D) each.
            codes: where the responsibilities are taken, the sampled z, (B,D); read without `targets` only.
            targets: None for gamma from `codes` (the gradient flows through it); class indices (B,) for
                gamma = onehot(y), for which KL(gamma || pi) = -log pi_y; or gamma itself, shares of the labels (B,K).

        Returns:
            (B,), in nats, summed over D.
        """
        if targets is not None and targets.dim() == 2:
            components = self.components()
            kl = components.divergences(components.energies(mu), log_var)
            terms = targets * (kl - self.log_weights()) + torch.xlogy(targets, targets)
            return terms.sum(dim=1).to(log_var.dtype)
        if targets is not None:
            return self._kl_to_own(mu, log_var, targets) - rows_of(self.log_weights()[:, None], targets)[:, 0]
        components = self.components()
        return self.posterior_term(components, components.energies(codes), components.energies(mu), log_var)

    def posterior_term(self, components: Components, at_codes: Tensor, at_mu: Tensor, log_var: Tensor) -> Tensor:
        """Compute L_gmm with gamma from the codes, of their energies and those of mu (B,K): -> (B,), as log_var."""
        log_gamma, kl = self._log_gamma(at_codes), components.divergences(at_mu, log_var)
        return (log_gamma.exp() * (kl + log_gamma - self.log_weights())).sum(dim=1).to(log_var.dtype)

    def components(self) -> Components:
        """Bring the components into the form that energies are computed from."""
        log_vars = self.clamped_log_vars().double()
        centre = self.means.detach().mean(dim=0).double()  # E_c does not depend on it, so nor do the gradients
        means, precisions = self.means.double() - centre, (-log_vars).exp()
        scaled = precisions * means
        return Components(centre, precisions, scaled, (log_vars + scaled * means).sum(dim=1))

    def _log_gamma(self, at_codes: Tensor) -> Tensor:
        return F.log_softmax(self.log_weights() - 0.5 * at_codes, dim=1)

    def _kl_to_own(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor:
        """Compute KL( N(mu, sigma^2) || N(m_y, v_y) ), summed over D: (B,D), (B,D), labels y (B,) -> (B,)."""
        means, log_vars = rows_of(self.means, labels), rows_of(self.clamped_log_vars(), labels)
        squares = (log_var.exp() + (mu - means).square()) * (-log_vars).exp()
        return 0.5 * (log_vars - log_var + squares - 1).sum(dim=1)


def rows_of(table: Tensor, rows: Tensor) -> Tensor:
    """Look up rows (B,) of a table (K,D): -> (B,D), as `table[rows]`.

    The gradient of that form is added up by threads in an order that changes from run to run; this one's is not.
    """
    return F.embedding(rows, table)
