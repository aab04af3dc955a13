"""Which packets the clips of a segment need, by its packet tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onetake.core.errors import IndexFileError
from onetake.core.index import DISCARD, KEYFRAME, PacketTable
from onetake.decode.segment import byte_range, most_bytes, run_table
from tests.core.grids import Times, make_index

# Frames of two segments in decode order; those shown before the second's keyframe stand behind it.
STORED = [[0, 2, 1, 3, 4], [8, 6, 5, 7, 9, 11, 10]]


@pytest.fixture
def index():
    return make_index([Times(range(12), segments=[0, 5]), Times(range(3))])[0]


def table(frames, flags=0, first=0):
    frames = np.array(frames, np.int64)
    offset = 100 * np.arange(first, first + len(frames))
    return PacketTable(
        offset,
        np.full(len(frames), 90),
        40 * frames,
        frames,
        np.full(len(frames), flags, np.uint8),
        np.zeros(len(frames), np.uint32),
    )


def tables(segment):
    return table(STORED[segment], first=5 * segment)


NEEDED = [
    # segment, stop frame, latest pts -> frames of the packets
    (0, 1, None, [0]),
    (0, 2, None, [0, 2, 1]),
    (0, 5, None, [0, 2, 1, 3, 4]),
    (0, 6, None, [0, 2, 1, 3, 4, 8, 6, 5]),
    (0, 12, 40 * 3, [0, 2, 1, 3]),
    (0, 12, 40 * 6 + 39, [0, 2, 1, 3, 4, 8, 6, 5]),
    (1, 9, None, [8, 6, 5, 7]),
    (1, 12, None, [8, 6, 5, 7, 9, 11, 10]),
]


@pytest.mark.parametrize("segment, stop, latest, frames", NEEDED)
def test_packets_up_to_the_last_that_is_needed(index, segment, stop, latest, frames):
    found = run_table(index, segment, stop, tables, latest)
    assert found.frame.tolist() == frames
    start, length = byte_range(found)
    assert (start, length) == (500 * segment, 100 * len(frames) - 10)
    lengths = {"byte_offset": [0, 500, 0], "byte_length": [490, 690, 90], "table_length": [60, 60, 60]}
    index = replace(index, **{name: np.array(values) for name, values in lengths.items()})
    (most,) = most_bytes(index, np.array([segment]), np.array([stop]))
    assert most == 1190 - 500 * segment + 120 * (2 - segment)  # one segment further than the frames say
    assert length + len(found.to_bytes()) <= most


def test_a_frames_further_packets_belong_to_it(index):
    """As its second field, which has no number of its own; not so what is never shown."""
    fields = table([0, -1, 1, -1, 2, -1, 3, 4], KEYFRAME)
    assert run_table(index, 0, 2, lambda _: fields).frame.tolist() == [0, -1, 1, -1]
    hidden = replace(fields, flags=np.where(fields.frame < 0, DISCARD, 0).astype(np.uint8))
    assert run_table(index, 0, 2, lambda _: hidden).frame.tolist() == [0, -1, 1]


def test_frames_that_no_table_holds_are_an_error(index):
    with pytest.raises(IndexFileError, match="lacks packets of 0.mp4@5: run `onetake index` again"):
        run_table(index, 1, 13, tables)
