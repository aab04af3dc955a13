"""A file of a storage as a file object for demuxers, which read it where they like."""

from __future__ import annotations

import os
from collections import OrderedDict

from onetake.core.errors import FileChangedError
from onetake.storage.base import Storage

__all__ = ["RemoteFile"]

_BLOCK = 1 << 20  # bytes of a request
_BLOCKS_KEPT = 16  # demuxers go to and fro between a header, an index and what they point to


class RemoteFile:
    """A file to be read and sought in; it is fetched in blocks of 1 MiB, and only where it is read. One thread's.

    Args:
        storage, file: where it is.
        size: what it must weigh.

    Attributes:
        error: what went wrong with the first read that failed: a demuxer can take that for the file's end.

    Raises:
        FileChangedError: it has another size.
        FileNotFoundError: there is no such file.
        StorageError: it can't be asked for.
    """

    def __init__(self, storage: Storage, file: str, size: int) -> None:
        self.error: Exception | None = None
        self._storage = storage
        self._entry = storage.stat(file)
        if self._entry.size != size:
            raise FileChangedError(f"{file} has {self._entry.size} bytes, {size} when it was indexed")
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def read(self, length: int) -> bytes:
        """Up to ``length`` bytes, as far as one block reaches; none at the end."""
        number, begin = divmod(self._position, _BLOCK)
        if self._position >= self._entry.size:
            return b""
        data = self._block(number)[begin : begin + length]
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of files."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._entry.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """As of files."""
        return self._position

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * _BLOCK
            length = min(_BLOCK, self._entry.size - start)
            try:
                data = self._storage.read(self._entry.file, start, length, self._entry.version)
                if len(data) != length:
                    raise FileChangedError(f"{self._entry.file} ended while it was read")
            except Exception as error:
                self.error = self.error or error
                raise
            self._blocks[number] = data
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]
