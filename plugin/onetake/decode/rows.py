"""Rows of a table that a user wrote, as CSV, JSON lines or Parquet; what is wrong with one is said by its line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from onetake.core.errors import SourceError

__all__ = ["TABLE_SUFFIXES", "Rows", "read_rows"]

_BLOCK = 1 << 26  # bytes: a row must not be longer


@dataclass(frozen=True, slots=True)
class Rows:
    """A table, and where its rows stand.

    Attributes:
        name: the file's name, for messages.
        table: the rows. Dates and times of day are texts as they stand there, but for Parquet's.
        data: the file.
    """

    name: str
    table: pa.Table
    data: bytes

    def place(self, row: int) -> str:
        """Where a row stands, such as "videos.csv, line 7"."""
        suffix = PurePath(self.name).suffix.lower()
        line = {".csv": _csv_line, ".jsonl": _json_line}.get(suffix, lambda data, row: None)(self.data, row)
        return f"{self.name}, row {row + 1}" if line is None else f"{self.name}, line {line}"

    def error(self, row: int, problem: str) -> SourceError:
        """The error for what is wrong with a row."""
        return SourceError(f"{self.place(row)}: {problem}")


def read_rows(name: str, data: bytes, texts: tuple[str, ...] = ()) -> Rows:
    """The rows of a file.

    Args:
        name: its name, which says by its suffix what it is.
        data: its content.
        texts: columns that are read as text, whatever they look like.

    Raises:
        SourceError: it can't be parsed, has no rows, or a column twice; names the file, and the line if there is one.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix != ".parquet":
        _check_text(name, data)
    try:
        table = _READERS[suffix](name, data, texts)
    except pa.ArrowException as error:
        raise SourceError(f"{name} can't be read ({_first_line(error)}): mend it") from None
    for column in table.column_names:
        if not column or table.column_names.count(column) > 1:
            raise SourceError(f"{name} has a column without a name" if not column else f"{name} has {column!r} twice")
    if not table.num_rows:
        raise SourceError(f"{name} has no rows: give one for each video")
    return Rows(name, table, data)


def _check_text(name: str, data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{name}, line {line}: is not UTF-8; save the file as UTF-8") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _read_csv(name: str, data: bytes, texts: tuple[str, ...]) -> pa.Table:
    wrong: list[Any] = []

    def refuse(row: Any) -> str:
        wrong.append(row)
        return "skip"

    def read(texts: tuple[str, ...]) -> pa.Table:
        return pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK),  # rows are counted by one thread
            parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string())),
        )

    table = read(texts)
    if wrong:
        line = _csv_line(data, wrong[0].number - 2)
        found, expected = wrong[0].actual_columns, wrong[0].expected_columns
        raise SourceError(f"{name}, line {line}: has {found} values, and there are {expected} columns")
    times = _times(table.schema)
    return read((*texts, *times)) if times else table


def _read_json(name: str, data: bytes, texts: tuple[str, ...]) -> pa.Table:
    def read(texts: tuple[str, ...]) -> pa.Table:
        return pa.json.read_json(
            pa.BufferReader(data),
            read_options=pa.json.ReadOptions(block_size=_BLOCK),
            parse_options=pa.json.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in texts])),
        )

    if not data.strip():
        raise SourceError(f"{name} has no rows: give one for each video")
    try:
        table = read(())
        times = _times(table.schema)
        return read(times) if times else table
    except pa.ArrowException:
        problem = _json_problem(data)
        if problem is None:
            raise
        raise SourceError(f"{name}, line {problem}") from None


def _read_parquet(name: str, data: bytes, texts: tuple[str, ...]) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(data)).read()


def _times(schema: pa.Schema) -> tuple[str, ...]:
    """The columns that look like dates and times."""
    return tuple(field.name for field in schema if pa.types.is_temporal(field.type))


_READERS: dict[str, Callable[[str, bytes, tuple[str, ...]], pa.Table]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}
TABLE_SUFFIXES = frozenset(_READERS)


# Lines. They are looked for when there is something to say of one.


def _csv_line(data: bytes, row: int) -> int | None:
    """The line at which a row begins; quoted values may run over several, and empty lines are no rows."""
    reader = csv.reader(io.StringIO(data.decode(), newline=""))
    begin = 1
    try:
        for record in reader:
            if record:
                if row < 0:
                    return begin
                row -= 1
            begin = reader.line_num + 1
    except csv.Error:  # a value longer than that module takes
        pass
    return None


def _json_line(data: bytes, row: int) -> int | None:
    for line, text in enumerate(data.splitlines(), 1):
        if text.strip():
            if not row:
                return line
            row -= 1
    return None


_KINDS = {bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}


def _json_problem(data: bytes) -> str | None:
    """The first line that is not like those before it, and why."""
    kinds: dict[str, str] = {}
    for line, text in enumerate(data.splitlines(), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"{line}: can't be parsed ({error})"
        if not isinstance(row, dict):
            return f'{line}: must be an object such as {{"path": "a.mp4"}}'
        for column, value in row.items():
            if value is not None:
                kind = _KINDS[type(value)]
                if kinds.setdefault(column, kind) != kind:
                    return f"{line}: {column!r} is {kind}, and {kinds[column]} before; let it be the same in all rows"
    return None
