"""How well each candidate label explains an image: all K labels of a batch, for little more than one encoder pass.

In evaluation a label enters code and decoder in a few places only, and each is cheap for all labels:

- The heads are linear, so label c adds a row of its own to mu, to log sigma^2 and to the decoder's first layer.
- Batch norm in evaluation is a gain and an offset per channel, and with those of the label a pair per candidate.
- A transposed convolution is a product with its weights, and then neighbours are added.
- The resize is linear in each direction, R = Q L with orthonormal Q: |R a Rᵀ - t|² is |L a Lᵀ - Qᵀ t Q|² on the
  decoder's grid, plus what of the image t no decoder output reaches. Both are sums of squares, so nothing cancels.

Shapes: B batch, K labels, D length of a code, S side of the image, M = 41 the decoder's grid. Everything is float32 or
wider, whatever the autocast.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import CHANNELS, START_SIZE, ClassConditionalBatchNorm2d, VAE3Decoder
from models.prior import GaussianMixturePrior

# pairs at a time, which bounds the memory, to about 100 MB for the mixture; what the decoder makes of its pairs stays
# in a CPU's cache, while a GPU wants more work at a time
MIXTURE_PAIRS = 1024
DECODER_PAIRS, DECODER_PAIRS_ON_GPU = 60, 1920

# even or odd row and column, in an order in which what a neighbour reaches is side by side
PHASES = ((0, 0), (0, 1), (1, 1), (1, 0))


class Candidates:
    """Codes of every label for a batch.

    Args:
        mu_head, log_var_head: linear layers of [h, onehot(y)].
        features: h, (B,H).
        limit: log sigma^2 is within +-limit.
    """

    def __init__(self, mu_head: nn.Linear, log_var_head: nn.Linear, features: Tensor, limit: float) -> None:
        self.mu, self.mu_rows = split_head(mu_head, features)  # (B,D), (K,D)
        self.log_var, self.log_var_rows = split_head(log_var_head, features)
        self.limit = limit
        self.images, self.labels = len(features), len(self.mu_rows)

    def blocks(self, pairs: int) -> Iterator[tuple[slice, slice]]:
        """Parts of (B,K) with at most so many pairs: which images, which labels."""
        labels = min(self.labels, pairs)
        images = max(pairs // labels, 1)
        for first in range(0, self.images, images):
            for start in range(0, self.labels, labels):
                yield slice(first, first + images), slice(start, start + labels)

    def mixture_terms(self, prior: GaussianMixturePrior, assign: str) -> Tensor:
        """L_gmm of each image under each label, at z = mu: (B,K)."""
        terms = self.mu.new_empty(self.images, self.labels)
        term = (prior.term_of_own if assign == "label" else prior.term_of_all)(self.mu, self.mu_rows)
        for part in self.blocks(MIXTURE_PAIRS):
            images, labels = part
            log_var = (self.log_var[images, None] + self.log_var_rows[labels]).clamp_(-self.limit, self.limit)
            terms[part] = term(images, labels, log_var)
        return terms

    def squared_errors(self, decoder: VAE3Decoder, images: Tensor) -> Tensor:
        """Squared error of the image rebuilt from mu, mean over pixels and channels: images (B,1 or 3,S,S) -> (B,K)."""
        base, rows = _first_layer(decoder.project, self.mu, self.mu_rows)
        basis, grid = _resize_factors(decoder.image_size, images)
        targets = basis.T @ images @ basis  # (B,1 or 3,M,M)
        beyond = (images - basis @ targets @ basis.T).square().sum(dim=(2, 3)).mean(dim=1)
        errors = beyond.new_empty(self.images, self.labels)
        weights = [_by_neighbour(convolution) for convolution in decoder.convolutions[:-1]]
        for part in self.blocks(DECODER_PAIRS if images.device.type == "cpu" else DECODER_PAIRS_ON_GPU):
            some, labels = part
            maps = _decode(decoder, weights, (base[some, None] + rows[labels]).relu_(), labels)
            rebuilt = grid @ torch.sigmoid(maps) @ grid.T  # (b,k,3,M,M) of b images and k labels
            errors[part] = rebuilt.sub_(targets[some, None]).square_().sum(dim=(3, 4)).mean(dim=2)
        return (errors + beyond[:, None]) / images[0, 0].numel()


def split_head(head: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
    """What a linear layer of [h, onehot(y)] makes of h (B,H), and what each label adds to that: (B,D), (K,D)."""
    size = features.shape[1]
    plain, labels = head.weight.split([size, head.in_features - size], dim=1)
    return F.linear(features, plain, head.bias), labels.T


def _first_layer(project: nn.Sequential, mu: Tensor, mu_rows: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's linear layer and batch norm, of the images and what each label adds; channels last, flat."""
    linear, norm = project[0], project[1]
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    base = (linear(mu) - norm.running_mean) * gain + norm.bias
    rows = F.linear(mu_rows, linear.weight) * gain
    return tuple(value.unflatten(1, (CHANNELS[0], -1)).transpose(1, 2).flatten(1) for value in (base, rows))


