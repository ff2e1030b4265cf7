"""How well each candidate label explains an image: all K labels of a batch, for little more than one encoder pass.

In evaluation a label enters code and decoder in a few places only, and each is cheap for all labels:

- The heads are linear, so label c adds a row of its own to mu, to log sigma^2 and to the decoder's first layer.
- Batch norm in evaluation is a gain and an offset per channel, and with those of the label a pair per candidate.
- A transposed convolution is a product with its weights, and then neighbours are added.
- The resize is linear in each direction, R = Q L with orthonormal Q: |R a Rᵀ - t|² is |L a Lᵀ - Qᵀ t Q|² on the
  decoder's grid, plus what of the image t no decoder output reaches. Both are sums of squares, so nothing cancels.

Shapes: B batch, K labels, N pairs of an image and a label, D length of a code, S side of the image, M = 41 the
decoder's grid. Everything is float32 or wider, whatever the autocast.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import CHANNELS, START_SIZE, ClassConditionalBatchNorm2d, VAE3Decoder

# pairs at a time, which bounds the memory, to about 100 MB for the mixture; what the decoder makes of its pairs stays
# in a CPU's cache, while a GPU wants more work at a time
MIXTURE_PAIRS = 1024
DECODER_PAIRS, DECODER_PAIRS_ON_GPU = 60, 1920


class Candidates:
    """Codes of every label for a batch.

    Args:
        mu_head, log_var_head: linear layers of [h, onehot(y)].
        features: h, (B,H).
        limit: log sigma^2 is within +-limit.
    """

    def __init__(self, mu_head: nn.Linear, log_var_head: nn.Linear, features: Tensor, limit: float) -> None:
        self.mu, self.mu_rows = _split(mu_head, features)  # (B,D), (K,D)
        self.log_var, self.log_var_rows = _split(log_var_head, features)
        self.limit = limit
        self.images, self.labels = len(features), len(self.mu_rows)

    def pairs(self, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All pairs in parts of at most `size`: where they are in (B,K) made flat, images (N,), labels (N,)."""
        total = self.images * self.labels
        for start in range(0, total, size):
            part = slice(start, min(start + size, total))
            pair = torch.arange(part.start, part.stop, device=self.mu.device)
            yield part, pair // self.labels, pair % self.labels

    def mixture_terms(self, prior: nn.Module, assign: str) -> Tensor:
        """L_gmm of each image under each label, at z = mu: (B,K)."""
        terms = self.mu.new_empty(self.images * self.labels)
        for part, image, label in self.pairs(MIXTURE_PAIRS):
            mu = self.mu[image] + self.mu_rows[label]
            log_var = (self.log_var[image] + self.log_var_rows[label]).clamp_(-self.limit, self.limit)
            terms[part] = prior.mixture_term(mu, log_var, mu, label if assign == "label" else None)
        return terms.view(self.images, self.labels)

    def squared_errors(self, decoder: VAE3Decoder, images: Tensor) -> Tensor:
        """Squared error of the image rebuilt from mu, mean over pixels and channels: images (B,1 or 3,S,S) -> (B,K)."""
        base, rows = _first_layer(decoder.project, self.mu, self.mu_rows)
        basis, grid = _resize_factors(decoder.image_size, images)
        targets = basis.T @ images @ basis  # (B,1 or 3,M,M)
        beyond = (images - basis @ targets @ basis.T).square().sum(dim=(2, 3)).mean(dim=1)
        errors = beyond.new_empty(self.images * self.labels)
        for part, image, label in self.pairs(DECODER_PAIRS if images.device.type == "cpu" else DECODER_PAIRS_ON_GPU):
            maps = torch.sigmoid(_decode(decoder, (base[image] + rows[label]).relu_(), label))
            rebuilt = grid @ maps @ grid.T
            errors[part] = rebuilt.sub_(targets[image]).square_().sum(dim=(2, 3)).mean(dim=1)
        return (errors.view(self.images, self.labels) + beyond[:, None]) / images[0, 0].numel()


def _split(head: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
    """What the features give, and what each label adds to it."""
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


def _decode(decoder: VAE3Decoder, flat: Tensor, labels: Tensor) -> Tensor:
    """The decoder from behind its first layer to before its sigmoid: (N,6*6*128), labels (N,) -> (N,3,M,M)."""
    maps = flat.view(len(flat), START_SIZE, START_SIZE, CHANNELS[0])
    *layers, (last, last_norm) = zip(decoder.convolutions, decoder.norms, strict=True)
    for convolution, norm in layers:
        gain, offset = _gain_and_offset(norm, convolution.bias, labels)
        maps = _grow(convolution, maps).mul_(gain[:, None, None]).add_(offset[:, None, None]).relu_()
    gain, offset = _gain_and_offset(last_norm, last.bias, labels)
    taps = last.weight.flatten(1).T @ maps.flatten(1, 2).transpose(1, 2)  # its 3 channels are too few to come last
    grown = F.fold(taps, 2 * maps.shape[1] - 1, last.kernel_size, stride=last.stride, padding=last.padding)
    return grown.mul_(gain[:, :, None, None]).add_(offset[:, :, None, None])


def _gain_and_offset(norm: ClassConditionalBatchNorm2d, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What a convolution's bias, batch norm and label make of a map without bias: (N,C) each."""
    plain = norm.norm
    scale = torch.rsqrt(plain.running_var + plain.eps)
    gain = (1 + norm.gain) * scale
    return gain[labels], (norm.bias + gain * (bias - plain.running_mean))[labels]


def _grow(convolution: nn.ConvTranspose2d, maps: Tensor) -> Tensor:
    """A transposed convolution 3x3 of stride 2 and padding 1, without its bias: (N,h,h,C) -> (N,2h-1,2h-1,C').

    Pixel 2i of the result has the middle tap of pixel i; pixel 2i+1 has the last tap of pixel i and the first one of
    pixel i+1.
    """
    taps = maps @ convolution.weight.permute(0, 2, 3, 1).flatten(1)
    taps = taps.view(*maps.shape[:3], 3, 3, -1)  # (N,h,h,3,3,C')
    tall = _add_neighbours(taps[..., 1, :, :], taps[:, :-1, :, 2], taps[:, 1:, :, 0], 1)
    return _add_neighbours(tall[..., 1, :], tall[:, :, :-1, 2], tall[:, :, 1:, 0], 2)


def _add_neighbours(middle: Tensor, last: Tensor, first: Tensor, dim: int) -> Tensor:
    shape = list(middle.shape)
    shape[dim] = 2 * shape[dim] - 1
    grown = middle.new_empty(shape)
    even = [slice(None)] * dim + [slice(0, None, 2)]
    odd = [slice(None)] * dim + [slice(1, None, 2)]
    grown[tuple(even)] = middle
    torch.add(last, first, out=grown[tuple(odd)])
    return grown
