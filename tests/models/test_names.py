"""Names of the architectures: sizes that torchvision confirms, and no torch behind them."""

import subprocess
import sys

import pytest
import torch
import torchvision

from helpers.project import ROOT
from models.names import ARCHITECTURES, FEATURE_DIMS, feature_dim


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_feature_dim_is_torchvisions(arch):
    with torch.device("meta"):
        resnet = torchvision.models.get_model(ARCHITECTURES[arch], weights=None)
    assert feature_dim(arch) == resnet.fc.in_features


def test_resnet_vae3_is_resnet50():
    assert ARCHITECTURES["resnet_vae3"] == "resnet50"
    assert feature_dim("resnet_vae3") == 2048


def test_every_encoder_has_an_architecture():
    assert set(ARCHITECTURES.values()) == set(FEATURE_DIMS)


def test_names_come_without_torch():
    code = "import sys, models.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
