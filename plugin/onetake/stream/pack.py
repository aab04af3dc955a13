"""A pack as a stream: its shards are MDS files with several segments each, fetched whole, or read in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from streaming.base.format import FileInfo

from onetake.core.errors import IndexFileError, SourceError, SpecError
from onetake.core.index import PacketTable, VideoIndex
from onetake.core.layout import Layout
from onetake.decode.pack_index import PackedShards, read_shards
from onetake.decode.source import PacketSource, open_source
from onetake.decode.store import read_header
from onetake.storage.base import Storage
from onetake.stream.shard import VideoShard

__all__ = ["Pack", "PackShard", "cached_table", "check_shard", "fetch_shard"]

Int64Array = NDArray[np.int64]


class PackShard(VideoShard):
    """One MDS file of a pack. In a cache, a second file has the packet tables of its segments.

    Args:
        dirname: the stream's cache folder; the pack's own folder when it is read in place.
        file: its name there.
        num_bytes: what it weighs.
        cached_bytes: what it weighs in a cache at most, with those.
        segments: int64, its segments in which clips start, by their numbers in the index.
        clips: int64, how many start in each.
        in_place: it is read where the user has it, and never deleted.
    """

    def __init__(
        self,
        dirname: str,
        file: str,
        num_bytes: int,
        cached_bytes: int,
        segments: Int64Array,
        clips: Int64Array,
        in_place: bool,
    ) -> None:
        super().__init__(dirname, int(segments[0]), int(clips.sum()), 0 if in_place else cached_bytes, in_place)
        self.file_pairs = [(FileInfo(file, num_bytes, {}), None)]
        self.num_bytes = num_bytes
        self.segments, self.num_segments = segments, len(segments)
        self._starts = np.cumsum(clips) - clips

    @property
    def file(self) -> str:
        """Its path below the pack's root."""
        return self.file_pairs[0][0].basename

    def locate(self, number: int) -> tuple[int, int]:
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        return int(self.segments[place]), number - int(self._starts[place])


class Pack:
    """The shards of a pack, opened.

    Args:
        shards: what the index says of them.
        index: the index.

    Attributes:
        shard_of_segment: int64 [S], never falling.
        stop_frame: int64 [S], the first frame that each segment does not carry.
    """

    def __init__(self, shards: PackedShards, index: VideoIndex) -> None:
        self._shards, self._index = shards, index
        self.shard_of_segment, self.stop_frame = shards.shard_of_segment, shards.stop_frame
        tables = np.bincount(self.shard_of_segment, 2 * index.table_length + 8, len(shards.files))
        self._cached_bytes = shards.num_bytes + tables.astype(np.int64)

    @classmethod
    def of(cls, folder: Path, index: VideoIndex) -> Pack | None:
        """The pack whose index ``index`` is, which stands in ``folder``; None for one of videos in place.

        Raises:
            IndexFileError: its list of shards can't be used.
        """
        header = read_header(folder)
        return cls(read_shards(folder, index, header), index) if "pack" in header else None

    def most_bytes(self, segments: Int64Array) -> Int64Array:
        """int64 [n], what the shards that hold n segments weigh in a cache, at most."""
        weights: Int64Array = self._cached_bytes[self.shard_of_segment[segments]]
        return weights

    def check_files(self, pack: Storage) -> None:
        """Raise SourceError unless every shard is there, as it was packed."""
        for file, num_bytes in zip(self._shards.files, self._shards.num_bytes.tolist(), strict=True):
            check_shard(pack, file, num_bytes)

    def check_reach(self, layout: Layout, location: str) -> None:
        """Raise SpecError where a clip has frames that the segment that it starts in does not carry."""
        index, needed, carried = self._index, layout.stop_frame, self.stop_frame
        too_far = (layout.num_kept > 0) & (needed > carried)
        if layout.stop_pts is not None:  # there, stop_frame may say too much
            too_far &= (layout.stop_pts > self._shards.last_pts) & (carried < index.video_frames)
        segments = np.flatnonzero(too_far)
        if not len(segments):
            return
        beyond = needed[segments] - (index.first_frame + index.num_frames)[segments]
        videos = [index.videos[number] for number in index.video[segments].tolist()]
        seconds = [
            (frames + 1) * video.seconds / video.num_frames
            for frames, video in zip(beyond.tolist(), videos, strict=True)
        ]
        raise SpecError(
            f"clips run over the ends of {len(segments)} of the {index.num_segments} segments of the pack in "
            f"{location} by more than these carry of what follows, first of all "
            f"{index.segment_name(int(segments[0]))}: use shorter clips, or pack anew with "
            f"--overlap {math.ceil(max(seconds) * 10) / 10:g}"
        )

    def shards(self, dirname: str, num_clips: Int64Array, in_place: bool) -> list[PackShard]:
        """The shards in which clips start.

        Args:
            dirname, in_place: see PackShard.
            num_clips: int64 [S], clips that start in each segment.
        """
        filled = np.flatnonzero(num_clips)
        numbers, first = np.unique(self.shard_of_segment[filled], return_index=True)
        return [
            PackShard(
                dirname,
                self._shards.files[number],
                int(self._shards.num_bytes[number]),
                int(self._cached_bytes[number]),
                segments,
                num_clips[segments],
                in_place,
            )
            for number, segments in zip(numbers.tolist(), np.split(filled, first[1:]), strict=True)
        ]

    def open(self, shard: PackShard, segment: int, table: PacketTable) -> PacketSource:
        """A source of packets of a segment, which are those of ``table``."""
        index = self._index
        place = int(index.byte_offset[segment]), int(index.byte_length[segment])
        return open_source(index.videos[index.video[segment]], table, shard.path, window=place)


