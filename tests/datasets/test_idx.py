"""FashionMNIST_LT: IDX files wherever they lie, or downloaded; here 4 pixels an image, which spell its row."""

import errno
import gzip
import hashlib
import http.client
import multiprocessing
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from datasets import DATASETS
from datasets.base import ImageDataset
from datasets.idx import PUBLISHED
from helpers.data import load_part
from helpers.ports import free_port
from helpers.served import Server, serving
from utils import locks
from utils.errors import UserError
from utils.logs import start_logging

FASHION = DATASETS["FashionMNIST_LT"]
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
PLACES = ["", "FashionMNIST/raw"]


def load(folder: Path, train: bool, **options: object) -> ImageDataset:
    return load_part("FashionMNIST_LT", folder, train, **options)


def idx(array: np.ndarray) -> bytes:
    """An IDX file: magic with the number of dimensions, the sizes, the bytes."""
    return np.array([0x800 + array.ndim, *array.shape], dtype=">u4").tobytes() + array.tobytes()


def labels_of(count: int) -> np.ndarray:
    """count / 10 labels of each class, mixed."""
    return np.random.default_rng(count).permutation(np.arange(count) % 10).astype(np.uint8)


def row_of(image: object) -> int:
    """The row that the four pixels of an image spell."""
    return int.from_bytes(np.asarray(image).tobytes())


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The four IDX files, with 6000 training and 1000 test images a class."""
    content = {}
    for prefix, count in (("train", 60000), ("t10k", 10000)):
        rows = np.arange(count, dtype=">u4").view(np.uint8).reshape(count, 2, 2)
        content[f"{prefix}-images-idx3-ubyte"] = idx(rows)
        content[f"{prefix}-labels-idx1-ubyte"] = idx(labels_of(count))
    return content


@pytest.fixture(scope="module")
def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same, gzipped."""
    return {f"{name}.gz": gzip.compress(content, compresslevel=1) for name, content in files.items()}


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def mirror(packed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine that torchvision takes for the mirror of Fashion-MNIST."""
    with serving(packed) as server:
        use_mirror(monkeypatch, server.port)
        md5 = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in packed.items()}
        monkeypatch.setattr(FashionMNIST, "resources", list(md5.items()))
        yield server


def use_mirror(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{port}/"])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download fails at once: nobody listens."""
    use_mirror(monkeypatch, free_port())


def test_mnist_is_the_same_in_its_own_folder_and_is_not_fashion_mnist(files, tmp_path):
    counts = DATASETS["MNIST_LT"].test_counts
    own = {
        f"{prefix}-labels-idx1-ubyte": idx(np.repeat(np.arange(10, dtype=np.uint8), of_class))
        for prefix, of_class in PUBLISHED["MNIST"].items()
    }
    write(tmp_path / "MNIST/raw", files | own)
    train = load_part("MNIST_LT", tmp_path, True)
    assert tuple(train.class_counts) == FASHION.train_counts
    assert train.classes == tuple("0123456789")
    assert tuple(load_part("MNIST_LT", tmp_path, False).class_counts) == counts
    with pytest.raises(UserError, match="has the train files of MNIST, not of Fashion-MNIST: name another --datadir"):
        load(tmp_path / "MNIST/raw", True)
    for name, labels in own.items():  # one set's training files beside the other's test files
        folder, prefix = tmp_path / "mixed" / name, name.partition("-")[0]
        write(folder, files | {name: labels})
        with pytest.raises(UserError, match=f"has the {prefix} files of MNIST, not of Fashion-MNIST"):
            load(folder, True)
    write(tmp_path, files)
    with pytest.raises(UserError, match="has the train files of Fashion-MNIST, not of MNIST: name another --datadir"):
        load_part("MNIST_LT", tmp_path, True)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["files", "packed"])
def test_counts_per_class_wherever_the_files_lie(form, place, tmp_path, request):
    write(tmp_path / place, request.getfixturevalue(form))
    train, test = (load(tmp_path, split) for split in (True, False))
    assert tuple(train.class_counts) == FASHION.train_counts
    assert tuple(test.class_counts) == FASHION.test_counts
    assert train.classes == test.classes == FASHION.classes


def test_plain_and_packed_files_may_be_mixed(files, packed, tmp_path):
    write(tmp_path, {TRAIN_IMAGES: files[TRAIN_IMAGES], TEST_LABELS: files[TEST_LABELS]})
    write(tmp_path, {name: packed[name] for name in (f"{TRAIN_LABELS}.gz", f"{TEST_IMAGES}.gz")})
    assert len(load(tmp_path, True)) == sum(FASHION.train_counts)
    assert len(load(tmp_path, False)) == sum(FASHION.test_counts)


@pytest.mark.parametrize(("train", "prefix", "count"), [(True, "train", 60000), (False, "t10k", 10000)])
def test_image_label_and_id_belong_together(train, prefix, count, files, tmp_path):
    write(tmp_path, files)
    data = load(tmp_path, train)
    for index in range(0, len(data), 500):
        image, label, _ = data[index]
        assert data.ids[index] == f"{prefix}/{row_of(image):05d}"
        assert label == labels_of(count)[row_of(image)]
    assert len(set(data.ids)) == len(data)


