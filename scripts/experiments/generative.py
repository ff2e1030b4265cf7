"""How alive the generative half of a DGCMM is: what its decoder and its mixture can do without the classifier.

Shapes: B batch, K classes, S side of the image.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.base import ImageDataset
from datasets.loading import BatchLoader, EvaluationBatches
from models.classifier import ImageClassifier
from models.dgcmm import DGCMM
from models.losses import widen
from scripts.experiments.corruption import blurred
from utils.device import to_unit_range
from utils.metrics import compute_metrics
from utils.randomness import Stream, generator

SAMPLES = 100  # of each component
LOOKED_AT = 2_000  # test images, spread over the classes, that every label is tried on by the decoder


def batches(data: ImageDataset, batch_size: int) -> BatchLoader:
    """Load the images of a split in its order, in this process."""
    return BatchLoader(data, EvaluationBatches(len(data), batch_size), workers=0, pin_memory=False)


def class_mean_images(data: ImageDataset, batch_size: int, device: torch.device) -> Tensor:
    """Compute the mean image of each class: (K,C,S,S) in [0,1]."""
    sums = torch.zeros(len(data.classes), *data[0][0].shape, dtype=torch.float64, device=device)
    for images, labels, _ in batches(data, batch_size):
        sums.index_add_(0, labels.to(device), to_unit_range(images, device).double())
    counts = torch.tensor(data.class_counts, device=device)
    return (sums / counts[:, None, None, None]).float()


def recognised(judge: ImageClassifier, images: Tensor, labels: Tensor) -> Tensor:
    """Tell which images (B,3,S,S) the judge takes for their labels (B,): (B,) bool."""
    mu, _ = judge.posterior(judge.features(images), None)
    return judge.classifier(mu).argmax(dim=1) == labels


@torch.inference_mode()
def sample_components(model: DGCMM, seed: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw `SAMPLES` codes of each component and decode them under its label: yields images (B,3,S,S), labels (B,)."""
    device = model.classifier.weight.device
    labels = torch.arange(model.num_classes, device=device).repeat_interleave(SAMPLES)
    noise = torch.randn(len(labels), model.z_dim, generator=generator(seed, Stream.SAMPLES, 1)).to(device)
    for some, own in zip(labels.split(batch_size), noise.split(batch_size), strict=True):
        yield model.samples(some, own), some


@torch.inference_mode()
def measure_generative_half(
    model: DGCMM,
    train: ImageDataset,
    test: ImageDataset,
    judges: Mapping[str, ImageClassifier],
    batch_size: int,
) -> dict[str, float | None]:
    """Measure the generative half on the test images.

    It computes in float32. Its errors are means over the images, and its grey level is that of the training images.
    Those of `models.health.measure_health` are means over the classes, and their grey level is the best for what is
    measured.

    Args:
        model: in evaluation.
        train: under the evaluation transform; the class means are its.
        judges: other classifiers of such images by name, each of which says what an image shows.
        batch_size: images at a time.

    Returns:
        mse: mean squared error of reconstructions under their own labels at z = mu, over pixels and channels.
        mse_constant, mse_class_mean: of one grey level, the mean of the training images, and of the class's mean image.
        recognised_reconstructions_by_NAME: share that a judge takes for their label, mean over the classes.
        recognised_samples_by_NAME: the same of draws from the components, None where components belong to no class:
            with other assignments than by the label, and before training has moved them.
        recognised_images_by_NAME: of the test images themselves, which is what the judge can do.
        recognised_blurred_by_NAME: of the test images blurred over 3x3 pixels: whether it minds that decoded images
            are.
        acsa_reconstruction: balanced accuracy of the label with the smallest squared error.
        acsa_mixture: of the component with the highest density at the code, all of equal weight; None as above.
    """
    device = model.classifier.weight.device
    means = class_mean_images(train, batch_size, device)
    shares = torch.tensor(train.class_counts, device=device) / len(train)
    grey = (means.mean(dim=(1, 2, 3)) * shares).sum()
    columns: dict[str, list[Tensor]] = {}
    for images, labels, _ in batches(test, batch_size):
        images, labels = to_unit_range(images, device), labels.to(device)
        found = _measure_batch(model, images, labels, judges)
        found["mse_constant"] = (images - grey).square().mean(dim=(1, 2, 3))
        found["mse_class_mean"] = (images - means[labels]).square().mean(dim=(1, 2, 3))
        for name, values in found.items():
            columns.setdefault(name, []).append(values.cpu())
    joined = {name: torch.cat(parts) for name, parts in columns.items()}
    targets = torch.from_numpy(test.targets)
    half: dict[str, float | None] = {
        name: joined[name].mean().item() for name in ("mse", "mse_constant", "mse_class_mean")
    }
    own = model.gmm_assign == "label" and model.prior.started
    for judge in judges:
        for name in ("images", "blurred", "reconstructions"):
            half[f"recognised_{name}_by_{judge}"] = _mean_by_class(joined[f"{name}_by_{judge}"], targets)
        half[f"recognised_samples_by_{judge}"] = _recognised_samples(model, judges[judge], batch_size) if own else None
    for name in ("reconstruction", "mixture"):
        scores = F.softmax(-joined[name].double(), dim=1).numpy()
        usable = name == "reconstruction" or own
        numbers = compute_metrics(test.targets, scores, train.class_counts)
        half[f"acsa_{name}"] = numbers["acsa"] if usable else None
    return half


def _measure_batch(
    model: DGCMM, images: Tensor, labels: Tensor, judges: Mapping[str, ImageClassifier]
) -> dict[str, Tensor]:
    """Measure images (B,C,S,S): errors (B,), what the judges say (B,), and a score of each candidate label (B,K)."""
    features = model.features(images)
    components, rebuilt_own = model.prior.components(), torch.zeros_like(widen(images))
    errors, distances = [], []
    for label in range(model.num_classes):
        candidate = torch.full_like(labels, label)
        if label == 0 or model.generative:  # a code that is not of the label serves all of them
            mu, _ = model.posterior(features, candidate)
            energies = components.energies(mu)
        rebuilt = widen(model.decoder(mu, candidate))
        errors.append((rebuilt - images).square().mean(dim=(1, 2, 3)))
        distances.append(energies[:, label])
        rebuilt_own = torch.where((labels == label)[:, None, None, None], rebuilt, rebuilt_own)
    found = {"reconstruction": torch.stack(errors, dim=1), "mixture": torch.stack(distances, dim=1)}
    found["mse"] = found["reconstruction"].gather(1, labels[:, None])[:, 0]
    for name, judge in judges.items():
        for what, shown in (("images", images), ("blurred", blurred(images)), ("reconstructions", rebuilt_own)):
            found[f"{what}_by_{name}"] = recognised(judge, shown, labels)
    return found


def _recognised_samples(model: DGCMM, judge: ImageClassifier, batch_size: int) -> float:
    """Measure the share of samples of the components that a judge takes for their class."""
    hits = [recognised(judge, *part) for part in sample_components(model, 0, batch_size)]
    return torch.cat(hits).double().mean().item()


def _mean_by_class(hits: Tensor, targets: Tensor) -> float:
    """Average hits (B,) over the images of each class, and over the classes that have any."""
    return torch.stack([hits[targets == label].double().mean() for label in targets.unique()]).mean().item()
