"""The index on disk: a header, two parquet tables, and the packet tables, read by range.

index.json         version, counts, generation: written last, so that a half-written index is never opened
videos.parquet     a row per video
segments.parquet   a row per segment
packets.bin        the segments' packet tables, one after another
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onetake.core.errors import IndexFileError, SourceError
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
    "IndexedVideo",
    "check_target",
    "read_header",
    "read_index",
    "read_keyframes",
    "read_table",
    "write_index",
]

HEADER, VIDEOS, SEGMENTS, PACKETS_BIN = "index.json", "videos.parquet", "segments.parquet", "packets.bin"
INDEX_FILES = (VIDEOS, SEGMENTS, PACKETS_BIN, HEADER)  # in the order in which they are written

_SEGMENT_COLUMNS = tuple(field.name for field in fields(VideoIndex) if field.name not in ("generation", "videos"))
# Per segment, a list with an entry for each keyframe that is shown: its frame and its pts, as steps from the entry
# before, the first from the segment's first frame.
_KEYFRAME_COLUMNS = ("key_frames", "key_pts")


@dataclass(frozen=True, slots=True)
class IndexedVideo:
    """One video, ready to be written: S segments and their packet tables.

    Attributes:
        video: the video.
        rows: for each segment, a value per name: first_frame, num_frames, first_pts, byte_offset, byte_length,
            num_packets, num_keyframes.
        keyframes: those of its segments.
        tables: for each segment, its packet table as bytes.
        damaged: packets found that don't decode; not written.
    """

    video: Video
    rows: tuple[dict[str, int], ...]
    keyframes: Keyframes
    tables: tuple[bytes, ...]
    damaged: int = 0


def check_target(out: Path) -> None:
    """See, before the work is done, whether an index can be written to ``out``.

    Raises:
        SourceError: it can't, or the place is taken by another program's index, such as that of MDS shards.
    """
    remedy = "name another folder with --out (out=)"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _replacing(out / HEADER):
            pass
    except OSError as error:
        raise SourceError(f"the index cannot be written to {out} ({error.strerror}): {remedy}") from None
    try:
        header = json.loads((out / HEADER).read_bytes())
    except (OSError, ValueError):
        return
    if not isinstance(header, dict) or header.get("format") != "onetake":
        raise SourceError(f"{out / HEADER} belongs to another program: {remedy}")


def write_index(out: Path, videos: Sequence[IndexedVideo], how: dict[str, Any]) -> VideoIndex:
    """Write an index of ``videos``, replacing one that is there; give it back as it would be read.

    The same videos give the same bytes.

    Args:
        out: its folder.
        videos: what it holds.
        how: the settings that it was made with, for its header.
    """
    ordered = sorted(videos, key=lambda item: item.video.video_id)
    columns: dict[str, list[int]] = {name: [] for name in _SEGMENT_COLUMNS}
    keyframes: dict[str, list[list[int]]] = {name: [] for name in _KEYFRAME_COLUMNS}
    digest = hashlib.blake2b(digest_size=16)
    out.mkdir(parents=True, exist_ok=True)
    offset = 0
    with _replacing(out / PACKETS_BIN) as (part, file):
        for number, item in enumerate(ordered):
            digest.update(repr([item.rows, *_identity(item.video)]).encode())
            for name, steps in zip(_KEYFRAME_COLUMNS, _keyframe_steps(item), strict=True):
                digest.update(repr(steps).encode())
                keyframes[name].extend(steps)
            for row, table in zip(item.rows, item.tables, strict=True):
                digest.update(table)
                file.write(table)
                for name, value in {
                    **row, "video": number, "table_offset": offset, "table_length": len(table)
                }.items():  # fmt: skip
                    columns[name].append(value)
                offset += len(table)
        generation = digest.hexdigest()
        if not _has_generation(out, generation):
            (out / HEADER).unlink(missing_ok=True)  # of files that no longer belong together nothing is opened
        part.commit()
    metadata = {"onetake": json.dumps({"version": FORMAT_VERSION, "generation": generation})}
    rows = [_video_row(item.video) for item in ordered]
    _write_parquet(out / VIDEOS, pa.Table.from_pylist(rows, _VIDEO_SCHEMA.with_metadata(metadata)))
    arrays = {name: pa.array(values, pa.int64()) for name, values in columns.items()}
    arrays |= {name: pa.array(lists, pa.list_(pa.int64())) for name, lists in keyframes.items()}
    _write_parquet(out / SEGMENTS, pa.table(arrays).replace_schema_metadata(metadata))
    header = {
        "format": "onetake",
        "version": FORMAT_VERSION,
        "generation": generation,
        "videos": len(ordered),
        "segments": len(columns["video"]),
        "frames": sum(item.video.num_frames for item in ordered),
        "packets_bytes": offset,
        **how,
    }
    with _replacing(out / HEADER) as (part, file):
        file.write((json.dumps(header, indent=2) + "\n").encode())
        part.commit()
    return read_index(out)


def _keyframe_steps(item: IndexedVideo) -> tuple[list[list[int]], list[list[int]]]:
    """Per segment, the steps between its keyframes: of frames, and of pts."""
    found: tuple[list[list[int]], list[list[int]]] = ([], [])
    bounds = zip(item.rows, item.keyframes.start[:-1].tolist(), item.keyframes.start[1:].tolist(), strict=True)
    for row, start, stop in bounds:
        found[0].append(np.diff(item.keyframes.frame[start:stop], prepend=row["first_frame"]).tolist())
        found[1].append(np.diff(item.keyframes.pts[start:stop], prepend=row["first_pts"]).tolist())
    return found


def _has_generation(out: Path, generation: str) -> bool:
    try:
        return read_header(out).get("generation") == generation
    except IndexFileError:
        return False


class _replacing:  # noqa: N801
    """A file that takes the place of ``path`` when committed, whole, and leaves nothing behind otherwise."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._done = False

    def __enter__(self) -> tuple[_replacing, Any]:
        self._file = self._part.open("wb")
        return self, self._file

    def commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._done = True

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._done:
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)