def test_counts_follow_an_imbalance_and_a_scale(files, tmp_path):
    write(tmp_path, files)

    def counts(**options: object) -> list[int]:
        return load(tmp_path, True, **options).class_counts

    assert counts(subset_scale=0.1) == [400, 200, 100, 75, 50, 35, 20, 10, 6, 4]
    assert counts(imbalance_factor=1.0, subset_scale=6.0) == [5400] * 10
    for factor in (10.0, 20.0, 50.0, 100.0, 200.0):
        drawn = counts(imbalance_factor=factor)
        assert sum(drawn) == pytest.approx(9_000, abs=10)
        assert drawn[0] / drawn[-1] == pytest.approx(factor, rel=0.05)
        assert FASHION.long_tail(factor) == tuple(drawn)
    with pytest.raises(UserError, match="class T-shirt/top has 6000 images, the subset needs 8000: .* --subset-scale"):
        counts(subset_scale=2.0)


def test_subset_seed_draws_the_training_images_but_not_the_test_images(files, tmp_path):
    write(tmp_path, files)

    def fingerprint(train: bool, seed: int) -> str:
        return load(tmp_path, train, subset_seed=seed).fingerprint()

    train = [fingerprint(True, seed) for seed in (0, 0, 1, 2)]
    assert train[0] == train[1]
    assert len(set(train)) == 3
    assert fingerprint(False, 0) == fingerprint(False, 1)


def test_images_are_padded_not_stretched(files, tmp_path):
    write(tmp_path, files)
    data = load(tmp_path, False)
    data.transform = FASHION.transform(False, 3, 3)
    assert data[9999][0].tolist() == [[[0, 0, 0], [9999 >> 8, 9999 & 255, 0], [0, 0, 0]]]


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS])
@pytest.mark.parametrize("form", ["files", "packed"])
@pytest.mark.parametrize("length", [0, 3, 11, 1000, -1])
def test_truncated_file_is_named(name, form, length, tmp_path, request):
    content = dict(request.getfixturevalue(form))
    name = name if form == "files" else f"{name}.gz"
    content[name] = content[name][:length]
    write(tmp_path, content)
    with pytest.raises(UserError, match=rf"{tmp_path}/{name} .*: replace or delete it"):
        load(tmp_path, True)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (TRAIN_LABELS, b"<html>no such page, but eight bytes at least</html>", "is not a complete IDX file"),
        (TRAIN_IMAGES, idx(np.zeros(60000, np.uint8)), "is not a complete IDX file of 3 dimensions"),
        (TRAIN_LABELS, idx(labels_of(50000)), "60000 train images but 50000 labels: replace"),
        (TRAIN_LABELS, idx(labels_of(60000) + 37), "train label 46, but Fashion-MNIST has 0 to 9: replace"),
        (TRAIN_LABELS, idx(np.zeros(60000, np.uint8)), "class Trouser has 0 images, the subset needs 2000"),
    ],
    ids=["html", "swapped", "other-length", "other-labels", "lacks-a-class"],
)
def test_foreign_file_is_refused(name, content, says, files, tmp_path):
    write(tmp_path, files | {name: content})
    with pytest.raises(UserError, match=says):
        load(tmp_path, True)


def test_gzip_with_a_wrong_byte_is_named(packed, tmp_path):
    content = bytearray(packed[f"{TRAIN_LABELS}.gz"])
    content[len(content) // 2] ^= 1
    write(tmp_path, packed | {f"{TRAIN_LABELS}.gz": bytes(content)})
    with pytest.raises(UserError, match=rf"{tmp_path}/{TRAIN_LABELS}.gz .*: replace or delete it"):
        load(tmp_path, True)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS])
def test_missing_file_is_named_when_nothing_can_be_downloaded(name, place, files, tmp_path):
    write(tmp_path / place, {other: content for other, content in files.items() if other != name})
    with pytest.raises(UserError, match=rf"{name}.* and the download failed \(.+\): put the four IDX files") as caught:
        load(tmp_path, True)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.part"))


def closed(*_: object, **__: object) -> None:
    """Stands for `take_lock` in a folder of others."""
    raise PermissionError(errno.EACCES, "Permission denied", "data/.lock")


@pytest.mark.parametrize("place", PLACES)
def test_missing_file_is_named_when_the_folder_is_closed(place, files, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "take_lock", closed)
    write(tmp_path / place, {name: content for name, content in files.items() if name != TEST_LABELS})
    said = f"^{tmp_path / place} lacks {TEST_LABELS}, and data/.lock cannot be written"
    with pytest.raises(UserError, match=said):
        load(tmp_path, True)


