"""The table of scripts/atypicality.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import DATASETS
from models.loading import load_model
from scripts import atypicality
from scripts.atypicality import cell, main
from utils.errors import UserError
from utils.metrics import shot_group


def test_cell_has_the_area_and_the_share_of_others_that_pass():
    usual = np.arange(100.0)  # 95 % of them are up to 94.05
    other = np.array([50.0] * 10 + [200.0] * 30)
    wins = 10 * 50.5 + 30 * 100  # pairs in which the other image has the larger score; an equal one is a half
    assert cell(usual, other) == f"{wins / 4000:.3f}, 0.25"
    assert cell(usual, other[:19]) == "-"


@torch.no_grad()
def test_scores_are_what_their_names_say(trained_digits, monkeypatch):
    monkeypatch.setattr(atypicality, "BATCH", 4)
    model = load_model(trained_digits / "checkpoint.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8)
    images = list(map(Image.fromarray, pixels))
    scores, groups = atypicality.score(model, images)
    batch = torch.stack(list(map(model.transform, images)))
    found = model.classify(batch)
    errors = (model.network.reconstructions(batch, found.labels) - batch).square().mean(dim=(1, 2, 3))
    expected = {"atypicality": found.atypicality, "1 - confidence": 1 - found.probabilities.amax(dim=1)}
    expected |= {"reconstruction error": errors, "short code": -found.mu.norm(dim=1)}
    assert list(scores) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-4, atol=1e-6)
    assert groups.tolist() == [shot_group(model.class_counts[label]) for label in found.labels.tolist()]


def test_table_is_of_the_test_images_and_of_two_other_kinds(trained_digits, tmp_path, monkeypatch, capsys):
    model = load_model(trained_digits / "checkpoint.pth")
    monkeypatch.setattr(model, "class_names", DATASETS["FashionMNIST_LT"].classes)
    monkeypatch.setattr(atypicality, "load_model", lambda path: model)
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        images, labels = np.zeros((count, 2, 2), np.uint8), np.resize(np.arange(10, dtype=np.uint8), count)
        for what, array in (("images", images), ("labels", labels)):
            header = np.array([0x800 + array.ndim, *array.shape], dtype=">u4").tobytes()
            (tmp_path / f"{prefix}-{what}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
    numbers = []

    def score(model: object, images: list) -> tuple[dict, np.ndarray]:
        numbers.append(len(images))
        return {kind: np.full(len(images), float(len(numbers))) for kind in atypicality.KINDS}, np.full(
            len(images), "many"
        )

    monkeypatch.setattr(atypicality, "score", score)
    main(["checkpoint.pth", f"--datadir={tmp_path}"])
    assert numbers == [10_000, 1_797, 2_000]
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header == "| images | score | all | many | median | low |"
    assert lines[0] == "| digits | atypicality | 1.000, 0.00 | 1.000, 0.00 | - | - |"
    assert len(lines) == 8


def test_checkpoint_of_another_data_set_is_refused(trained_digits):
    with pytest.raises(UserError, match="has other classes than FashionMNIST_LT: name a checkpoint of that data set"):
        main([f"{trained_digits}/checkpoint.pth"])
