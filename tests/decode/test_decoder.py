"""ClipDecoder: every frame bit for bit, in order with one open and at most one jump, nothing decoded twice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onetake.core.clips import ClipSpec
from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import CONTAINER, KEYFRAME, PacketTable, Video
from onetake.decode.build import index_video
from onetake.decode.decoder import ClipDecoder, Count, new_counters
from onetake.decode.scale import converter
from onetake.decode.source import ContainerSource, TableSource, open_source
from onetake.decode.synthetic import read_number, write_numbered_video
from tests.conftest import real_videos
from tests.helpers import decode_all

FRAMES = 120
VIDEOS = {
    # name: how it is made; keyframes every 30 frames unless it says otherwise
    "bframes.mp4": {"bframes": 3},
    "pyramid.mkv": {"bframes": 3, "options": {"x264-params": "b-pyramid=normal"}},
    "plain.mp4": {"bframes": 0},
    "cut.mp4": {"first_pts": -7},
    "late.mp4": {"first_pts": 1000},
    "open_x264.mkv": {"bframes": 3, "options": {"x264-params": "open-gop=1:b-pyramid=normal"}},
    "hevc.mkv": {"codec": "libx265"},
    "open_x265.mp4": {"codec": "libx265", "bframes": 3, "options": {
        "x265-params": "scenecut=0:log-level=error:open-gop=1",
    }},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "one_key.mp4": {"gop": 250, "bframes": 2},
    "stream.ts": {},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    path: Path
    video: Video
    table: PacketTable
    reference: list[np.ndarray]

    @property
    def keys(self) -> list[int]:
        """Frames at which a decoder can start."""
        return np.maximum(self.table.frame[self.table.key_rows], 0).tolist()

    def decoder(self, plan=None, source=open_source, rows=slice(None)):
        counters = new_counters()
        opened = source(self.video, self.table[rows], self.path)
        return ClipDecoder(self.video, opened, converter(None), counters, plan), counters

    def check(self, decoder, frames) -> None:
        for number, picture in zip(frames, decoder.read(frames), strict=True):
            assert np.array_equal(picture, self.reference[number]), number


def case(folder: Path, name: str) -> Case:
    indexed = index_video(folder, name, 1.0)
    parts = zip(indexed.tables, indexed.rows, strict=True)
    table = PacketTable.concatenate([PacketTable.from_bytes(part, row["num_packets"]) for part, row in parts])
    return Case(folder / name, indexed.video, table, decode_all(folder / name))


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("videos")
    for name, how in VIDEOS.items():
        write_numbered_video(folder / name, FRAMES, **{"gop": 30, "width": 96, "height": 64, **how})
    return {name: case(folder, name) for name in VIDEOS}


every_video = pytest.mark.parametrize("name", VIDEOS)
both_sources = pytest.mark.parametrize("source", [TableSource, ContainerSource], ids=["table", "container"])


def can_read(case: Case, source) -> bool:
    return source is ContainerSource or case.video.kind != CONTAINER


def test_the_videos_are_what_they_are_meant_to_be(cases):
    leading = {
        name
        for name, c in cases.items()  # pictures shown before the keyframe that they follow
        if np.any(c.table.frame < np.maximum.accumulate(np.where(c.table.flags & KEYFRAME, c.table.frame, -1)))
    }
    assert leading == {"open_x264.mkv", "open_x265.mp4", "hevc.mkv", "mpeg4.mp4"}  # the last two by default
    assert {name for name, c in cases.items() if c.video.kind == CONTAINER} == {"stream.ts"}
    assert cases["cut.mp4"].video.num_frames == FRAMES - 7
    for c in cases.values():
        first = FRAMES - c.video.num_frames
        assert [read_number(picture) for picture in c.reference] == list(range(first, FRAMES))


# Right frames


@every_video
@both_sources
def test_every_frame_front_to_back(cases, name, source):
    c = cases[name]
    if not can_read(c, source):
        return
    decoder, counters = c.decoder(source=source)
    for number in range(c.video.num_frames):
        c.check(decoder, [number])
    decoder.close()
    assert counters[Count.OPENS] == 1
    assert counters[Count.SEEKS] == 0
    assert counters[Count.PACKETS_FED] == len(c.table)
    assert counters[Count.FRAMES_DELIVERED] == counters[Count.FRAMES_CONVERTED] == c.video.num_frames
    assert counters[Count.BYTES_READ] == c.table.size.sum()


@every_video
@both_sources
def test_any_frame_at_any_time(cases, name, source):
    c = cases[name]
    if not can_read(c, source):
        return
    decoder, _ = c.decoder(source=source)
    for number in np.random.default_rng(0).permutation(c.video.num_frames)[:25].tolist():
        c.check(decoder, [number])
    c.check(decoder, range(c.video.num_frames))  # and from the start again
    decoder.close()


@every_video
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_clips_of_a_plan(cases, name, stride):
    c = cases[name]
    spec = ClipSpec(4, stride)
    starts = [spec.start_frame(clip) for clip in range(spec.num_clips(c.video.num_frames))]
    decoder, counters = c.decoder({f for start in starts for f in spec.frame_index(start).tolist()})
    for start in starts:
        c.check(decoder, spec.frame_index(start).tolist())
    decoder.close()
    assert counters[Count.OPENS] == 1
    assert counters[Count.SEEKS] <= (0 if stride == 1 else len(c.keys) - 1)  # a keyframe may stand between two frames
    assert counters[Count.FRAMES_DECODED] <= len(c.table)
    assert counters[Count.FRAMES_CONVERTED] == counters[Count.FRAMES_DELIVERED] == 4 * len(starts)
    assert counters[Count.CLIPS_DELIVERED] == len(starts)


@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.name)
def test_every_clip_of_real_videos(path):
    c = case(path.parent, path.name)
    spec = ClipSpec(8, 5)
    starts = [spec.start_frame(clip) for clip in range(spec.num_clips(c.video.num_frames))]
    decoder, counters = c.decoder({f for start in starts for f in spec.frame_index(start).tolist()})
    for start in starts:
        c.check(decoder, spec.frame_index(start).tolist())
    decoder.close()
    assert starts
    assert counters[Count.OPENS] == 1
    assert counters[Count.FRAMES_DECODED] <= c.video.num_frames


def test_seconds_are_those_of_the_video(cases):
    for name, first in {"bframes.mp4": 0, "late.mp4": 40, "cut.mp4": 0}.items():
        decoder, _ = cases[name].decoder()
        found = decoder.seconds([0, 1, 50])
        assert found.dtype == np.float64
        assert found.tolist() == pytest.approx([first, first + 0.04, first + 2], abs=1e-9)
        decoder.close()


# Little work

RUNS = [
    # first clip, last clip, clip spec, jumps: a lane's stretch of a video with keyframes at 0, 30, 60, 90
    (0, 29, ClipSpec(4, 1), 0),
    (3, 20, ClipSpec(4, 1), 0),
    (9, 20, ClipSpec(4, 1), 1),  # starts at 36, so it jumps to 30
    (15, 15, ClipSpec(4, 1), 1),
    (0, 1, ClipSpec(4, 3), 0),
    (0, 6, ClipSpec(8, 2, 2), 0),
    (28, 80, ClipSpec(8, 1, 1), 0),
    (31, 80, ClipSpec(8, 1, 1), 1),
    (5, 16, ClipSpec(8, 2, 6), 1),
]


@pytest.mark.parametrize("name", ["bframes.mp4", "plain.mp4", "hevc.mkv", "vp9.webm", "mpeg4.mp4", "stream.ts"])
@pytest.mark.parametrize("first, last, spec, seeks", RUNS, ids=str)
def test_a_run_costs_one_open_at_most_one_jump_and_no_frame_in_vain(cases, name, first, last, spec, seeks):
    c = cases[name]
    starts = [spec.start_frame(clip) for clip in range(first, last + 1)]
    starts = [start for start in starts if start + spec.extent <= c.video.num_frames]
    stop = starts[-1] + spec.extent
    needed = np.flatnonzero((c.table.frame >= 0) & (c.table.frame < stop))[-1]
    plan = {f for start in starts for f in spec.frame_index(start).tolist()}
    decoder, counters = c.decoder(plan, rows=slice(0, int(needed) + 1))
    for start in starts:
        c.check(decoder, spec.frame_index(start).tolist())
    decoder.close()
    key = max(key for key in c.keys if key <= starts[0])
    assert counters[Count.OPENS] == 1
    # Where a packet before a keyframe is not needed, the decoder jumps over it.
    jumps = sum(starts[0] < key < stop for key in c.keys) if spec.stride > 1 else 0
    assert seeks <= counters[Count.SEEKS] <= seeks + jumps
    assert counters[Count.FRAMES_DECODED] <= stop - key + 1  # frame `stop - 1` may lean on the next one
    assert counters[Count.FRAMES_CONVERTED] == len(plan)


JUMPS = [
    # keyframes at 0, 30, 60, 90; frames read one after the other -> jumps
    ([0, 29], 0),
    ([0, 31], 1),
    ([0, 59], 1),
    ([0, 30, 60, 90], 3),
    ([0, 1, 2, 3, 40, 41, 42], 1),
    ([35, 40, 45], 1),
    ([35, 34], 2),
    ([100, 5, 6], 2),
    ([7, 7, 7], 2),
    ([119, 0], 2),
]


@pytest.mark.parametrize("source", [TableSource, ContainerSource], ids=["table", "container"])
@pytest.mark.parametrize("frames, jumps", JUMPS, ids=str)
def test_a_decoder_jumps_back_and_forward_only_over_a_keyframe(cases, source, frames, jumps):
    c = cases["plain.mp4"]
    decoder, counters = c.decoder(source=source)
    for number in frames:
        c.check(decoder, [number])
    decoder.close()
    assert counters[Count.SEEKS] == jumps
    assert counters[Count.OPENS] == 1


def test_without_a_keyframe_between_it_goes_on(cases):
    decoder, counters = cases["one_key.mp4"].decoder()
    for number in (0, 60, 110):
        cases["one_key.mp4"].check(decoder, [number])
    decoder.close()
    assert counters[Count.SEEKS] == 0
    assert counters[Count.PACKETS_FED] <= FRAMES


@every_video
@pytest.mark.parametrize("spec", [ClipSpec(8, 1, 1), ClipSpec(8, 1, 5), ClipSpec(4, 5, 3), ClipSpec(3, 8, 4)], ids=str)
def test_clips_that_overlap_decode_and_convert_nothing_twice(cases, name, spec):
    c = cases[name]
    starts = [spec.start_frame(clip) for clip in range(spec.num_clips(c.video.num_frames))]
    plan = {f for start in starts for f in spec.frame_index(start).tolist()}
    decoder, counters = c.decoder(plan)
    for start in starts:
        c.check(decoder, spec.frame_index(start).tolist())
    decoder.close()
    assert counters[Count.FRAMES_DECODED] <= len(c.table)
    assert counters[Count.PACKETS_FED] <= len(c.table)
    assert counters[Count.FRAMES_CONVERTED] == len(plan)
    assert counters[Count.FRAMES_DELIVERED] == spec.num_frames * len(starts)


SKIPPED = [
    # video, stride -> most of its frames that are decoded
    ("bframes.mp4", 1, 1.0),
    ("bframes.mp4", 3, 0.85),
    ("bframes.mp4", 8, 0.7),
    ("pyramid.mkv", 8, 0.8),
    ("hevc.mkv", 8, 0.8),
    ("one_key.mp4", 8, 0.75),
]


@pytest.mark.parametrize("name, stride, most", SKIPPED)
def test_pictures_that_no_one_needs_are_not_decoded(cases, name, stride, most):
    c = cases[name]
    frames = list(range(0, c.video.num_frames, stride))
    counts = []
    for plan in (frames, None):
        decoder, counters = c.decoder(plan)
        c.check(decoder, frames)
        decoder.close()
        counts.append(int(counters[Count.FRAMES_DECODED]))
    assert counts[0] <= most * counts[1]
    assert counts[0] == counts[1] or stride > 1


def test_the_plan_is_not_obeyed_blindly_where_skipping_would_show(cases):
    c = cases["mpeg4.mp4"]
    frames = list(range(0, c.video.num_frames, 8))
    decoder, counters = c.decoder(frames)
    c.check(decoder, frames)
    decoder.close()
    # B-frames behind a keyframe that it has jumped to don't come out.
    assert counters[Count.FRAMES_DECODED] >= counters[Count.PACKETS_FED] - len(c.keys) > 0.9 * frames[-1]


# Damage

CUT = "the file ends before it: it changed since it was indexed, or is cut off; run `onetake index` again"


def damaged(c: Case, folder: Path, change) -> Case:
    data = bytearray(c.path.read_bytes())
    path = folder / c.path.name
    path.write_bytes(change(data))
    return Case(path, c.video, c.table, c.reference)


def test_a_file_that_was_cut_off_says_where(cases, tmp_path):
    c = cases["bframes.mp4"]
    row = int(np.flatnonzero(c.table.frame == 64)[0])
    offset = int(c.table.offset[row])
    short = damaged(c, tmp_path, lambda data: data[: offset + 5])
    decoder, _ = short.decoder()
    c.check(decoder, range(50))
    with pytest.raises(DecodeError, match=re.escape(CUT)) as caught:
        decoder.read(range(50, 80))
    decoder.close()
    error = caught.value
    assert (error.video_id, error.frame, error.byte_offset) == ("bframes.mp4", 64, offset)
    assert str(error) == f"video 'bframes.mp4', frame 64 (byte {offset}): {CUT}"


@pytest.mark.parametrize("name", ["plain.mp4", "hevc.mkv", "vp9.webm", "mpeg4.mp4"])
def test_overwritten_bytes_are_an_error_or_leave_other_frames_alone(cases, tmp_path, name):
    c = cases[name]
    start = int(c.table.offset[65])
    broken = damaged(c, tmp_path, lambda data: data[:start] + bytes([255]) * 400 + data[start + 400 :])
    decoder, _ = broken.decoder()
    c.check(decoder, range(int(c.table.frame[:60].min()), 60))
    with pytest.raises(DecodeError) as caught:
        decoder.read(range(60, 90))
    decoder.close()
    error = caught.value
    assert error.video_id == name
    assert 60 <= error.frame < 90
    assert error.byte_offset == c.table.offset[np.flatnonzero(c.table.frame == error.frame)[0]]
    assert f"video {name!r}, frame {error.frame} (byte {error.byte_offset}): " in str(error)
    assert error.reason.startswith("its bytes are not those that were indexed: the file is damaged here, or changed;")


def test_a_container_that_was_cut_off(cases, tmp_path):
    c = cases["stream.ts"]
    short = damaged(c, tmp_path, lambda data: data[: len(data) // 2])
    decoder, _ = short.decoder()
    c.check(decoder, range(20))
    with pytest.raises(VideoError, match=r"stream\.ts"):
        decoder.read(range(20, FRAMES))
    decoder.close()


def test_a_frame_outside_the_table(cases):
    decoder, _ = cases["plain.mp4"].decoder(rows=slice(30, 60))
    for number in (29, 60, -1):
        with pytest.raises(DecodeError, match=rf"frame {number}: is not among the packets at hand"):
            decoder.read([number])
    cases["plain.mp4"].check(decoder, range(30, 60))
    decoder.close()


@pytest.mark.parametrize("source", [TableSource, ContainerSource])
def test_a_missing_file(cases, tmp_path, source):
    c = cases["plain.mp4"]
    with pytest.raises(FileNotFoundError):
        source(c.video, c.table, tmp_path / "gone.mp4")


def test_a_stretch_of_the_file_serves_as_well_as_the_whole(cases, tmp_path):
    for name in ("bframes.mp4", "vp9.webm", "av1.mp4"):
        c = cases[name]
        table = c.table[slice(*c.table.key_rows[[1, 2]])]
        start, stop = int(table.offset.min()), int((table.offset + table.size).max())
        (tmp_path / "part.bytes").write_bytes(c.path.read_bytes()[start:stop])
        source = TableSource(c.video, table, tmp_path / "part.bytes", start)
        decoder = ClipDecoder(c.video, source, converter(None), new_counters())
        c.check(decoder, range(30, 60))
        decoder.close()
        decoder.close()  # twice does no harm


def test_what_follows_a_packet_in_memory_does_not_show(tmp_path):
    """MPEG-4 looks beyond a packet's end: without zeros there, frames depended on what was in memory before."""
    write_numbered_video(tmp_path / "v.avi", 60, codec="mpeg4", bframes=0, gop=24)
    c = case(tmp_path, "v.avi")
    assert c.video.kind != CONTAINER
    for _ in range(3):
        junk = [bytes([255]) * size for size in range(100, 3000)]
        decoder, _ = c.decoder()
        del junk
        c.check(decoder, range(60))
        decoder.close()
