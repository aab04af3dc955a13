"""What buckets of all kinds have in common: keys below a prefix, a client per process, and reading on after a break."""

from __future__ import annotations

import errno
import os
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from copy import copy
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from onetake.core.errors import FileChangedError, OnetakeError, SourceError
from onetake.storage.base import Entry, Storage, StorageError

__all__ = [
    "ATTEMPTS",
    "CHUNK",
    "CONNECTIONS",
    "Body",
    "BucketStorage",
    "Fault",
    "fault_of_status",
    "object_size",
    "widened",
]

ATTEMPTS = 8  # at a request, with backoff, by the clients' own means; 8 outlast a server that is started again
CHUNK = 1 << 20  # bytes handed on at once
CONNECTIONS = 256  # that a client keeps; more threads than that open theirs anew
_BREAKS = 10  # of one body, each read on behind
_EVERYTHING = 1 << 60


class Fault(Enum):
    """What a client's error means."""

    MISSING = auto()
    NO_BUCKET = auto()
    REFUSED = auto()
    CHANGED = auto()
    BEYOND_END = auto()
    OTHER = auto()


class Body(NamedTuple):
    """The answer to a request for a range.

    Attributes:
        size: bytes of the whole object.
        version: the object's.
        chunks: the bytes asked for; may break off.
        close: ends the answer, if it isn't read to its end.
    """

    size: int
    version: str
    chunks: Iterator[bytes]
    close: Callable[[], None]


