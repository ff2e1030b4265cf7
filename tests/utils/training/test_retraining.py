"""Extraction of codes, and what the steps of a re-training compute."""

import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from utils.training.engine import Position, to_device
from utils.training.noise import draw
from utils.training.retraining import RetrainingRun, extract, take_training_codes

from datasets.base import ArrayDataset
from datasets.loading import BatchLoader, EvaluationBatches
from models.dgcmm import DGCMM, LossWeights
from models.samplers import FeatureTransferSampler, PosteriorSampler
from utils.distributed.world import World

WEIGHTS = LossWeights(10.0, 0.1, 0.001)
ARGS = argparse.Namespace(
    **{"lr": 0.1, "momentum": 0.9, "wd": 1e-4, "clip_grad": 0.0, "seed": 5, "amp": "off", "max_steps": 6},
    **{"batch_size": 20, "print_freq": 100, "save_every": 0, "quiet": True},
)
COUNTS, DIM = (120, 30, 10), 8


def model_of(**kwargs):
    torch.manual_seed(0)
    return DGCMM("resnet18_vae3", 3, DIM, 32, **kwargs)


def loader_of(count, batch):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=np.uint8)
    as_tensor = lambda image: torch.from_numpy(np.array(image))[None]  # noqa: E731
    data = ArrayDataset(pixels, "abc", np.arange(count) % 3, [str(n) for n in range(count)], as_tensor)
    return BatchLoader(data, EvaluationBatches(count, batch), 0, False)


@pytest.mark.parametrize(("generative", "labelled"), [(False, True), (True, True), (True, False)])
def test_extracted_codes_are_those_of_each_image_in_order(generative, labelled):
    model, loader = model_of(generative=generative).eval(), loader_of(11, 4)
    codes = extract(model, loader, labelled, WEIGHTS, ARGS, World())
    images = to_device(torch.stack([loader.dataset[n][0] for n in range(11)]), torch.device("cpu"))
    targets = torch.arange(11) % 3
    with torch.no_grad():
        features = model.features(images)
        pair = model.posterior(features, targets) if labelled else model.scorer(WEIGHTS).evidence(images)
    names = ("mu", "log_var") if labelled else ("features", "fixed")
    assert list(codes) == ["targets", *names]
    assert torch.equal(codes["targets"], targets)
    for name, expected in zip(names, pair, strict=True):
        torch.testing.assert_close(codes[name], expected, rtol=1e-4, atol=1e-5)
        codes[name].mul_(2)  # an inference tensor would refuse


def run_of(sampler_class):
    torch.manual_seed(1)
    targets = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    sampler = sampler_class(torch.randn(160, DIM), torch.rand(160, DIM), targets, 3, ARGS.seed)
    settings = {"codes": {}, "datasets": {}, "weights": WEIGHTS, "trained_sha256": ""}
    return RetrainingRun(
        ARGS, model_of(), None, "test", {"class_counts": COUNTS}, World(), kind="aug", sampler=sampler, **settings
    )


@pytest.mark.parametrize("sampler_class", [PosteriorSampler, FeatureTransferSampler])
def test_steps_are_those_of_a_plain_loop(sampler_class):
    run = run_of(sampler_class)
    run.epoch = 2
    assert list(run.train_steps()) == []
    plain = run_of(sampler_class)
    classifier, sampler = plain.model.classifier, plain.sampler
    optimizer = torch.optim.SGD(classifier.parameters(), ARGS.lr, momentum=ARGS.momentum, weight_decay=ARGS.wd)
    sources, labels = sampler.plan(2)
    for step in range(ARGS.max_steps):
        rows = slice(20 * step, 20 * step + 20)
        codes = sampler.codes(sources[rows], labels[rows], draw(20, DIM, ARGS.seed, 2, step))
        optimizer.zero_grad()
        F.cross_entropy(classifier(codes), labels[rows]).backward()
        optimizer.step()
    torch.testing.assert_close(run.model.classifier.weight, classifier.weight)
    assert run.position == Position(6, 120, run.position.totals)


def test_training_codes_are_taken_without_a_copy():
    mu, log_var = torch.randn(4, 2), torch.tensor([[0.0, 2.0]]).repeat(4, 1)
    test = {"targets": torch.zeros(1), "mu": torch.zeros(1, 2), "log_var": torch.zeros(1, 2)}
    codes = {"train": {"targets": torch.arange(4), "mu": mu, "log_var": log_var}, "test": test}
    training = take_training_codes(codes, torch.device("cpu"))
    assert training.keys() == {"targets", "mu", "sigma"}
    torch.testing.assert_close(training["sigma"], torch.tensor([[0.0, 1.0]]).exp().repeat(4, 1))
    assert (training["mu"].data_ptr(), training["sigma"].data_ptr()) == (mu.data_ptr(), log_var.data_ptr())
    assert codes == {"test": test}
    assert test.keys() == {"targets", "mu"}
