"""ChestX-ray14 into an empty folder, and on from wherever it was interrupted; a mirror here stands for NIH."""

import dataclasses
import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tarfile
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

import datasets.chestxray.fetch
from datasets.chestxray import CHESTXRAY, prepare
from datasets.chestxray.source import LISTS, Source, read_manifest
from datasets.download import unpack
from datasets.download.remote import Patience
from datasets.images.finder import find_images
from helpers.data import data_args
from helpers.limits import separate_disks
from helpers.mirror import PIECE, Answer, Mirror, packed, tar_gz, write_data_set
from helpers.project import SMALL_MODEL
from utils import locks
from utils.errors import UserError
from utils.logs import start_logging

LABELS = "Data_Entry_2017.csv"
TEXTS = {LABELS, *LISTS.values()}
ARCHIVES = {"images_001.tar.gz", "images_002.tar.gz", "images_003.zip"}
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.chestxray.fetch, "PATIENCE", Patience(3, 2, 0.001, 0.002, 60))


@pytest.fixture(scope="module")
def files(chest_folder) -> dict[str, bytes]:
    return packed(chest_folder, zip_last=True)


@pytest.fixture
def mirror(files):
    with Mirror(dict(files)) as mirror:
        yield mirror


@pytest.fixture
def bring(mirror, tmp_path):
    """Run `prepare` on tmp_path/data with the mirror's manifest, or with another source of the same files."""

    def run(monkeypatch: pytest.MonkeyPatch | None = None, **options: object) -> Path:
        manifest = None if monkeypatch else str(mirror.manifest(tmp_path / "manifest.json"))
        options = {"manifest": manifest, "jobs": 2, "keep_archives": False, "quiet": True} | options
        prepare(str(tmp_path / "data"), **options)
        return tmp_path / "data"

    return run


def names_of(folder: Path) -> set[str]:
    return {Path(path).name for path in find_images(folder)}


def asked(mirror: Mirror) -> set[str]:
    return {name for name, _ in mirror.asked}


def require_complete(folder: Path, original: Path, archives: set[str] = frozenset()) -> None:
    """Images, lists and labels are those of `original`, and nothing else is there but marks and `archives`."""
    expected = {path.name: path.read_bytes() for path in original.rglob("*") if path.is_file()}
    found = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    marks = {".lock", ".unpacked.json"}
    assert found.keys() - marks - archives == expected.keys()
    assert all(found[name] == content for name, content in expected.items())


def test_empty_folder_is_filled_and_then_left_alone(mirror, bring, chest_folder):
    folder = bring()
    require_complete(folder, chest_folder)
    assert asked(mirror) == TEXTS | ARCHIVES
    assert len(CHESTXRAY.load(data_args("ChestXray", folder)).train) == 45
    mirror.asked.clear()
    bring()
    assert mirror.asked == []


def test_archives_are_kept_if_asked_to(bring, chest_folder):
    folder = bring(keep_archives=True)
    require_complete(folder, chest_folder, ARCHIVES)
    assert {path.name for path in folder.iterdir()} >= ARCHIVES


@pytest.mark.parametrize("hashes", [False, True])
def test_mirror_without_hashes_is_told(hashes, mirror, tmp_path, chest_folder, caplog):
    manifest = str(mirror.manifest(tmp_path / "manifest.json", hashes=hashes))
    prepare(str(tmp_path / "data"), manifest=manifest, jobs=9, keep_archives=False, quiet=True)
    told = f"{manifest} gives no hash of 6 files (Data_Entry_2017.csv, train_val_list.txt, test_list.txt, ...): only"
    assert (told in caplog.text) is not hashes
    require_complete(tmp_path / "data", chest_folder)
    assert asked(mirror) == TEXTS | ARCHIVES


@pytest.mark.parametrize("layout", ["images", "", "images_007/images"])
def test_images_without_our_marks_are_not_fetched_again(layout, tmp_path, chest_folder, files):
    folder = shutil.copytree(chest_folder, tmp_path / "data")
    if layout != "images":
        shutil.copytree(folder / "images", folder / layout, dirs_exist_ok=True)
        shutil.rmtree(folder / "images")
    before = sorted(folder.rglob("*"))
    manifest = str(Mirror(files).manifest(tmp_path / "manifest.json"))
    for given in (manifest, None):
        prepare(str(folder), manifest=given, jobs=1, keep_archives=False, quiet=True)
    assert sorted(folder.rglob("*")) == before  # not even the lock


