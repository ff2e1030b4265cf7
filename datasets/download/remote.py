"""One file from a web server: resumed by byte range, and verified before it gets its name."""

import contextlib
import email.utils
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from datasets.download.parallel import Cancel
from datasets.download.published import RemoteFile, problem_of
from utils.errors import UserError
from utils.files import unwritable, write_text

CHUNK = 1 << 20
PASSING_STATUS = (408, 425, 429)  # and all from 500 on
LONGEST_RETRY_AFTER_S = 300.0


class Unavailable(UserError):
    """The server does not give the file: it cannot be reached, refuses, or breaks off again and again."""


@dataclass(frozen=True)
class Patience:
    """How long a server is borne with.

    Attributes:
        attempts: in a row that bring not one new byte.
        first_contact: the same for a server that has never answered.
        pause_s: after the first such attempt, in seconds; then twice as long each time,
        longest_pause_s: up to this.
        stall_s: an attempt ends when nothing arrives for so long.
    """

    attempts: int = 10
    first_contact: int = 3
    pause_s: float = 1.0
    longest_pause_s: float = 60.0
    stall_s: float = 30.0


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
    """

    def __init__(
        self, remote: RemoteFile, folder: Path, patience: Patience, cancel: Cancel, report: Callable[[int], None]
    ) -> None:
        self.remote, self.folder = remote, folder
        self.patience, self.cancel, self.report = patience, cancel, report
        self.part = folder / f".{remote.name}.part"
        self.part_of = folder / f".{remote.name}.part.json"
        self.contacted = False
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
        """Fetch what is missing; what is wrong with the whole, which is then given up."""
        self._fetch_rest()
        problem = problem_of(self.part, self.remote, self.cancel) or (check and check(self.part))
        if problem:
            self._discard()
        return problem

    def _publish(self) -> Path:
        target = self.folder / self.remote.name
        try:
            with self.part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.part, target)
        except OSError as error:
            raise unwritable(target, error) from error
        self.part_of.unlink(missing_ok=True)
        return target

    def _discard(self) -> None:
        self.report(-self.have)
        self.part.unlink(missing_ok=True)
        self.part_of.unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any] | None:
        """Of which object the part is a part; None if that is not known, or it is another one than is wanted."""
        try:
            identity = json.loads(self.part_of.read_text())
            known = (identity["url"], identity["size"]) == (self.remote.url, self.remote.size)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return identity if known else None

    def _fetch_rest(self) -> None:
        failures, most = 0, self.have
        while self.have < self.remote.size:
            try:
                self._attempt()
                fault = _Fault("the connection broke off")
            except _Fault as error:
                fault = error
            failures = 0 if self.have > most else failures + 1
            most = max(most, self.have)
            if self.have == self.remote.size:
                return
            if failures >= (self.patience.attempts if self.contacted else self.patience.first_contact):
                raise Unavailable(
                    f"{self.remote.name} cannot be fetched from {self.remote.url} ({fault}; {failures} attempts, "
                    f"{self.have:,} of {self.remote.size:,} bytes are here and kept)"
                )
            pause = self.patience.pause_s * 2 ** (failures - 1) if failures else 0.0
            self.cancel.pause(max(min(pause, self.patience.longest_pause_s), fault.retry_after))

    def _attempt(self) -> None:
        """One request for what is missing; returns when the response ends, for whatever reason."""
        have, identity = self.have, self._identity() or {}
        headers = {"User-Agent": "DGCMM", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            validator = identity.get("etag") or ""
            if validator.startswith("W/") or not validator:  # a weak one is not allowed here
                validator = identity.get("last_modified")
            if validator:
                headers["If-Range"] = validator
        request = urllib.request.Request(self.remote.url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self.patience.stall_s) as response:
                self.contacted = True
                with self.cancel.watching(response):
                    self._receive(response, have, identity)
        except urllib.error.HTTPError as error:
            self.contacted = True
            self._refused(error)
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last for a name that no host has
            self.cancel.check()  # it may have been ended by us
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise Unavailable(f"{self.remote.name}: {self.remote.url} is not to be trusted ({reason})") from error
            raise _Fault(_words(reason)) from error

    def _refused(self, error: urllib.error.HTTPError) -> None:
        error.close()
        reason = f"the server answers {error.code} {error.reason}"
        if error.code == 416:  # it has fewer bytes than are here
            self._discard()
        elif error.code not in PASSING_STATUS and error.code < 500:
            raise Unavailable(f"{self.remote.name} cannot be fetched from {self.remote.url} ({reason})") from error
        raise _Fault(reason, _retry_after(error.headers)) from error

    def _receive(self, response: Any, have: int, identity: dict[str, Any]) -> None:
        """Append the body to the part, or start it anew where the server gives the whole file."""
        found = {"url": self.remote.url, "size": self.remote.size}
        found |= {"etag": response.headers["ETag"], "last_modified": response.headers["Last-Modified"]}
        if response.status == 206:
            self._require_continuation(response.headers, have, identity, found)
            first = response.read1(CHUNK)
        else:
            first = response.read1(CHUNK)
            if not first:  # nothing that what is here should be given up for
                return
            self._require_file(response.headers, first)
            self._discard()
            self._write_identity(found)
            have = 0
        self.in_one_piece = have == 0
        with self._open() as file:
            while first:
                self.cancel.check()
                have += len(first)
                if have > self.remote.size:
                    raise self._other_length("more")
                self._write(file, first)
                self.report(len(first))
                first = response.read1(CHUNK)

    def _require_continuation(
        self, headers: Message, have: int, identity: dict[str, Any], found: dict[str, Any]
    ) -> None:
        """Raise unless status 206 gives the bytes from `have` on, of the same object."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (headers["Content-Range"] or "").strip())
        if span and span[2] not in ("*", str(self.remote.size)):
            raise self._other_length(f"{int(span[2]):,}")
        changed = any(identity.get(key) and found[key] and identity[key] != found[key] for key in found)
        if changed or not span or int(span[1]) != have:
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

    def _other_length(self, length: str) -> UserError:
        return UserError(
            f"{self.remote.name} at {self.remote.url} has {length} bytes, {self.remote.size:,} are published: it is "
            "another file; name another source"
        )

    def _write_identity(self, identity: dict[str, Any]) -> None:
        write_text(self.part_of, json.dumps(identity))

    def _open(self) -> Any:
        try:
            return self.part.open("ab", buffering=0)
        except OSError as error:
            raise unwritable(self.part, error) from error

    def _write(self, file: Any, chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            raise unwritable(self.part, error) from error


def _words(reason: object) -> str:
    """An error in words, for the errors that have none."""
    return " ".join(str(reason).split()) or type(reason).__name__


def _retry_after(headers: Message) -> float:
    """Seconds that a server asks for, as a number or as a date; 0 if it does not."""
    text = headers["Retry-After"] or ""
    seconds = 0.0
    with contextlib.suppress(ValueError):
        seconds = float(text) if text.isdecimal() else email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)
