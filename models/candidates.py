"""How well each candidate label rebuilds an image: all K labels of a batch, for little more than one encoder pass.

In evaluation a label enters the decoder in a few places only, and each is cheap for all labels:

- The heads are linear, so label c adds a row of its own to mu and to the decoder's first layer.
- Batch norm in evaluation is a gain and an offset per channel, and with those of the label a pair per candidate.
- A transposed convolution is a product with its weights, and then neighbours are added.
- The resize is linear in each direction, R = Q L with orthonormal Q: |R a Rᵀ - t|² is |L a Lᵀ - Qᵀ t Q|² on the
  decoder's grid, plus what of the image t no decoder output reaches. Both are sums of squares, so nothing cancels.

Shapes: B batch, K labels, D length of a code, S side of the image, M = 41 the decoder's grid. Everything is float32 or
wider: the caller turns the autocast off.
"""

from collections.abc import Iterator
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import CHANNELS, START_SIZE, ClassConditionalBatchNorm2d, VAE3Decoder

# pairs at a time: what the decoder makes of them stays in a CPU's cache, while a GPU wants more work at a time
DECODER_PAIRS, DECODER_PAIRS_ON_GPU = 60, 1920

# even or odd row and column, in an order in which what a neighbour reaches is side by side
PHASES = ((0, 0), (0, 1), (1, 1), (1, 0))
# a transposed convolution 3x3 of stride 2 and padding 1, in one direction: pixel 2i of the result has the middle tap of
# pixel i; pixel 2i+1 has the last tap of pixel i and the first one of pixel i+1
TAPS = (((1, 0),), ((2, 0), (0, 1)))


def blocks(images: int, labels: int, pairs: int) -> Iterator[tuple[slice, slice]]:
    """Parts of (B,K) with at most so many pairs: which images, which labels."""
    some = max(pairs // labels, 1)
    for first in range(0, images, some):
        for start in range(0, labels, pairs):
            yield slice(first, first + some), slice(start, min(start + pairs, labels))


class CandidateErrors:
    """Squared errors of images rebuilt under every label; what needs labels and weights alone is made once.

    Args:
        decoder: in evaluation; its weights must stay as they are.
        mu_rows: what each label adds to mu, (K,D).
    """

    def __init__(self, decoder: VAE3Decoder, mu_rows: Tensor) -> None:
        linear, norm = decoder.project[0], decoder.project[1]
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.first = (linear.weight * gain[:, None], torch.addcmul(norm.bias, linear.bias - norm.running_mean, gain))
        self.rows = _channels_last(F.linear(mu_rows, self.first[0]))
        *grown, (last, last_norm) = zip(decoder.convolutions, decoder.norms, strict=True)
        self.layers = [
            (_by_neighbour(convolution), *_gain_and_offset(norm, convolution)) for convolution, norm in grown
        ]
        self.last = (last.weight, *_gain_and_offset(last_norm, last))
        self.basis, self.grid = _resize_factors(decoder.image_size, mu_rows)

    def __call__(self, mu: Tensor, images: Tensor) -> Tensor:
        """The error's mean over pixels and channels: mu without a label (B,D), images (B,1 or 3,S,S) -> (B,K)."""
        base = _channels_last(F.linear(mu, *self.first))
        targets = self.basis.T @ images @ self.basis  # (B,1 or 3,M,M)
        unreached = (images - self.basis @ targets @ self.basis.T).square().sum(dim=(2, 3)).mean(dim=1)
        errors = unreached.new_empty(len(images), len(self.rows))
        for part in blocks(*errors.shape, DECODER_PAIRS if images.device.type == "cpu" else DECODER_PAIRS_ON_GPU):
            some, labels = part
            maps = self._decode((base[some, None] + self.rows[labels]).relu_(), labels)
            rebuilt = self.grid @ torch.sigmoid(maps) @ self.grid.T  # (b,k,3,M,M) of b images and k labels
            errors[part] = rebuilt.sub_(targets[some, None]).square_().sum(dim=(3, 4)).mean(dim=2)
        return (errors + unreached[:, None]) / images[0, 0].numel()

    def _decode(self, start: Tensor, labels: slice) -> Tensor:
        """The decoder from behind its first layer to before its sigmoid.

        Args:
            start: of b images and k labels, (b,k,6*6*128).
            labels: which ones.

        Returns:
            (b,k,3,M,M)
        """
        maps = start.view(*start.shape[:2], START_SIZE, START_SIZE, CHANNELS[0])
        for taps, gain, offset in self.layers:
            maps = _grow(taps, maps, gain[labels], offset[labels]).relu_()
        weight, gain, offset = self.last
        return _grow_planes(weight, maps, gain[labels], offset[labels])


def _channels_last(flat: Tensor) -> Tensor:
    """(N,128*6*6) -> (N,6*6*128)."""
    return flat.unflatten(1, (CHANNELS[0], -1)).transpose(1, 2).flatten(1)


def _resize_factors(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """R = Q L of the resize from M to S pixels in one direction: Q (S,R), L (R,M), R = min(S,M)."""
    grid = START_SIZE
    for _ in CHANNELS[1:]:
        grid = 2 * grid - 1
    eye = torch.eye(grid, dtype=torch.float64)[None]
    resize = F.interpolate(eye, size, mode="linear", align_corners=False)[0].T
    return tuple(factor.to(like) for factor in torch.linalg.qr(resize))


def _gain_and_offset(norm: ClassConditionalBatchNorm2d, convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """What a convolution's bias, batch norm and each label make of a map without bias: (K,C) each."""
    plain = norm.norm
    gain = (1 + norm.gain) * torch.rsqrt(plain.running_var + plain.eps)
    return gain, torch.addcmul(norm.bias, gain, convolution.bias - plain.running_mean)


def _by_neighbour(convolution: nn.ConvTranspose2d) -> list[Tensor]:
    """The weights (C,C',3,3) of a transposed convolution, for `_grow`, see TAPS.

    What a pixel, the next in its row, the one below and the one below that next give to the PHASES of the result that
    they reach, (C,n*C') each.
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


def _grow_planes(weight: Tensor, maps: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """`_grow` to channels so few that each is better a plane of its own.

    Args:
        weight: (C,C',3,3).

    Returns:
        (b,k,C',2h-1,2h-1).
    """
    side = maps.shape[2]
    taps = weight.flatten(1).T @ maps.flatten(2, 3).mT
    taps = taps.unflatten(2, weight.shape[1:]).unflatten(5, (side, side))
    grown = maps.new_empty(*maps.shape[:2], gain.shape[1], 2 * side - 1, 2 * side - 1)
    for y, x in PHASES:
        reached = [
            taps[..., row, column, down : side - y + down, on : side - x + on]
            for row, down in TAPS[y]
            for column, on in TAPS[x]
        ]
        total = reduce(torch.add, reached)
        torch.addcmul(offset[..., None, None], total, gain[..., None, None], out=grown[..., y::2, x::2])
    return grown
