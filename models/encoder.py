"""The ResNet encoder: an image in [0,1] to a feature vector."""

import hashlib
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
# network and disk; a hash that is not the expected one; the address of a proxy
FETCHING_ERRORS = (OSError, HTTPException, RuntimeError, ValueError)
# a damaged file, weights of another network
LOADING_ERRORS = (
    OSError,
    EOFError,
    UnpicklingError,
    BadZipFile,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
)

CIFAR_RESNETS = {"resnet32": 5}  # name -> blocks of a stage
# the ResNets, torchvision's and CIFAR's, and the length of the feature vector after global average pooling
FEATURE_DIMS = {
    "resnet32": 64,
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
PLAIN_ARCHITECTURES = tuple(FEATURE_DIMS)
ARCHITECTURES = {
    "resnet_vae3": "resnet50",
    **{f"{name}_vae3": name for name in FEATURE_DIMS},
    **{name: name for name in FEATURE_DIMS},
}


def feature_dim(arch: str) -> int:
    """Return the length of the feature vector h that the encoder of `arch` gives."""
    return FEATURE_DIMS[resnet_of(arch)]


def resnet_of(arch: str) -> str:
    """Name the ResNet of `arch`.

    Raises:
        UserError: there is none: a checkpoint is of a later version, or of a changed one.
    """
    if arch not in ARCHITECTURES:
        raise UserError(f"--arch {arch}: this version of the code has no such model")
    return ARCHITECTURES[arch]


class ResNetEncoder(nn.Module):
    """A ResNet up to global average pooling, with ImageNet's normalisation in front.

    The normalisation lives here, as buffers, so that data loaders and the decoder's target stay in [0,1] and a
    checkpoint says by itself what its weights expect.

    Args:
        name: a key of `FEATURE_DIMS`: torchvision's name, or one of `CIFAR_RESNETS`.
        pretrained: start from IMAGENET1K_V1 weights (see `load_pretrained`).
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.feature_dim = FEATURE_DIMS[name]
        blocks = CIFAR_RESNETS.get(name)
        self.resnet = CifarResNet(blocks) if blocks else torchvision.models.get_model(name, weights=None)
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


def load_pretrained(resnet: nn.Module, name: str) -> None:
    """Load torchvision's IMAGENET1K_V1 weights of ResNet `name`, as `fetch_pretrained` brings them.

    Loading is weights-only, so code in the file cannot run.

    Raises:
        UserError: there are no such weights, or they cannot be brought or loaded.
    """
    path = fetch_pretrained(name)
    try:
        resnet.load_state_dict(_pretrained_weights(name).get_state_dict(progress=False, weights_only=True))
    except LOADING_ERRORS as error:
        raise _unusable(path, type(error).__name__) from error


@download_timeout()
def fetch_pretrained(name: str) -> Path:
    """Bring torchvision's IMAGENET1K_V1 weights of ResNet `name` into torch.hub's cache, and verify them.

    One process fetches them, if they are not there, while others wait. The name of the file has the start of its
    SHA-256; torch.hub compares the two only while it downloads.

    Returns:
        The path of the file.

    Raises:
        UserError: the file is damaged, or is not in the cache and cannot be fetched; says where to put it. There are no
            such weights of CIFAR's ResNet.
    """
    weights = _pretrained_weights(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        if not path.exists():
            _fetch_once(weights.url, path)
    except UserError as error:  # of the lock
        raise UserError(f"--pretrained: {error} (with the environment variable TORCH_HOME)") from error
    except FETCHING_ERRORS as error:
        reason = f"{weights.url} cannot be fetched ({error}): download it elsewhere and put it at {path}"
        raise UserError(f"--pretrained: {reason}") from error
    _verify(path)
    return path


def _pretrained_weights(name: str) -> torchvision.models.WeightsEnum:
    if name in CIFAR_RESNETS:
        raise UserError(f"--pretrained: there are no ImageNet weights of {name}, CIFAR's ResNet: leave it out")
    return torchvision.models.get_model_weights(name).IMAGENET1K_V1


def _verify(path: Path) -> None:
    """Raise a `UserError` if the SHA-256 of a file does not begin as its name says."""
    expected = torch.hub.HASH_REGEX.search(path.name)[1]
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unusable(path, type(error).__name__) from error
    if not found.startswith(expected):
        raise _unusable(path, f"its SHA-256 does not begin with {expected}")


def _unusable(path: Path, why: str) -> UserError:
    return UserError(f"--pretrained: {path} cannot be used ({why}): delete it, or put a good copy there")


def _fetch_once(url: str, path: Path) -> None:
    """Fetch a file into torch.hub's cache in one process at a time, without torch.hub's lines on standard output."""
    with folder_lock(path.parent, f"it fetches {path.name}"):
        if not path.exists():
            log.info("fetching %s", url)
            hash_prefix = torch.hub.HASH_REGEX.search(path.name)[1]
            torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
