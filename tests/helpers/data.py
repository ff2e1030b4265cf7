"""The arguments that a run has for its data."""

import argparse

DEFAULTS = {
    "new_size": 32,
    "crop_size": 28,
    "subset_seed": 0,
    "val_fraction": 0.0,
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
}


def data_args(dataset: str, datadir: object = "", **options: object) -> argparse.Namespace:
    """What the scripts parse, for small images."""
    return argparse.Namespace(dataset=dataset, datadir=str(datadir), **(DEFAULTS | options))
