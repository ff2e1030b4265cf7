"""The cache of resized images: what it holds, resumption, damage, and how little of it travels."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.images import cache as cache_module
from datasets.images.cache import BAD, GOOD, UNSEEN, ImageCache
from datasets.images.source import ArraySource
from utils.errors import UserError, run_script

COUNT, SIZE = 40, 16
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 24, 30), dtype=np.uint8)
NAMES = [f"{row}.png" for row in range(COUNT)]

FORK = multiprocessing.get_context("fork")


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """As the evaluation does."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def ignore(count: int) -> None:
    """Progress that nobody looks at."""


def opener(opened: list[int] | None = None, bad: tuple[int, ...] = ()) -> Callable[[int], ArraySource]:
    """Opens a row of IMAGES, notes that it did, and cannot open the bad ones."""

    def open_source(row: int) -> ArraySource:
        if row in bad:
            raise UserError(f"{row} cannot be read")
        if opened is not None:
            opened.append(row)
        return ArraySource(IMAGES[row])

    return open_source


@pytest.fixture
def built(tmp_path: Path) -> ImageCache:
    cache = ImageCache(tmp_path, NAMES, SIZE)
    cache.build(opener(), ignore)
    return cache


def again(cache: ImageCache) -> list[int]:
    """The rows that another build makes."""
    opened: list[int] = []
    cache.build(opener(opened), ignore)
    return sorted(opened)


def test_every_image_is_there_at_its_size(built):
    assert (built.states() == GOOD).all()
    for row, name in enumerate(NAMES):
        assert np.array_equal(built.source(row, name).pixels, resize(IMAGES[row], SIZE))


def test_progress_counts_every_image(tmp_path):
    seen: list[int] = []
    ImageCache(tmp_path, NAMES, SIZE).build(opener(), seen.append)
    assert sum(seen) == COUNT


def test_finished_cache_makes_nothing_again(built, tmp_path):
    assert again(ImageCache(tmp_path, NAMES, SIZE)) == []


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: ImageCache(folder, NAMES[::-1], SIZE),
        lambda folder: ImageCache(folder, NAMES[:-1], SIZE),
        lambda folder: ImageCache(folder, ["0.png1.png", *NAMES[2:]], SIZE),
        lambda folder: ImageCache(folder, NAMES, SIZE + 1),
        lambda folder: ImageCache(folder, NAMES, 0),
        lambda folder: ImageCache(folder, NAMES, SIZE, resize="centre"),
        lambda folder: ImageCache(folder, NAMES, SIZE, colour=True),
    ],
    ids=["order", "shorter", "joined", "size", "check", "resize", "colour"],
)
def test_another_list_or_size_is_another_cache(other, built, tmp_path):
    cache = other(tmp_path)
    assert cache.folder != built.folder
    assert (cache.states() == UNSEEN).all()


def test_another_format_is_another_cache(built, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "FORMAT", 0)
    assert ImageCache(tmp_path, NAMES, SIZE).folder != built.folder


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "records.npy").write_bytes(b""),
        lambda folder: (folder / "records.npy").write_bytes((folder / "records.npy").read_bytes()[:-3]),
        lambda folder: (folder / "records.npy").unlink(),
        lambda folder: np.save(folder / "records.npy", np.ones(COUNT, np.uint8)),
        lambda folder: (folder / "pixels.u8").unlink(),
        lambda folder: os.truncate(folder / "pixels.u8", COUNT * SIZE**2 - 1),
    ],
    ids=["empty records", "cut records", "no records", "other records", "no pixels", "cut pixels"],
)
def test_file_that_is_not_whole_is_made_anew(spoil, built, tmp_path):
    spoil(built.folder)
    cache = ImageCache(tmp_path, NAMES, SIZE)
    assert (cache.states() == UNSEEN).all()
    assert again(cache) == list(range(COUNT))
    assert np.array_equal(cache.source(5, NAMES[5]).pixels, resize(IMAGES[5], SIZE))


def flip_a_bit(cache: ImageCache, row: int) -> None:
    with (cache.folder / "pixels.u8").open("r+b") as file:
        file.seek(row * SIZE**2 + 7)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_damaged_image_is_named_when_it_is_read(built):
    flip_a_bit(built, 6)
    with pytest.raises(UserError, match=rf"{built.folder} is damaged \(image 6.png\): delete that folder"):
        built.source(6, NAMES[6])
    assert np.array_equal(built.source(5, NAMES[5]).pixels, resize(IMAGES[5], SIZE))


@pytest.mark.parametrize("name", ["pixels.u8", "records.npy"])
def test_cache_that_was_deleted_meanwhile_is_told(name, built):
    (built.folder / name).unlink()
    with pytest.raises(UserError, match=rf"{built.folder} cannot be read \(No such file .*\): start again, it is b"):
        built.source(0, NAMES[0])


def test_build_keeps_what_is_right_and_makes_what_is_not(built):
    flip_a_bit(built, 6)
    records = np.load(built.folder / "records.npy", mmap_mode="r+")
    records["state"][[11, 30]] = UNSEEN
    records["state"][20] = BAD
    records.flush()
    assert again(built) == [6, 11, 20, 30]
    assert np.array_equal(built.source(6, NAMES[6]).pixels, resize(IMAGES[6], SIZE))


def test_bad_images_are_recorded(tmp_path):
    cache = ImageCache(tmp_path, NAMES, SIZE)
    cache.build(opener(bad=(3, 39)), ignore)
    assert np.flatnonzero(cache.states() == BAD).tolist() == [3, 39]
    assert (cache.states() == GOOD).sum() == COUNT - 2


