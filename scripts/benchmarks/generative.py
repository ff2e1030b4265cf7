"""Generative evaluation per image, over one forward pass of the encoder, at K=15 and at a large K.

encoder     the ResNet alone, in evaluation
scores      `models.scoring.Scorer`: all K labels of each image
"""

import argparse
from collections.abc import Callable

import torch

from models.dgcmm import DGCMM, LossWeights
from scripts.benchmarks.timing import Ratio, interleave

FEW, MANY = 15, 1000
# (labels, who assigns a code to a component): at most so many passes of the encoder
TARGETS = {(FEW, "label"): 1.5, (FEW, "posterior"): 1.5, (MANY, "label"): 8.0, (MANY, "posterior"): 8.0}
WEIGHTS = LossWeights(10.0, 0.1, 0.001)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    add = parser.add_argument
    add("--generative-arch", default="resnet_vae3", metavar="ARCH", help="architecture (default: resnet_vae3)")
    add(
        "--generative-labels", type=int, default=MANY, metavar="K", help=f"the large number of labels (default: {MANY})"
    )
    add("--generative-batch", type=int, default=16, metavar="B", help="images at a time (default: 16)")
    add("--generative-size", type=int, default=224, metavar="PX", help="side of the images (default: 224)")


@torch.inference_mode()
def measure(options: argparse.Namespace) -> list[Ratio]:
    """Time of an evaluation over that of the encoder, for each K and each way to assign components.

    Args:
        options: `repeats`, timed calls of each; the sizes, see `add_flags`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, ratios = options.generative_batch, []
    images = torch.rand(batch, 3, options.generative_size, options.generative_size, device=device)
    for (labels, assign), target in TARGETS.items():
        number = options.generative_labels if labels == MANY else labels
        model = trained_like(options.generative_arch, number, assign, options.generative_size).to(device)
        ways = {"encoder": _encoder(model, images), "scores": _scores(model, images)}
        seconds = interleave(ways, min(options.repeats, 3 if labels == MANY else 7))
        encoder, scores = (1000 * seconds[way] / batch for way in ways)
        detail = f"{scores:.1f} and {encoder:.1f} ms an image"
        ratios.append(Ratio(f"generative: K={number}, {assign} / encoder", detail, scores / encoder, target, False))
    return ratios


def trained_like(arch: str, labels: int, assign: str, size: int) -> DGCMM:
    """A generative model in evaluation whose labels matter in every place."""
    torch.manual_seed(0)
    model = DGCMM(arch, labels, 2048, size, generative=True, gmm_assign=assign).eval()
    with torch.no_grad():
        for norm in model.decoder.norms:
            norm.gain.normal_(std=0.1)
            norm.bias.normal_(std=0.1)
    return model


def _encoder(model: DGCMM, images: torch.Tensor) -> Callable[[], object]:
    return lambda: model.features(images)


def _scores(model: DGCMM, images: torch.Tensor) -> Callable[[], object]:
    scorer = model.scorer(WEIGHTS)
    return lambda: scorer.probabilities(*scorer.evidence(images))
