"""What an index says of its videos and of spans of them beyond their pictures: columns that a manifest brought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onetake.core.columns import MANIFEST_COLUMNS, SAMPLE_KEYS
from onetake.core.errors import IndexFileError
from onetake.core.index import VideoIndex
from onetake.core.spans import SpanBounds, times_rise
from onetake.decode.store import SPAN_SCHEMA, SPANS, VIDEO_SCHEMA, VIDEOS
from onetake.decode.validate import MAX_TICKS

__all__ = ["Spans", "column_problem", "metadata_type", "read_metadata", "read_spans"]

Int64Array = NDArray[np.int64]

_TAKEN = SAMPLE_KEYS | {*VIDEO_SCHEMA.names, *SPAN_SCHEMA.names, *MANIFEST_COLUMNS}


@dataclass(frozen=True, slots=True)
class Spans:
    """N annotated spans of videos, sorted by video, start and stop.

    Attributes:
        video: int64 [N], the video's number in the index.
        start_frame, stop_frame: int64 [N], its frames, the last one excluded.
        start_pts, stop_pts: int64 [N], when the first is shown, and when the last one ends, in ticks of the video's
            clock.
        metadata: N rows.
    """

    video: Int64Array
    start_frame: Int64Array
    stop_frame: Int64Array
    start_pts: Int64Array
    stop_pts: Int64Array
    metadata: pa.Table

    def __len__(self) -> int:
        return len(self.video)

    @property
    def bounds(self) -> SpanBounds:
        """All but the metadata."""
        return self.video, self.start_frame, self.stop_frame, self.start_pts, self.stop_pts

    def to_table(self) -> pa.Table | None:
        """As an index holds them; None if there are none."""
        if not len(self):
            return None
        table = pa.Table.from_arrays([pa.array(getattr(self, name)) for name in SPAN_SCHEMA.names], schema=SPAN_SCHEMA)
        for name in self.metadata.column_names:
            table = table.append_column(name, self.metadata[name])
        return table


def column_problem(name: str) -> str | None:
    """Why metadata can't have this name; None if they can."""
    if name in _TAKEN:
        return "is named like one of onetake's own"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is no text"
    return None if name.strip() else "has no name"


def metadata_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in which an index holds what is of type ``kind``: text, int64, float64, bool, or lists of them; None if
    it can't."""
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return pa.string()
    if types.is_boolean(kind):
        return kind
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_dictionary(kind):
        return metadata_type(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = metadata_type(kind.value_type)
        return None if inner is None else pa.list_(inner)
    return None


def read_metadata(folder: Path, index: VideoIndex) -> pa.Table:
    """The metadata of an index's videos: V rows.

    Args:
        folder: of the index.
        index: as ``read_index`` gave it.

    Raises:
        IndexFileError: videos.parquet is missing, damaged or of another index.
    """
    try:
        file = pq.ParquetFile(folder / VIDEOS)
        names = [name for name in file.schema_arrow.names if name not in VIDEO_SCHEMA.names]
        table = file.read(columns=names).select(names)
        _check(table, index, len(index.videos))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise IndexFileError(f"the index in {folder} is damaged ({error}): run `onetake index` again") from None
    return table.replace_schema_metadata()


def read_spans(folder: Path, index: VideoIndex) -> Spans:
    """The annotated spans of an index.

    Raises:
        IndexFileError: spans.parquet is missing, damaged or of another index.
    """
    try:
        table = pq.read_table(folder / SPANS)
        own, names = SPAN_SCHEMA.names, [name for name in table.column_names if name not in SPAN_SCHEMA.names]
        if not table.select(own).schema.equals(SPAN_SCHEMA) or any(table[name].null_count for name in own):
            raise ValueError("not the columns of spans")
        metadata = table.select(names)
        _check(metadata, index, table.num_rows)
        spans = Spans(*(table[name].to_numpy() for name in own), metadata.replace_schema_metadata())
        _check_spans(spans, index)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise IndexFileError(f"the index in {folder} is damaged ({error}): run `onetake index` again") from None
    return spans


def _check(table: pa.Table, index: VideoIndex, num_rows: int) -> None:
    stamp = json.loads((table.schema.metadata or {}).get(b"onetake", b"{}"))
    if stamp.get("generation") != index.generation or table.num_rows != num_rows:
        raise ValueError("its files don't belong together")
    names: Sequence[str] = table.column_names
    for field in table.schema:
        problem = column_problem(field.name)
        if problem or names.count(field.name) > 1 or metadata_type(field.type) != field.type:
            raise ValueError(f"its column {field.name!r} can't be right")


def _check_spans(spans: Spans, index: VideoIndex) -> None:
    frames = np.array([video.num_frames for video in index.videos], np.int64)
    inside = bool(np.all((spans.video >= 0) & (spans.video < len(frames))))
    if not inside or np.any(
        (spans.start_frame < 0) | (spans.start_frame >= spans.stop_frame) | (spans.stop_frame > frames[spans.video])
    ):
        raise ValueError("a span lies outside its video")
    order = np.lexsort([spans.stop_frame, spans.start_frame, spans.video])
    if not np.array_equal(order, np.arange(len(spans))):
        raise ValueError("its spans are not sorted")
    latest = np.maximum(np.abs(spans.start_pts), np.abs(spans.stop_pts) // 2)
    if np.any((latest > MAX_TICKS) | (spans.stop_pts < spans.start_pts)):
        raise ValueError("a span's time can't be right")
    if not times_rise(index, spans.bounds):
        raise ValueError("a span's time can't be right")
