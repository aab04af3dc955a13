"""The index on disk: a header, three parquet tables, and the packet tables, read by range.

index.json         version, counts, generation: written last, so that a half-written index is never opened
videos.parquet     a row per video, with the metadata that a manifest brought
segments.parquet   a row per segment
spans.parquet      a row per annotated span, with its metadata; often none
packets.bin        the segments' packet tables, one after another
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onetake.core.errors import IndexFileError
from onetake.core.index import (
    FORMAT_VERSION,
    MAX_SEGMENT_PACKETS,
    Keyframes,
    PacketTable,
    Video,
    VideoIndex,
)
from onetake.decode.validate import MAX_TICKS, video_problem

__all__ = [
    "INDEX_FILES",
    "read_header",
    "read_index",
    "read_keyframes",
    "read_table",
]

HEADER, VIDEOS, SEGMENTS, PACKETS_BIN = "index.json", "videos.parquet", "segments.parquet", "packets.bin"
SPANS = "spans.parquet"
INDEX_FILES = (VIDEOS, SEGMENTS, SPANS, PACKETS_BIN, HEADER)  # in the order in which they are written
# Of a pack: the folder of the index below the pack's root, and a table more in it; see ``decode.pack_index``.
INDEX_FOLDER, SHARDS = "onetake", "shards.parquet"
PACK_INDEX_FILES = (SHARDS, *INDEX_FILES)

SEGMENT_COLUMNS = tuple(field.name for field in fields(VideoIndex) if field.name not in ("generation", "videos"))
# Per segment, a list with an entry for each keyframe that is shown: its frame and its pts, as steps from the entry
# before, the first from the segment's first frame.
KEYFRAME_COLUMNS = ("key_frames", "key_pts")


VIDEO_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("video_id", "file", "kind", "codec", "decoder", "codec_options")),
        *((name, pa.string()) for name in ("pix_fmt", "color_matrix", "color_range", "transfer")),
        ("container", pa.string()),
        ("version", pa.string()),
        *((name, pa.int64()) for name in ("file_bytes", "num_frames", "width", "height")),
        *((name, pa.int64()) for name in ("rotation", "stream_index", "time_base_num", "time_base_den")),
        *((name, pa.int64()) for name in ("duration", "frame_ticks")),
        ("extradata", pa.binary()),
    ]
)
# Of the index's spans: the number of the video, and what ``decode.metadata.Spans`` says of the others.
SPAN_SCHEMA = pa.schema(
    [(name, pa.int64()) for name in ("video", "start_frame", "stop_frame", "start_pts", "stop_pts")]
)


def _video(row: dict[str, Any]) -> Video:
    row["time_base"] = row.pop("time_base_num"), row.pop("time_base_den")
    return Video(**row)


def read_header(folder: Path) -> dict[str, Any]:
    """The content of ``index.json``.

    Raises:
        IndexFileError: there is none, it is damaged, or of another version.
    """
    path = folder / HEADER
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise no_index(str(folder)) from None
    except OSError as error:
        raise IndexFileError(f"{path} cannot be read ({error}): run `onetake index` again") from None
    return parse_header(data, str(path))


def no_index(place: str) -> IndexFileError:
    """The error for a place that holds none."""
    return IndexFileError(f"no index in {place}: run `onetake index` on the videos' folder first")


def parse_header(data: bytes, path: str) -> dict[str, Any]:
    """The content of ``index.json``, of which ``path`` says where it is.

    Raises:
        IndexFileError: it is damaged, or of another version.
    """
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IndexFileError(f"{path} cannot be read ({error}): run `onetake index` again") from None
    if not isinstance(header, dict) or header.get("format") != "onetake":
        raise IndexFileError(f"{path} is not an index of onetake: run `onetake index` into another folder (--out)")
    if header.get("version") != FORMAT_VERSION:
        raise IndexFileError(
            f"{path} has version {header.get('version')}, this onetake reads version {FORMAT_VERSION}: "
            "run `onetake index` again"
        )
    return header


def read_index(folder: Path) -> VideoIndex:
    """Open an index; everything in it is checked, nothing is trusted.

    Raises:
        IndexFileError: it is missing, half-written, damaged, or names files outside the videos' folder.
    """
    header = read_header(folder)
    try:
        videos = pq.read_table(folder / VIDEOS, columns=VIDEO_SCHEMA.names)
        segments = pq.read_table(folder / SEGMENTS, columns=list(SEGMENT_COLUMNS))
        if not videos.schema.equals(VIDEO_SCHEMA):
            raise ValueError("not the columns of videos")
        for table in (videos, segments):
            if any(column.null_count for column in table.columns):
                raise ValueError("a value is missing")
            stamp = json.loads((table.schema.metadata or {}).get(b"onetake", b"{}"))
            if stamp.get("generation") != header["generation"]:
                raise IndexFileError(
                    f"the files of the index in {folder} don't belong together: run `onetake index` again"
                )
        index = VideoIndex(
            generation=header["generation"],
            videos=tuple(_video(row) for row in videos.to_pylist()),
            **{name: segments[name].to_numpy().astype(np.int64) for name in SEGMENT_COLUMNS},
        )
        tables_bytes = int(header["packets_bytes"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
        raise IndexFileError(f"the index in {folder} is damaged ({error}): run `onetake index` again") from None
    _validate(index, folder, tables_bytes)
    return index


def _validate(index: VideoIndex, folder: Path, tables_bytes: int) -> None:
    for video in index.videos:
        problem = video_problem(video)
        if problem:
            raise IndexFileError(
                f"the index in {folder} is damaged (of video {video.video_id!r}, {problem} can't be right): "
                "run `onetake index` again"
            )
    count = len(index.videos)
    firsts = np.flatnonzero(np.diff(index.video, prepend=-1))
    stop = index.first_frame + index.num_frames
    next_first = np.append(index.first_frame[1:], 0)
    next_first[firsts[1:] - 1] = 0
    lasts = np.append(firsts[1:] - 1, index.num_segments - 1) if len(firsts) else firsts
    next_first[lasts] = index.video_frames[lasts] if len(index.video) and index.video.max() < count else 0
    problems = {
        "it holds no video": not count,
        "segments and videos don't match": not np.array_equal(index.video[firsts], np.arange(count)),
        "segments leave out frames": bool(np.any(stop != next_first) or np.any(index.first_frame[firsts])),
        "a length is negative": any(
            bool(np.any(getattr(index, name) < 0)) for name in SEGMENT_COLUMNS if name != "first_pts"
        ),
        "packet tables lie outside packets.bin": bool(np.any(index.table_offset > tables_bytes - index.table_length)),
        "a segment has too many packets": bool(np.any(index.num_packets > MAX_SEGMENT_PACKETS)),
        "a time is out of range": bool(np.any(np.abs(index.first_pts) > MAX_TICKS)),
        "a video's ID stands twice": len({video.video_id for video in index.videos}) != count,
    }
    for problem, found in problems.items():
        if found:
            raise IndexFileError(f"the index in {folder} is damaged ({problem}): run `onetake index` again")


def read_keyframes(folder: Path, index: VideoIndex) -> Keyframes:
    """Every segment's keyframes, for ``index`` as ``read_index`` gave it.

    Raises:
        IndexFileError: segments.parquet is missing or damaged.
    """
    try:
        table = pq.read_table(folder / SEGMENTS, columns=list(KEYFRAME_COLUMNS))
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        frames, pts = (table[name].combine_chunks() for name in KEYFRAME_COLUMNS)
        start = frames.offsets.to_numpy().astype(np.int64)
        if len(frames) != index.num_segments or not np.array_equal(start, pts.offsets.to_numpy()):
            raise ValueError("keyframes and segments don't match")
        first = np.repeat(index.first_frame, np.diff(start)), np.repeat(index.first_pts, np.diff(start))
        steps = (column.values.to_numpy().astype(np.int64) for column in (frames, pts))
        frame, time = (base + _sums_within(start, step) for base, step in zip(first, steps, strict=True))
        stop = np.repeat(index.first_frame + index.num_frames, np.diff(start))
        if np.any(frame < first[0]) or np.any(frame >= stop):
            raise ValueError("a keyframe lies outside its segment")
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise IndexFileError(f"the index in {folder} is damaged ({error}): run `onetake index` again") from None
    return Keyframes(start, frame, time)


def _sums_within(start: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Running sums of ``steps`` that begin anew at each of ``start``."""
    sums = np.concatenate([[0], np.cumsum(steps)])
    return sums[1:] - np.repeat(sums[start[:-1]], np.diff(start))


def read_table(folder: Path, index: VideoIndex, segment: int) -> PacketTable:
    """One segment's packet table, read by range.

    Raises:
        IndexFileError: packets.bin is missing or damaged.
    """
    return PacketTable.from_bytes(read_table_bytes(folder, index, segment), int(index.num_packets[segment]))


def read_table_bytes(folder: Path, index: VideoIndex, segment: int) -> bytes:
    """One segment's packet table as it stands in packets.bin."""
    path = folder / PACKETS_BIN
    try:
        with path.open("rb") as file:
            length, offset = int(index.table_length[segment]), int(index.table_offset[segment])
            if offset + length > os.fstat(file.fileno()).st_size:
                raise IndexFileError("packets.bin is damaged (cut off): run `onetake index` again")
            return os.pread(file.fileno(), length, offset)
    except OSError as error:
        raise IndexFileError(f"{path} cannot be read ({error.strerror}): run `onetake index` again") from None
