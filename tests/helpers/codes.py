"""A model and images whose codes are extracted, with the arguments of a re-training."""

import argparse

import numpy as np
import torch

from datasets.base import ArrayDataset
from datasets.loading import BatchLoader, EvaluationBatches
from models.dgcmm import DGCMM

DIM = 8
ARGS = argparse.Namespace(
    **{"lr": 0.1, "momentum": 0.9, "wd": 1e-4, "clip_grad": 0.0, "seed": 5, "amp": "off", "max_steps": 6},
    **{"batch_size": 20, "print_freq": 100, "save_every": 0, "quiet": True},
    **{"weight_cls": 10.0, "weight_reconst": 0.1, "weight_gmm": 0.001},
)


def model_of(**kwargs):
    torch.manual_seed(0)
    return DGCMM("resnet32_vae3", 3, DIM, 32, **kwargs)


def loader_of(count, batch):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=np.uint8)
    as_tensor = lambda image: torch.from_numpy(np.array(image))[None]  # noqa: E731
    data = ArrayDataset(pixels, "abc", np.arange(count) % 3, [str(n) for n in range(count)], as_tensor)
    return BatchLoader(data, EvaluationBatches(count, batch), 0, False)
