"""Writing an index: the same videos give the same bytes, and a half-written one is never taken for whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onetake.core.columns import SPLIT
from onetake.core.errors import IndexFileError, SourceError
from onetake.core.index import FORMAT_VERSION, Keyframes, Video, VideoIndex
from onetake.decode.store import (
    HEADER,
    INDEX_FILES,
    KEYFRAME_COLUMNS,
    PACKETS_BIN,
    SEGMENT_COLUMNS,
    SEGMENTS,
    SPAN_SCHEMA,
    SPANS,
    VIDEO_SCHEMA,
    VIDEOS,
    read_header,
    read_index,
)
from onetake.storage.base import Storage

__all__ = ["Annotations", "IndexedVideo", "check_target", "put_index", "write_index"]

PROBE = ".onetake-probe"


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


@dataclass(frozen=True, slots=True)
class Annotations:
    """What an index says of its videos beyond their pictures.

    Attributes:
        metadata: a row per video, in the order of their IDs.
        spans: the columns of ``SPAN_SCHEMA``, then metadata; sorted by the first three. None: there are no spans.
    """

    metadata: pa.Table
    spans: pa.Table | None = None

    @property
    def splits(self) -> dict[str, int]:
        """Of each split, how many videos it has; empty where they are not split."""
        if SPLIT not in self.metadata.column_names:
            return {}
        return dict(sorted(Counter(self.metadata[SPLIT].to_pylist()).items()))

    @property
    def num_spans(self) -> int:
        """How many there are."""
        return 0 if self.spans is None else self.spans.num_rows


def check_target(out: Storage) -> None:
    """See, before the work is done, whether an index can be written to ``out``.

    Raises:
        SourceError: it can't, or the place is taken: by another program's index, such as that of MDS shards, by a
            pack's, or by tables of other content under the names of the index's.
    """
    remedy = "name another folder with --out (out=)"
    try:
        if out.root is not None:
            out.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            empty = Path(folder, "empty")
            empty.touch()
            out.write(PROBE, empty)
            out.delete(PROBE)
    except OSError as error:
        reason = error.strerror or error
        raise SourceError(f"the index cannot be written to {out.location} ({reason}): {remedy}") from None
    header = None
    with suppress(OSError, ValueError):
        header = json.loads(out.read_all(HEADER))
        if not isinstance(header, dict) or header.get("format") != "onetake":
            raise SourceError(f"{out.location}/{HEADER} belongs to another program: {remedy}")
        if "pack" in header:
            raise SourceError(f"{out.location} holds the index of a pack, which is lost without it: {remedy}")
    for name in (VIDEOS, SEGMENTS, SPANS):
        if (header is None or out.root is not None) and _is_of_others(out, name):
            raise SourceError(f"{out.location}/{name} is no part of an index, which would replace it: {remedy}")


def _is_of_others(out: Storage, name: str) -> bool:
    """Whether a file is a table that was not written for an index: a manifest perhaps."""
    try:
        table = out.root / name if out.root is not None else pa.BufferReader(out.read_all(name))
        return b"onetake" not in (pq.read_schema(table).metadata or {})
    except (OSError, pa.ArrowException):  # none, or a damaged one
        return False


def put_index(out: Storage, folder: Path) -> None:
    """Put an index that stands in ``folder`` into a bucket, in the place of one that is there.

    Raises:
        OSError: it can't be written.
    """
    try:
        there = json.loads(out.read_all(HEADER)).get("generation")
    except (FileNotFoundError, ValueError, AttributeError):
        there = None
    if there != read_header(folder)["generation"]:
        out.delete(HEADER)  # of files that no longer belong together nothing is opened
    for name in INDEX_FILES:
        out.write(name, folder / name)


def write_index(
    out: Path, videos: Sequence[IndexedVideo], how: dict[str, Any], annotations: Annotations | None = None
) -> VideoIndex:
    """Write an index of ``videos``, replacing one that is there; give it back as it would be read.

    The same videos give the same bytes.

    Args:
        out: its folder.
        videos: what it holds.
        how: the settings that it was made with, for its header.
        annotations: what it says of the videos besides. None: nothing.
    """
    ordered = sorted(videos, key=lambda item: item.video.video_id)
    columns: dict[str, list[int]] = {name: [] for name in SEGMENT_COLUMNS}
    keyframes: dict[str, list[list[int]]] = {name: [] for name in KEYFRAME_COLUMNS}
    digest = hashlib.blake2b(digest_size=16)
    out.mkdir(parents=True, exist_ok=True)
    offset = 0
    with _replacing(out / PACKETS_BIN) as (part, file):
        for number, item in enumerate(ordered):
            digest.update(repr([item.rows, *_identity(item.video)]).encode())
            for name, steps in zip(KEYFRAME_COLUMNS, _keyframe_steps(item), strict=True):
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
        spans = SPAN_SCHEMA.empty_table()
        if annotations is not None:
            spans = spans if annotations.spans is None else annotations.spans
            _add_table(digest, annotations.metadata)
            _add_table(digest, spans)
        generation = digest.hexdigest()
        if not _has_generation(out, generation):
            (out / HEADER).unlink(missing_ok=True)  # of files that no longer belong together nothing is opened
        part.commit()
    metadata = {"onetake": json.dumps({"version": FORMAT_VERSION, "generation": generation})}
    rows = [_video_row(item.video) for item in ordered]
    table = pa.Table.from_pylist(rows, VIDEO_SCHEMA)
    for field in annotations.metadata.schema if annotations is not None else ():
        table = table.append_column(field, annotations.metadata[field.name])
    _write_parquet(out / VIDEOS, table.replace_schema_metadata(metadata))
    _write_parquet(out / SPANS, spans.replace_schema_metadata(metadata))
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
        **({"splits": annotations.splits} if annotations is not None and annotations.splits else {}),
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


def _add_table(digest: Any, table: pa.Table) -> None:
    """Have ``digest`` depend on a table; on one without columns, it doesn't."""
    if table.num_columns and table.num_rows:
        digest.update(repr([(field.name, str(field.type)) for field in table.schema]).encode())
        for batch in table.to_batches(max_chunksize=10_000):
            digest.update(repr(batch.to_pylist()).encode(errors="surrogatepass"))


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


def _video_row(video: Video) -> dict[str, Any]:
    row = {field.name: getattr(video, field.name) for field in fields(Video)}
    row["time_base_num"], row["time_base_den"] = row.pop("time_base")
    return row


def _identity(video: Video) -> list[Any]:
    """What tells two videos apart, wherever they are copied to."""
    return [getattr(video, field.name) for field in fields(Video) if field.name != "version"]