def check_shard(pack: Storage, file: str, num_bytes: int) -> None:
    """See that a shard is there, as it was packed.

    Raises:
        SourceError: it is not.
        StorageError: the place can't be read, for a reason that may pass.
    """
    try:
        size = pack.stat(file).size
    except FileNotFoundError:
        raise _missing(pack, file) from None
    _refuse_other_size(pack, file, num_bytes, size)


def fetch_shard(pack: Storage, shard: PackShard, read_table: Callable[[int], PacketTable]) -> None:
    """Bring a shard, and the packet tables of its segments, into the cache: whole, or not at all.

    Args:
        pack: where it is.
        shard: the shard.
        read_table: reads a segment's packet table.

    Raises:
        SourceError: it is not there, or not as it was packed.
        StorageError: the place can't be read, for a reason that may pass.
        CacheError: the cache can't be written; its cause is the OSError.
    """
    tables = [read_table(segment).to_bytes() for segment in shard.segments.tolist()]
    lengths = np.array([len(table) for table in tables], "<i8")
    with shard.filling(f"shard {shard.file}") as (table_path, path):
        table_path.write_bytes(b"".join([lengths.tobytes(), *tables]))
        try:
            found = pack.copy(shard.file, 0, shard.num_bytes, path)
        except FileNotFoundError:
            raise _missing(pack, shard.file) from None
        _refuse_other_size(pack, shard.file, shard.num_bytes, found.size)


def _missing(pack: Storage, file: str) -> SourceError:
    return SourceError(f"shard {file} is missing in {pack.location}: copy the pack again, or pack anew")


def _refuse_other_size(pack: Storage, file: str, expected: int, size: int) -> None:
    if size != expected:
        raise SourceError(
            f"shard {file} in {pack.location} has {size} bytes, {expected} when it was packed: copy the pack again"
        )


def cached_table(shard: PackShard, index: VideoIndex, segment: int) -> PacketTable:
    """The packet table of a segment of a shard in the cache.

    Raises:
        FileNotFoundError: the shard is not in the cache, or was damaged there; it is to be fetched again.
    """
    place, count = int(np.searchsorted(shard.segments, segment)), len(shard.segments)
    data = shard.table_path.read_bytes()
    try:
        lengths = np.frombuffer(data, "<i8", count)
        start = 8 * count + int(lengths[:place].sum())
        table = PacketTable.from_bytes(data[start : start + int(lengths[place])], int(index.num_packets[segment]))
        is_whole = shard.path.stat().st_size == shard.num_bytes
    except (IndexFileError, ValueError):
        is_whole = False
    if not is_whole:
        shard.evict()
        raise FileNotFoundError(f"the cached shard {shard.path} was damaged")
    return table
