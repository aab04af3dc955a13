"""A folder of this machine's file system."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from onetake.core.errors import FileChangedError, SourceError
from onetake.storage.base import Entry, Storage, StorageError

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

    def below(self, folder: str) -> LocalStorage:
        return LocalStorage(self._root / folder)

    def check(self) -> None:
        if not self._root.is_dir():
            what = "is a file" if self._root.exists() else "does not exist"
            raise SourceError(f"the folder {self._root} {what}: check the path")

    def list(self, on_error: Callable[[str, str], None] | None = None) -> Iterator[Entry]:
        self.check()

        def report(error: OSError) -> None:
            path = Path(error.filename)
            if on_error is None or path == self._root:
                raise SourceError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
            on_error(path.relative_to(self._root).as_posix(), f"cannot be read ({error.strerror})")

        files = []
        for folder, _, names in os.walk(self._root, onerror=report):  # which, without it, skips them in silence
            files += [Path(folder, name).relative_to(self._root).as_posix() for name in names]
        for file in sorted(files):
            try:
                status = (self._root / file).stat()
            except OSError as error:
                report(error)
                continue
            if S_ISREG(status.st_mode):
                yield _entry(file, status)

    def stat(self, file: str) -> Entry:
        with _reading():
            return _entry(file, (self._root / file).stat())

    @contextmanager
    def _opened(self, file: str, version: str | None) -> Iterator[tuple[BinaryIO, Entry]]:
        with _reading():
            source = (self._root / file).open("rb")
        with source:
            before = _entry(file, os.fstat(source.fileno()))
            self._refuse_other(before, version)
            yield source, before
            self._refuse_other(_entry(file, os.fstat(source.fileno())), version)

    def _refuse_other(self, entry: Entry, version: str | None) -> None:
        if version not in (None, entry.version):
            raise FileChangedError(f"{self._root / entry.file} was changed since it was last looked at: start again")

    def read(self, file: str, start: int, length: int, version: str | None = None) -> bytes:
        with self._opened(file, version) as (source, _), _reading():
            return os.pread(source.fileno(), length, start)

    def copy(self, file: str, start: int, length: int, target: Path, version: str | None = None) -> Entry:
        with self._opened(file, version) as (source, entry), target.open("wb") as sink:
            stop = start + length
            while start < stop:
                with _reading():
                    chunk = os.pread(source.fileno(), min(stop - start, _CHUNK), start)
                if not chunk:
                    break
                sink.write(chunk)
                start += len(chunk)
        return entry

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


def _entry(file: str, status: os.stat_result) -> Entry:
    return Entry(file, status.st_size, str(status.st_mtime_ns))


@contextmanager
def _reading() -> Iterator[None]:
    """Tell what goes wrong with the file read from what does with the one written."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename) from None
    except OSError as error:
        raise StorageError(error.errno, error.strerror, error.filename) from None
