"""A manifest: which videos there are, and what is said of each, or of spans of it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from onetake.core.columns import MANIFEST_COLUMNS, SPAN_BOUNDS, SPLIT
from onetake.core.errors import IndexFileError, SourceError
from onetake.core.names import nearest
from onetake.decode.metadata import column_problem, metadata_type
from onetake.decode.rows import TABLE_SUFFIXES, Rows, read_rows
from onetake.decode.validate import safe_path
from onetake.storage.open import open_storage

__all__ = ["Manifest", "SpanRows", "is_manifest", "read_manifest"]

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

MAX_SECONDS = 1e9
MAX_FRAME = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SpanRows:
    """The rows of a manifest of spans, N of them.

    Attributes:
        seconds: float64 [N, 2], where they start and stop; NaN where it is said in frames, or not at all.
        frames: int64 [N, 2], the same in frames; -1 where it is said in seconds, or not at all.
        metadata: their other columns.
    """

    seconds: Float64Array
    frames: Int64Array
    metadata: pa.Table


@dataclass(frozen=True, slots=True)
class Manifest:
    """V videos, in the order in which a manifest has them.

    Attributes:
        root: the folder or URL below which the videos are.
        files: of each video, its path below the root.
        video_ids: of each video.
        metadata: V rows: the columns that are said of whole videos.
        row: int64 [V], the row in which each video stands first.
        video: int64 [N], the video that each row is about.
        columns: N rows: all columns but onetake's own.
        rows: the rows as they were read, for messages; None for a folder's videos.
        spans: what the rows say of spans of videos; None if there are none.
    """

    root: str
    files: list[str]
    video_ids: list[str]
    metadata: pa.Table
    row: Int64Array
    video: Int64Array
    columns: pa.Table
    rows: Rows | None = None
    spans: SpanRows | None = None

    @classmethod
    def of_files(cls, root: str, files: Sequence[str]) -> Manifest:
        """Videos of which nothing is said but where they are."""
        number = np.arange(len(files), dtype=np.int64)
        nothing = pa.table({"video": number}).select([])
        return cls(root, list(files), list(files), nothing, number, number, nothing)

    def place(self, video: int) -> str:
        """Where a video stands, in parentheses; nothing where there is no manifest."""
        return "" if self.rows is None else f" ({self.rows.place(int(self.row[video]))})"


def is_manifest(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` is named like a table."""
    return PurePath(source).suffix.lower() in TABLE_SUFFIXES and not os.path.isdir(source)


