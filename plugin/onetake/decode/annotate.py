"""What a manifest says, put beside the videos that it speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from onetake.core.index import PacketTable
from onetake.core.layout import Timeline
from onetake.decode.index_writer import Annotations, IndexedVideo
from onetake.decode.manifest import Manifest, SpanRows
from onetake.decode.store import SPAN_SCHEMA

__all__ = ["annotate"]

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

_NEARLY = 1e-3  # ticks: a time so near to a whole one is meant to be it


def annotate(
    manifest: Manifest, done: Sequence[IndexedVideo]
) -> tuple[list[IndexedVideo], Annotations, list[tuple[str, str]]]:
    """Bring together what was found in the videos and what a manifest says of them.

    Args:
        manifest: the videos, and others perhaps that can't be used.
        done: those that can.

    Returns:
        The videos under the manifest's IDs, sorted by these; what is said of them; and (file, reason) of each span that
        is left out.
    """
    numbers = {file: number for number, file in enumerate(manifest.files)}
    videos = [
        replace(item, video=replace(item.video, video_id=manifest.video_ids[numbers[item.video.file]])) for item in done
    ]
    videos.sort(key=lambda item: item.video.video_id)
    order = np.array([numbers[item.video.file] for item in videos], np.int64)
    metadata = manifest.metadata.take(order)
    if manifest.spans is None:
        return videos, Annotations(metadata), []
    spans, left_out = _spans(manifest, manifest.spans, videos, order)
    return videos, Annotations(metadata, spans), left_out


def _spans(
    manifest: Manifest, said: SpanRows, videos: Sequence[IndexedVideo], order: Int64Array
) -> tuple[pa.Table, list[tuple[str, str]]]:
    rank = np.full(len(manifest.files), -1, np.int64)
    rank[order] = np.arange(len(order))
    rows = np.flatnonzero(rank[manifest.video] >= 0)
    rows = rows[np.argsort(rank[manifest.video[rows]], kind="stable")]
    video = rank[manifest.video[rows]]
    found, left_out = [np.zeros((0, 4), np.int64)], []
    for own in np.split(rows, np.flatnonzero(np.diff(video)) + 1) if len(rows) else []:
        item = videos[rank[manifest.video[own[0]]]]
        table = PacketTable.concatenate(
            [PacketTable.from_bytes(data, row["num_packets"]) for data, row in zip(item.tables, item.rows, strict=True)]
        )
        found.append(_in_frames(item, Timeline.of(table, 0).pts, said.seconds[own], said.frames[own]))
        for row in own[found[-1][:, 0] < 0].tolist():
            assert manifest.rows is not None
            reason = f"a span begins where the video has ended: left out ({manifest.rows.place(row)})"
            left_out.append((item.video.file, reason))
    bounds = np.concatenate(found)
    kept = np.flatnonzero(bounds[:, 0] >= 0)
    kept = kept[np.lexsort([bounds[kept, 1], bounds[kept, 0], video[kept]])]
    own_columns = dict(zip(SPAN_SCHEMA.names, map(pa.array, (video[kept], *bounds[kept].T)), strict=True))
    metadata = {name: said.metadata[name].take(rows[kept]) for name in said.metadata.column_names}
    return pa.table({**own_columns, **metadata}), left_out


def _in_frames(item: IndexedVideo, pts: Int64Array, seconds: Float64Array, frames: Int64Array) -> Int64Array:
    """int64 [N, 4], start and stop of spans in frames, and in ticks; -1 where they are outside of the video.

    A span holds the frames that are on screen at any time from its start to its stop, which are counted from the first
    frame; what lies behind the video's end is cut off.
    """
    video = item.video
    num_frames, num_spans = video.num_frames, len(frames)
    # A coarse clock rounds frames' times: see ``core.layout``.
    tolerance = int(not video.frame_ticks and video.duration >= 8 * num_frames)
    ticks = seconds * video.time_base[1] / video.time_base[0]
    whole = np.rint(ticks)
    ticks = np.where(np.abs(ticks - whole) <= np.maximum(_NEARLY, np.abs(ticks) * 1e-15), whole, ticks)
    ticks = np.minimum(ticks, 2.0**60)
    shown = pts - pts[0]
    start, stop = np.zeros(num_spans, np.int64), np.full(num_spans, num_frames, np.int64)
    timed = ~np.isnan(ticks)
    begin, end = (np.where(timed[:, side], ticks[:, side], 0) for side in (0, 1))
    on_screen = np.searchsorted(shown, np.floor(begin).astype(np.int64) + tolerance, side="right") - 1
    ended = begin >= max(video.duration, 1)
    behind = np.searchsorted(shown, np.ceil(end).astype(np.int64) - tolerance, side="left")
    start = np.where(timed[:, 0], on_screen, np.where(frames[:, 0] >= 0, frames[:, 0], start))
    start = np.where(ended, num_frames, start)
    stop = np.where(timed[:, 1], np.maximum(behind, start + 1), np.where(frames[:, 1] >= 0, frames[:, 1], stop))
    stop = np.minimum(stop, num_frames)
    inside = start < num_frames
    times = np.append(pts, pts[0] + video.duration)
    bounds = np.stack([start, stop, times[np.minimum(start, num_frames)], times[stop]], axis=1)
    return np.where(inside[:, None], bounds, -1)