def test_lists_that_are_not_nihs_are_named_but_with_a_manifest(bring, chest_folder, caplog):
    caplog.set_level("WARNING", "dgcmm")
    bring()
    assert not caplog.messages
    prepare(str(chest_folder), jobs=1, keep_archives=False, quiet=True, manifest=None)
    assert [message.partition(" names ")[2] for message in caplog.messages] == [
        "47 images, NIH's 86524: this is not the official split",
        "15 images, NIH's 25596: this is not the official split",
    ]


def test_images_without_lists_are_not_fetched_again(mirror, bring, tmp_path, chest_folder, monkeypatch):
    """Nor is space for them asked for."""
    shutil.copytree(chest_folder / "images", tmp_path / "data" / "images")
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 20_000, 20_000)
    monkeypatch.setattr(datasets.chestxray.fetch.shutil, "disk_usage", lambda path: usage)
    require_complete(bring(), chest_folder)
    assert asked(mirror) == TEXTS


def test_files_that_were_put_there_are_used(mirror, bring, files, tmp_path, chest_folder):
    (tmp_path / "data").mkdir()
    for name in (*TEXTS, "images_002.tar.gz"):
        (tmp_path / "data" / name).write_bytes(files[name])
    require_complete(bring(), chest_folder)
    assert asked(mirror) == ARCHIVES - {"images_002.tar.gz"}


@pytest.mark.parametrize("name", sorted(TEXTS | ARCHIVES))
@pytest.mark.parametrize(
    "spoil", [lambda content: content[:-1], lambda content: content[:-1] + b"?"], ids=["cut", "changed"]
)
def test_file_that_was_put_there_and_is_wrong_is_named_and_kept(name, spoil, mirror, bring, files, tmp_path):
    wrong = tmp_path / "data" / name
    wrong.parent.mkdir()
    wrong.write_bytes(spoil(files[name]))
    with pytest.raises(UserError, match=f"{wrong} is not the published file .*: delete it"):
        bring(jobs=1)
    assert asked(mirror) <= TEXTS  # nothing else has been fetched before
    assert wrong.read_bytes() == spoil(files[name])
    wrong.unlink()
    bring()


def test_server_that_has_answered_is_borne_with_at_the_next_file_too(bring, monkeypatch):
    ask = urllib.request.urlopen

    def away(request: urllib.request.Request, **options: object) -> object:
        if request.full_url.endswith("images_002.tar.gz"):
            raise OSError("no route to host")
        return ask(request, **options)

    monkeypatch.setattr(urllib.request, "urlopen", away)
    with pytest.raises(UserError, match="images_002.tar.gz cannot be fetched .*no route to host; 3 attempts"):
        bring(jobs=1)


def test_missing_images_are_counted_when_the_folder_is_closed(bring, monkeypatch):
    folder = bring()
    gone = find_images(folder)[0]
    (folder / gone).unlink()

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / ".lock"))

    monkeypatch.setattr(locks, "take_lock", closed)
    said = rf"^{folder} lacks 1 image \({Path(gone).name}\), and {folder}/.lock cannot be written"
    with pytest.raises(UserError, match=said):
        bring()


@pytest.mark.parametrize("name", ["train_val_list.txt", LABELS])
def test_text_that_an_editor_has_saved_is_the_published_one(name, mirror, bring, files, tmp_path):
    (tmp_path / "data").mkdir()
    text = files[name].decode().rstrip("\n").replace("\r", "")
    mirror.files[name] = text.encode()  # whose final newline the editor adds
    (tmp_path / "data" / name).write_bytes(f"\ufeff{text}\n".replace("\n", "\r\n").encode())
    bring()
    assert name not in asked(mirror)


def test_images_and_archives_under_other_names_are_told_before_the_first_byte(mirror, bring, tmp_path, files, caplog):
    folder = tmp_path / "data"
    (folder / "scans").mkdir(parents=True)
    for name in TEXTS:
        (folder / name).write_bytes(files[name])
    (folder / "scans" / "patient 1.png").touch()
    (folder / "images_01.tar.gz").touch()
    asked_before = []
    caplog.handler.addFilter(lambda record: asked_before.append(list(mirror.asked)) or True)
    caplog.set_level("WARNING", "dgcmm")
    bring()
    assert caplog.messages == [
        f"{folder}: 60 of 60 listed images are missing, and 1 image (scans/patient 1.png) and 1 archive "
        "(images_01.tar.gz) are there under names that are not NIH's (like 00000001_000.png in images_001.tar.gz): if "
        "they hold the same, stop here and rename them"
    ]
    assert asked_before[0] == []


