"""Which split each video belongs to: as a column of the manifest says, or by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from math import fsum
from typing import Any

import numpy as np
import pyarrow as pa

from onetake.core.columns import SPLIT
from onetake.core.errors import SourceError, SpecError
from onetake.core.names import nearest
from onetake.decode.manifest import Manifest

__all__ = ["REST", "check_shares", "split_videos"]

REST = "train"  # the split of the videos that are in no other


def check_shares(shares: Mapping[str, float] | None) -> dict[str, float]:
    """The shares of splits by hash.

    Raises:
        SpecError: one is none, is that of the rest, or they are more than all.
    """
    shares = dict(shares or {})
    for name, share in shares.items():
        if not isinstance(name, str) or not name or name == REST:
            raise SpecError(f"split={{{name!r}: {share!r}}}: name a split other than {REST!r}, which is what is left")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise SpecError(f"split={{{name!r}: {share!r}}}: a split's share of the videos must be between 0 and 1")
    if fsum(shares.values()) >= 1:
        raise SpecError(f"split={shares!r}: the shares must add up to less than 1; what is left is {REST!r}")
    return shares


def split_videos(manifest: Manifest, by: str | None, shares: Mapping[str, float]) -> Manifest:
    """The manifest with a column "split" in its videos' metadata, if it has one or there is to be one.

    By hash, a video's split follows from its value of the column and from the shares alone: it stays what it is when
    videos are added. A split grows with its share; those that are named before it keep their videos.

    Args:
        manifest: the videos.
        by: the column that names the splits; with ``shares``, of whose values each belongs to one split as a whole.
            None: "split", where there is such a column; with shares, "video_id".
        shares: of each split, its share of the values; see ``check_shares``.

    Raises:
        SourceError: there is no such column, or a video has no value in it, or several.
    """
    has_split = SPLIT in manifest.columns.column_names
    if has_split and (shares or by not in (None, SPLIT)):
        raise SourceError(
            "the manifest has a column 'split' already: rename it, or leave out --split and --split-by (split=, "
            "split_by=)"
        )
    if not shares and by is None and not has_split:
        return manifest
    values = _values(manifest, by or ("video_id" if shares else SPLIT))
    names = [_by_hash(value, shares) for value in values] if shares else list(map(str, values))
    others = [name for name in manifest.metadata.column_names if name != SPLIT]
    metadata = manifest.metadata.select(others)
    column = pa.array(names, pa.string())
    return replace(manifest, metadata=metadata.append_column(SPLIT, column) if others else pa.table({SPLIT: column}))


def _values(manifest: Manifest, column: str) -> list[str | int]:
    """Per video."""
    if column == "video_id":
        return list(manifest.video_ids)
    if column == "path":
        return list(manifest.files)
    columns, rows = manifest.columns, manifest.rows
    if rows is None or column not in columns.column_names:
        known = ["video_id", "path", *columns.column_names]
        raise SourceError(f"there is no column {column!r} to split by{nearest(column, known)}")
    kind = columns.schema.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind)):
        raise SourceError(f"{rows.name}: the column {column!r} holds {kind}; split by one of texts or whole numbers")
    values: list[Any] = columns[column].to_pylist()
    firsts = [values[row] for row in manifest.row.tolist()]
    for row, (value, video) in enumerate(zip(values, manifest.video.tolist(), strict=True)):
        if value is None or value == "":
            raise rows.error(row, f"has no {column!r}, by which the videos are split")
        if value != firsts[video]:
            first = rows.place(int(manifest.row[video]))
            raise rows.error(row, f"the video has {column!r} {value!r} here, and {firsts[video]!r} in {first}")
    return firsts


def _by_hash(value: str | int, shares: Mapping[str, float]) -> str:
    digest = blake2b(str(value).encode(), digest_size=8, person=b"onetake split").digest()
    place = int.from_bytes(digest, "little") / 2**64
    stops = np.cumsum(list(shares.values()))
    number = int(np.searchsorted(stops, place, side="right"))
    return [*shares, REST][number]
