"""The packets that a segment's clips need: its own, and what a clip needs of the segments after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import IndexFileError
from onetake.core.index import CONTAINER, MAX_SEGMENT_PACKETS, PacketTable, VideoIndex

__all__ = ["byte_range", "most_bytes", "run_table"]


def run_table(
    index: VideoIndex,
    segment: int,
    stop_frame: int,
    read: Callable[[int], PacketTable],
    stop_pts: int | None = None,
) -> PacketTable:
    """Packets from the segment's first keyframe to the last one that frames below ``stop_frame`` need.

    Frames may be shown before packets that precede theirs: a segment's last frames can stand behind the next
    segment's keyframe. So tables are read on until every frame is found.

    Args:
        index: the index.
        segment: the segment.
        stop_frame: one past the last frame needed.
        read: reads a segment's packet table.
        stop_pts: no frame that is shown later than this is needed either. None: the frames' numbers say all.

    Raises:
        IndexFileError: the video's segments do not hold all frames.
    """
    first_frame = int(index.first_frame[segment])
    tables = []
    found = 0
    following = segment
    while found < stop_frame - first_frame:
        too_many = sum(map(len, tables)) > MAX_SEGMENT_PACKETS
        if too_many or following == index.num_segments or index.video[following] != index.video[segment]:
            name = index.segment_name(segment)
            raise IndexFileError(f"the index lacks packets of {name}: run `onetake index` again")
        table = read(following)
        found += int(np.count_nonzero((table.frame >= first_frame) & (table.frame < stop_frame)))
        tables.append(table)
        following += 1
    table = PacketTable.concatenate(tables)
    needed = (table.frame >= first_frame) & (table.frame < stop_frame)
    if stop_pts is not None:
        needed &= table.pts <= stop_pts
    return table[: table.end_of(int(np.flatnonzero(needed)[-1]))]


def byte_range(table: PacketTable) -> tuple[int, int]:
    """(start, length) of the stretch of the file that holds the table's packets."""
    start = int(table.offset.min())
    return start, int((table.offset + table.size).max()) - start


def most_bytes(index: VideoIndex, segments: NDArray[np.int64], stop_frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """What ``run_table`` and the bytes of its packets weigh at most, known without any packet table.

    Args:
        index: the index.
        segments: int64 [S], numbers of segments.
        stop_frames: int64 [S], for each, one past the last frame needed.

    Returns:
        int64 [S], bytes.
    """
    video = index.video.astype(np.int64)
    of_segments = video[segments]
    # One segment further than the frames say: see run_table.
    farthest = max(int(index.first_frame.max()), int(stop_frames.max()) if len(stop_frames) else 0) + 1
    reached = np.searchsorted(video * farthest + index.first_frame, of_segments * farthest + stop_frames)
    last = np.minimum(reached, np.searchsorted(video, of_segments, side="right") - 1)
    ranges = np.stack([segments, last + 1], axis=1).ravel()
    ends = np.append(index.byte_offset + index.byte_length, 0)
    payload = np.maximum.reduceat(ends, ranges)[::2] - index.byte_offset[segments]
    tables = np.concatenate([[0], np.cumsum(index.table_length, dtype=np.int64)])
    whole = np.array([video.file_bytes if video.kind == CONTAINER else 0 for video in index.videos], np.int64)
    is_whole = whole[of_segments] > 0
    return np.where(is_whole, whole[of_segments], payload) + 2 * (tables[last + 1] - tables[segments])
