"""Plans of packs: cuts at keyframes that hold every frame once, and shards that are as full as they may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.errors import SpecError
from onetake.core.index import KEYFRAME, PacketTable
from onetake.core.packing import PackSpec, TranscodeSpec, cut_video, gather, parse_bytes

law = settings(max_examples=100)
TICK = 40  # of a millisecond's clock: 25 frames a second


def table(gops: list[int], is_open: bool, size: int = 1000) -> PacketTable:
    """GOPs of that many pictures; in open ones, two more are shown before each keyframe but the first."""
    frame, flags, shown = [], [], 0
    for length in gops:
        lead = 2 if is_open and shown else 0
        order = [shown + lead, *range(shown, shown + lead), *range(shown + lead + 1, shown + lead + length)]
        frame += order
        flags += [KEYFRAME] + [0] * (len(order) - 1)
        shown += len(order)
    count = len(frame)
    sizes = np.full(count, size, np.int64)
    return PacketTable(
        np.cumsum(sizes) - sizes, sizes, np.array(frame, np.int64) * TICK, np.array(frame, np.int64),
        np.array(flags, np.uint8), np.zeros(count, np.uint32),
    )  # fmt: skip


@law
@given(
    gops=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    is_open=st.booleans(),
    seconds=st.floats(0.01, 10),
    overlap=st.floats(0, 5),
    shard_bytes=st.integers(1 << 16, 1 << 18),
)
def test_cuts_hold_each_frame_once_and_all_that_their_frames_need(gops, is_open, seconds, overlap, shard_bytes):
    packets = table(gops, is_open)
    spec = PackSpec(shard_bytes, seconds, overlap)
    cuts = cut_video(packets, (1, 1000), spec)
    num_frames = int(packets.frame.max()) + 1
    assert [cut.first_frame for cut in cuts] == [0, *np.cumsum([cut.num_frames for cut in cuts])[:-1]]
    assert sum(cut.num_frames for cut in cuts) == num_frames
    for cut in cuts:
        assert packets.flags[cut.start_row] & KEYFRAME
        carried = packets.frame[cut.start_row : cut.stop_row]
        needed = set(range(cut.first_frame, cut.stop_frame))
        assert needed <= set(carried.tolist())
        assert int(carried[-1]) in needed  # and no more than that
        end = cut.first_frame + cut.num_frames
        wanted = end if end == num_frames else min(num_frames, end + int(np.ceil(overlap * 25 - 1e-6)))
        assert abs(cut.stop_frame - wanted) <= 1
        own_keys = np.flatnonzero(packets.flags[cut.start_row : cut.stop_row] & KEYFRAME)
        inside = own_keys[carried[own_keys] < end]
        assert cut.num_bytes <= spec.shard_bytes or len(inside) == 1
        if end < num_frames and cut.num_frames < seconds * 25 - 1:  # shorter than asked for: another GOP is too much
            later = [frame for frame in packets.frame[packets.key_rows].tolist() if frame > end]
            longer = (later[0] if later else num_frames) - cut.first_frame
            assert (longer + 2 + np.ceil(overlap * 25)) * 1048 + 4096 > spec.shard_bytes


@law
@given(st.lists(st.integers(1, 300), min_size=1, max_size=50), st.integers(1, 400))
def test_shards_are_in_order_and_never_too_full(sizes, limit):
    shards = gather(sizes, limit)
    assert [number for shard in shards for number in shard] == list(range(len(sizes)))
    for shard, following in zip(shards, [*shards[1:], None], strict=True):
        weight = sum(sizes[number] for number in shard)
        assert len(shard) == 1 or weight <= limit
        if following is not None:
            assert weight + sizes[following.start] > limit


@pytest.mark.parametrize(
    "text, count",
    [("64mb", 64 << 20), ("64MB", 64 << 20), ("100kb", 100 << 10), ("1.5 gb", 3 << 29), (70000, 70000), ("512b", 512)],
)
def test_bytes_in_words(text, count):
    assert parse_bytes("shard_size", text) == count


@pytest.mark.parametrize("text", ["", "mb", "-1", "64 apples", True, None, "1e9"])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(SpecError, match="shard_size="):
        parse_bytes("shard_size", text)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"shard_bytes": 100}, "shard_size=100: must be from 65536"),
        ({"shard_bytes": 1 << 32}, "MDS counts in 32 bits"),
        ({"segment_seconds": 0}, "segment_seconds=0: must be above 0"),
        ({"overlap_seconds": -1}, "overlap=-1: must be"),
        ({"overlap_seconds": float("nan")}, "overlap=nan: must be"),
        ({"hashes": ("sha1", "md5")}, "each once, in this order"),
        ({"hashes": ("crc",)}, "must be of blake2b"),
    ],
)
def test_options_that_cannot_work(arguments, words):
    with pytest.raises(SpecError, match=words):
        PackSpec(**arguments)


@pytest.mark.parametrize(
    "arguments, words",
    [({"height": 2}, "height=2"), ({"codec": "h264"}, "libx264, libx265"), ({"gop": 0}, "gop=0"), ({"crf": 64}, "crf")],
)
def test_encodings_that_cannot_work(arguments, words):
    with pytest.raises(SpecError, match=words):
        TranscodeSpec(**arguments)