def _write_parquet(path: Path, table: pa.Table) -> None:
    with _replacing(path) as (part, file):
        pq.write_table(table, file, compression="zstd")
        part.commit()


_VIDEO_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("video_id", "file", "kind", "codec", "decoder", "codec_options")),
        *((name, pa.string()) for name in ("pix_fmt", "color_matrix", "color_range", "transfer")),
        ("container", pa.string()),
        *((name, pa.int64()) for name in ("file_bytes", "mtime_ns", "num_frames", "width", "height")),
        *((name, pa.int64()) for name in ("rotation", "stream_index", "time_base_num", "time_base_den")),
        *((name, pa.int64()) for name in ("duration", "frame_ticks")),
        ("extradata", pa.binary()),
    ]
)


def _video_row(video: Video) -> dict[str, Any]:
    row = {field.name: getattr(video, field.name) for field in fields(Video)}
    row["time_base_num"], row["time_base_den"] = row.pop("time_base")
    return row


def _video(row: dict[str, Any]) -> Video:
    row["time_base"] = row.pop("time_base_num"), row.pop("time_base_den")
    return Video(**row)


def _identity(video: Video) -> list[Any]:
    """What tells two videos apart, wherever they are copied to."""
    return [getattr(video, field.name) for field in fields(Video) if field.name != "mtime_ns"]


def read_header(folder: Path) -> dict[str, Any]:
    """The content of ``index.json``.

    Raises:
        IndexFileError: there is none, it is damaged, or of another version.
    """
    path = folder / HEADER
    try:
        header = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise IndexFileError(f"no index in {folder}: run `onetake index` on the videos' folder first") from None
    except (OSError, ValueError, RecursionError) as error:
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
        videos, segments = (pq.read_table(folder / name) for name in (VIDEOS, SEGMENTS))
        if not videos.schema.equals(_VIDEO_SCHEMA):
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
            **{name: segments[name].to_numpy().astype(np.int64) for name in _SEGMENT_COLUMNS},
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
            bool(np.any(getattr(index, name) < 0)) for name in _SEGMENT_COLUMNS if name != "first_pts"
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
        table = pq.read_table(folder / SEGMENTS, columns=list(_KEYFRAME_COLUMNS))
        frames, pts = (table[name].combine_chunks() for name in _KEYFRAME_COLUMNS)
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
