"""A folder of this machine's file system."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from onetake.core.errors import SourceError
from onetake.storage.base import Entry, Storage

__all__ = ["LocalStorage"]

_CHUNK = 1 << 20


class LocalStorage(Storage):
    """A folder.

    Args:
        root: the folder; need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.location = str(root)

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def check(self) -> None:
        if not self._root.is_dir():
            what = "is a file" if self._root.exists() else "does not exist"
            raise SourceError(f"the folder {self._root} {what}: check the path")

    def list(self) -> Iterator[Entry]:
        self.check()
        files = sorted(path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file())
        yield from map(self.stat, files)

    def stat(self, file: str) -> Entry:
        status = (self._root / file).stat()
        return Entry(file, status.st_size, str(status.st_mtime_ns))

    def read(self, file: str, start: int, length: int) -> bytes:
        with (self._root / file).open("rb") as source:
            return os.pread(source.fileno(), length, start)

    def copy(self, file: str, start: int, length: int, target: Path) -> None:
        with (self._root / file).open("rb") as source, target.open("wb") as sink:
            source.seek(start)
            left = length
            while left and (chunk := source.read(min(left, _CHUNK))):
                sink.write(chunk)
                left -= len(chunk)

    def write(self, file: str, source: Path) -> None:
        target = self._root / file
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            shutil.copyfile(source, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def delete(self, file: str) -> None:
        (self._root / file).unlink(missing_ok=True)
