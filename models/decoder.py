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


class DoublingConvolution(nn.ConvTranspose2d):
    """Transposed convolution 3x3 that takes h pixels to 2h-1.

    In evaluation, where a generative model decodes every candidate label, it is laid out as a CPU computes it fastest:
    channels last, and the bias, which would double the time, added after.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=3, stride=2, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Grow maps (B,C,h,h) -> (B,C',2h-1,2h-1)."""
        if self.training:
            return super().forward(maps)
        maps = maps.contiguous(memory_format=torch.channels_last)
        grown = F.conv_transpose2d(maps, self.weight, None, self.stride, self.padding)
        return grown + self.bias[:, None, None]


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

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Decode codes (B,D) under labels (B,) int64, or their shares (B,K), as images (B,3,S,S) in [0,1]."""
        size = (self.image_size, self.image_size)
        return F.interpolate(self.render(self.project(codes), labels), size, mode="bilinear", align_corners=False)

    def render(self, projected: Tensor, labels: Tensor) -> Tensor:
        """Turn the output of `project` (B,128*6*6) into the image before its resize, (B,3,41,41) in [0,1]."""
        maps = projected.view(-1, CHANNELS[0], START_SIZE, START_SIZE)
        for depth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            maps = norm(convolution(maps if depth == 0 else F.relu(maps)), labels)
        return torch.sigmoid(maps)

    def resize_matrix(self) -> Tensor:
        """Return R (S,41), float64, of the bilinear resize along one side: an image x becomes R x R^T."""
        grid = torch.eye(RENDERED_SIZE, dtype=torch.float64, device=self.norms[0].gain.device)
        return F.interpolate(grid[None], self.image_size, mode="linear", align_corners=False)[0].T
