"""The VAE3 decoder: a code and a label to an image in [0,1]."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (128, 64, 32, 3)
START_SIZE = 6


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
        """maps (B,C,h,w), labels (B,) int64 -> (B,C,h,w)."""
        gain = 1 + F.embedding(labels, self.gain)[:, :, None, None]
        bias = F.embedding(labels, self.bias)[:, :, None, None]
        return torch.addcmul(bias, self.norm(maps), gain)


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
        # 6 -> 11 -> 21 -> 41 pixels
        self.convolutions = nn.ModuleList(nn.ConvTranspose2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(ClassConditionalBatchNorm2d(b, num_classes) for _, b in pairs)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """codes (B,D), labels (B,) int64 -> images (B,3,S,S) in [0,1]."""
        maps = self.project(codes).view(-1, CHANNELS[0], START_SIZE, START_SIZE)
        for depth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            maps = norm(convolution(maps if depth == 0 else F.relu(maps)), labels)
        size = (self.image_size, self.image_size)
        return F.interpolate(torch.sigmoid(maps), size, mode="bilinear", align_corners=False)