def test_new_folder_needs_its_parent(bring, mirror, tmp_path):
    manifest = str(mirror.manifest(tmp_path / "manifest.json"))
    with pytest.raises(UserError, match=r"--datadir .*/none/data does not exist, nor does .*/none: check the path, or"):
        prepare(str(tmp_path / "none" / "data"), manifest=manifest, jobs=1, keep_archives=False, quiet=True)
    assert not (tmp_path / "none").exists()
    assert mirror.asked == []


def test_only_the_archive_of_an_image_that_has_gone_is_fetched_again(mirror, bring, chest_folder):
    folder = bring()
    mirror.asked.clear()
    next(path for path in sorted((folder / "images_002").iterdir()) if path.suffix == ".png").unlink()
    require_complete(bring(), chest_folder)
    assert asked(mirror) == {"images_002.tar.gz"}


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_disk_that_is_not_mounted_is_told_in_place_of_a_download(kind, mirror, bring, tmp_path):
    """Its folder, or its images, are there by links."""
    folder = bring()
    elsewhere = (folder / "images_001").rename(tmp_path / "disk")
    if kind == "folder":
        (folder / "images_001").symlink_to(elsewhere)
    else:
        (folder / "images_001").mkdir()
        for path in elsewhere.iterdir():
            (folder / "images_001" / path.name).symlink_to(path)
    bring()
    elsewhere.rename(tmp_path / "away")
    mirror.asked.clear()
    with pytest.raises(UserError, match=rf"{folder}/images_001.* is a link to {elsewhere}.*, which cannot be reached"):
        bring()
    assert mirror.asked == []
    (tmp_path / "away").rename(elsewhere)
    bring()


def test_images_move_into_a_folder_of_another_disk(bring, monkeypatch, chest_folder):
    next((bring() / "images_001").glob("*.png")).unlink()
    separate_disks(monkeypatch)
    require_complete(bring(), chest_folder)


