"""The command python -m datasets.chestxray: what it brings, counts and decodes."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from datasets.chestxray.__main__ import main
from datasets.chestxray.source import LISTS
from helpers.mirror import Mirror, packed
from helpers.project import ROOT
from utils import files
from utils.errors import UserError, run_script


@pytest.fixture
def manifest(chest_folder, tmp_path, monkeypatch) -> Path:
    """Of a mirror with the data of `chest_folder`, which runs."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Mirror(packed(chest_folder)) as mirror:
        yield mirror.manifest(tmp_path / "manifest.json")


def check(folder: Path, manifest: Path, *flags: str) -> None:
    main([f"--datadir={folder}", f"--dataset-manifest={manifest}", "--workers=2", *flags])


def test_empty_folder_is_brought_and_counted(manifest, tmp_path, capsys):
    check(tmp_path / "data", manifest)
    out, err = capsys.readouterr()
    assert re.search(r"data is a new folder: ChestX-ray14 \([\d.]+kB\) is downloaded into /", out)
    assert "train_val_list.txt: 45 of 47 images are there" in out
    assert "no patient is in both lists" in out
    assert re.search(r"train_val_list.txt: 45 images with a single label: \{'No Finding': 3, .*'Hernia': 3\}", out)
    assert re.search(r"test_list.txt: 15 images with a single label: \{'No Finding': 1, .*'Hernia': 1\}", out)
    assert err == "warning: train_val_list.txt: 2 images with several labels lack; they are not used\n"


def test_cache_of_what_is_not_unpacked_is_refused(manifest, tmp_path):
    with pytest.raises(UserError, match="--download-only unpacks no image, so --cache-size has none to keep"):
        check(tmp_path / "data", manifest, "--download-only", "--cache-size=32")


def test_download_only(manifest, tmp_path, capsys):
    check(tmp_path / "data", manifest, "--download-only")
    assert "all files are there" in capsys.readouterr().out
    assert not list((tmp_path / "data").rglob("*.png"))


def test_all_images_can_be_decoded(chest, manifest, capsys):
    (chest / "damaged_images.txt").write_text("of an earlier time")
    check(chest, manifest, "--verify")
    assert "all 60 images can be decoded" in capsys.readouterr().out
    assert not (chest / "damaged_images.txt").exists()


def test_read_only_folder_can_be_verified(chest, manifest, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for image in (chest / "images").glob("0000000*.png"):
        shutil.copy(image, image.with_name(f"._{image.name}"))
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(files.os, "fsync", refuse)
    check(chest, manifest, "--verify", "--workers=0")
    assert "all 60 images can be decoded" in capsys.readouterr().out
    (chest / "images" / "00000003_000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 60 images are damaged \(named above; .*Read-only"):
        check(chest, manifest, "--verify", "--workers=0")
    assert "00000003_000.png cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_listed_printed_and_fetched_again(workers, chest, manifest, capsys):
    names = [f"{number:08d}_000.png" for number in (3, 44)]
    for name in names:
        path = chest / "images" / name
        path.write_bytes(path.read_bytes()[:-40])
    flags = ["--verify", "--quiet", f"--workers={workers}"]
    with pytest.raises(UserError, match=rf"2 of 60 images are damaged: delete those that {chest}/damaged_images.txt"):
        check(chest, manifest, *flags)
    err = capsys.readouterr().err
    listed = (chest / "damaged_images.txt").read_text().split()
    assert listed == [f"images/{name}" for name in names]
    for name in listed:
        assert f"warning: {chest / name} cannot be read" in err
        (chest / name).unlink()
    check(chest, manifest, *flags)


@pytest.mark.parametrize("name", ["00000001_000.png", "1_007.png"])
def test_patient_in_both_lists(name, chest, manifest):
    with (chest / "Data_Entry_2017.csv").open("a") as file:
        file.write("1_007.png,Mass|Nodule\n")  # which need not be there
    with (chest / LISTS[False]).open("a") as file:
        file.write(f"\n{name}")
    with pytest.raises(UserError, match=r"1 patient \(00000001\) in both lists"):
        check(chest, manifest)


def test_official_totals_hold_without_a_manifest_only(chest, manifest):
    check(chest, manifest)
    with pytest.raises(UserError, match="train_val_list.txt names 47 images, NIH's 86524: replace it"):
        main([f"--datadir={chest}"])


def test_module_is_a_command_that_ends_with_one_line_and_status_2(chest):
    (chest / LISTS[True]).write_text("")
    command = [sys.executable, "-m", "datasets.chestxray", f"--datadir={chest}", "--verify"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {chest / LISTS[True]} is empty: put NIH's list there\n"


def when_read(pipe: Path, process: multiprocessing.Process) -> BinaryIO:
    """Open a pipe for writing when somebody reads it, as a process will that is running."""
    while True:
        try:
            return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
        except OSError as error:
            assert (error.errno, process.is_alive()) == (errno.ENXIO, True)
            process.join(0.01)


def test_interruption_leaves_no_process(chest, manifest, capfd):
    """Ctrl-C reaches the whole group while the images are decoded: 130, and the workers end too."""
    pipe = chest / "images" / "00000000_000.png"
    os.mkfifo(pipe)  # a worker waits in it without end

    def run() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run_script(lambda: check(chest, manifest, "--verify"))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    with when_read(pipe, process):
        os.killpg(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130
        assert capfd.readouterr().err.splitlines()[-1] == "stopped by SIGINT"
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


@pytest.mark.parametrize("flag", ["--datadir=", "--cache-dir=", "--cache-size=100000000000000000000"])
def test_value_that_cannot_be_meant_is_one_line(flag, capsys):
    """As an empty path, of a variable that is not set, which would be the current folder."""
    with pytest.raises(SystemExit) as end:
        main([flag])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: argument {flag.partition('=')[0]}: ")


def test_help_explains_the_ways(capsys):
    with pytest.raises(SystemExit):
        main(["-h"])
    out = capsys.readouterr().out
    assert all(word in out for word in ("--download-only", "--verify", "--dataset-manifest", "damaged_images.txt"))
