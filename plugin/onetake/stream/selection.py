"""What a stream takes of its index: of which videos it has clips, and what its samples say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onetake.core.columns import SPLIT
from onetake.core.errors import IndexFileError, SpecError
from onetake.core.index import Keyframes, VideoIndex
from onetake.core.names import nearest
from onetake.core.spans import span_index, span_keyframes
from onetake.core.values import check_text
from onetake.decode.index_source import find_index
from onetake.decode.metadata import Spans, read_metadata, read_spans
from onetake.decode.store import VIDEO_SCHEMA, VIDEOS, read_keyframes
from onetake.decode.where import Where, check_where, rows_where, where_columns, where_in_words
from onetake.storage.base import Storage

__all__ = ["Chosen", "Selection", "choose", "settle_split"]

BoolArray = NDArray[np.bool_]
Int64Array = NDArray[np.int64]

SAMPLE, ATTACH = "sample", "attach"  # what VideoStream(spans=) may be


@dataclass(frozen=True, slots=True)
class Selection:
    """What a stream was told to take of its index; None for what it was not told.

    Attributes:
        split: which split of the index, or subfolder.
        where: which videos, by their columns.
        columns: which metadata its samples have.
        exclude: IDs of videos that are left out.
        spans: "sample": clips lie within annotated spans; "attach": samples say which they overlap.
    """

    split: str | None = None
    where: Where | None = None
    columns: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    spans: str | None = None

    @classmethod
    def of(cls, split: str | None, where: Any, columns: Any, exclude: Any, spans: str | None) -> Selection:
        """A selection as a user gives it.

        Raises:
            SpecError: an argument is not what it must be.
        """
        check_text("split", split)
        if spans not in (None, SAMPLE, ATTACH):
            raise SpecError(f"VideoStream(spans={spans!r}): must be {SAMPLE!r} or {ATTACH!r}")
        return cls(split, check_where(where), _texts("columns", columns), _texts("exclude", exclude), spans)

    def or_else(self, default: Selection) -> Selection:
        """The same, with what ``default`` says where this says nothing."""
        own = (getattr(self, field.name) for field in fields(self))
        others = (getattr(default, field.name) for field in fields(self))
        return Selection(*(other if value is None else value for value, other in zip(own, others, strict=True)))

    def key(self) -> dict[str, Any]:
        """What tells apart which clips there are, in plain values."""
        key: dict[str, Any] = {}
        if self.split is not None:
            key["split"] = self.split
        if self.spans == SAMPLE:
            key["spans"] = self.spans
        if self.where is not None:
            key["where"] = where_in_words(self.where)
        if self.exclude:
            names = sorted(set(self.exclude))
            digest = blake2b(repr(names).encode(errors="surrogatepass"), digest_size=8).hexdigest()
            key["exclude"] = f"{len(names)} videos ({digest})"
        return key


def _texts(name: str, given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    texts = None if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if texts is None or not all(isinstance(text, str) for text in texts):
        what = "names of metadata columns" if name == "columns" else "video IDs"
        raise SpecError(f"VideoStream({name}={given!r}): must be a list of {what}")
    return texts


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a stream takes of its index of V videos; or, with ``spans="sample"``, of V spans of videos.

    Attributes:
        index: the index; that of the spans, where clips lie in these.
        kept: bool [V], whether it takes clips of a video.
        metadata: V rows, what a sample says of its video.
        video_of_segment: int64 [S], the video, none that is a span, of each segment.
        keyframes: gives those of ``index``.
        attached: the spans that samples say they overlap; None: they don't.
    """

    index: VideoIndex
    kept: BoolArray
    metadata: pa.Table
    video_of_segment: Int64Array
    keyframes: Callable[[], Keyframes]
    attached: Spans | None


def settle_split(selection: Selection, index: Storage, beside_videos: bool) -> tuple[str | None, Selection]:
    """A split is one of the index's, where that has any, or else a subfolder: the subfolder's name, None for none; and
    what is to be taken of its index.

    Args:
        selection: what was asked for.
        index: where the index is, without any subfolder.
        beside_videos: whether it is that of the videos, so that a subfolder would be one of both.

    Raises:
        SpecError: there is none of that name.
    """
    split = selection.split
    if split is None:
        return None, selection
    in_subfolder = split, replace(selection, split=None)
    try:
        splits = find_index(index).splits
    except IndexFileError:
        return in_subfolder
    if split in splits:
        return None, selection
    if splits:
        raise SpecError(f"split={split!r}: the index in {index.location} has no such split{nearest(split, splits)}")
    if beside_videos:
        try:
            find_index(index.below(split))
        except IndexFileError:
            raise SpecError(
                f"split={split!r}: the index in {index.location} has no splits, and its subfolder {split!r} has no "
                "index: run `onetake index` with --split or --split-by, or on the subfolder"
            ) from None
    return in_subfolder


