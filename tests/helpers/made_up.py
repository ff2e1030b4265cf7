"""The folder of a run that never was: everything that figures are drawn from, of any number of classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from helpers.project import METRIC_NAMES
from utils.choice import some_classes
from utils.metrics import Measurement, Predictions
from utils.training.checkpoint import digest, save_checkpoint
from utils.training.folder import RunFolder


def made_up_run(path: Path, num_classes: int, epochs: int = 5) -> Path:
    """Write the files of training, Case 1 and Case 2, with long class names; a class's number tells its size."""
    rng = np.random.default_rng(0)
    names = [f"class {number} with $a long name" for number in range(num_classes)]
    counts = np.geomspace(500, 3, num_classes).astype(int)
    targets = np.arange(max(num_classes, 60)) % num_classes
    logits = rng.normal(size=(len(targets), num_classes)) + 3 * np.eye(num_classes)[targets]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = Predictions(np.arange(len(targets)), targets, shares, np.full(len(targets), -1))
    ids = np.array([f"image, {number}" for number in range(len(targets))])
    path.mkdir(parents=True)
    RunFolder(str(path)).write_measurement(Measurement({}, found, ids, names, counts.tolist()), epochs)
    numbers = dict.fromkeys(METRIC_NAMES, 0.5) | {
        "low": None,
        "loss": 2.0,
        "loss_cls": 0.1,
        "loss_gmm": None,
        "lr": 0.1,
    }
    for suffix in ("", "_aug_ftl", "_aug"):
        folder = RunFolder(str(path), suffix)
        for name in ("metrics_per_class.csv", "predictions.csv") if suffix else ():
            shutil.copy(path / name, folder.file(name))
        folder.write_rows("metrics.csv", [{"epoch": n, "split": "test", **numbers} for n in range(1, epochs + 1)])
        arguments = {"resume": str(path / "checkpoint.pth"), "logdir": str(path)}
        folder.file("args.json").write_text(json.dumps({"arguments": arguments}))
    labels = torch.arange(num_classes).repeat_interleave(4)
    codes = torch.randn(len(labels), 6) + labels[:, None]
    parts = {"train": {"targets": labels, "mu": codes, "log_var": codes}}
    prior = {"prior.means": torch.randn(num_classes, 6), "prior.logits": torch.ones(num_classes)}
    key = {"weights": digest(prior)}
    save_checkpoint(path / "checkpoint_codes.pth", {"key": key, "class_names": names, **parts})
    save_checkpoint(path / "checkpoint.pth", {"state_dict": prior})
    shown, sampled = some_classes(counts, 12), some_classes(counts, 15)
    images = rng.integers(0, 256, (15, 8, 24, 24, 3), dtype=np.uint8)
    pictures = {"inputs": images[: len(shown), 0], "reconstructions": images[: len(shown), 1]}
    pictures |= {"labels": np.array(names)[shown], "components": np.array(names)[sampled]}
    pictures |= {"samples": images[: len(sampled)], "num_classes": np.array(num_classes)}
    RunFolder(str(path)).write_pictures(pictures)
    return path
