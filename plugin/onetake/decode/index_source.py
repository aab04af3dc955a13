"""An index where it stands, in a folder or a bucket: its tables are copied whole, packet tables are read by range."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from onetake.core.errors import FileChangedError, IndexFileError, SourceError
from onetake.core.index import PacketTable, VideoIndex
from onetake.decode.store import HEADER, INDEX_FOLDER, PACK_INDEX_FILES, PACKETS_BIN, no_index, parse_header
from onetake.storage.base import Storage, StorageError
from onetake.storage.open import open_storage

__all__ = ["IndexSource", "find_index", "index_folder"]

_EVERYTHING = 1 << 60
_KEPT_AHEAD = 16  # packet tables that came with another one
_CHANGES = 3  # of packets.bin while one table is read, after which it is given up


class IndexSource:
    """Reads an index that may be rebuilt meanwhile: what it gives is of one generation, or an error.

    Args:
        storage: where the index is.

    Attributes:
        generation: the index's, when this was made.
        splits: of each of its splits, how many videos it has; empty where it has none.

    Raises:
        IndexFileError: there is none, or it can't be used.
        SourceError: the place can't be read.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._header = self._read_header()
        self.generation = self._generation_of(self._header)
        splits = parse_header(self._header, HEADER).get("splits")
        self.splits: dict[str, int] = splits if isinstance(splits, dict) else {}
        self._tables_version: str | None = None
        self._ahead: dict[int, bytes] = {}

    def _read_header(self) -> bytes:
        try:
            return self.storage.read_all(HEADER)
        except FileNotFoundError:
            raise no_index(self.storage.location) from None
        except StorageError as error:
            raise self._unreadable(error) from None

    def _generation_of(self, header: bytes) -> str:
        return str(parse_header(header, f"{self.storage.location}/{HEADER}").get("generation"))

    def _unreadable(self, error: StorageError) -> SourceError:
        return SourceError(f"the index in {self.storage.location} cannot be read ({error.strerror}): check the place")

    def _rebuilt(self) -> IndexFileError:
        return IndexFileError(f"the index in {self.storage.location} was rebuilt since this run opened it: start again")

    def copy_tables(self, folder: Path) -> None:
        """Bring all but the packet tables into a folder of this machine, which has none yet, or of this generation.

        Raises:
            IndexFileError: it was rebuilt since.
            SourceError: the place can't be read.
            OSError: the folder can't be written.
        """
        names = [
            name for name in PACK_INDEX_FILES if name not in (PACKETS_BIN, HEADER) and not (folder / name).exists()
        ]
        for name in names:
            part = folder / f".{name}.{os.getpid()}.part"
            try:
                self.storage.copy(name, 0, _EVERYTHING, part)
            except FileNotFoundError:  # not every index has all; those that must be there are missed by its reader
                part.unlink(missing_ok=True)
            except StorageError as error:
                part.unlink(missing_ok=True)
                raise self._unreadable(error) from None
            else:
                part.replace(folder / name)
        if self._generation_of(self._read_header()) != self.generation:
            for name in names:
                (folder / name).unlink(missing_ok=True)
            raise self._rebuilt()
        part = folder / f".{HEADER}.part"
        part.write_bytes(self._header)
        part.replace(folder / HEADER)  # last: its presence says that all are there

    def read_table(self, index: VideoIndex, segment: int) -> PacketTable:
        """One segment's packet table. ``index`` is this one, read.

        A segment's clips end in the next one: its table comes with the same request, and is kept until it is asked for.

        Raises:
            IndexFileError: it was rebuilt since, or is damaged.
            StorageError: the place can't be read.
        """
        start, length = int(index.table_offset[segment]), int(index.table_length[segment])
        data = self._ahead.pop(segment, None)
        if data is None:
            data = self._read_tables(start, length + self._next_length(index, segment))
            if len(data) > length:
                self._ahead[segment + 1] = data[length:]
                while len(self._ahead) > _KEPT_AHEAD:
                    self._ahead.pop(next(iter(list(self._ahead)), -1), None)  # threads share it
                data = data[:length]
        if len(data) < length:
            raise IndexFileError(f"{PACKETS_BIN} is damaged (cut off): run `onetake index` again")
        return PacketTable.from_bytes(data, int(index.num_packets[segment]))

    @staticmethod
    def _next_length(index: VideoIndex, segment: int) -> int:
        """Bytes of the next segment's table, if it is of the same video and stands next to this one's; else 0."""
        after = segment + 1
        if after == index.num_segments or index.video[after] != index.video[segment]:
            return 0
        adjoins = index.table_offset[after] == index.table_offset[segment] + index.table_length[segment]
        return int(index.table_length[after]) if adjoins else 0

    def _read_tables(self, start: int, length: int) -> bytes:
        """A stretch of packets.bin, as it is in this generation."""
        for _ in range(_CHANGES):
            try:
                return self.storage.read(PACKETS_BIN, start, length, self._version_of_tables())
            except FileChangedError:
                self._tables_version = None
            except FileNotFoundError as error:
                raise IndexFileError(
                    f"{self.storage.location}/{PACKETS_BIN} cannot be read ({error.strerror}): "
                    "run `onetake index` again"
                ) from None
        raise self._rebuilt()

    def _version_of_tables(self) -> str:
        """Which version of packets.bin is of this generation; the header is written after it, and removed before."""
        if self._tables_version is None:
            version = self.storage.stat(PACKETS_BIN).version
            try:
                now = self._generation_of(self._read_header())
            except IndexFileError:
                now = ""
            if now != self.generation:
                raise self._rebuilt()
            self._tables_version = version
        return self._tables_version


def find_index(videos: Storage) -> IndexSource:
    """The index that stands beside videos, or in a pack.

    Raises:
        IndexFileError: there is none, or it can't be used.
        SourceError: the place can't be read.
    """
    try:
        return IndexSource(videos)
    except IndexFileError as error:  # a pack's root has the index of MDS
        reason = error
    try:
        videos.stat(f"{INDEX_FOLDER}/{HEADER}")
    except (FileNotFoundError, NotADirectoryError, StorageError):
        raise reason from None
    return IndexSource(videos.below(INDEX_FOLDER))


@contextmanager
def index_folder(location: str, with_packets: bool = False) -> Iterator[Path]:
    """A folder that holds the tables of the index at ``location`` (or of the pack there): where they are, or a copy for
    as long as it is open; ``with_packets``: the packet tables, too.

    Raises:
        IndexFileError: there is none, or it can't be used.
        SourceError: the place can't be read.
    """
    source = find_index(open_storage(location))
    if source.storage.root is not None:
        yield source.storage.root
        return
    with TemporaryDirectory(prefix="onetake-index-") as name:
        if with_packets:
            try:
                source.storage.copy(PACKETS_BIN, 0, _EVERYTHING, Path(name, PACKETS_BIN))
            except FileNotFoundError:
                raise IndexFileError(f"{location} holds no {PACKETS_BIN}: run `onetake index` again") from None
        source.copy_tables(Path(name))
        yield Path(name)