def test_size_0_keeps_records_alone(tmp_path):
    cache = ImageCache(tmp_path, NAMES, 0)
    cache.build(opener(bad=(3,)), ignore)
    assert np.flatnonzero(cache.states() == BAD).tolist() == [3]
    assert (cache.folder / "pixels.u8").stat().st_size == 0
    assert again(cache) == [3]


def test_lacking_is_the_space_that_is_not_taken_yet(tmp_path):
    names = [str(row) for row in range(64)]
    cache = ImageCache(tmp_path, names, 64)
    assert cache.lacking() == 64 * 64 * 64
    cache.build(lambda row: ArraySource(IMAGES[row % COUNT]), ignore)
    assert cache.lacking() == 0


@pytest.mark.parametrize("before", [True, False])
def test_cache_travels_without_its_pixels(before, built):
    if before:
        built.source(0, NAMES[0])
    sent = pickle.dumps(built)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).source(8, NAMES[8]).pixels, built.source(8, NAMES[8]).pixels)


def test_pixels_are_mapped_not_copied(built):
    pixels = built.source(0, NAMES[0]).pixels
    while pixels.base is not None and not isinstance(pixels, np.memmap):
        pixels = pixels.base
    assert isinstance(pixels, np.memmap) or type(pixels).__name__ == "mmap"


def test_fault_of_the_program_ends_the_build_and_keeps_what_is_done(tmp_path):
    cache = ImageCache(tmp_path, NAMES, SIZE)

    def faulty(row: int) -> ArraySource:
        if row == 25:
            raise ZeroDivisionError
        return ArraySource(IMAGES[row])

    with pytest.raises(ZeroDivisionError):
        cache.build(faulty, ignore)
    done = (cache.states() == GOOD).sum()
    assert 0 < done < COUNT
    assert len(again(cache)) == COUNT - done


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interruption_ends_every_thread(error, tmp_path):
    """The first chunk interrupts; the images that threads hold are finished, and no other is begun."""
    names = [str(row) for row in range(5000)]
    cache = ImageCache(tmp_path, names, SIZE)
    opened: list[int] = []

    def interrupt(count: int) -> None:
        raise error

    def open_source(row: int) -> ArraySource:
        opened.append(row)
        return ArraySource(IMAGES[row % COUNT])

    before = set(threading.enumerate())
    with pytest.raises(error):
        cache.build(open_source, interrupt)
    assert set(threading.enumerate()) <= before  # one of another test may end meanwhile
    assert len(opened) < len(names)


def test_disk_that_is_full_is_one_clear_error(tmp_path, monkeypatch):
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=rf"{tmp_path}/16x16-\w+ cannot be written \(No space left on device\): free"):
        ImageCache(tmp_path, NAMES, SIZE).build(opener(), ignore)


def test_killed_build_is_continued(tmp_path):
    """kill -9 while images are made: what is recorded as good is, and only the rest is made."""
    at_23 = FORK.Event()

    def open_source(row: int) -> ArraySource:
        if row == 23:
            at_23.set()
            threading.Event().wait()
        return ArraySource(IMAGES[row])

    process = FORK.Process(target=lambda: ImageCache(tmp_path, NAMES, SIZE).build(open_source, ignore))
    process.start()
    assert at_23.wait(60)
    process.kill()
    process.join()
    cache = ImageCache(tmp_path, NAMES, SIZE)
    done = np.flatnonzero(cache.states() == GOOD).tolist()
    assert done
    assert 23 not in done
    assert again(cache) == [row for row in range(COUNT) if row not in done]
    assert all(np.array_equal(cache.source(r, n).pixels, resize(IMAGES[r], SIZE)) for r, n in enumerate(NAMES))


def test_interrupted_process_ends(tmp_path):
    """Ctrl-C while all threads work: status 130, and a process that would not end for its threads runs out of time."""
    at_work = FORK.Event()

    def build() -> None:
        cache = ImageCache(tmp_path, [str(number) for number in range(70_000)], SIZE)
        cache.build(lambda row: ArraySource(IMAGES[row % COUNT]), lambda count: at_work.set())

    process = FORK.Process(target=lambda: run_script(build))
    process.start()
    assert at_work.wait(60)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130


def test_image_of_which_the_disk_takes_a_part_at_a_time_is_whole(tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: write(file, content[:100], at))
    cache = ImageCache(tmp_path, NAMES, SIZE)
    cache.build(opener(), ignore)
    for row, name in enumerate(NAMES):
        assert np.array_equal(cache.source(row, name).pixels, resize(IMAGES[row], SIZE))


def test_cache_that_was_only_begun_lacks_all_its_space(tmp_path, built):
    begun = ImageCache(tmp_path / "other", NAMES, 256)
    begun._create()
    assert begun.pixels.stat().st_size == begun.lacking() == COUNT * 256**2
    assert built.lacking() == 0


def test_pixels_are_on_the_disk_before_the_records(tmp_path, monkeypatch):
    done, flush = [], os.fsync

    def noted(number: int) -> None:
        done.append(Path(f"/proc/self/fd/{number}").resolve().name)
        flush(number)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(np.memmap, "flush", lambda self: done.append("records"))
    ImageCache(tmp_path, NAMES, SIZE).build(opener(), ignore)
    assert done[-2:] == ["pixels.u8", "records"]
