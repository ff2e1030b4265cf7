"""The Gaussian-mixture prior of the code: one component per class, learned with the network.

Notation of the DGCMM paper (TPAMI 45(3), 2023) in comments: q(z|x) = N(mu, sigma^2) is the encoder's distribution,
the prior is p(z) = sum_c pi_c N(z; m_c, v_c), gamma_c is the responsibility of component c.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.energies import EnergiesOfSums, MixtureEnergies, energies
from models.precision import wide_dtype

LOG_VAR_LIMIT = 10.0
PROJECTION_MARGIN = 1e-3
INITIAL_MEAN_STD = 0.1

Pairs = tuple[slice, slice, Tensor]
CandidateTerms = Callable[[Tensor, Iterable[Pairs]], Tensor]


class GaussianMixturePrior(nn.Module):
    """K diagonal Gaussians over codes of length D, with their weights.

    Args:
        num_components: K.
        z_dim: D.

    Everything is computed in log space and in at least float32; the distances of all codes to all components, and
    what keeps them exact, are in `models.energies`.
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
        return F.hardtanh(self.log_vars, -LOG_VAR_LIMIT, LOG_VAR_LIMIT)  # a clamp with a leaner backward pass

    def _log_vars_and_precisions(self) -> tuple[Tensor, Tensor]:
        """log v within its limits, and 1/v: (K,D) each."""
        log_vars = self.clamped_log_vars()
        return log_vars, (-log_vars).exp()

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

    def log_responsibilities(self, codes: Tensor) -> Tensor:
        """log gamma_c = log softmax_c( log pi_c + log N(z; m_c, v_c) ): codes z (B,D) -> (B,K), float32 or wider.

        log pi_c counts once, not once per dimension; the constant of the normal density cancels in the softmax.
        """
        at_codes = energies(codes, self.means, *self._log_vars_and_precisions())
        return self._log_gamma(at_codes).to(wide_dtype(codes.dtype))

    def _log_gamma(self, at_codes: Tensor) -> Tensor:
        return F.log_softmax(self.log_weights().double() - 0.5 * at_codes, dim=-1)

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
        at_codes, at_mu = MixtureEnergies.apply(codes, mu, log_var.exp(), self.means, self.clamped_log_vars())
        return self._weigh(at_codes, at_mu, log_var)

    def _weigh(self, at_codes: Tensor, at_mu: Tensor, log_var: Tensor) -> Tensor:
        """L_gmm of the energies at the code and of their mean over N(mu, sigma^2): (...,K) twice, (...,D) -> (...)."""
        log_gamma = self._log_gamma(at_codes).to(wide_dtype(log_var.dtype))
        entropy = log_var.sum(dim=-1, keepdim=True, dtype=torch.float64) + log_var.shape[-1]  # of N(mu, sigma^2), twice
        kl = (0.5 * (at_mu - entropy)).to(log_gamma.dtype)  # KL( N(mu, sigma^2) || N(m_c, v_c) )
        return (log_gamma.exp() * (kl + log_gamma - self.log_weights())).sum(dim=-1)

    def terms_of_all(self, rows: Tensor) -> CandidateTerms:
        """L_gmm of candidate labels with gamma from z = mu, where mu is a code plus the label's row, (K,D).

        Returns:
            A function of codes (B,D) and of pairs, each time which codes (b), which labels (k) and their log sigma^2
            (b,k,D): L_gmm, (B,K). What the rows make of the components is made once for all its calls.
        """
        log_vars, precisions = self._log_vars_and_precisions()
        at_sums = EnergiesOfSums(rows, self.means, log_vars, precisions)

        def terms(codes: Tensor, pairs: Iterable[Pairs]) -> Tensor:
            at_codes, found = at_sums.at_codes(codes), codes.new_empty(len(codes), len(rows))
            for some, labels, log_var in pairs:
                at_mu = at_sums(codes[some], at_codes[some], labels)
                found[some, labels] = self._weigh(at_mu, at_mu + log_var.exp() @ precisions.T, log_var)
            return found

        return terms

    def terms_of_own(self, rows: Tensor) -> CandidateTerms:
        """The same with gamma = onehot(label)."""
        log_vars, precisions = self._log_vars_and_precisions()
        means, log_weights = self.means - rows, self.log_weights()

        def terms(codes: Tensor, pairs: Iterable[Pairs]) -> Tensor:
            at_codes = energies(codes, means, log_vars, precisions)  # component c at the code plus row c
            surprise, found = at_codes - codes.shape[1] - 2 * log_weights, codes.new_empty(at_codes.shape)
            for some, labels, log_var in pairs:
                rest = torch.einsum("bkd,kd->bk", log_var.exp(), precisions[labels]) - log_var.sum(dim=2)
                found[some, labels] = (0.5 * (surprise[some, labels] + rest)).to(found.dtype)
            return found

        return terms
