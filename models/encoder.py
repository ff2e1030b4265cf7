"""The ResNet encoder: an image in [0,1] to a feature vector."""

import logging
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import torch
import torchvision
from torch import Tensor, nn

from models.cifar_resnet import CifarResNet
from utils.errors import UserError
from utils.locks import folder_lock
from utils.network import download_timeout

log = logging.getLogger("dgcmm")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# network and disk, a damaged file, weights of another network
LOADING_ERRORS = (
    OSError,
    HTTPException,
    EOFError,
    UnpicklingError,
    BadZipFile,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
)

# the ResNets, torchvision's and CIFAR's, and the length of the feature vector after global average pooling
CIFAR_RESNET = "resnet32"
FEATURE_DIMS = {
    CIFAR_RESNET: 64,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
    "resnext50_32x4d": 2048,
    "resnext101_32x8d": 2048,
    "resnext101_64x4d": 2048,
    "wide_resnet50_2": 2048,
    "wide_resnet101_2": 2048,
}

# --arch -> the ResNet: a DGCMM with the decoder VAE3 has `_vae3` in its name, a plain classifier is the ResNet's own
PLAIN_ARCHITECTURES = {name: name for name in FEATURE_DIMS}
ARCHITECTURES = {"resnet_vae3": "resnet50"} | {f"{name}_vae3": name for name in FEATURE_DIMS} | PLAIN_ARCHITECTURES


def feature_dim(arch: str) -> int:
    """Return the length of the feature vector h that the encoder of `arch` gives."""
    return FEATURE_DIMS[ARCHITECTURES[arch]]


class ResNetEncoder(nn.Module):
    """A ResNet up to global average pooling, with ImageNet's normalisation in front.

    The normalisation lives here, as buffers, so that data loaders and the decoder's target stay in [0,1] and a
    checkpoint says by itself what its weights expect.

    Args:
        name: a key of `FEATURE_DIMS`: torchvision's name, or `CIFAR_RESNET`.
        pretrained: start from IMAGENET1K_V1 weights (see `load_pretrained`).
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.feature_dim = FEATURE_DIMS[name]
        self.resnet = CifarResNet(5) if name == CIFAR_RESNET else torchvision.models.get_model(name, weights=None)
        if pretrained:
            load_pretrained(self.resnet, name)
        self.resnet.fc = nn.Identity()
        self.resnet.to(memory_format=torch.channels_last)  # the fastest layout for convolutions, in bfloat16 above all
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B,3,S,S), or (B,1,S,S) for grey, in [0,1] as features h (B,H)."""
        normalised = (images - self.mean) / self.std
        return self.resnet(normalised.contiguous(memory_format=torch.channels_last))


@download_timeout()
def load_pretrained(resnet: nn.Module, name: str) -> None:
    """Load torchvision's IMAGENET1K_V1 weights of ResNet `name`, from torch.hub's cache or, once, from the network.

    One process fetches them while others wait. Loading is weights-only, so code in the file cannot run.

    Raises:
        UserError: the file is not in the cache and cannot be fetched, or it does not load; says where to put it.
            There are no such weights of CIFAR's ResNet.
    """
    if name == CIFAR_RESNET:
        raise UserError(f"--pretrained: there are no ImageNet weights of {name}, CIFAR's ResNet: leave it out")
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        if not path.exists():
            _fetch_once(weights.url, path)
        resnet.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except UserError as error:  # of the lock
        raise UserError(f"--pretrained: {error} (with the environment variable TORCH_HOME)") from error
    except LOADING_ERRORS as error:
        if path.exists():
            reason = f"{path} cannot be used ({type(error).__name__}): delete it, or put a good copy there"
        else:
            reason = f"{weights.url} cannot be fetched ({error}): download it elsewhere and put it at {path}"
        raise UserError(f"--pretrained: {reason}") from error


def _fetch_once(url: str, path: Path) -> None:
    """Fetch a file into torch.hub's cache in one process at a time, without torch.hub's lines on standard output."""
    with folder_lock(path.parent, f"it fetches {path.name}"):
        if not path.exists():
            log.info("fetching %s", url)
            hash_prefix = torch.hub.HASH_REGEX.search(path.name)[1]
            torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