def _resize_factors(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """R = Q L of the resize from M to S pixels in one direction: Q (S,R), L (R,M), R = min(S,M)."""
    grid = START_SIZE
    for _ in CHANNELS[1:]:
        grid = 2 * grid - 1
    eye = torch.eye(grid, dtype=torch.float64)[None]
    resize = F.interpolate(eye, size, mode="linear", align_corners=False)[0].T
    return tuple(factor.to(like) for factor in torch.linalg.qr(resize))


def _decode(decoder: VAE3Decoder, weights: list[list[Tensor]], start: Tensor, labels: slice) -> Tensor:
    """The decoder from behind its first layer to before its sigmoid.

    Args:
        weights: `_by_neighbour` of each transposed convolution but the last.
        start: of b images and k labels, (b,k,6*6*128).
        labels: which ones.

    Returns:
        (b,k,3,M,M)
    """
    maps = start.view(*start.shape[:2], START_SIZE, START_SIZE, CHANNELS[0])
    *layers, (last, last_norm) = zip(decoder.convolutions, decoder.norms, strict=True)
    for (convolution, norm), taps in zip(layers, weights, strict=True):
        maps = _grow(taps, maps, *_gain_and_offset(norm, convolution.bias, labels)).relu_()
    gain, offset = _gain_and_offset(last_norm, last.bias, labels)
    taps = last.weight.flatten(1).T @ maps.flatten(0, 1).flatten(1, 2).mT  # its 3 channels are too few to come last
    grown = F.fold(taps, 2 * maps.shape[2] - 1, last.kernel_size, stride=last.stride, padding=last.padding)
    return torch.addcmul(offset[..., None, None], grown.unflatten(0, start.shape[:2]), gain[..., None, None])


def _gain_and_offset(norm: ClassConditionalBatchNorm2d, bias: Tensor, labels: slice) -> tuple[Tensor, Tensor]:
    """What a convolution's bias, batch norm and each of k labels make of a map without bias: (k,C) each."""
    plain = norm.norm
    scale = torch.rsqrt(plain.running_var + plain.eps)
    gain = (1 + norm.gain[labels]) * scale
    return gain, norm.bias[labels] + gain * (bias - plain.running_mean)


def _by_neighbour(convolution: nn.ConvTranspose2d) -> list[Tensor]:
    """The weights (C,C',3,3) of a transposed convolution 3x3 of stride 2 and padding 1, for `_grow`.

    Pixel 2i of the result has the middle tap of pixel i; pixel 2i+1 has the last tap of pixel i and the first one of
    pixel i+1. In two dimensions: what a pixel, the next in its row, the one below and the one below that next give to
    the PHASES of the result that they reach, (C,n*C') each.
    """

    def taps(*places: tuple[int, int]) -> Tensor:
        return torch.cat([convolution.weight[:, :, y, x] for y, x in places], dim=1)

    return [taps((1, 1), (1, 2), (2, 2), (2, 1)), taps((1, 0), (2, 0)), taps((0, 2), (0, 1)), taps((0, 0))]


def _grow(taps: list[Tensor], maps: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """A transposed convolution by its weights `_by_neighbour`, times each label's gain, plus its offset.

    Args:
        maps: of b images and k labels, (b,k,h,h,C).
        gain, offset: (k,C').

    Returns:
        (b,k,2h-1,2h-1,C').
    """
    side, channels = maps.shape[2], gain.shape[1]
    pixels = maps.flatten(0, 3)  # a neighbour is some rows further on; beyond an edge is another pixel, for no use
    own, right, below, beyond = taps
    sums = pixels @ own
    for further, first, weight in ((1, 1, right), (side, 2, below), (side + 1, 2, beyond)):
        reached = sums[:-further, first * channels : first * channels + weight.shape[1]]
        reached.addmm_(pixels[further:], weight)
    sums = sums.view(*maps.shape[:4], len(PHASES), channels)
    grown = maps.new_empty(*maps.shape[:2], 2 * side - 1, 2 * side - 1, channels)
    for phase, (y, x) in enumerate(PHASES):
        part = sums[:, :, : side - y, : side - x, phase]
        torch.addcmul(offset[:, None, None], part, gain[:, None, None], out=grown[:, :, y::2, x::2])
    return grown
