"""The arguments that a run has for its data."""

import argparse

from datasets import DATASETS
from datasets.base import ImageDataset
from datasets.splits import complete_data

DEFAULTS = {
    "new_size": 32,
    "crop_size": 28,
    "subset_seed": 0,
    "val_fraction": 0.0,
    "val_per_class": 0,
    "dummy": False,
    "cache_size": 0,
    "cache_dir": None,
    "logdir": "",
    "resume": None,
    "bad_images": "error",
    "quiet": True,
    "dataset_manifest": None,
    "download_jobs": 2,
    "keep_archives": False,
    "train_transform": None,
    "imbalance_factor": None,
    "subset_scale": 1.0,
    "csv": None,
    "names": None,
}


def data_args(dataset: str, datadir: object = "", **options: object) -> argparse.Namespace:
    """What the scripts parse, for small images."""
    args = argparse.Namespace(dataset=dataset, datadir=str(datadir), **(DEFAULTS | options))
    complete_data(args)
    return args


def load_part(dataset: str, datadir: object, train: bool, **options: object) -> ImageDataset:
    """The training or test split as the data set loads it, without a transform."""
    splits = DATASETS[dataset].load(data_args(dataset, datadir, **options))
    return splits.train if train else splits.test
