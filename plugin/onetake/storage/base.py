"""What a place that holds videos, an index or a pack can do, wherever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "Storage", "StorageError"]


class StorageError(OSError):
    """A storage can't be asked, or breaks off, for a reason that may pass; what is wrong is not the local disk.
    ``strerror`` says why, ``filename`` where."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a storage.

    Attributes:
        file: its path below the storage's root, with forward slashes.
        size: bytes.
        version: another text whenever its content is another: an object's ETag, or a file's modification time.
    """

    file: str
    size: int
    version: str


class Storage(ABC):
    """A root folder or prefix, and the files below it. Can be pickled, and used after a fork; any thread may call it.

    Attempts that fail for reasons that pass (a connection, a busy server) are repeated with backoff before an error
    is raised. ``file`` is always a path below the root.

    Attributes:
        location: the root, as the user names it; for messages.
    """

    location: str

    @abstractmethod
    def below(self, folder: str) -> Storage:
        """The place that a folder of this one is."""

    @abstractmethod
    def check(self) -> None:
        """See that the place is there.

        Raises:
            SourceError: it is not, or may not be read.
        """

    @abstractmethod
    def list(self, on_error: Callable[[str, str], None] | None = None) -> Iterator[Entry]:
        """All files below the root, at any depth, in the order of their paths.

        Args:
            on_error: called as (path below the root, reason) for a subfolder or file that can't be looked at; the
                others are listed. None: that is an error.

        Raises:
            SourceError: the place, or a part of it, can't be listed, or does not exist.
        """

    @abstractmethod
    def stat(self, file: str) -> Entry:
        """One file.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: it can't be asked for.
        """

    @abstractmethod
    def read(self, file: str, start: int, length: int, version: str | None = None) -> bytes:
        """``length`` bytes from byte ``start`` on, in one request; fewer where the file ends before.

        Args:
            version: the version that is meant. None: whichever is there.

        Raises:
            FileNotFoundError: there is no such file.
            FileChangedError: it has another version, or was replaced while it was read.
            StorageError: it can't be read.
        """

    @abstractmethod
    def copy(self, file: str, start: int, length: int, target: Path, version: str | None = None) -> Entry:
        """Write ``length`` bytes from byte ``start`` on to a new local file, in one request; fewer where the file ends
        before. A part is never left to be taken for the whole: ``target`` is the caller's to delete after an error.

        Args:
            version: the version that is meant. None: whichever is there.

        Returns:
            The file that the bytes were of.

        Raises:
            FileNotFoundError: there is no such file.
            FileChangedError: it has another version, or was replaced while it was read.
            StorageError: it can't be read.
            OSError: ``target`` can't be written.
        """

    @abstractmethod
    def write(self, file: str, source: Path) -> None:
        """Put a local file there, whole or not at all, in the place of one of that name.

        Raises:
            OSError: it can't be written.
        """

    @abstractmethod
    def delete(self, file: str) -> None:
        """Delete a file, if it is there."""

    def read_all(self, file: str) -> bytes:
        """A whole, small file."""
        return self.read(file, 0, self.stat(file).size)

    @property
    def root(self) -> Path | None:
        """The folder, if it is one of this machine's file system."""
        return None
