"""CIFAR10 and CIFAR100: pickles in torchvision's layout, here with a tenth of the images."""

import builtins
import errno
import hashlib
import pickle
import urllib.request
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from datasets import DATASETS
from datasets.splits import load_splits
from datasets.subsets import exponential_counts
from helpers.data import data_args
from helpers.limits import refusing
from helpers.mirror import tar_gz
from helpers.served import serving
from utils.errors import UserError

KINDS = {"CIFAR10": CIFAR10, "CIFAR100": CIFAR100}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def batches() -> dict[str, dict[str, bytes]]:
    """The files of both, with a tenth of the images, which show their row in the first pixel's channels."""
    made: dict[str, dict[str, bytes]] = {}
    for name, kind in KINDS.items():
        classes = len(DATASETS[name].classes)
        made[name] = {}
        start = 0
        for file, _ in kind.train_list + kind.test_list:
            count = {"train": 5_000}.get(file, 1_000)
            rows = np.arange(start, start + count)
            start = 0 if count == 5_000 or start == 4_000 else start + count
            data = np.zeros((count, 3, 1024), np.uint8)
            data[:, 0, 0], data[:, 1, 0], data[:, 2, 0] = rows >> 16, rows >> 8 & 255, rows & 255
            key = "labels" if classes == 10 else "fine_labels"
            entry = {"data": data.reshape(count, -1), key: (np.arange(count) % classes).tolist()}
            made[name][file] = pickle.dumps(entry)
        made[name][kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: list(DATASETS[name].classes)})
    return made


