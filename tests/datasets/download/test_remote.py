"""One file from a web server that cuts, stalls, lies and changes its mind."""

import dataclasses
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datasets.download.parallel import Cancel, Cancelled
from datasets.download.remote import Download, Patience, RemoteFile, Unavailable, problem_of
from helpers.limits import with_small_files
from helpers.mirror import Answer, Mirror
from utils.errors import UserError

CONTENT = b"\x1f\x8b" + np.random.default_rng(0).bytes(99_998)  # as gzip begins
OTHER = b"\x1f\x8b" + np.random.default_rng(1).bytes(99_998)
NAME = "images_001.tar.gz"
PAGE = b"\n<!DOCTYPE html><html><body>Too many requests</body></html>"
SHORT = Patience(attempts=3, first_contact=2, pause_s=0.001, longest_pause_s=0.002, stall_s=30)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror():
    with Mirror({NAME: CONTENT}) as mirror:
        yield mirror


def remote(mirror, content: bytes = CONTENT, **changes: object) -> RemoteFile:
    md5 = hashlib.md5(content).hexdigest()
    return dataclasses.replace(RemoteFile(NAME, mirror.url + NAME, len(content), md5), **changes)


def download(
    folder: Path, file: RemoteFile, patience: Patience = SHORT, cancel: Cancel | None = None, report=lambda count: None
) -> Download:
    return Download(file, folder, patience, cancel or Cancel(), report, answered=set())


def parts(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_file_gets_its_name_and_leaves_nothing_beside(mirror, tmp_path):
    counts = []
    path = download(tmp_path, remote(mirror), report=counts.append).run()
    assert path.read_bytes() == CONTENT
    assert parts(tmp_path) == {NAME}
    assert sum(counts) == len(CONTENT)


@pytest.mark.parametrize("offset", [0, 1, 100, 16_384, 50_001, 99_999])
def test_what_came_before_a_cut_is_not_fetched_again(offset, mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=offset)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.sent[NAME] == len(CONTENT)
    assert mirror.asked == [(NAME, None), (NAME, f"bytes={offset}-" if offset else None)]


def test_many_cuts_are_no_failure_while_bytes_arrive(mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=4_999) for _ in range(20)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.sent[NAME] == len(CONTENT)


def test_later_process_continues(mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=60_000), *[Answer(status=503)] * 3]
    with pytest.raises(Unavailable, match="503 .*3 attempts, 60,000 of 100,000 bytes are here and kept"):
        download(tmp_path, remote(mirror)).run()
    assert parts(tmp_path) == {f".{NAME}.part", f".{NAME}.part.json"}
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.sent[NAME] == len(CONTENT)


@pytest.mark.parametrize("tag", ['W/"weak"', None], ids=["weak", "none"])
def test_range_is_asked_for_without_a_strong_validator(tag, mirror, tmp_path):
    mirror.tags[NAME] = tag
    mirror.answers[NAME] = [Answer(cut=60_000)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.sent[NAME] == len(CONTENT)


def test_server_that_ignores_the_range_gives_the_file_anew(mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=60_000), Answer(ignore_range=True)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.sent[NAME] == 160_000


def test_server_that_ignores_ranges_and_cuts_is_given_up(mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=60_000, ignore_range=True) for _ in range(4)]
    with pytest.raises(Unavailable, match="broke off; 3 attempts"):
        download(tmp_path, remote(mirror)).run()


def test_object_that_has_changed_may_be_cut_as_often_while_bytes_arrive(mirror, tmp_path):
    """After it is begun anew, less is there than there was before."""
    mirror.answers[NAME] = [Answer(cut=90_000, body=OTHER), *[Answer(cut=4_999) for _ in range(20)]]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT


