"""What the index says of a file's packets, against the file itself and a full decode of it."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from onetake.core.index import CONTAINER, DISCARD, KEYFRAME, PACKETS, PacketTable
from onetake.decode.build import index_video
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.numbering import number_by_pts, segment_rows
from onetake.decode.probe import scan_video
from onetake.decode.scale import converter
from onetake.decode.source import open_source
from onetake.decode.synthetic import read_number, write_numbered_video
from tests.conftest import real_videos
from tests.helpers import decode_all

UNEVEN = [0, 1, 2, 5, 6, 7, 8, 12, 13, 20, *range(30, 80)]
X264_OPEN = {"x264-params": "open-gop=1:b-pyramid=normal"}
X265_OPEN = {"x265-params": "scenecut=0:log-level=error:open-gop=1"}
ZOO = [
    # file, codec, kind, first number shown, how it is made
    ("bframes.mp4", "h264", PACKETS, 0, {"bframes": 3}),
    ("plain.mp4", "h264", PACKETS, 0, {"bframes": 0}),
    ("audio.mp4", "h264", PACKETS, 0, {"audio": True}),
    ("bframes.mov", "h264", PACKETS, 0, {}),
    ("faststart.mp4", "h264", PACKETS, 0, {"container_options": {"movflags": "faststart"}}),
    ("fragments.mp4", "h264", PACKETS, 0, {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    ("late.mp4", "h264", PACKETS, 0, {"first_pts": 1000}),
    ("late.mkv", "h264", PACKETS, 0, {"first_pts": 1000, "audio": True}),
    ("cut.mp4", "h264", PACKETS, 5, {"first_pts": -5}),
    ("cut_plain.mp4", "h264", PACKETS, 7, {"first_pts": -7, "bframes": 0}),
    ("cut_gops.mp4", "h264", PACKETS, 30, {"first_pts": -30}),
    ("uneven.mp4", "h264", PACKETS, 0, {"pts": UNEVEN, "time_base": Fraction(1, 25)}),
    ("uneven.mkv", "h264", PACKETS, 0, {"pts": UNEVEN, "time_base": Fraction(1, 25)}),
    ("open_gop.mkv", "h264", PACKETS, 0, {"bframes": 3, "options": X264_OPEN}),
    ("bframes.mkv", "hevc", PACKETS, 0, {"codec": "libx265"}),
    ("open_gop.mp4", "hevc", PACKETS, 0, {"codec": "libx265", "bframes": 3, "options": X265_OPEN}),
    ("hidden.webm", "vp9", PACKETS, 0, {
        "codec": "libvpx-vp9", "options": {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "10"},
    }),
    ("hidden.mp4", "av1", PACKETS, 0, {"codec": "libsvtav1"}),
    ("hidden.mkv", "av1", PACKETS, 0, {"codec": "libsvtav1"}),
    ("bframes.avi", "mpeg4", PACKETS, 0, {"codec": "mpeg4"}),
    ("no_order.avi", "h264", PACKETS, 0, {}),  # AVI holds no presentation times: frames are numbered by decoding
    ("plain.avi", "mpeg4", PACKETS, 0, {"codec": "mpeg4", "bframes": 0}),
    ("dropped.avi", "h264", PACKETS, 0, {"bframes": 0, "pts": UNEVEN, "time_base": Fraction(1, 25)}),
    ("bframes.ts", "h264", CONTAINER, 0, {}),
    ("bframes.m2ts", "hevc", CONTAINER, 0, {"codec": "libx265"}),
    ("no_positions.mpg", "mpeg1video", CONTAINER, 0, {"codec": "mpeg1video", "bframes": 0}),
]  # fmt: skip
NAMES = [f"{row[0]}-{row[1]}" for row in ZOO]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name, codec, _, _, how in ZOO:
        (folder / codec).mkdir(exist_ok=True)
        write_numbered_video(folder / codec / name, 60, **{"gop": 24, "width": 96, "height": 64, **how})
    return folder


def whole_table(indexed) -> PacketTable:
    return PacketTable.concatenate(
        [
            PacketTable.from_bytes(table, row["num_packets"])
            for table, row in zip(indexed.tables, indexed.rows, strict=True)
        ]
    )


@pytest.mark.parametrize("name, codec, kind, first, how", ZOO, ids=NAMES)
def test_every_frame_by_its_number(zoo, name, codec, kind, first, how):
    indexed = index_video(zoo, f"{codec}/{name}", 1.0)
    video, path = indexed.video, zoo / codec / name
    reference = decode_all(path)
    assert (video.kind, video.codec) == (kind, codec)
    assert video.num_frames == len(reference) == 60 - first
    assert (video.width, video.height, video.rotation, video.pix_fmt) == (96, 64, 0, "yuv420p")
    assert video.seconds == pytest.approx((how.get("pts", range(60))[-1] + 1 - first) / 25, abs=0.011)
    decoder = ClipDecoder(video, open_source(video, whole_table(indexed), path), converter(None), new_counters())
    for number, picture in enumerate(decoder.read(range(video.num_frames))):
        assert read_number(picture) == first + number
        assert np.array_equal(picture, reference[number])
    decoder.close()


@pytest.mark.parametrize("name, codec, kind, first, how", ZOO, ids=NAMES)
def test_the_table_is_what_the_file_holds(zoo, name, codec, kind, first, how):
    path = zoo / codec / name
    table = scan_video(path, name, name).table
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert table.pts.tolist() == [packet.pts for packet in packets]
    assert table.size.tolist() == [packet.size for packet in packets]
    assert [bool(flags & DISCARD) for flags in table.flags] == [packet.is_discard for packet in packets]
    assert [bool(flags & KEYFRAME) for flags in table.flags] == [packet.is_keyframe for packet in packets]
    assert sorted(frame for frame in table.frame.tolist() if frame >= 0) == list(range(60 - first))
    assert table.pts[table.frame >= 0][np.argsort(table.frame[table.frame >= 0])].tolist() == sorted(
        packet.pts for packet in packets if not packet.is_discard
    )
    if kind == PACKETS:
        rows = zip(table.offset.tolist(), table.size.tolist(), packets, strict=True)
        assert all(data[offset : offset + size] == bytes(packet) for offset, size, packet in rows)


def test_packets_that_an_edit_list_cuts_away_are_decoded_and_not_shown(zoo):
    table = scan_video(zoo / "h264" / "cut_gops.mp4", "v", "v").table
    assert (table.flags & DISCARD).sum() == 6 * DISCARD  # frames 24 to 29, that 30 leans on
    assert table.frame[0] == -1
    assert table.flags[0] == KEYFRAME | DISCARD


@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.name)
def test_real_videos_decode_frame_by_frame_from_their_index(path):
    indexed = index_video(path.parent, path.name, 4.0)
    reference = decode_all(path)
    assert indexed.video.num_frames == len(reference)
    source = open_source(indexed.video, whole_table(indexed), path)
    decoder = ClipDecoder(indexed.video, source, converter(None), new_counters())
    for number in range(len(reference)):
        (picture,) = decoder.read([number])
        assert np.array_equal(picture, reference[number]), number
    decoder.close()


TURNS = [
    # matrix a, b, c, d -> degrees clockwise
    ((1, 0, 0, 1), 0),
    ((0, 1, -1, 0), 90),
    ((-1, 0, 0, -1), 180),
    ((0, -1, 1, 0), 270),
]


@pytest.mark.parametrize("matrix, degrees", TURNS, ids=[str(row[1]) for row in TURNS])
def test_rotation_is_what_the_display_matrix_says(tmp_path, matrix, degrees):
    write_numbered_video(tmp_path / "v.mp4", 10)
    data = bytearray((tmp_path / "v.mp4").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "v.mp4").write_bytes(data)
    video = index_video(tmp_path, "v.mp4", 60.0).video
    assert (video.rotation, video.width, video.height) == (degrees, 128, 96)


KEY, CUT = KEYFRAME, DISCARD
NUMBERED = [
    # pts in decode order, flags -> frame numbers
    ([0, 1, 2], [KEY, 0, 0], [0, 1, 2]),
    ([0, 3, 1, 2, 6, 4, 5], [KEY, 0, 0, 0, 0, 0, 0], [0, 3, 1, 2, 6, 4, 5]),
    ([1000, 1512, 2500], [KEY, 0, 0], [0, 1, 2]),
    ([-1024, 512, -512, 0], [KEY | CUT, 0, CUT, 0], [-1, 1, -1, 0]),
    ([40], [KEY], [0]),
]


@pytest.mark.parametrize("pts, flags, expected", NUMBERED)
def test_frame_numbers_are_ranks_in_presentation_order(pts, flags, expected):
    assert number_by_pts(np.array(pts), np.array(flags)).tolist() == expected


def test_two_packets_shown_at_once_have_no_numbers():
    assert number_by_pts(np.array([0, 1, 1]), np.array([KEY, 0, 0])) is None


SEGMENTS = [
    # keyframes at these rows of 100, 10 ticks a row, 100 ticks a second -> starts at segment_seconds
    ([0, 25, 50, 75], 60, [0]),
    ([0, 25, 50, 75], 2.5, [0, 25, 50, 75]),
    ([0, 25, 50, 75], 2.6, [0, 50]),
    ([0, 25, 50, 75], 5, [0, 50]),
    ([0, 25, 50, 75], 0.001, [0, 25, 50, 75]),
    ([0], 1, [0]),
]


@pytest.mark.parametrize("keys, seconds, starts", SEGMENTS)
def test_a_segment_ends_at_the_next_keyframe(keys, seconds, starts):
    rows = np.arange(100)
    flags = np.isin(rows, keys).astype(np.uint8) * np.uint8(KEYFRAME)
    table = PacketTable(rows * 100, np.full(100, 100), rows * 10 - 500, rows, flags, np.zeros(100, np.uint32))
    assert segment_rows(table, (1, 100), seconds).tolist() == starts