def test_folder_that_cannot_be_written_is_one_line_and_costs_no_second_download(mirror, bring, monkeypatch):
    folder, replace = bring(), os.replace
    next((folder / "images_001").glob("*.png")).unlink()

    def refused(source, target):
        if Path(target).parent.name == "images_001":
            raise PermissionError(errno.EACCES, "Permission denied", str(source), None, str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        with pytest.raises(UserError, match=r"images_001.* cannot be read or written \(Permission denied\): mend that"):
            bring()
    mirror.asked.clear()
    bring()
    assert mirror.asked == []


def test_images_that_are_there_stay_when_another_of_their_archive_is_fetched(mirror, bring, chest_folder):
    """As one that was scaled down in its place."""
    folder = bring()
    kept, missing = sorted((folder / "images_001").glob("*.png"))[:2]
    kept.write_bytes(b"the user's own")
    missing.unlink()
    bring()
    assert kept.read_bytes() == b"the user's own"
    assert missing.exists()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {f"images_{n:03d}" for n in (1, 2, 3)}


@pytest.mark.parametrize("where", ["images_001", "images_001/images", "all"])
def test_images_that_are_there_in_another_place_or_format_are_not_fetched_a_second_time(where, mirror, bring):
    folder = bring()
    images = sorted((folder / "images_001").glob("*.png"))
    (folder / where).mkdir(exist_ok=True)
    for image in images[1:]:
        image.rename(folder / where / f"{image.stem}.jpg")  # scaled down, perhaps
    images[0].unlink()
    for marker in folder.glob("*/.unpacked.json"):
        marker.unlink()
    there = set(find_images(folder))
    bring()
    assert set(find_images(folder)) - there == {f"images_001/{images[0].name}"}
    mirror.asked.clear()
    (folder / "images_002").joinpath(sorted(os.listdir(folder / "images_002"))[-1]).unlink()
    bring()
    assert asked(mirror) == {"images_002.tar.gz"}


def test_archive_that_has_changed_in_the_manifest_is_fetched_again(mirror, bring, chest_folder):
    folder = bring()
    mirror.asked.clear()
    mirror.files["images_001.tar.gz"] += b"\0" * 512
    next((folder / "images_002").glob("*.png")).unlink()
    require_complete(bring(), chest_folder)
    assert asked(mirror) == {"images_001.tar.gz", "images_002.tar.gz"}


@pytest.mark.parametrize(("last", "fetched"), [([20, 40, 60], [2]), ([1, 2, 60], [1, 2, 3])], ids=["known", "unknown"])
def test_archives_in_order_are_asked_for_what_is_missing(
    last, fetched, mirror, bring, tmp_path, monkeypatch, chest_folder
):
    """With NIH's list, whose archives hold the images in order; where they do not, all others are tried too."""
    known = read_manifest(mirror.manifest(tmp_path / "manifest.json"))
    source = Source(known.texts, known.archives, tuple(f"{number:08d}_000.png" for number in last))
    monkeypatch.setattr(datasets.chestxray.fetch, "OFFICIAL", source)
    folder = shutil.copytree(chest_folder, tmp_path / "data")
    for number in (25, 30):
        (folder / "images" / f"{number:08d}_000.png").unlink()
    bring(monkeypatch)
    assert sorted(name[:10] for name, _ in mirror.asked) == [f"images_{number:03d}" for number in fetched]
    assert names_of(folder) == names_of(chest_folder)


def test_label_file_of_nih_is_known_by_its_content_not_by_its_size(mirror, bring, tmp_path, monkeypatch, chest_folder):
    known = read_manifest(mirror.manifest(tmp_path / "manifest.json"))
    texts = tuple(dataclasses.replace(file, name=file.name.replace("17.csv", "17_v2020.csv")) for file in known.texts)
    source = dataclasses.replace(known, texts=texts, official=True)
    monkeypatch.setattr(datasets.chestxray.fetch, "OFFICIAL", source)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / LABELS).write_bytes((chest_folder / LABELS).read_bytes()[:-1])
    with pytest.raises(UserError, match=f"data/{LABELS} is not the published file .62 rows, 112,120 are published"):
        bring(monkeypatch)
    monkeypatch.setattr("datasets.chestxray.source.IMAGES", 63)
    (tmp_path / "data" / LABELS).write_bytes((chest_folder / LABELS).read_bytes() + b"x\n")
    bring(monkeypatch)
    assert not asked(mirror) & {LABELS, *(file.name for file in texts if "Entry" in file.name)}


