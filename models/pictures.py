"""Pictures of what a DGCMM has learnt: images beside their reconstructions, and samples of its components.

Shapes: N images, C components, D length of a code, S = side of the image, s = side of a picture.
"""

import logging
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

from models.dgcmm import DGCMM
from utils.choice import images_of, some_classes
from utils.device import autocast, to_unit_range
from utils.errors import UserError
from utils.randomness import Stream, generator
from utils.training.run import Run

log = logging.getLogger("dgcmm")

SIDE = 96  # of a picture, at most
SHOWN_IMAGES = 12  # above their reconstructions
SHOWN_COMPONENTS, SHOWN_SAMPLES = 15, 8  # of the prior, and pictures of each


class LabelledImages(Protocol):
    """What is shown: items (image (C,S,S) uint8, label, index), and the label of each, (N,)."""

    targets: np.ndarray

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Give an image, its label and its index."""


def rebuild(model: DGCMM, images: Tensor, labels: Tensor) -> Tensor:
    """Rebuild images under their own labels: (N,1 or 3,S,S) in [0,1], (N,) -> both as pictures, (2,N,3,s,s)."""
    rebuilt = model.reconstructions(images, labels)
    return torch.stack([_picture(images.expand_as(rebuilt)), _picture(rebuilt)])


def sample(model: DGCMM, components: Tensor, count: int, seed: int) -> Tensor:
    """Decode the mean of each component, then count - 1 draws from it: (C,) -> pictures (C,count,3,s,s).

    The draws of all components are the same number of standard deviations from their means.
    """
    device = components.device
    noise = torch.zeros(count, model.z_dim, device=device)
    source = generator(seed, Stream.SAMPLES, device=device)
    noise[1:] = torch.randn(count - 1, model.z_dim, generator=source, device=device)
    samples = model.samples(components.repeat_interleave(count), noise.repeat(len(components), 1))
    return _picture(samples).unflatten(0, (len(components), count))


def to_pixels(pictures: Tensor) -> np.ndarray:
    """Turn pictures (...,3,s,s) in [0,1] into what image files hold: (...,s,s,3) uint8."""
    return (255 * pictures).round().byte().movedim(-3, -1).cpu().numpy()


def _picture(images: Tensor) -> Tensor:
    """Shrink images (N,3,S,S) to `SIDE`, if they are larger."""
    if images.shape[-1] <= SIDE:
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)


@torch.inference_mode()
def reconstruct(run: Run, dataset: LabelledImages) -> tuple[Tensor, np.ndarray]:
    """Rebuild images, from the largest class to the smallest: pictures and rebuilt (2,N,3,s,s), and labels (N,)."""
    there = np.unique(dataset.targets)
    classes = there[some_classes(np.asarray(run.about["class_counts"])[there], SHOWN_IMAGES)].tolist()
    chosen = images_of(classes, dataset.targets, SHOWN_IMAGES)
    chosen = sorted(chosen, key=lambda index: classes.index(dataset.targets[index]))
    images = to_unit_range(torch.stack([dataset[index][0] for index in chosen]), run.world.device)
    labels = dataset.targets[chosen]
    run.model.eval()
    with autocast(run.world.device, run.args.amp):
        return rebuild(run.model, images, torch.from_numpy(labels).to(run.world.device)), labels


def show_reconstructions(run: Run, dataset: LabelledImages) -> None:
    """Show images of a split above what the decoder makes of them, in TensorBoard."""
    pictures, _ = reconstruct(run, dataset)
    grid = make_grid(pictures.flatten(0, 1), nrow=pictures.shape[1])
    run.board.image(run.epoch + 1, "figures/0 images above reconstructions", grid)


@torch.inference_mode()
def keep_pictures(run: Run, dataset: LabelledImages) -> None:
    """Keep images, their reconstructions and samples of components in the run folder, for the figures."""
    names, shown = np.array(run.about["class_names"]), some_classes(run.about["class_counts"], SHOWN_COMPONENTS)
    try:
        (inputs, rebuilt), labels = reconstruct(run, dataset)
        pictures = {"inputs": to_pixels(inputs), "reconstructions": to_pixels(rebuilt), "labels": names[labels]}
        if run.model.prior.started:
            with autocast(run.world.device, run.args.amp):
                samples = sample(run.model, torch.from_numpy(shown).to(run.world.device), SHOWN_SAMPLES, run.args.seed)
            rows = names[shown]
            if run.args.gmm_assign != "label":  # a component is then of no class, and is decoded under one
                rows = np.array([f"{component} as {name}" for component, name in zip(shown, rows, strict=True)])
            pictures |= {"samples": to_pixels(samples), "components": rows, "num_classes": np.array(len(names))}
        run.folder.write_pictures(pictures)
    except Exception as error:  # whatever it is, the run is complete without them
        bug = not isinstance(error, UserError)
        log.warning("no pictures of reconstructions and samples: %s", error, exc_info=bug)
