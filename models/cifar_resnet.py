"""The ResNet of He et al. (CVPR 2016, section 4.2) for images of 32 pixels, in the form that long-tail papers use.

It is the network of the LDAM-DRW baselines: three stages of 16, 32 and 64 channels, and shortcuts without parameters.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two convolutions 3x3 and a shortcut past them.

    Where the channels double, the side halves, and the shortcut (He's option A) takes every second pixel and fills the
    new channels with zeros, half of them on each side.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.new_channels = channels - channels_in
        self.stride = 2 if self.new_channels else 1
        self.conv1 = nn.Conv2d(channels_in, channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute (B,C,h,w) -> (B,C,h,w), or (B,2C,h/2,w/2), halves rounded up."""
        inner = F.relu(self.bn1(self.conv1(maps)))
        side = self.new_channels // 2
        shortcut = F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))
        return F.relu(self.bn2(self.conv2(inner)) + shortcut)


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers over images of any size, with a linear layer `fc` of 1000, as torchvision's have.

    Args:
        blocks: n, of each stage; 5 make ResNet-32.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        pairs = pairwise((CHANNELS[0], *CHANNELS))
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(BasicBlock(before, after), *(BasicBlock(after, after) for _ in range(blocks - 1)))
            for before, after in pairs
        )
        self.fc = nn.Linear(CHANNELS[-1], 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Compute (B,3,S,S) -> (B,1000)."""
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.fc(maps.mean(dim=(2, 3)))
