"""A mirror of ChestX-ray14 on this machine: small archives, and a web server that misbehaves as it is told."""

import hashlib
import http.server
import io
import json
import socket
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import DATASETS
from datasets.chestxray.source import LABEL_FILES, LISTS
from helpers.ports import free_port

PIECE = 1 << 14


@dataclass
class Answer:
    """How the server answers one request where it does not just give the file.

    Attributes:
        status, headers, body: in place of the file's; a header that is None is not sent.
        cut: the connection ends after so many bytes of the body.
        stall: the server waits for this event after `cut` bytes.
        ignore_range: the whole file, with status 200.
    """

    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    stall: threading.Event | None = None
    ignore_range: bool = False


class Mirror:
    """A web server on 127.0.0.1; `with Mirror(files) as mirror`. Before that, nobody listens at its address.

    Attributes:
        files: content by name.
        tags: ETag by name; None gives no validators. By default a hash of the content.
        answers: by name, what to do with the next requests, in order.
        asked: (name, Range or None) of every request.
        sent: bytes of bodies by name.
        before_piece: called before each piece of a body is sent.
    """

    def __init__(self, files: dict[str, bytes], before_piece: Callable[[], object] = lambda: None) -> None:
        self.files, self.before_piece = files, before_piece
        self.tags: dict[str, str | None] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{free_port()}/"

    def __enter__(self) -> "Mirror":
        handler = type("Handler", (_Handler,), {"mirror": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def entries(self, hashes: bool = True) -> list[dict]:
        """The manifest, as a list."""
        entries = []
        for name, content in self.files.items():
            entries.append({"name": name, "url": self.url + name, "bytes": len(content)})
            if hashes:
                entries[-1] |= {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256")}
        return entries

    def manifest(self, path: Path, hashes: bool = True) -> Path:
        """Write the manifest; returns its path."""
        path.write_text(json.dumps(self.entries(hashes)))
        return path


class _Handler(http.server.BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        mirror, name = self.mirror, self.path.removeprefix("/")
        wanted = self.headers["Range"]
        mirror.asked.append((name, wanted))
        answer = mirror.answers[name].pop(0) if mirror.answers.get(name) else Answer()
        content = mirror.files.get(name, b"") if answer.body is None else answer.body
        tag = mirror.tags.get(name, f'"{hashlib.md5(content).hexdigest()}"')
        status, start = answer.status or (200 if name in mirror.files else 404), 0
        condition = self.headers["If-Range"]  # a weak tag never holds (RFC 9110, 13.1.5)
        same = condition is None or (condition == tag and not tag.startswith("W/"))
        if status == 200 and wanted and not answer.ignore_range and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(content) else 416
        if status >= 400:
            content, start = b"", 0
        headers = {"Content-Length": str(len(content) - start), **({"ETag": tag} if tag else {})}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(status)
        for key, value in (headers | answer.headers).items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        try:
            self._send(name, content[start:], answer)
        except OSError:  # the client was killed
            self.close_connection = True

    def _send(self, name: str, body: bytes, answer: Answer) -> None:
        until = len(body) if answer.cut is None else answer.cut
        for position in range(0, min(until, len(body)), PIECE):
            self.mirror.before_piece()
            piece = body[position : min(position + PIECE, until)]
            self.wfile.write(piece)
            self.mirror.sent[name] += len(piece)
        if answer.stall:
            answer.stall.wait(60)
        if answer.cut is not None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Nothing: tests read standard error."""


def tar_gz(files: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    """A .tar.gz archive of files by path, and of special entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in special:
            tar.addfile(info)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    """A .zip archive of files by path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def packed(folder: Path, archives: int = 3, zip_last: bool = False) -> dict[str, bytes]:
    """What a mirror of the data set in `folder` has: label file, lists, and the images in so many archives."""
    labels = next(name for name in LABEL_FILES if (folder / name).is_file())
    files = {name: (folder / name).read_bytes() for name in (labels, *LISTS.values())}
    images = sorted((folder / "images").iterdir())
    for number in range(archives):
        part = images[number * len(images) // archives : (number + 1) * len(images) // archives]
        content = {f"images/{path.name}": path.read_bytes() for path in part}
        last_as_zip = zip_last and number == archives - 1
        name = f"images_{number + 1:03d}{'.zip' if last_as_zip else '.tar.gz'}"
        files[name] = zipped(content) if last_as_zip else tar_gz(content)
    return files


def write_data_set(folder: Path, count: int, side: int) -> None:
    """`count` PNGs of noise of side x side pixels with lists and labels, classes in turn, every fourth for test."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    classes = DATASETS["ChestXray"].classes
    rows, lists = ["Image Index,Finding Labels"], {name: [] for name in LISTS.values()}
    for number in range(count):
        name = f"{number + 1:08d}_000.png"
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / "images" / name)
        rows.append(f"{name},{classes[number // 4 % len(classes)]}")
        lists[LISTS[number % 4 != 3]].append(name)
    (folder / LABEL_FILES[0]).write_text("\n".join(rows))
    for name, names in lists.items():
        (folder / name).write_text("\n".join(names))
