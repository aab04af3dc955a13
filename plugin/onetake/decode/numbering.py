"""Frame numbers: which packet holds which frame, and at which packets a decoder can start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onetake.core.index import DISCARD, KEYFRAME, PacketTable, Video

__all__ = ["number_by_output", "number_by_pts", "segment_rows", "start_rows", "with_times"]

Int64Array = NDArray[np.int64]


def number_by_pts(pts: Int64Array, flags: Int64Array) -> Int64Array | None:
    """Frame numbers of packets in decode order: ranks by pts among those that are shown, -1 for the others.

    None where pts cannot tell: two packets are shown at the same time.
    """
    frame = np.full(len(pts), -1, np.int64)
    shown = np.flatnonzero((flags & DISCARD) == 0)
    by_pts = shown[np.argsort(pts[shown], kind="stable")]
    if np.any(np.diff(pts[by_pts]) == 0):
        return None
    frame[by_pts] = np.arange(len(by_pts))
    return frame


def number_by_output(table: PacketTable, rows: Sequence[int]) -> PacketTable:
    """The table, numbered by what a decoder made of it.

    Args:
        table: packets in decode order; their pts tell when frames are shown, if not always which.
        rows: the row of each frame, in the order in which the decoder gave them.
    """
    order = np.array(rows, np.int64)
    frame = np.full(len(table), -1, np.int64)
    frame[order] = np.arange(len(order))
    pts = table.pts.copy()
    pts[order] = np.maximum.accumulate(pts[order])  # time never goes back, whatever the container says
    return replace(table, frame=frame, pts=pts)


def with_times(video: Video, table: PacketTable) -> Video:
    """The video, with what follows from its frames' numbers and times."""
    rows = np.flatnonzero(table.frame >= 0)
    times = np.empty(len(rows), np.int64)
    times[table.frame[rows]] = table.pts[rows]
    steps = np.diff(times)
    step = int(np.median(steps)) if len(steps) else 0
    return replace(
        video,
        num_frames=len(rows),
        duration=int(times[-1] - times[0]) + step,
        frame_ticks=step if np.all(steps == step) else 0,
    )


def start_rows(table: PacketTable, keys: Int64Array) -> PacketTable:
    """The table with KEYFRAME just where a decoder can start.

    That is the first row, and those of ``keys`` that are shown, and shown after all that is stored before them.
    """
    highest = np.maximum.accumulate(table.frame)
    before = np.concatenate([[-1], highest[:-1]])
    starts = keys[(table.frame[keys] > before[keys]) | (keys == 0)]
    flags = table.flags & np.uint8(~KEYFRAME & 0xFF)
    flags[starts] |= KEYFRAME
    flags[0] |= KEYFRAME
    return replace(table, flags=flags)


def segment_rows(table: PacketTable, time_base: tuple[int, int], segment_seconds: float) -> Int64Array:
    """Rows at which segments start: the first row, then the first keyframe at least ``segment_seconds`` on."""
    ticks = segment_seconds * time_base[1] / time_base[0]
    starts = [0]
    for row in table.clean_key_rows[1:].tolist():
        if table.pts[row] - table.pts[starts[-1]] >= ticks:
            starts.append(row)
    return np.array(starts, np.int64)