@pytest.mark.parametrize(("quiet", "terminal"), [(False, True), (True, True), (False, False)])
@pytest.mark.usefixtures("mirror")
def test_bars_of_a_download_are_for_terminals(quiet, terminal, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    load(tmp_path, True, quiet=quiet)
    assert ("B/s" in capsys.readouterr().err) is (terminal and not quiet)


def test_files_are_downloaded_once_into_the_folder(mirror, packed, tmp_path, capsys):
    for train, counts in ((True, FASHION.train_counts), (False, FASHION.test_counts)):
        data = load(tmp_path, train)
        assert tuple(data.class_counts) == counts
    assert set(mirror.asked) == set(packed)
    asked = list(mirror.asked)
    load(tmp_path, True)
    assert mirror.asked == asked
    assert capsys.readouterr().out == ""


def test_download_that_broke_off_goes_on_where_it_was(mirror, packed, tmp_path):
    lost = mirror.files.pop(f"{TEST_IMAGES}.gz")
    with pytest.raises(UserError, match=rf"lacks .*{TEST_IMAGES}.* \(.*{TEST_IMAGES}.*404: Not Found\): put the four"):
        load(tmp_path, True)
    mirror.files[f"{TEST_IMAGES}.gz"] = lost
    mirror.asked.clear()
    assert tuple(load(tmp_path, True).class_counts) == FASHION.train_counts
    assert set(mirror.asked) == {f"{TEST_IMAGES}.gz", f"{TEST_LABELS}.gz"}


def test_file_that_was_being_unpacked_is_unpacked_again(mirror, packed, tmp_path):
    """Until all are complete, nothing lies where another process would look."""
    lost = mirror.files.pop(f"{TEST_LABELS}.gz")
    with pytest.raises(UserError, match="the download failed"):
        load(tmp_path, True)
    assert not (tmp_path / "FashionMNIST").exists()
    (cut,) = tmp_path.rglob(TEST_IMAGES)
    cut.write_bytes(cut.read_bytes()[:1000])
    mirror.files[f"{TEST_LABELS}.gz"] = lost
    mirror.asked.clear()
    assert tuple(load(tmp_path, False).class_counts) == FASHION.test_counts
    assert set(mirror.asked) == {f"{TEST_LABELS}.gz"}
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"FashionMNIST"}


def test_download_with_another_checksum_is_refused(mirror, tmp_path):
    mirror.files[f"{TRAIN_LABELS}.gz"] = gzip.compress(idx(labels_of(60000)[::-1].copy()))
    with pytest.raises(UserError, match=r"the download failed \(.*not found or corrupted.*\): put"):
        load(tmp_path, True)


def test_stalled_server_ends_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("utils.network.DOWNLOAD_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_mirror(monkeypatch, silent.getsockname()[1])
        with pytest.raises(UserError, match=r"the download failed \(.*timed out.*\): put the four IDX files") as caught:
            load(tmp_path, True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [OSError("no route"), RuntimeError("Error:\nno mirror\n"), http.client.IncompleteRead(b"", 9)],
    ids=["network", "torchvision", "http"],
)
def test_every_fault_of_a_download_is_one_line_and_the_time_out_does_not_outlive_it(fault, monkeypatch, tmp_path):
    timeouts = []

    def download(self: FashionMNIST, root: str, download: bool) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise fault

    monkeypatch.setattr(FashionMNIST, "__init__", download)
    with pytest.raises(UserError, match=r"the download failed \(.+\): put") as caught:
        load(tmp_path, True)
    assert "\n" not in str(caught.value)
    assert timeouts == [20]
    assert socket.getdefaulttimeout() is None


def test_two_processes_download_each_file_once(mirror, packed, tmp_path, capfd):
    def run() -> None:
        start_logging(quiet=True)
        load(tmp_path, True)

    fork = multiprocessing.get_context("fork")
    first, second = fork.Process(target=run), fork.Process(target=run)
    mirror.open.clear()
    first.start()
    while not mirror.asked:
        assert first.is_alive()
        first.join(0.01)
    second.start()
    said = ""
    while "waiting for another process" not in said and second.is_alive():
        second.join(0.01)
        said += capfd.readouterr().err
    mirror.open.set()
    for process in (first, second):
        process.join(60)
        assert process.exitcode == 0
    assert "it downloads Fashion-MNIST" in said
    assert Counter(mirror.asked) == dict.fromkeys(packed, 2)  # torchvision asks for redirections, then for the file


def test_last_file_that_was_being_unpacked_is_unpacked_again(mirror, tmp_path):
    """With it all are there, and torchvision would take them as they are."""
    lost = mirror.files.pop(f"{TEST_LABELS}.gz")
    with pytest.raises(UserError, match="the download failed"):
        load(tmp_path, True)
    (other,) = tmp_path.rglob(TEST_IMAGES)
    other.with_name(TEST_LABELS).write_bytes(bytes(3))
    mirror.files[f"{TEST_LABELS}.gz"] = lost
    assert tuple(load(tmp_path, False).class_counts) == FASHION.test_counts