class BucketStorage(Storage):
    """Objects whose keys begin with a prefix; a kind of bucket gives it the methods below.

    A client is made in each process that asks for something, as connections don't survive a fork.

    Args:
        location: the URL, for messages.
        bucket: the bucket (or container).
        prefix: what keys begin with, up to a slash that need not be written. "": all.
    """

    remedy: ClassVar[str]  # where credentials are refused

    def __init__(self, location: str, bucket: str, prefix: str) -> None:
        if not bucket:
            raise SourceError(f"{location}: the URL names no bucket; write {location.partition(':')[0]}://BUCKET/PATH")
        self.location = location
        self.bucket = bucket
        self._prefix = prefix.strip("/") and prefix.strip("/") + "/"
        self._clients: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    @property
    def client(self) -> Any:
        """This process's client. Those of its parents are kept, unused: the connections are theirs to close."""
        pid = os.getpid()
        if pid not in self._clients:
            self._clients[pid] = self._connect()
        return self._clients[pid]

    # What a kind of bucket does. Whatever these raise is given to _fault.

    @abstractmethod
    def _connect(self) -> Any:
        """A new client, which any thread may use, and which repeats attempts that fail for reasons that pass."""

    @abstractmethod
    def _pages(self, prefix: str) -> Iterator[Entry]:
        """All objects whose keys begin with ``prefix``, in the order of keys; ``file`` is the key."""

    @abstractmethod
    def _head(self, key: str) -> Entry:
        """One object; ``file`` is the key."""

    @abstractmethod
    def _get(self, key: str, start: int, length: int, version: str | None) -> Body:
        """Ask for a range that is not empty."""

    @abstractmethod
    def _put(self, key: str, source: Path) -> None:
        """Upload a file, in parts if it is large."""

    @abstractmethod
    def _remove(self, key: str) -> None:
        """Delete an object."""

    @abstractmethod
    def _fault(self, error: Exception) -> tuple[Fault, str] | None:
        """What an error of the client means, and its reason in words that hold no secret; None if it is none."""

    # What a storage does.

    def below(self, folder: str) -> BucketStorage:
        other = copy(self)
        other.location = f"{self.location.rstrip('/')}/{folder.strip('/')}"
        other._prefix = f"{self._prefix}{folder.strip('/')}/"
        return other

    def check(self) -> None:
        with self._explained():
            if next(self._pages(self._prefix), None) is None:
                raise SourceError(f"there is nothing at {self.location}: check the URL")

    def list(self, on_error: Callable[[str, str], None] | None = None) -> Iterator[Entry]:
        found = False
        with self._explained():
            for entry in self._pages(self._prefix):
                found = True
                if not entry.file.endswith("/"):  # what some tools put in the place of a folder
                    yield Entry(entry.file.removeprefix(self._prefix), entry.size, entry.version)
        if not found:
            raise SourceError(f"there is nothing at {self.location}: check the URL")

    def stat(self, file: str) -> Entry:
        with self._explained(file):
            found = self._head(self._prefix + file)
        return Entry(file, found.size, found.version)

    def read(self, file: str, start: int, length: int, version: str | None = None) -> bytes:
        return b"".join(self._chunks(file, start, length, version)) if length else b""

    def read_all(self, file: str) -> bytes:
        return self.read(file, 0, _EVERYTHING)

    def copy(self, file: str, start: int, length: int, target: Path, version: str | None = None) -> Entry:
        chunks = self._chunks(file, start, length, version)
        with target.open("wb") as sink:
            while True:
                try:
                    sink.write(next(chunks))
                except StopIteration as stop:
                    entry: Entry = stop.value
                    return entry

    def write(self, file: str, source: Path) -> None:
        with self._explained(file):
            self._put(self._prefix + file, source)

    def delete(self, file: str) -> None:
        try:
            with self._explained(file):
                self._remove(self._prefix + file)
        except FileNotFoundError:
            pass

    def _chunks(self, file: str, start: int, length: int, version: str | None) -> Generator[bytes, None, Entry]:
        """A range of a file, in pieces; where an answer breaks off, the rest of the same version is asked for."""
        got = breaks = 0
        while True:
            try:
                with self._explained(file):
                    body = self._get(self._prefix + file, start + got, length - got, version)
            except _BeyondEndError:
                return self.stat(file)
            version = body.version
            due = min(length, body.size - start)
            broken = None
            try:
                while got < due and broken is None:
                    try:
                        chunk = next(body.chunks, None)
                    except Exception as error:
                        broken = error
                    else:
                        if chunk is None:
                            broken = EOFError("the answer ended too early")
                        else:
                            chunk = chunk[: due - got]  # of a server that knows no ranges
                            got += len(chunk)
                            yield chunk
            finally:
                body.close()
            if broken is None:
                return Entry(file, body.size, version)
            breaks += 1
            if breaks > _BREAKS:
                raise self._meaning(Fault.OTHER, f"it broke off {breaks} times: {_kind(broken)}", file) from None
            time.sleep(min(2.0**breaks / 20, 5) * random.uniform(0.5, 1))

    @contextmanager
    def _explained(self, file: str = "") -> Iterator[None]:
        """Turn errors of the client into those that a storage raises."""
        try:
            yield
        except OnetakeError:
            raise
        except Exception as error:
            fault = self._fault(error)
            if fault is None:
                raise
            raise self._meaning(*fault, file) from None

    def _meaning(self, fault: Fault, reason: str, file: str) -> Exception:
        place = f"{self.location.rstrip('/')}/{file}" if file else self.location
        match fault:
            case Fault.MISSING:
                return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
            case Fault.NO_BUCKET:
                return SourceError(f"{self.location}: there is no bucket {self.bucket!r}: check the URL")
            case Fault.REFUSED:
                return SourceError(f"{place} may not be accessed ({reason}): {self.remedy}")
            case Fault.CHANGED:
                return FileChangedError(f"{place} was replaced since it was last looked at: start again")
            case Fault.BEYOND_END:
                return _BeyondEndError()
        return StorageError(errno.EIO, reason, place)


class _BeyondEndError(OnetakeError):
    """A range begins at or behind an object's end."""


def fault_of_status(status: int | None, missing: Fault = Fault.MISSING) -> Fault:
    """What an answer's HTTP status means; ``missing``: what 404 does."""
    match status:
        case 404:
            return missing
        case 401 | 403:
            return Fault.REFUSED
        case 412:
            return Fault.CHANGED
        case 416:
            return Fault.BEYOND_END
    return Fault.OTHER


def object_size(content_range: str | None, content_length: int, start: int) -> int:
    """Bytes of the whole object, from the header of an answer to a request for a range from byte ``start`` on.

    Raises:
        StorageError: the server gave the whole object instead.
    """
    if content_range is not None:
        return int(content_range.rpartition("/")[2])
    if start:
        raise StorageError(errno.EIO, "the server does not read ranges")
    return content_length


def widened(session: Any) -> Any:
    """A session of requests', made to keep as many connections as CONNECTIONS says."""
    from requests.adapters import HTTPAdapter

    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return session


def _kind(error: Exception) -> str:
    """An error in words. Not its text: those of connections can hold signed URLs."""
    return type(error).__name__
