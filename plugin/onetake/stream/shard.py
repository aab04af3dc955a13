"""A segment of a video as a shard: what streaming downloads, waits for and evicts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from streaming.base.format import FileInfo, Reader

from onetake.core.errors import CacheError
from onetake.storage.base import StorageError

__all__ = ["SEGMENT_SUFFIXES", "TABLE_SUFFIX", "VideoShard", "cached_bytes", "remove_cached"]

VIDEO_SUFFIX, TABLE_SUFFIX = ".bytes", ".table"  # a stretch of a video, and its packet table
SEGMENT_SUFFIXES = (VIDEO_SUFFIX, ".mds")  # of what a cache holds, and may delete


def cached_bytes(path: Path) -> int:
    """What a cached segment weighs, given its file; 0 unless all of it is there."""
    try:
        return path.stat().st_size + path.with_suffix(TABLE_SUFFIX).stat().st_size
    except FileNotFoundError:
        return 0


def remove_cached(path: Path) -> None:
    """Delete a cached segment, if it is there."""
    # The table first: where the bytes are missing, another thread fetches both again at once.
    for each in (path.with_suffix(TABLE_SUFFIX), path):
        each.unlink(missing_ok=True)


class VideoShard(Reader):
    """One segment, of whose clips streaming knows only how many there are.

    A cached segment is two files: the bytes of the video that its clips need, and their packet table.

    Args:
        dirname: the stream's cache folder; the videos' own folder when they are read in place.
        segment: the segment's number in its index.
        samples: clips that start in it.
        max_bytes: what its files weigh at most.
        in_place: it is read where the user has it, and never deleted.
    """

    num_segments = 1  # in which clips start
    # What the host has each shard keep for itself. There may be millions: they share what they can, and the rest is
    # made when it is asked for.
    split = ""
    compression = size_limit = None
    hashes: tuple[str, ...] = ()  # type: ignore[assignment]

    def __init__(self, dirname: str, segment: int, samples: int, max_bytes: int, in_place: bool) -> None:
        self.dirname = dirname
        self.segment = segment
        self.samples = samples
        self.in_place = in_place
        self._max_bytes = max_bytes

    @cached_property
    def file_pairs(self) -> list[tuple[FileInfo, None]]:  # type: ignore[override]
        """The file that the host looks for before it takes a shard for local; see VideoStream.prepare_shard."""
        return [(FileInfo(f"{self.segment:08d}{VIDEO_SUFFIX}", self._max_bytes, {}), None)]

    @property
    def path(self) -> Path:
        """The cached stretch of the video."""
        return Path(self.dirname, self.file_pairs[0][0].basename)

    @property
    def table_path(self) -> Path:
        """The cached packet table."""
        return self.path.with_suffix(TABLE_SUFFIX)

    def locate(self, number: int) -> tuple[int, int]:
        """The segment of the shard's clip ``number``, and the clip's number there."""
        return self.segment, number

    @contextmanager
    def filling(self, what: str) -> Iterator[tuple[Path, Path]]:
        """Where to write the packet table and the stretch of the video; both are put in place if nothing is raised.

        Args:
            what: what they are of, for messages.

        Raises:
            CacheError: the cache can't be written; its cause is the OSError.
            StorageError: as it is.
        """
        parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in (self.table_path, self.path)]
        try:
            yield parts[0], parts[1]
            parts[0].replace(self.table_path)
            parts[1].replace(self.path)  # last: its presence says that all is there
        except StorageError:
            raise
        except OSError as error:
            raise CacheError(
                f"{what} cannot be written to the cache {self.path.parent} ({error.strerror}): make room, or lower "
                "cache_limit="
            ) from error
        finally:
            for part in parts:
                part.unlink(missing_ok=True)

    def bytes_on_disk(self) -> int:
        """What the cached files weigh; 0 unless all of them are there."""
        if self.in_place:
            return 0
        return cached_bytes(self.path)

    def evict(self) -> int:
        """Delete the cached files; how many bytes that freed."""
        freed = self.bytes_on_disk()
        if not self.in_place:
            remove_cached(self.path)
        return freed

    def get_raw_size(self) -> int:
        """What its files weigh at most: the room that is made for them."""
        return self._max_bytes

    def get_item(self, idx: int) -> dict[str, Any]:
        raise TypeError("a segment's clips are read through VideoDataset, by lane")

    get_sample_data = decode_sample = get_item  # type: ignore[assignment]
