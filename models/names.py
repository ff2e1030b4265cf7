"""Names and sizes of the architectures, without importing torch, so that `-h` answers at once."""

# torchvision's ResNets and the length of the feature vector after global average pooling
FEATURE_DIMS = {
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

# --arch -> torchvision's name of the encoder; the decoder is VAE3 throughout
ARCHITECTURES = {"resnet_vae3": "resnet50"} | {f"{name}_vae3": name for name in FEATURE_DIMS}


def feature_dim(arch: str) -> int:
    """Length of the feature vector h that the encoder of `arch` gives."""
    return FEATURE_DIMS[ARCHITECTURES[arch]]
