"""The ResNet encoder: an image in [0,1] to a feature vector."""

import logging
import socket
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import torch
import torchvision
from torch import Tensor, nn

from models.names import FEATURE_DIMS
from utils.errors import UserError
from utils.locks import folder_lock

log = logging.getLogger("dgcmm")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DOWNLOAD_TIMEOUT_S = 20
# of the network, the disk, the file format, and weights of another network
LOADING_ERRORS = (
    *(OSError, HTTPException),
    *(RuntimeError, EOFError, KeyError, TypeError, ValueError, UnpicklingError, BadZipFile),
)


class ResNetEncoder(nn.Module):
    """A torchvision ResNet up to global average pooling, with ImageNet's normalisation in front.

    The normalisation lives here, as buffers, so that data loaders and the decoder's target stay in [0,1] and a
    checkpoint says by itself what its weights expect.

    Args:
        name: torchvision's name, a key of `models.names.FEATURE_DIMS`.
        pretrained: start from IMAGENET1K_V1 weights (see `load_pretrained`).
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.feature_dim = FEATURE_DIMS[name]
        self.resnet = torchvision.models.get_model(name, weights=None)
        if pretrained:
            load_pretrained(self.resnet, name)
        self.resnet.fc = nn.Identity()
        self.resnet.to(memory_format=torch.channels_last)  # in which convolutions are fastest, in bfloat16 above all
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,S,S), or (B,1,S,S) for grey, in [0,1] -> features h (B,H)."""
        normalised = (images - self.mean) / self.std
        return self.resnet(normalised.contiguous(memory_format=torch.channels_last))


def load_pretrained(resnet: nn.Module, name: str) -> None:
    """Load torchvision's IMAGENET1K_V1 weights of ResNet `name`, from torch.hub's cache or, once, from the network.

    One process fetches them, others that want them too wait. Nothing that the file may carry beside the weights is run.

    Raises:
        UserError: the file is not in the cache and cannot be fetched, or it does not load; says where to put it.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
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
    finally:
        socket.setdefaulttimeout(timeout)


def _fetch_once(url: str, path: Path) -> None:
    """Into torch.hub's cache, by one process; torch.hub itself would speak of it on standard output."""
    with folder_lock(path.parent, f"it fetches {path.name}"):
        if not path.exists():
            log.info("fetching %s", url)
            hash_prefix = torch.hub.HASH_REGEX.search(path.name)[1]
            torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
