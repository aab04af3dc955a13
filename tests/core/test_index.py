"""Packet tables: small as bytes, exact when they come back, refused when damaged."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.errors import IndexFileError
from onetake.core.index import DISCARD, KEYFRAME, PacketTable, Video, VideoIndex

law = settings(max_examples=100)

COLUMNS = ("offset", "size", "pts", "frame", "flags", "check")
big = st.integers(0, 2**46)  # 64 TiB into a file
ROW = st.tuples(
    big,
    st.integers(1, 2**28),
    st.integers(-(2**50), 2**50),
    st.integers(0, 2**31 - 1),
    st.integers(0, 15),
    st.integers(0, 2**24 - 1),
)
ROWS = st.lists(ROW, min_size=1, max_size=60, unique_by=lambda row: row[3])


def table(rows, hidden=()):
    columns = np.array(rows, np.int64).reshape(-1, 6).T
    columns[3, list(hidden)] = -1
    columns[4, 0] |= KEYFRAME
    return PacketTable(*columns[:4], columns[4].astype(np.uint8), columns[5].astype(np.uint32))


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS)


def plausible(count: int) -> PacketTable:
    """A table as a real video gives it: packets one after another, B-frames, a discarded start."""
    rng = np.random.default_rng(0)
    size = rng.integers(100, 30_000, count)
    frame = np.arange(count) + np.resize([0, 2, -1, -1], count)
    flags = np.where(np.arange(count) % 48 == 0, KEYFRAME, 0)
    frame[:3], flags[:3] = -1, flags[:3] | DISCARD
    check = (size * 40_503 % 2**24).astype(np.uint32)
    return PacketTable(
        5_000_000_000 + np.cumsum(size) - size, size, 512 * frame - 1024, frame, flags.astype(np.uint8), check
    )


@law
@given(ROWS, st.integers(1, 9))
def test_a_table_comes_back_as_it_was(rows, step):
    before = table(rows, range(0, len(rows), step) if step < 9 else ())
    after = PacketTable.from_bytes(before.to_bytes(), len(rows))
    assert same(before, after)
    assert [getattr(after, name).dtype for name in COLUMNS] == [np.int64] * 4 + [np.uint8, np.uint32]
    assert len(after) == len(rows)


def test_a_table_is_small():
    count = 1500  # a minute at 25 fps
    assert len(plausible(count).to_bytes()) <= 7 * count


def test_the_same_table_gives_the_same_bytes():
    one, other = plausible(100), plausible(120)[:100]
    assert one.to_bytes() == other.to_bytes()


DATA = plausible(40).to_bytes()
LENGTH, ZLIB = "packets.bin is damaged (wrong length): run `onetake index` again", "packets.bin is damaged (Error"
DAMAGE = {
    "empty": (b"", 40, LENGTH),
    "half": (DATA[: len(DATA) // 2], 40, LENGTH),
    "one byte short": (DATA[:-1], 40, LENGTH),
    "checksum missing": (DATA[:-4], 40, LENGTH),
    "one packet less": (DATA, 39, LENGTH),
    "one packet more": (DATA, 41, LENGTH),
    "no packet": (DATA, 0, LENGTH),
    "fewer than none": (DATA, -2, "packets.bin is damaged ("),
    "absurdly many": (DATA, 2**62, "packets.bin is damaged ("),
    "no deflate stream": (b"garbage" * 20, 40, ZLIB),
    "checksum wrong": (DATA[:-1] + bytes([DATA[-1] ^ 1]), 40, ZLIB),
}


@pytest.mark.parametrize("data, count, message", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_an_error_with_the_remedy(data, count, message):
    with pytest.raises(IndexFileError, match="run `onetake index` again") as caught:
        PacketTable.from_bytes(data, count)
    assert str(caught.value).startswith(message)


@law
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_no_flipped_byte_passes_for_another_table(place, flip):
    data = DATA[:place] + bytes([DATA[place] ^ flip]) + DATA[place + 1 :]
    try:
        got = PacketTable.from_bytes(data, 40)
    except IndexFileError:
        return
    assert same(got, plausible(40))


def change(**places):
    """A table with one value changed in the given columns, as bytes."""
    table = plausible(40)
    for name, value in places.items():
        getattr(table, name)[7] = value
    return table.to_bytes()


IMPOSSIBLE = {
    "offset": [-2, 2**60],
    "size": [0, -1, 2**28 + 1],
    "pts": [2**60, -(2**60), -(2**63)],
    "frame": [-2, 2**31, 5],  # the last stands twice
    "flags": [32, 255],
}


@pytest.mark.parametrize("name, value", [(name, value) for name in IMPOSSIBLE for value in IMPOSSIBLE[name]])
def test_a_packet_that_cannot_be_is_an_error(name, value):
    with pytest.raises(IndexFileError, match="a packet that can.t be\\): run `onetake index`"):
        PacketTable.from_bytes(change(**{name: value}), 40)


def test_a_table_that_no_decoder_could_start_with_is_an_error():
    with pytest.raises(IndexFileError, match="a packet that can't be"):
        PacketTable.from_bytes(plausible(40)[1:].to_bytes(), 39)


def test_a_bomb_stays_small():
    bomb = zlib.compress(bytes(200_000_000), 9)
    tracemalloc.start()
    with pytest.raises(IndexFileError, match="wrong length"):
        PacketTable.from_bytes(bomb, 40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_slices_and_concatenation():
    whole = plausible(200)
    parts = [whole[:48], whole[48:144], whole[144:]]
    assert [len(part) for part in parts] == [48, 96, 56]
    assert parts[1].key_rows.tolist() == [0, 48]
    assert same(PacketTable.concatenate(parts), whole)
    assert same(PacketTable.concatenate([PacketTable.from_bytes(p.to_bytes(), len(p)) for p in parts]), whole)
    assert whole.key_rows.tolist() == [0, 48, 96, 144, 192]


def video(video_id: str, num_frames: int) -> Video:
    return Video(
        video_id, video_id, 1, 1, "packets", num_frames, "h264", "h264", "", b"", (1, 12800), 1_280_000, 512, 64, 48,
        0, "yuv420p", "bt709", "limited", "", 0, "mov",
    )  # fmt: skip


def test_an_index_knows_each_segments_video():
    videos = (video("a.mp4", 130), video("b/c.mp4", 70))
    columns = {name: np.zeros(3, np.int64) for name in VideoIndex.__slots__ if name not in ("generation", "videos")}
    columns |= {"video": np.array([0, 0, 1]), "first_frame": np.array([0, 60, 0])}
    index = VideoIndex("hash", videos, **columns)
    assert index.num_segments == 3
    assert index.video_frames.tolist() == [130, 130, 70]
    assert [index.segment_name(i) for i in range(3)] == ["a.mp4@0", "a.mp4@60", "b/c.mp4@0"]
    assert videos[0].seconds == 100.0