@pytest.fixture
def published(batches: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """The same, as torchvision expects them by their MD5; nothing can be downloaded."""
    for name, kind in KINDS.items():
        for listed in ("train_list", "test_list"):
            entries = [[file, md5(batches[name][file])] for file, _ in getattr(kind, listed)]
            monkeypatch.setattr(kind, listed, entries)
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(batches[name][kind.meta["filename"]])})
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:9/{kind.filename}")
    monkeypatch.setattr("datasets.cifar.TRAIN", 5_000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return batches


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("place", ["", "torchvision's"])
def test_whole_set_wherever_the_files_lie(name, place, published, tmp_path):
    write(tmp_path / (KINDS[name].base_folder if place else ""), published[name])
    splits = load_splits(data_args(name, tmp_path, new_size=32, crop_size=32), augment=False)
    assert [10 * count for count in splits.train.class_counts] == [*DATASETS[name].train_counts]
    assert [10 * count for count in splits.test.class_counts] == [*DATASETS[name].test_counts]
    image, label, _ = splits.train[4_123]
    assert image.shape == (3, 32, 32)
    assert image[:, 0, 0].tolist() == [0, 4_123 >> 8, 4_123 & 255]
    assert label == 4_123 % len(splits.train.classes)
    assert splits.train.ids[4_123] == "train/04123"


def test_long_tail_is_drawn_by_factor_and_seed(published, tmp_path):
    write(tmp_path, published["CIFAR10"])

    def counts(**options: object) -> tuple[list[int], str]:
        train = load_splits(data_args("CIFAR10_LT", tmp_path, **options)).train
        return train.class_counts, train.fingerprint()

    drawn = [counts(), counts(subset_seed=1), counts(imbalance_factor=10.0)]
    assert drawn[0][0] == drawn[1][0] == [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]
    assert drawn[2][0] == [500, 387, 299, 232, 179, 139, 107, 83, 64, 50]
    assert drawn[0][1] != drawn[1][1]
    scaled = counts(imbalance_factor=10.0, subset_scale=0.1)[0]
    assert scaled == [50, 39, 30, 23, 18, 14, 11, 8, 6, 5]


def test_random_images_in_their_place_have_the_published_counts():
    dummy = load_splits(data_args("CIFAR10_LT", "not/there", dummy=True, imbalance_factor=10.0))
    assert dummy.train.class_counts == [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
    assert dummy.train[0][0].shape[0] == 3


@pytest.mark.parametrize(
    ("factor", "total_10", "total_100", "smallest", "groups"),
    [
        (10, 20_431, 19_573, 50, (69, 31, 0)),
        (20, 17_023, 15_907, 25, (53, 47, 0)),
        (50, 13_996, 12_608, 10, (41, 41, 18)),
        (100, 12_406, 10_847, 5, (35, 35, 30)),
        (200, 11_203, 9_502, 2, (30, 31, 39)),
    ],
)
def test_published_totals_of_the_exponential_profile(factor, total_10, total_100, smallest, groups):
    ten, hundred = exponential_counts(5000, 10, factor), exponential_counts(500, 100, factor)
    assert (sum(ten), sum(hundred), min(hundred)) == (total_10, total_100, smallest)
    many, low = sum(count > 100 for count in hundred), sum(count < 20 for count in hundred)
    assert (many, 100 - many - low, low) == groups
    assert DATASETS["CIFAR10_LT"].long_tail(factor) == ten
    assert DATASETS["CIFAR100_LT"].long_tail(factor) == hundred


def test_imbalance_that_leaves_a_class_without_an_image_is_refused():
    assert min(exponential_counts(500, 100, 500)) == 1
    assert min(exponential_counts(49, 10, 49)) == 1  # 49 * (1 / 49) is less than 1 in floating point
    with pytest.raises(UserError, match="--imbalance-factor 1000 leaves no image of .*, as the largest has 500: give"):
        exponential_counts(500, 100, 1000)


@pytest.mark.parametrize("by_hand", [False, True], ids=["from a server", "archive put there by hand"])
def test_archive_is_downloaded_or_found_and_unpacked_beside(by_hand, published, monkeypatch, tmp_path):
    archive = tar_gz({f"{CIFAR10.base_folder}/{name}": content for name, content in published["CIFAR10"].items()})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    half = dict(list(published["CIFAR10"].items())[:3])  # an unpacking that was ended
    write(tmp_path / CIFAR10.base_folder, half)
    with serving({CIFAR10.filename: archive}) as server:
        if by_hand:
            (tmp_path / CIFAR10.filename).write_bytes(archive)
        else:
            monkeypatch.setattr(CIFAR10, "url", server.url + CIFAR10.filename)
        assert len(load_splits(data_args("CIFAR10", tmp_path)).train) == 5_000
        assert bool(server.asked) is not by_hand
    there = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert there == {CIFAR10.base_folder} | ({CIFAR10.filename} if by_hand else set())


def test_unpacking_that_was_ended_before_the_last_file_is_done_again(published, monkeypatch, tmp_path):
    """The last one has the names of the classes, and torchvision takes the archive for unpacked without it."""
    files = published["CIFAR100"]
    archive = tar_gz({f"{CIFAR100.base_folder}/{name}": content for name, content in files.items()})
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(archive))
    half = {name: content for name, content in files.items() if name != CIFAR100.meta["filename"]}
    write(tmp_path / "CIFAR100.part" / CIFAR100.base_folder, half)
    (tmp_path / "CIFAR100.part" / CIFAR100.filename).write_bytes(archive)
    assert len(load_splits(data_args("CIFAR100", tmp_path)).train) == 5_000
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {CIFAR100.base_folder}


def test_folder_that_is_a_link_which_leads_nowhere_is_told_before_the_download(published, tmp_path):
    (tmp_path / CIFAR10.base_folder).symlink_to("/nowhere/cifar")
    says = rf"{tmp_path / CIFAR10.base_folder} is a link to /nowhere/cifar, which cannot be reached: mend or delete it"
    with pytest.raises(UserError, match=says):
        load_splits(data_args("CIFAR10", tmp_path))


def test_full_disk_at_the_copy_of_an_archive_is_said(published, monkeypatch, tmp_path):
    (tmp_path / CIFAR10.filename).write_bytes(b"whole")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("datasets.download.beside.shutil.copyfile", Mock(side_effect=full))
    with pytest.raises(UserError, match=r"the download failed \(.*No space left on device\): put .* there"):
        load_splits(data_args("CIFAR10", tmp_path))


@pytest.mark.parametrize("wrong", ["proxy", "file in its place"])
def test_download_that_cannot_begin_is_one_line(wrong, published, tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http:/proxy:3128")
    monkeypatch.setattr(urllib.request, "_opener", None)  # which another test may have made, with its proxies
    if wrong != "proxy":
        (tmp_path / "CIFAR10.part").touch()
    says = "proxy URL with no authority" if wrong == "proxy" else "Not a directory"
    with pytest.raises(UserError, match=rf"and the download failed \(.*{says}.*\): put .* there"):
        load_splits(data_args("CIFAR10", tmp_path))


def test_archive_put_there_by_hand_that_is_damaged_is_named(published, tmp_path):
    archive = tmp_path / CIFAR10.filename
    archive.write_bytes(b"cut")
    says = (
        rf"^{archive} is not as published \(MD5\), and the download failed \(.+\): put {CIFAR10.filename} from .* there"
    )
    with pytest.raises(UserError, match=says):
        load_splits(data_args("CIFAR10", tmp_path))


def test_what_lacks_and_where_it_comes_from_is_said(published, tmp_path):
    files = {name: content for name, content in published["CIFAR10"].items() if name != "data_batch_4"}
    folder = write(tmp_path / CIFAR10.base_folder, files)
    says = rf"{folder} lacks data_batch_4, and the download failed \(.+\): put {CIFAR10.filename} from http://.* there"
    with pytest.raises(UserError, match=says) as caught:
        load_splits(data_args("CIFAR10", tmp_path))
    assert "\n" not in str(caught.value)


def test_damaged_file_is_named(published, tmp_path):
    folder = write(tmp_path / CIFAR100.base_folder, published["CIFAR100"] | {"test": b"cut"})
    with pytest.raises(UserError, match=rf"{folder}: not as published: test; delete them, and they are fetched"):
        load_splits(data_args("CIFAR100", tmp_path))


def test_file_that_may_not_be_read_is_named(published, tmp_path, monkeypatch):
    folder = write(tmp_path / CIFAR100.base_folder, published["CIFAR100"])
    monkeypatch.setattr(builtins, "open", refusing(open, "test"))
    with pytest.raises(UserError, match=rf"{folder}/test cannot be read \(Permission denied\): see its permissions"):
        load_splits(data_args("CIFAR100", tmp_path))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("CIFAR10", {"imbalance_factor": 10.0}, "--imbalance-factor 10: CIFAR10 has counts of its own"),
        ("CIFAR10", {"subset_scale": 0.5}, "--subset-scale 0.5: CIFAR10 is not drawn from a larger pool"),
        ("CIFAR10_LT", {"names": "x"}, "--names x: the classes of CIFAR10_LT have their names"),
        ("CIFAR10_LT", {"csv": "x"}, "--csv x: CIFAR10_LT reads no table"),
        ("CSV", {}, "CSV needs --csv: name the file with the columns path and label"),
        ("ImageNet_LT", {"dummy": True}, "--dummy: only its files tell the classes of ImageNet_LT"),
    ],
)
def test_flag_of_another_data_set_is_refused(name, options, says):
    with pytest.raises(UserError, match=says):
        data_args(name, **options)
