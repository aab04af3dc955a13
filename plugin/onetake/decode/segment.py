"""The packets that a segment's clips need: its own, and what a clip needs of the segments after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onetake.core.errors import IndexFileError
from onetake.core.index import MAX_SEGMENT_PACKETS, PacketTable, VideoIndex

__all__ = ["byte_range", "reached_segments", "run_table"]


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


def reached_segments(index: VideoIndex, segment: int, stop_frame: int) -> range:
    """The segments whose packets ``run_table`` may need, known without their packet tables."""
    last = segment
    while last < index.num_segments and index.video[last] == index.video[segment]:
        # One segment further than the frames say: see run_table.
        if index.first_frame[last] >= stop_frame:
            return range(segment, last + 1)
        last += 1
    return range(segment, last)