def test_too_little_space_is_said_before_the_first_byte(mirror, bring, tmp_path, monkeypatch, files):
    def free(count: int) -> None:
        usage = shutil._ntuple_diskusage(10**9, 10**9 - count, count)
        monkeypatch.setattr(datasets.chestxray.fetch.shutil, "disk_usage", lambda path: usage)

    sizes = sorted(len(files[name]) for name in ARCHIVES)
    need = sum(len(files[name]) for name in TEXTS) + sum(sizes[1:]) + sum(-(-size * 21 // 20) for size in sizes)
    free(need - 1)
    with pytest.raises(UserError, match=r"data: [\d.]+kB are needed to .*, [\d.]+kB are free: free"):
        bring()
    assert mirror.asked == []
    for name in TEXTS:  # what is there needs no space
        (tmp_path / "data" / name).write_bytes(files[name])
    bring()


def test_space_for_archives_that_are_kept(mirror, bring, monkeypatch, files):
    need = sum(len(content) for content in files.values()) + sum(len(files[name]) for name in ARCHIVES)
    usage = shutil._ntuple_diskusage(10**9, 10**9 - need, need)
    monkeypatch.setattr(datasets.chestxray.fetch.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="are needed"):
        bring(keep_archives=True)
    bring(download_only=True)
    assert mirror.asked


def test_hostile_archive_leaves_nothing_half_done(mirror, bring, tmp_path):
    link = tarfile.TarInfo("images/00000099_000.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    mirror.files["images_001.tar.gz"] = tar_gz({"images/00000001_000.png": b"x"}, link)
    with pytest.raises(
        UserError, match=r"images_001.tar.gz holds 'images/00000099_000.png', which is neither a file nor a folder"
    ):
        bring(jobs=1)
    folder = tmp_path / "data"
    assert {path.name for path in folder.iterdir()} == TEXTS | {".lock", "images_001.tar.gz"}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "manifest.json"}


def test_listed_image_that_no_archive_holds_is_named(mirror, bring):
    del mirror.files["images_003.zip"]
    with pytest.raises(UserError, match=r"20 images \(00000041_000.png, .*\) of the lists in none"):
        bring()
    assert len(mirror.asked) == len(mirror.files)


def test_page_of_the_server_is_one_clear_error(mirror, bring):
    mirror.answers["images_002.tar.gz"] = [Answer(body=b"<html>", ignore_range=True)]
    with pytest.raises(UserError, match=r"gives a web page in place of images_002.tar.gz.*put .* by hand"):
        bring()


def test_unreachable_mirror_says_what_to_do(files, tmp_path):
    manifest = str(Mirror(files).manifest(tmp_path / "manifest.json"))
    with pytest.raises(UserError, match=rf"--dataset-manifest.*{LABELS}.*archives from https://.* into .*data by hand"):
        prepare(str(tmp_path / "data"), manifest=manifest, jobs=3, keep_archives=False, quiet=True)


def test_download_only_unpacks_nothing_and_the_rest_needs_no_network(mirror, bring, chest_folder):
    folder = bring(download_only=True)
    assert {path.name for path in folder.iterdir()} == TEXTS | ARCHIVES | {".lock"}
    mirror.asked.clear()
    bring(download_only=True)
    require_complete(bring(), chest_folder)
    assert mirror.asked == []


def test_quiet_prints_nothing_and_loud_names_the_archives(bring, capsys):
    start_logging(quiet=True)
    folder = bring()
    assert capsys.readouterr() == ("", "")
    shutil.rmtree(folder)
    start_logging(quiet=False)
    bring(quiet=False)
    assert "images_001.tar.gz: 20 images unpacked" in capsys.readouterr().out


def test_progress_goes_to_standard_error_of_a_terminal(bring, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bring(quiet=False)
    err = capsys.readouterr().err
    assert "downloading" in err
    assert "B/s" in err
    assert "unpacking" in err


def test_marker_is_not_believed_if_it_is_damaged(mirror, bring, chest_folder):
    folder = bring()
    (folder / "images_001" / ".unpacked.json").write_text("[1")
    (folder / "images_002" / ".unpacked.json").write_text(json.dumps({"images": []}))
    next((folder / "images_003").glob("*.png")).unlink()
    mirror.asked.clear()
    require_complete(bring(), chest_folder)
    assert asked(mirror) == ARCHIVES


def test_two_processes_fetch_each_byte_once(mirror, bring, chest_folder, tmp_path, files, capfd):
    def run() -> None:
        start_logging(quiet=False)
        bring()

    waiting = threading.Event()
    first, second = FORK.Process(target=run), FORK.Process(target=run)
    mirror.answers["images_001.tar.gz"] = [Answer(cut=100, stall=waiting)]
    first.start()
    while mirror.sent["images_001.tar.gz"] < 100:
        assert first.is_alive()
        first.join(0.01)
    second.start()
    said = ""
    while "waiting for another process" not in said and second.is_alive():
        second.join(0.01)
        said += capfd.readouterr().err
    waiting.set()
    for process in (first, second):
        process.join(60)
        assert process.exitcode == 0
    assert "it brings ChestX-ray14 into the folder" in said
    assert {name: mirror.sent[name] for name in files} == {name: len(content) for name, content in files.items()}
    require_complete(tmp_path / "data", chest_folder)


def test_interruption_ends_all_threads_and_keeps_the_part(mirror, bring, tmp_path, chest_folder, monkeypatch):
    """Within seconds, also while the server stalls."""
    patience = Patience(stall_s=2)
    monkeypatch.setattr(datasets.chestxray.fetch, "PATIENCE", patience)
    over = threading.Event()
    for name in ARCHIVES:
        mirror.answers[name] = [Answer(cut=3_000, stall=over)]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def run() -> None:
        signal.signal(signal.SIGINT, interrupt)
        try:
            bring()
        except KeyboardInterrupt:
            os._exit(7 if threading.active_count() == 1 else 8)

    process = FORK.Process(target=run)
    process.start()
    parts = [tmp_path / "data" / f".{name}.part" for name in ARCHIVES]
    while sum(part.exists() and part.stat().st_size == 3_000 for part in parts) < 2:  # two jobs
        assert process.is_alive()
        process.join(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(4 * patience.stall_s)
    over.set()
    assert process.exitcode == 7
    require_complete(bring(), chest_folder)
    assert mirror.sent["images_001.tar.gz"] == len(mirror.files["images_001.tar.gz"])


def test_killed_at_any_moment_the_same_command_completes(tmp_path):
    """kill -9 at ten random moments: when so much has been sent, or so many images are unpacked."""
    original = tmp_path / "original"
    write_data_set(original, count=240, side=48)
    files = packed(original, archives=4)
    pieces = sum(-(-len(content) // PIECE) for content in files.values())
    rng = random.Random(0)
    moment, gone, left = threading.Event(), threading.Event(), 0

    def before_piece() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            moment.set()
            gone.wait(60)  # nothing more comes before the kill

    with Mirror(files, before_piece) as mirror:
        manifest = str(mirror.manifest(tmp_path / "manifest.json"))
        for number in range(10):
            folder = tmp_path / f"data{number}"

            def run(folder: Path = folder, most: int | None = None) -> None:
                if most is not None:
                    stall_after(most)
                prepare(str(folder), manifest=manifest, jobs=2, keep_archives=False, quiet=True)

            moment.clear()
            gone.clear()
            sending, unpacked = number < 5, rng.randrange(200)
            left = rng.randrange(1, pieces) if sending else 0
            process = FORK.Process(target=run, kwargs={} if sending else {"most": unpacked})
            process.start()
            while process.is_alive() and not (moment.is_set() if sending else images_in(folder) > unpacked):
                time.sleep(0.001)
            process.kill()
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
            gone.set()
            left = 0
            run()
            require_complete(folder, original)


def stall_after(images: int) -> None:
    """Unpack so many images in this process, one more perhaps, and then wait for its end."""
    copied = itertools.count(1)

    def copy(*args: object) -> None:
        shutil.copyfileobj(*args)
        if next(copied) > images:
            threading.Event().wait()

    unpack.shutil = SimpleNamespace(copyfileobj=copy)


def images_in(folder: Path) -> int:
    """Also while folders come and go."""
    return sum(name.endswith(".png") for _, _, names in os.walk(folder) for name in names)


def test_from_nothing_to_a_trained_epoch(mirror, script, tmp_path, chest_folder):
    manifest = mirror.manifest(tmp_path / "manifest.json")
    flags = [*SMALL_MODEL, f"--datadir={tmp_path / 'data'}", f"--dataset-manifest={manifest}", "--download-jobs=2"]
    flags += ["--epochs=1", "--batch-size=20", "--keep-archives", f"--logdir={tmp_path / 'log'}"]
    done = script("train", "ChestXray", *flags)
    assert done.status == 0, done.err
    assert done.result["epoch"] == 1
    require_complete(tmp_path / "data", chest_folder, ARCHIVES)
    again = script("augment", "ChestXray", *flags, "--resume=auto", "--quiet")
    assert again.status == 0, again.err


@pytest.mark.parametrize("moved", [0, 7], ids=["none moved", "some moved"])
def test_archive_whose_process_was_killed_before_its_folder_got_its_name_is_not_fetched_again(moved, mirror, bring):
    """The archive had gone; with a folder of that name there, some images had moved into it."""
    folder = bring()
    target, aside = folder / "images_001", folder / ".images_001.unpacking"
    images = sorted(path.name for path in target.glob("*.png"))
    target.rename(aside)
    if moved:
        target.mkdir()
        for name in images[:moved]:
            (aside / name).rename(target / name)
    mirror.asked.clear()
    bring()
    assert mirror.asked == []
    assert sorted(path.name for path in target.glob("*.png")) == images
    assert not aside.exists()


def test_marker_moves_last_into_a_folder_that_is_there(mirror, bring, monkeypatch):
    """Killed before that, what lies aside still has it, and needs no second download."""
    folder = bring()
    for missing in sorted((folder / "images_001").glob("*.png"))[:3]:
        missing.unlink()
    replace, moves = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if ".unpacking" in str(source) and not str(source).endswith(".part"):
            moves.append(source)
            if len(moves) == 3:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            bring()
    mirror.asked.clear()
    bring()
    assert mirror.asked == []


def test_images_are_on_the_disk_before_their_marker(bring, monkeypatch):
    fetch, done = datasets.chestxray.fetch, []
    write = fetch.write_text
    monkeypatch.setattr(fetch.os, "sync", lambda: done.append("sync"))
    monkeypatch.setattr(fetch, "write_text", lambda *args: done.append("marker") or write(*args))
    bring(jobs=1)
    assert done == ["sync", "marker"] * 3
