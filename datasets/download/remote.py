"""One file from a web server: resumed by byte range, and verified before it gets its name."""

import hashlib
import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from datasets.download.parallel import Cancel
from utils.errors import UserError
from utils.files import write_text, writing

CHUNK = 1 << 20
PASSING_STATUS = (408, 425, 429)  # and all from 500 on
LONGEST_RETRY_AFTER_S = 300.0
SIGNATURES = {".gz": b"\x1f\x8b", ".zip": b"PK"}  # by which files with these endings begin


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch: its size in bytes, and the hex digests that are published of it."""

    name: str
    url: str
    size: int
    md5: str | None = None
    sha256: str | None = None


def problem_of(path: Path, remote: RemoteFile, cancel: Cancel) -> str | None:
    """Say in words what tells a file from the published one, its size or a hash; None if nothing does."""
    return _problem(path.stat().st_size, lambda kind: _digest(path, kind, cancel), remote)


def problem_of_bytes(content: bytes, remote: RemoteFile) -> str | None:
    """Say the same of the content of a file."""
    return _problem(len(content), lambda kind: hashlib.new(kind, content, usedforsecurity=False).hexdigest(), remote)


def _problem(size: int, digest: Callable[[str], str], remote: RemoteFile) -> str | None:
    if size != remote.size:
        return f"{size:,} bytes, {remote.size:,} are published"
    for kind, expected in (("md5", remote.md5), ("sha256", remote.sha256)):
        if expected and (found := digest(kind)) != expected:
            return f"its {kind.upper()} is {found}, {expected} is published"
    return None


def _digest(path: Path, kind: str, cancel: Cancel) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            cancel.check()
            digest.update(chunk)
    return digest.hexdigest()


class Unavailable(UserError):
    """The server does not give the file: it cannot be reached, refuses, or breaks off again and again."""


@dataclass(frozen=True)
class Patience:
    """How long a server is borne with.

    Attributes:
        attempts: how many in a row may bring not one new byte.
        first_contact: the same for a server that has never answered.
        pause_s: seconds after the first such attempt; after each further one twice as many.
        longest_pause_s: the most that a pause becomes, in seconds.
        stall_s: seconds without a byte that end an attempt, and so soon after Ctrl-C the program ends; after each
            attempt that brought nothing they are twice as many.
        longest_stall_s: the most that they become.
    """

    attempts: int = 10
    first_contact: int = 3
    pause_s: float = 1.0
    longest_pause_s: float = 60.0
    stall_s: float = 5.0
    longest_stall_s: float = 30.0


class _Fault(Exception):
    """One attempt failed, and the next may succeed; the server may say after how many seconds."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Download:
    """A file that is on its way into a folder.

    What has arrived lies in `.NAME.part`; `.NAME.part.json` says of which object of the server it is a part.

    Args:
        remote: what to fetch.
        folder: where to; it exists.
        patience: with the server.
        cancel: ends it.
        report: called with the number of bytes that arrived, or were given up (negative).
        answered: servers that have answered, to which this one's is added.
    """

    def __init__(
        self,
        remote: RemoteFile,
        folder: Path,
        patience: Patience,
        cancel: Cancel,
        report: Callable[[int], None],
        answered: set[str],
    ) -> None:
        self.remote, self.folder = remote, folder
        self.patience, self.cancel, self.report = patience, cancel, report
        self.part = folder / f".{remote.name}.part"
        self.part_of = folder / f".{remote.name}.part.json"
        self.server = "/".join(remote.url.split("/")[:3])
        self.answered = answered
        self.in_one_piece = False  # all of the part came in one response of this process

    @property
    def have(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self, check: Callable[[Path], str | None] | None = None) -> Path:
        """Fetch what is missing, verify, and give the file its name, which is returned.

        Args:
            check: of the content: what is wrong with it, in words, or None.

        Raises:
            Unavailable: the server does not give it; what has arrived is kept.
            UserError: what it gives is not the file, or it cannot be written.
            Cancelled: it was ended; what has arrived is kept.
        """
        if self.have > self.remote.size or not self._identity():
            self._discard()
        problem = self._complete(check)
        if problem and not self.in_one_piece:  # the pieces may not fit together: once more, from the first byte
            problem = self._complete(check)
        if problem:
            raise UserError(
                f"{self.remote.name} from {self.remote.url} is not the published file ({problem}): try again later, or "
                "name another source"
            )
        return self._publish()

    def _complete(self, check: Callable[[Path], str | None] | None) -> str | None:
        """Fetch what is missing, and say what is wrong with the whole, which is then given up."""
        self._fetch_rest()
        problem = problem_of(self.part, self.remote, self.cancel) or (check and check(self.part))
        if problem:
            self._discard()
        return problem

    def _publish(self) -> Path:
        target = self.folder / self.remote.name
        with writing(target):
            with self.part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.part, target)
        self.part_of.unlink(missing_ok=True)
        return target

    def _discard(self) -> None:
        self.report(-self.have)
        self.part.unlink(missing_ok=True)
        self.part_of.unlink(missing_ok=True)

    def _identity(self) -> dict[str, str | int | None]:
        """Say of which object the part is a part; empty if that is not known, or it is another one than is wanted."""
        try:
            identity = json.loads(self.part_of.read_text())
            known = (identity["url"], identity["size"]) == (self.remote.url, self.remote.size)
        except (OSError, ValueError, TypeError, KeyError):
            return {}
        return identity if known else {}

    def _fetch_rest(self) -> None:
        """Ask again until all is here, or patience ends."""
        failures, most = 0, self.have
        while self.have < self.remote.size:
            before = self.have
            fault = _Fault("the connection broke off")
            try:
                self._attempt(min(self.patience.stall_s * 2**failures, self.patience.longest_stall_s))
            except _Fault as error:
                fault = error
            # a server that gives the whole file each time has to come further than ever
            failures = 0 if self.have > (most if self.in_one_piece else before) else failures + 1
            most = max(most, self.have)
            if self.have == self.remote.size:
                return
            known = self.server in self.answered
            if failures >= (self.patience.attempts if known else self.patience.first_contact):
                raise Unavailable(
                    f"{self.remote.name} cannot be fetched from {self.remote.url} ({fault}; {failures} attempts, "
                    f"{self.have:,} of {self.remote.size:,} bytes are here and kept)"
                )
            pause = self.patience.pause_s * 2 ** (failures - 1) if failures else 0.0
            self.cancel.pause(max(min(pause, self.patience.longest_pause_s), fault.retry_after))

    def _attempt(self, timeout: float) -> None:
        """Ask once for what is missing; return when the response ends, for whatever reason."""
        try:
            request = urllib.request.Request(self.remote.url, headers=self._headers())
            with urllib.request.urlopen(request, timeout=timeout) as response:
                self.answered.add(self.server)
                self._receive(response)
        except urllib.error.HTTPError as error:
            self.answered.add(self.server)
            self._refused(error)
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last for a name that no host has
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise Unavailable(f"{self.remote.name}: {self.remote.url} is not to be trusted ({reason})") from error
            raise _Fault(" ".join(str(reason).split()) or type(reason).__name__) from error
        except ValueError as error:
            raise Unavailable(f"{self.remote.name}: {self.remote.url} is no address ({error})") from error

    def _headers(self) -> dict[str, str]:
        """Ask for the rest of the object that the part is of, or for the whole one, if it is another by now."""
        headers = {"User-Agent": "DGCMM", "Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            identity = self._identity()
            tag = identity.get("etag") or ""
            validator = identity.get("last_modified") if not tag or tag.startswith("W/") else tag  # a weak one won't do
            if validator:
                headers["If-Range"] = validator
        return headers

    def _refused(self, error: urllib.error.HTTPError) -> None:
        error.close()
        reason = f"the server answers {error.code} {error.reason}"
        if error.code == 416:  # it has fewer bytes than are here
            self._discard()
        elif error.code not in PASSING_STATUS and error.code < 500:
            raise Unavailable(f"{self.remote.name} cannot be fetched from {self.remote.url} ({reason})") from error
        asked_for = error.headers["Retry-After"] or ""
        pause = float(asked_for) if asked_for.isdecimal() else 0.0
        raise _Fault(reason, min(pause, LONGEST_RETRY_AFTER_S)) from error

    def _receive(self, response: http.client.HTTPResponse) -> None:
        """Append the body to the part, or start it anew where the server gives the whole file."""
        found = {"url": self.remote.url, "size": self.remote.size}
        found |= {"etag": response.headers["ETag"], "last_modified": response.headers["Last-Modified"]}
        if response.status == 206:
            self._require_continuation(response.headers, found)
        chunk = response.read1(CHUNK)
        if response.status != 206:
            if not chunk:  # nothing that what is here should be given up for
                return
            self._require_file(response.headers, chunk)
            self._discard()
            write_text(self.part_of, json.dumps(found))
        self.in_one_piece = self.have == 0
        while chunk:
            self.cancel.check()
            if self.have + len(chunk) > self.remote.size:
                raise self._other_length("more")
            self._append(chunk)
            self.report(len(chunk))
            chunk = response.read1(CHUNK)

    def _require_continuation(self, headers: Message, found: dict[str, str | int | None]) -> None:
        """Raise unless status 206 gives what follows the part, of the same object."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (headers["Content-Range"] or "").strip())
        if span and span[2] not in ("*", str(self.remote.size)):
            raise self._other_length(f"{int(span[2]):,}")
        identity = self._identity()
        changed = any(identity.get(key) and found[key] and identity[key] != found[key] for key in found)
        if changed or not span or int(span[1]) != self.have:
            self._discard()
            raise _Fault("the file has changed on the server" if changed else "the server gives another range")

    def _require_file(self, headers: Message, first: bytes) -> None:
        """Raise if the whole body that begins with `first` cannot be the file."""
        if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            raise Unavailable(
                f"{self.remote.url} gives a web page in place of {self.remote.name}: the server refuses the download"
            )
        length = headers["Content-Length"]
        if length is not None and length != str(self.remote.size):
            raise self._other_length(length)
        signature = SIGNATURES.get(Path(self.remote.name).suffix, b"")
        if not signature.startswith(first[: len(signature)]):  # a server in trouble may say so in some text
            raise _Fault("the server gives something else in place of the file")

    def _other_length(self, length: str) -> UserError:
        return UserError(
            f"{self.remote.name} at {self.remote.url} has {length} bytes, {self.remote.size:,} are published: it is "
            "another file; name another source"
        )

    def _append(self, chunk: bytes) -> None:
        with writing(self.part), self.part.open("ab") as file:
            file.write(chunk)