@pytest.mark.parametrize(
    "span",
    ["bytes 7-99999/100000", "bytes 60001-99999/100000", "100", ""],
    ids=["earlier", "later", "malformed", "none"],
)
def test_another_range_than_asked_for_never_gets_into_the_file(span, mirror, tmp_path):
    wrong = Answer(status=206, headers={"Content-Range": span}, body=OTHER)
    mirror.answers[NAME] = [Answer(cut=60_000), wrong]
    assert download(tmp_path, remote(mirror, md5=None)).run().read_bytes() == CONTENT


@pytest.mark.parametrize("honoured", [True, False], ids=["range refused", "other range"])
def test_object_that_changed_is_fetched_from_its_first_byte(honoured, mirror, tmp_path):
    """With a server that honours If-Range (and answers 200), and with one that gives the new object's range."""
    mirror.answers[NAME] = [Answer(cut=60_000, body=OTHER)]
    if not honoured:
        span = {"Content-Range": "bytes 60000-99999/100000", "ETag": '"new"'}
        mirror.answers[NAME].append(Answer(status=206, headers=span, body=CONTENT[60_000:]))
    assert download(tmp_path, remote(mirror, md5=None)).run().read_bytes() == CONTENT


def test_parts_that_do_not_fit_together_are_found_by_the_hash_and_fetched_again(mirror, tmp_path):
    mirror.tags[NAME] = None
    mirror.answers[NAME] = [Answer(cut=60_000, body=OTHER)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.sent[NAME] == 200_000


@pytest.mark.parametrize("spoil", ["shorter", "longer", "identity", "other url", "other size", "no json"])
def test_part_of_unknown_origin_is_not_trusted(spoil, mirror, tmp_path):
    part, part_of = tmp_path / f".{NAME}.part", tmp_path / f".{NAME}.part.json"
    part.write_bytes(OTHER + b"x" if spoil == "longer" else OTHER[:60_000])
    known = {"url": mirror.url + NAME, "size": len(CONTENT)}
    known |= {"other url": {"url": "http://127.0.0.1/"}, "other size": {"size": 1}}.get(spoil, {})
    if spoil != "identity":
        part_of.write_text("[]" if spoil == "no json" else str(known).replace("'", '"'))
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT


def test_file_that_has_shrunk_on_the_server_is_fetched_anew(mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=60_000), Answer(status=416)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT


def test_complete_part_of_a_killed_process_needs_no_network(mirror, tmp_path):
    def end(path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(tmp_path, remote(mirror)).run(end)
    mirror.asked.clear()
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.asked == []


@pytest.mark.parametrize("body", [CONTENT[:-1], CONTENT + b"x", b"{}"], ids=["shorter", "longer", "json"])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_wrong_length_is_named(body, announced, mirror, tmp_path):
    mirror.files[NAME] = body
    if not announced:
        mirror.answers[NAME] = [Answer(headers={"Content-Length": None}, cut=len(body)) for _ in range(9)]
    with pytest.raises(UserError, match=r"100,000 (are published|bytes are here)"):
        download(tmp_path, remote(mirror)).run()
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_wrong_hash_is_named_and_leaves_nothing(kind, mirror, tmp_path):
    with pytest.raises(UserError, match=rf"its {kind.upper()} is [0-9a-f]+, 0+ is published"):
        download(tmp_path, remote(mirror, **{kind: "0" * (32 if kind == "md5" else 64)})).run()
    assert parts(tmp_path) == set()
    assert len(mirror.asked) == 1


def test_content_that_a_check_refuses_is_named(mirror, tmp_path):
    with pytest.raises(UserError, match="not the published file .no rows"):
        download(tmp_path, remote(mirror)).run(lambda path: "no rows")
    assert parts(tmp_path) == set()


@pytest.mark.parametrize("page", [PAGE, b"\xef\xbb\xbf<html>"], ids=["page", "with a mark"])
@pytest.mark.parametrize("have", [0, 60_000])
def test_page_in_place_of_the_file_is_named_and_what_was_there_is_kept(page, have, mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=have)] * bool(have) + [Answer(body=page, ignore_range=True)]
    with pytest.raises(UserError, match=f"gives a web page in place of {NAME}"):
        download(tmp_path, remote(mirror)).run()
    assert mirror.answers[NAME] == []
    assert download(tmp_path, remote(mirror)).have == have


@pytest.mark.parametrize("digests", [{}, {"md5": None}], ids=["hash", "no hash"])
def test_error_text_of_unknown_length_takes_the_place_of_nothing(digests, mirror, tmp_path):
    text = Answer(body=b'{"error": "rate limited"}', headers={"Content-Length": None}, ignore_range=True)
    mirror.answers[NAME] = [Answer(cut=60_000), text]
    assert download(tmp_path, remote(mirror, **digests)).run().read_bytes() == CONTENT
    assert [span for _, span in mirror.asked] == [None, "bytes=60000-", "bytes=60000-"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_passing_refusal_is_borne(status, mirror, tmp_path):
    mirror.answers[NAME] = [Answer(status=status), Answer(status=status)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_lasting_refusal_is_final(status, mirror, tmp_path):
    mirror.answers[NAME] = [Answer(status=status)]
    with pytest.raises(Unavailable, match=f"the server answers {status} "):
        download(tmp_path, remote(mirror)).run()
    assert len(mirror.asked) == 1


class Pauses(Cancel):
    """Notes the pauses, and makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def pause(self, seconds: float) -> None:
        self.asked.append(seconds)


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("soon", 0.001), ("99999", 300.0)])
def test_server_that_names_a_pause_gets_it(text, seconds, mirror, tmp_path):
    pauses = Pauses()
    mirror.answers[NAME] = [Answer(status=429, headers={"Retry-After": text})]
    assert download(tmp_path, remote(mirror), cancel=pauses).run().read_bytes() == CONTENT
    assert list(filter(None, pauses.asked)) == [seconds]


def test_pauses_grow_up_to_the_longest(mirror, tmp_path):
    pauses = Pauses()
    mirror.answers[NAME] = [Answer(status=503)] * 6
    with pytest.raises(Unavailable):
        download(tmp_path, remote(mirror), Patience(6, 3, 1.0, 5.0, 1.0), pauses).run()
    assert list(filter(None, pauses.asked)) == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_stall_ends_the_attempt_not_the_download(mirror, tmp_path):
    over = threading.Event()
    mirror.answers[NAME] = [Answer(cut=60_000, stall=over)]
    patience = dataclasses.replace(SHORT, stall_s=0.5)
    assert download(tmp_path, remote(mirror), patience).run().read_bytes() == CONTENT
    over.set()
    assert mirror.sent[NAME] == len(CONTENT)


def test_name_that_no_host_can_have(tmp_path):
    with pytest.raises(Unavailable, match="cannot be fetched"):
        download(tmp_path, RemoteFile(NAME, "http://a..b/c", 3)).run()


@pytest.mark.parametrize("url", ["http://[::1/c", "no address", "http://host:port/c"])
def test_what_is_no_address_is_said(url, tmp_path):
    with pytest.raises(Unavailable, match="is no address|cannot be fetched"):
        download(tmp_path, RemoteFile(NAME, url, 3)).run()


def test_empty_answer_costs_nothing_of_what_is_here(mirror, tmp_path):
    mirror.answers[NAME] = [Answer(cut=60_000), Answer(cut=0, ignore_range=True)]
    assert download(tmp_path, remote(mirror)).run().read_bytes() == CONTENT
    assert mirror.sent[NAME] == len(CONTENT)


def test_nobody_listens(tmp_path):
    url = Mirror({}).url + NAME
    pauses = Pauses()
    with pytest.raises(Unavailable, match="refused; 2 attempts"):
        download(tmp_path, RemoteFile(NAME, url, 3), cancel=pauses).run()
    assert len(list(filter(None, pauses.asked))) == 1


def test_disk_that_takes_no_more_is_named(mirror, tmp_path):
    end = with_small_files(50_000, download(tmp_path, remote(mirror)).run)
    with pytest.raises(UserError, match=f".{NAME}.part cannot be written .*: choose another folder, or free"):
        raise end.error
    assert len(mirror.asked) == 1


def test_next_attempt_waits_longer_for_a_server_that_is_slow_to_answer(mirror, tmp_path):
    over = threading.Event()
    mirror.before_piece = lambda: over.wait(0.5)
    patience = Patience(attempts=9, pause_s=0.001, longest_pause_s=0.001, stall_s=0.05, longest_stall_s=60)
    mirror.files[NAME] = CONTENT[:1000]
    assert download(tmp_path, remote(mirror, CONTENT[:1000]), patience).run().read_bytes() == CONTENT[:1000]
    assert len(mirror.asked) > 1


def test_cancelling_ends_a_stalled_download_and_keeps_the_part(mirror, tmp_path):
    over, cancel, arrived = threading.Event(), Cancel(), threading.Event()
    mirror.answers[NAME] = [Answer(cut=60_000, stall=over)]
    patience = dataclasses.replace(SHORT, stall_s=2)
    file = download(tmp_path, remote(mirror), patience, cancel, lambda count: file.have == 60_000 and arrived.set())
    with ThreadPoolExecutor() as pool:
        job = pool.submit(file.run)
        assert arrived.wait(30)
        cancel()
        with pytest.raises(Cancelled):
            job.result(timeout=20)
    over.set()
    assert file.have == 60_000
    assert len(mirror.asked) == 1


def test_size_and_each_hash_of_a_file_are_compared(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    md5, sha256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()

    def problem(size: int, *digests: str | None) -> str | None:
        return problem_of(path, RemoteFile(NAME, "", size, *digests), Cancel())

    assert problem(len(CONTENT)) is None
    assert problem(len(CONTENT), md5, sha256) is None
    assert problem(5) == "100,000 bytes, 5 are published"
    assert problem(len(CONTENT), sha256, sha256).startswith(f"its MD5 is {md5}")
    assert problem(len(CONTENT), md5, md5).startswith(f"its SHA256 is {sha256}")


def test_comparison_of_a_hash_can_be_cancelled(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    cancelled = Cancel()
    cancelled()
    with pytest.raises(Cancelled):
        problem_of(path, RemoteFile(NAME, "", len(CONTENT), hashlib.md5(CONTENT).hexdigest()), cancelled)


def test_file_is_on_the_disk_before_it_has_its_name(mirror, tmp_path, monkeypatch):
    flush, file, done = os.fsync, download(tmp_path, remote(mirror)), []
    monkeypatch.setattr(os, "fsync", lambda number: done.append((tmp_path / NAME).exists()) or flush(number))
    file.run()
    assert set(done) == {False}


def test_stall_that_is_borne_grows_up_to_the_longest(tmp_path, monkeypatch):
    waits, file = [], RemoteFile(NAME, "http://127.0.0.1:1/x", 3)
    monkeypatch.setattr(Download, "_attempt", lambda self, timeout: waits.append(timeout))
    patience = Patience(9, first_contact=6, pause_s=0.0, longest_pause_s=0.0, stall_s=1.0, longest_stall_s=5.0)
    with pytest.raises(Unavailable):
        download(tmp_path, file, patience).run()
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_rest_that_is_longer_than_it_says_is_named(mirror, tmp_path):
    """It may have no end: no more of it is written than the file has."""
    mirror.tags[NAME] = None
    span = {"Content-Range": "bytes 60000-99999/100000"}
    mirror.answers[NAME] = [Answer(cut=60_000), Answer(status=206, headers=span, body=CONTENT[60_000:] + bytes(9))]
    with pytest.raises(UserError, match="has more bytes, 100,000 are published"):
        download(tmp_path, remote(mirror)).run()
