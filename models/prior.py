"""The Gaussian-mixture prior of the code: one component per class, learned with the network.

Notation of the DGCMM paper (TPAMI 45(3), 2023) in comments: q(z|x) = N(mu, sigma^2) is the encoder's distribution,
the prior is p(z) = sum_c pi_c N(z; m_c, v_c), gamma_c is the responsibility of component c.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.precision import wide_dtype

LOG_VAR_LIMIT = 10.0
PROJECTION_MARGIN = 1e-3
INITIAL_MEAN_STD = 0.1


class GaussianMixturePrior(nn.Module):
    """K diagonal Gaussians over codes of length D, with their weights.

    Args:
        num_components: K.
        z_dim: D.

    Everything is computed in log space and in at least float32. The squared distances of all codes to all means
    are matrix products, so no (B,K,D) tensor exists; those products run in float64, because a code that lies close
    to its mean is the small difference of large squares (at |m| = 10, v = e^-4, D = 2048 they are near 10^7, which
    leaves float32 no correct digit behind the point).
    """

    def __init__(self, num_components: int, z_dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, z_dim) * INITIAL_MEAN_STD)
        self.log_vars = nn.Parameter(torch.zeros(num_components, z_dim))

    def log_weights(self) -> Tensor:
        """log pi, shape (K,)."""
        return F.log_softmax(self.logits, dim=0)

    def clamped_log_vars(self) -> Tensor:
        """log v within +-LOG_VAR_LIMIT, shape (K,D)."""
        return self.log_vars.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    @torch.no_grad()
    def project(self) -> None:
        """Put the log-variances back just inside their limits, after an optimizer step.

        Beyond the limits, and with some versions of torch at them, the clamp has no gradient: a component that
        overshot once would be stuck there.
        """
        inside = LOG_VAR_LIMIT - PROJECTION_MARGIN
        self.log_vars.clamp_(-inside, inside)

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

    def _scaled_squares(self, codes: Tensor, variances: Tensor | None = None) -> Tensor:
        """sum_d ((codes - m_c)^2 + variances) / v_c for every component: (B,D) -> (B,K), float64."""
        means = self.means.double()
        center = means.detach().mean(dim=0)  # expanding the square around the means keeps its terms small
        x, m = codes.double() - center, means - center
        precisions = (-self.clamped_log_vars()).double().exp()
        squares = x.square() if variances is None else x.square() + variances
        scaled_means = m * precisions
        return squares @ precisions.T - 2 * x @ scaled_means.T + (m * scaled_means).sum(dim=1)

    def log_responsibilities(self, codes: Tensor) -> Tensor:
        """log gamma_c = log softmax_c( log pi_c + log N(z; m_c, v_c) ): codes z (B,D) -> (B,K), float32.

        log pi_c counts once, not once per dimension; the constant of the normal density cancels in the softmax.
        """
        log_densities = -0.5 * (self.clamped_log_vars().double().sum(dim=1) + self._scaled_squares(codes))
        return F.log_softmax(self.log_weights().double() + log_densities, dim=1).to(wide_dtype(codes.dtype))

    def kl_to_components(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """KL( N(mu, sigma^2) || N(m_c, v_c) ), summed over D, for every component: (B,D), (B,D) -> (B,K)."""
        log_var = log_var.double()
        squares = self._scaled_squares(mu, log_var.exp())
        log_ratio = self.clamped_log_vars().double().sum(dim=1) - log_var.sum(dim=1, keepdim=True)
        return (0.5 * (log_ratio + squares - mu.shape[1])).to(wide_dtype(mu.dtype))

    def kl_to_own(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor:
        """KL( N(mu, sigma^2) || N(m_y, v_y) ), summed over D: (B,D), (B,D), labels y (B,) -> (B,)."""
        means, log_vars = self.means[labels], self.clamped_log_vars()[labels]
        squares = (log_var.exp() + (mu - means).square()) * (-log_vars).exp()
        return 0.5 * (log_vars - log_var + squares - 1).sum(dim=1)

    def mixture_term(self, mu: Tensor, log_var: Tensor, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """L_gmm = sum_c gamma_c KL( N(mu, sigma^2) || N(m_c, v_c) ) + KL(gamma || pi), per image.

        Args:
            mu, log_var: the encoder's distribution, (B,D) each.
            codes: where the responsibilities are taken: the sampled z in training, mu in evaluation, (B,D).
            labels: None for gamma from `codes` (the gradient flows through it); class indices (B,) for
                gamma = onehot(y), for which KL(gamma || pi) = -log pi_y.

        Returns:
            (B,), in nats, summed over D.
        """
        if labels is not None:
            return self.kl_to_own(mu, log_var, labels) - self.log_weights()[labels]
        log_gamma = self.log_responsibilities(codes)
        return (log_gamma.exp() * (self.kl_to_components(mu, log_var) + log_gamma - self.log_weights())).sum(dim=1)
