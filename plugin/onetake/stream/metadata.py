"""The metadata in samples.

A number that is missing is NaN where its column holds fractions, anything else that is missing is None; what a stream
has no column of is missing in all of its samples. In a batch, texts are a list, and numbers and truth values a tensor;
but lists, and columns of which a value is missing anywhere, are a list as well: a batch looks alike whether or not one
of its own samples lacks a value. Where ``where=`` leaves out the videos that lack one, it is a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from onetake.core.errors import SpecError
from onetake.decode.metadata import Spans
from onetake.stream.reader import ClipPlace
from onetake.stream.stream import VideoStream

__all__ = ["SampleMetadata"]


class SampleMetadata:
    """What the samples of a dataset say of their videos.

    Args:
        streams: the dataset's, open.

    Attributes:
        listed: the keys of samples that a batch holds as a list.

    Raises:
        SpecError: two streams have a column of one name that holds other things.
    """

    def __init__(self, streams: Sequence[VideoStream]) -> None:
        kinds: dict[str, pa.DataType] = {}
        for field in (field for stream in streams for field in stream.metadata.schema):
            kind = kinds.setdefault(field.name, field.type)
            if kind != field.type:
                raise SpecError(
                    f"metadata column {field.name!r} holds {kind} in one of the streams= and {field.type} in another: "
                    "leave it out of one with columns=, or index that again"
                )
        self._attaches = any(stream.attached_spans is not None for stream in streams)
        self._missing = {name: math.nan if pa.types.is_floating(kind) else None for name, kind in kinds.items()}
        self.listed = frozenset({"spans"} if self._attaches else ()) | frozenset(
            name
            for name, kind in kinds.items()
            if pa.types.is_list(kind)
            or (not pa.types.is_floating(kind) and not all(_is_complete(stream, name) for stream in streams))
        )

    def of(self, place: ClipPlace, frames: Sequence[int]) -> dict[str, Any]:
        """The metadata of a clip's sample that shows ``frames``, the first of which is the lowest, the last the
        highest."""
        table, row = place.stream.metadata, int(place.stream.index.video[place.segment])
        said = {name: table[name][row].as_py() for name in table.column_names}
        found = {name: missing if said.get(name) is None else said[name] for name, missing in self._missing.items()}
        if self._attaches:
            found["spans"] = _overlapping(place.stream.attached_spans, row, frames[0], frames[-1])
        return found


def _is_complete(stream: VideoStream, name: str) -> bool:
    """Whether all videos of which there are clips have a value of a column."""
    table = stream.metadata
    return name in table.column_names and not table[name].filter(pa.array(stream.layout.kept)).null_count


def _overlapping(spans: Spans | None, video: int, first_frame: int, last_frame: int) -> list[dict[str, Any]]:
    """The spans of a video, in the order of their starts, that have a frame from the first to the last."""
    if spans is None:
        return []
    own = slice(*np.searchsorted(spans.video, [video, video + 1]).tolist())
    rows = np.flatnonzero((spans.start_frame[own] <= last_frame) & (spans.stop_frame[own] > first_frame)) + own.start
    metadata = spans.metadata
    return [
        {
            "start_frame": int(spans.start_frame[row]),
            "stop_frame": int(spans.stop_frame[row]),
            **{name: metadata[name][row].as_py() for name in metadata.column_names},
        }
        for row in rows.tolist()
    ]
