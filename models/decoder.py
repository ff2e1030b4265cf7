"""The VAE3 decoder: a code and a label to an image in [0,1]."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (128, 64, 32, 3)
START_SIZE, RENDERED_SIZE = 6, 41  # 6 -> 11 -> 21 -> 41 pixels


class ClassConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias depend on the label: gain 1 + G[y], bias A[y].

    G and A start at 0, so that training starts from a plain batch norm.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Parameter(torch.zeros(num_classes, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Normalise maps (B,C,h,w) by labels (B,) int64, or their shares (B,K) -> (B,C,h,w)."""
        gain, bias = (
            F.embedding(labels, table) if labels.dim() == 1 else labels.to(table.dtype) @ table
            for table in (self.gain, self.bias)
        )
        return torch.addcmul(bias[:, :, None, None], self.norm(maps), 1 + gain[:, :, None, None])

    def at_once(self, maps: Tensor, offset: Tensor, labels: Tensor) -> Tensor:
        """Normalise maps + offset (C,) as `forward` does in evaluation, in one pass over the maps."""
        scale = (self.norm.running_var + self.norm.eps).rsqrt()
        gain = (1 + F.embedding(labels, self.gain)) * scale
        bias = F.embedding(labels, self.bias) + gain * (offset - self.norm.running_mean)
        return torch.addcmul(bias[:, :, None, None], maps, gain[:, :, None, None])


class DoublingConvolution(nn.ConvTranspose2d):
    """Transposed convolution 3x3 that takes h pixels to 2h-1.

    In evaluation, where a generative model decodes every candidate label, it is laid out as it is computed fastest:
    channels last, and on a CPU the bias, which would double the time, added after.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=3, stride=2, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Grow maps (B,C,h,h) -> (B,C',2h-1,2h-1)."""
        if self.training:
            return super().forward(maps)
        return self.without_bias(maps) + self.bias[:, None, None]

    def without_bias(self, maps: Tensor) -> Tensor:
        """Grow maps as `forward` does in evaluation, but for the bias."""
        maps = maps.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(maps, self.weight, None, self.stride, self.padding)


class VAE3Decoder(nn.Module):
    """Linear D -> 128x6x6, then three transposed convolutions to 3x41x41, resized to the image.

    Args:
        z_dim: length D of the code.
        num_classes: K.
        image_size: side S of the image that is given back.
    """

    def __init__(self, z_dim: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        flat = CHANNELS[0] * START_SIZE**2
        self.project = nn.Sequential(nn.Linear(z_dim, flat), nn.BatchNorm1d(flat), nn.ReLU(inplace=True))
        pairs = list(pairwise(CHANNELS))
        self.convolutions = nn.ModuleList(DoublingConvolution(a, b) for a, b in pairs)
        self.norms = nn.ModuleList(ClassConditionalBatchNorm2d(b, num_classes) for _, b in pairs)
        self.register_buffer("resize_matrix", bilinear_matrix(RENDERED_SIZE, image_size), persistent=False)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Decode codes (B,D) under labels (B,) int64, or their shares (B,K), as images (B,3,S,S) in [0,1]."""
        rendered = self.render(self.project(codes), labels)
        if rendered.device.type == "cuda":
            return self.resize_by_products(rendered)
        size = (self.image_size, self.image_size)
        return F.interpolate(rendered, size, mode="bilinear", align_corners=False)

    def resize_by_products(self, images: Tensor) -> Tensor:
        """Resize images (B,3,41,41) bilinearly to (B,3,S,S), as R x R^T.

        The gradient of torch's resize is added up on a GPU in any order, or slowly under `--deterministic`.
        """
        with torch.autocast(images.device.type, enabled=False):
            matrix = self.resize_matrix.to(images.dtype)
            return matrix @ images @ matrix.T

    def render(self, projected: Tensor, labels: Tensor) -> Tensor:
        """Turn the output of `project` (B,128*6*6) into the image before its resize, (B,3,41,41) in [0,1]."""
        # a GPU waits for its memory in evaluation: bias and norm are one pass there
        return self.render_maps(projected, labels, projected.device.type == "cuda" and not self.training)

    def render_maps(self, projected: Tensor, labels: Tensor, fewer_passes: bool) -> Tensor:
        """Do what `render` does.

        Args:
            projected, labels: as there.
            fewer_passes: go over the maps once for bias and norm, which evaluation allows.
        """
        maps = projected.view(-1, CHANNELS[0], START_SIZE, START_SIZE)
        for depth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            maps = maps if depth == 0 else F.relu(maps)
            if fewer_passes:
                maps = norm.at_once(convolution.without_bias(maps), convolution.bias, labels)
            else:
                maps = norm(convolution(maps), labels)
        return torch.sigmoid(maps)


def bilinear_matrix(before: int, after: int) -> Tensor:
    """Return R (after,before), float64, of the bilinear resize along one side: an image x becomes R x R^T."""
    grid = torch.eye(before, dtype=torch.float64)
    return F.interpolate(grid[None], after, mode="linear", align_corners=False)[0].T.contiguous()