def read_manifest(source: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Manifest:
    """Read a manifest: CSV, JSON lines or Parquet, with a column ``path``.

    Args:
        source: the file, a path or a URL.
        root: the folder or URL below which the videos are. None: the manifest's.

    Raises:
        SourceError: it can't be read, or a row of it can't be right; names the line.
    """
    folder, name = posixpath.split(os.fspath(source))
    storage = open_storage(folder or ".")
    storage.check()
    try:
        data = storage.read_all(name)
    except FileNotFoundError:
        raise SourceError(f"the manifest {os.fspath(source)} does not exist: check the path") from None
    except OSError as error:
        raise SourceError(f"the manifest {os.fspath(source)} can't be read ({error.strerror or error})") from None
    rows = read_rows(name, data, ("path", "video_id"))
    return _of_rows(rows, os.fspath(root) if root is not None else folder or ".")


def _of_rows(rows: Rows, root: str) -> Manifest:
    table = rows.table
    if "path" not in table.column_names:
        raise SourceError(f"{rows.name} has no column 'path'{nearest('path', table.column_names)}")
    files = _files(rows, root)
    row, video = _numbered(files)
    columns = _columns(rows)
    spans = _spans(rows, columns) if set(SPAN_BOUNDS) & set(table.column_names) else None
    video_ids = _video_ids(rows, files, row, video)
    _refuse_doubles(rows, row, video, spans)
    return Manifest(
        root,
        [files[number] for number in row.tolist()],
        video_ids,
        (columns if spans is None else columns.select([])).take(row),
        row,
        video,
        columns,
        rows,
        spans,
    )


def _numbered(files: Sequence[str]) -> tuple[Int64Array, Int64Array]:
    """The row in which each file stands first, and the number that it then has, of each row."""
    numbers: dict[str, int] = {}
    video = np.array([numbers.setdefault(file, len(numbers)) for file in files], np.int64)
    return np.unique(video, return_index=True)[1].astype(np.int64), video


# Paths and IDs.


def _files(rows: Rows, root: str) -> list[str]:
    """Per row, the file below the root."""
    paths = _texts(rows, "path")
    base = root.rstrip("/") if "://" in root else os.path.abspath(os.path.expanduser(root))
    if urlsplit(base).scheme == "file":
        base = os.path.abspath(unquote(urlsplit(base).path))
    files = []
    for row, path in enumerate(paths):
        if not path:
            raise rows.error(row, "has no path: give the video's path, relative to the root")
        if urlsplit(path).scheme == "file" and "://" in path:
            path = unquote(urlsplit(path).path)
        full = path if "://" in path or posixpath.isabs(path) else f"{base}/{path}"
        scheme, mark, place = full.rpartition("://")
        full = scheme + mark + posixpath.normpath(place)
        if not full.startswith(base.rstrip("/") + "/"):
            raise rows.error(row, f"{path!r} is not below the root {root}: say which folder is, with --root (root=)")
        file = full[len(base.rstrip("/")) + 1 :]
        try:
            safe_path(file)
            file.encode()
        except (IndexFileError, UnicodeEncodeError):
            raise rows.error(row, f"an index cannot hold the file name {file!r}; rename it") from None
        files.append(file)
    return files


def _video_ids(rows: Rows, files: Sequence[str], row: Int64Array, video: Int64Array) -> list[str]:
    """Per video."""
    if "video_id" not in rows.table.column_names:
        return [files[number] for number in row.tolist()]
    given = [name or file for name, file in zip(_texts(rows, "video_id"), files, strict=True)]
    ids = [given[number] for number in row.tolist()]
    for number, name in enumerate(given):
        if name != ids[video[number]]:
            before = f"{ids[video[number]]!r} in {rows.place(int(row[video[number]]))}"
            raise rows.error(number, f"the video {files[number]!r} is {name!r} here, and {before}")
    known: dict[str, int] = {}
    for number, name in zip(row.tolist(), ids, strict=True):
        if name in known:
            raise rows.error(
                number, f"video_id {name!r} is that of {files[known[name]]!r} already ({rows.place(known[name])})"
            )
        known[name] = number
    return ids


def _texts(rows: Rows, column: str) -> list[str | None]:
    values = rows.table[column]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (metadata_type(values.type) == pa.string()):
        raise SourceError(f"{rows.name}: the column {column!r} holds {values.type}, and must hold texts")
    texts: list[str | None] = values.to_pylist()
    return texts


# Metadata.


def _columns(rows: Rows) -> pa.Table:
    """The columns that are not onetake's, N rows, in types that an index holds."""
    columns, fields = [], []
    for field in rows.table.schema:
        if field.name in MANIFEST_COLUMNS:
            continue
        problem = column_problem(field.name)
        if problem:
            raise SourceError(f"{rows.name}: the column {field.name!r} {problem}; rename it")
        kind = metadata_type(field.type)
        if kind is None:
            raise SourceError(
                f"{rows.name}: the column {field.name!r} holds {field.type}, and metadata are texts, numbers, truth "
                "values, or lists of them: change it, or leave it out"
            )
        try:
            columns.append(rows.table[field.name].cast(kind))
        except pa.ArrowException as error:
            raise SourceError(f"{rows.name}: the column {field.name!r}: {error}") from None
        fields.append(pa.field(field.name, kind))
    return pa.table(columns, schema=pa.schema(fields)) if fields else rows.table.select([]).replace_schema_metadata()


def _refuse_doubles(rows: Rows, row: Int64Array, video: Int64Array, spans: SpanRows | None) -> None:
    """Raise SourceError for a video that stands twice; of spans, for one that does with the same metadata."""
    if spans is None:
        twice = np.setdiff1d(np.arange(len(video)), row)
        if len(twice):
            first = int(row[video[twice[0]]])
            raise rows.error(int(twice[0]), f"the video stands in {rows.place(first)} already: leave one out")
        return
    key = np.column_stack([video, np.nan_to_num(spans.seconds, nan=-1), spans.frames])
    _, first, inverse, counts = np.unique(key, axis=0, return_index=True, return_inverse=True, return_counts=True)
    again = np.flatnonzero(counts[inverse.ravel()] > 1)
    known: dict[str, int] = {}
    for number, values in zip(again.tolist(), spans.metadata.take(again).to_pylist(), strict=True):
        same = known.setdefault(repr((first[inverse.ravel()[number]], values)), number)
        if same != number:
            raise rows.error(number, f"the span stands in {rows.place(same)} already: leave one out")


# Spans.


def _spans(rows: Rows, columns: pa.Table) -> SpanRows:
    seconds = np.column_stack([_numbers(rows, f"{end}_seconds") for end in ("start", "stop")])
    frames = np.column_stack([_numbers(rows, f"{end}_frame") for end in ("start", "stop")])
    fractions = ~np.isnan(frames) & (frames != np.floor(frames))
    both = ~np.isnan(seconds).all(axis=1) & ~np.isnan(frames).all(axis=1)
    given = np.where(np.isnan(seconds), frames, seconds)
    start, stop = np.nan_to_num(given[:, 0], nan=0, posinf=np.inf), given[:, 1]
    limit = np.where(np.isnan(frames), MAX_SECONDS, MAX_FRAME)
    problems = {
        "says its span in seconds and in frames: leave one of them empty": both,
        "a number of frames must be whole": fractions.any(axis=1),
        "a span's start and stop must be finite, and not below 0": ((given < 0) | (given > limit)).any(axis=1),
        "its span stops before it has started": stop <= start,
    }
    for problem, found in problems.items():
        if found.any():
            raise rows.error(int(np.flatnonzero(found)[0]), problem)
    metadata = columns.select([name for name in columns.column_names if name != SPLIT])  # that one is of videos
    return SpanRows(seconds, np.nan_to_num(frames, nan=-1).astype(np.int64), metadata)


def _numbers(rows: Rows, column: str) -> Float64Array:
    """float64 [N], NaN where nothing is said."""
    table = rows.table
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values = table[column].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        for row, text in enumerate(values.to_pylist()):
            try:
                float(text or 0)
            except ValueError:
                raise rows.error(row, f"{column} must be a number, not {text!r}") from None
        values = pc.if_else(pc.equal(values, ""), None, values)
    elif not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
        raise SourceError(f"{rows.name}: the column {column!r} holds {values.type}, and must hold numbers")
    written_nan = pc.fill_null(pc.is_nan(values.cast(pa.float64())), False).to_numpy(zero_copy_only=False)
    if written_nan.any():
        raise rows.error(int(np.flatnonzero(written_nan)[0]), f"{column} must be finite")
    return values.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