def choose(folder: Path, index: VideoIndex, selection: Selection, location: str) -> Chosen:
    """Apply a selection.

    Args:
        folder: of the index.
        index: as ``read_index`` gave it.
        selection: what to take.
        location: the videos' place, for messages.

    Raises:
        SpecError: it names a column or a video that the index does not have, or nothing is left.
        IndexFileError: the index is damaged.
    """
    metadata = read_metadata(folder, index)
    keyframes = partial(read_keyframes, folder, index)
    video_of_segment, spans, made = index.video, None, index
    if selection.spans is not None:
        spans = read_spans(folder, index)
        if not len(spans):
            raise SpecError(
                f"spans={selection.spans!r}: the index of {location} has no spans: index a manifest of some"
            )
    in_spans = spans is not None and selection.spans == SAMPLE
    rows = spans.video if in_spans else np.arange(len(index.videos))
    said = _joined(metadata, spans, rows) if in_spans else metadata
    kept = np.ones(len(rows), np.bool_)
    if selection.split is not None:
        _check_column("split", SPLIT, metadata.column_names, location)
        kept &= rows_where(metadata, (((SPLIT, "=", selection.split),),))[rows]
    if selection.where is not None:
        kept &= rows_where(_columns(folder, said, rows, selection.where, location), selection.where)
    if selection.exclude:
        kept &= ~_excluded(index, selection.exclude, location)[rows]
    if not kept.any():
        asked = ", ".join(f"{name}={value!r}" for name, value in selection.key().items())
        what = "spans" if in_spans else "videos"
        raise SpecError(f"{asked} leaves none of the {len(rows)} {what} in {location}")
    if in_spans:
        made, segment = span_index(index, spans.bounds)
        video_of_segment = index.video[segment]
        keyframes = partial(span_keyframes, index, keyframes, made, segment)
    attached = None if in_spans else spans
    if selection.columns is not None:
        known = [*said.column_names, *(attached.metadata.column_names if attached else ())]
        for name in selection.columns:
            _check_column("columns", name, known, location)
        said = _some(said, selection.columns)
        attached = attached and replace(attached, metadata=_some(attached.metadata, selection.columns))
    return Chosen(made, kept, said.combine_chunks(), video_of_segment, keyframes, attached)


def _some(table: pa.Table, names: Sequence[str]) -> pa.Table:
    return table.select([name for name in dict.fromkeys(names) if name in table.column_names])


def _joined(metadata: pa.Table, spans: Spans, rows: Int64Array) -> pa.Table:
    """What is said of spans, and of their videos."""
    own = {name: spans.metadata[name] for name in spans.metadata.column_names}
    return pa.table({**{name: metadata[name].take(rows) for name in metadata.column_names}, **own})


def _columns(folder: Path, said: pa.Table, rows: Int64Array, where: Where, location: str) -> pa.Table:
    """The columns that a filter asks for: of the metadata ``said``, and of the index's own for the videos ``rows``."""
    names = where_columns(where)
    for name in names:
        _check_column("where", name, [*VIDEO_SCHEMA.names, *said.column_names], location)
    own = pq.read_table(folder / VIDEOS, columns=[name for name in names if name in VIDEO_SCHEMA.names])
    return pa.table({name: own[name].take(rows) if name in VIDEO_SCHEMA.names else said[name] for name in names})


def _check_column(argument: str, name: str, known: Sequence[str], location: str) -> None:
    if name not in known:
        raise SpecError(f"{argument}=: the index of {location} has no column {name!r}{nearest(name, known)}")


def _excluded(index: VideoIndex, names: Sequence[str], location: str) -> BoolArray:
    left_out = set(names)
    found = np.array([video.video_id in left_out for video in index.videos], np.bool_)
    if np.count_nonzero(found) < len(left_out):
        ids = {video.video_id for video in index.videos}
        unknown = sorted(left_out - ids)
        close = nearest(unknown[0], ids) if len(ids) < 10_000 else ""
        raise SpecError(
            f"exclude=: {len(unknown)} of {len(left_out)} are no videos of {location}, first of all "
            f"{unknown[0]!r}{close if 'did you mean' in close else ''}"
        )
    return found
