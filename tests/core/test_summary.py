"""Summaries of indexes against what loops over their frames say."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from onetake.core.clips import ClipSpec
from onetake.core.index import CONTAINER, PACKETS, Keyframes, VideoIndex
from onetake.core.summary import Spread, keyframe_distances, summarise, summarise_clips
from tests.core.grids import plain_video

SEGMENT = 50
KEYS = ((0, 10, 50, 51, 99), (0, 30), (0,))  # of each video
FRAMES = (100, 40, 3)


def make_index() -> tuple[VideoIndex, Keyframes]:
    """Three videos in segments of 50 frames, the last one turned, slow and only for its container."""
    about = {
        "file_bytes": 1000,
        "pix_fmt": "yuv420p",
        "width": 64,
        "height": 48,
        "time_base": (1, 1000),
        "frame_ticks": 40,
    }
    videos = (
        plain_video(0, 100, **about, duration=4000),
        plain_video(1, 40, **about, duration=1600, transfer="PQ"),
        plain_video(
            2, 3, **about | {"file_bytes": 6}, duration=300, codec="vp9", kind=CONTAINER, rotation=90, container="webm"
        ),
    )
    rows = [
        (number, first, min(SEGMENT, frames - first))
        for number, frames in enumerate(FRAMES)
        for first in range(0, frames, SEGMENT)
    ]
    video, first_frame, num_frames = np.array(rows, np.int64).T
    inside = [[key for key in KEYS[number] if first <= key < first + frames] for number, first, frames in rows]
    index = VideoIndex(
        generation="g",
        videos=videos,
        video=video,
        first_frame=first_frame,
        num_frames=num_frames,
        first_pts=first_frame * 40,
        byte_offset=first_frame * 10,
        byte_length=num_frames * 10,
        table_offset=first_frame,
        table_length=num_frames * 6,
        num_packets=num_frames,
        num_keyframes=np.array([len(keys) for keys in inside], np.int64),
    )
    frame = np.array([key for keys in inside for key in keys], np.int64)
    return index, Keyframes(np.cumsum([0, *map(len, inside)]).astype(np.int64), frame, frame * 40)


def test_what_an_index_holds():
    summary = summarise(*make_index())
    assert (summary.videos, summary.segments, summary.frames, summary.packets) == (3, 4, 143, 143)
    assert (summary.seconds, summary.bytes, summary.index_bytes_per_packet) == (pytest.approx(5.9), 2006, 6)
    assert summary.codecs == {"h264": 2, "vp9": 1}
    assert summary.kinds == {PACKETS: 2, CONTAINER: 1}
    assert summary.containers == {"mp4": 2, "webm": 1}
    assert summary.pixel_formats == {"yuv420p": 3}
    assert summary.sizes == {"48 x 64": 2, "64 x 48": 1}
    assert summary.frame_rates == {"25": 2, "10": 1}
    assert summary.rotated == {"90": 1}
    assert summary.hdr == {"PQ": 1}
    assert summary.video_seconds == Spread(0.3, 1.6, pytest.approx(5.9 / 3), 4.0)
    assert summary.bits_per_second == Spread(pytest.approx(160), 2000, pytest.approx(7160 / 3), 5000)
    assert summary.segment_seconds == Spread(pytest.approx(0.3), pytest.approx(1.8), pytest.approx(5.9 / 4), 2.0)
    assert summary.segment_bytes == Spread(30, 450, 1430 / 4, 500)


def test_keyframe_distances_end_where_videos_do():
    index, keyframes = make_index()
    expected = [
        after - before for keys, frames in zip(KEYS, FRAMES, strict=True) for before, after in pairwise((*keys, frames))
    ]
    assert keyframe_distances(index, keyframes).tolist() == expected
    summary = summarise(index, keyframes)
    assert summary.keyframe_distances == {"1": 2, "2-3": 1, "4-7": 0, "8-15": 2, "16-31": 1, "32-63": 2}
    assert summary.keyframe_distance == Spread(1, 10, 143 / 8, 48)


def test_a_video_without_a_clean_keyframe_is_one_stretch():
    index, _ = make_index()
    none = np.zeros(0, np.int64)
    assert keyframe_distances(index, Keyframes(np.zeros(5, np.int64), none, none)).tolist() == list(FRAMES)


@pytest.mark.parametrize("spec", [ClipSpec(4, 3), ClipSpec(3, 2, 11), ClipSpec(5, 1, 2), ClipSpec(1, hop=7)])
def test_what_clips_cost(spec):
    index, keyframes = make_index()
    extent, hop = spec.extent, spec.hop_frames
    starts = [[first for first in range(0, frames - extent + 1, hop) if frames >= extent] for frames in FRAMES]
    in_order = at_random = 0
    for keys, firsts in zip(KEYS, starts, strict=True):
        shown, segment = -1, -1
        for first in firsts:
            key = max(key for key in keys if key <= first)
            at_random += first + extent - key
            if first // SEGMENT != segment or key > shown + 1:  # a decoder of its own, or a jump
                shown = key - 1
            segment = first // SEGMENT
            in_order += first + extent - 1 - shown
            shown = first + extent - 1
    count = sum(map(len, starts))
    summary = summarise_clips(index, keyframes, spec)
    assert summary.clips == summary.clips_per_epoch == summary.costed == count
    assert summary.videos_without == sum(not firsts for firsts in starts)
    assert summary.examples == tuple(f"{n}.mp4" for n, firsts in enumerate(starts) if not firsts)
    assert summary.clips_of_videos.most == len(starts[0])
    assert summary.frames_spanned == extent
    inside = sum(
        key - 1 - before  # left out by jumps within clips, where no other clip needs what lies between
        for keys, firsts in zip(KEYS, starts, strict=True)
        for first in firsts
        for before, after in pairwise(range(first, first + extent, spec.stride))
        for key in [max((key for key in keys if before < key <= after), default=0)]
        if hop >= extent and key > before + 1
    )
    assert summary.decoded_in_order == pytest.approx((in_order - inside) / count)
    assert summary.decoded_at_random == pytest.approx((at_random - inside) / count)


def test_clips_by_time_and_at_random():
    index, keyframes = make_index()
    assert summarise_clips(index, keyframes, ClipSpec(4, fps=Fraction(25, 3))).clips == 8 + 3
    summary = summarise_clips(index, keyframes, ClipSpec(4, 3, clips_per_video=2))
    assert (summary.clips, summary.clips_per_epoch) == (8 + 3, 4)
    summary = summarise_clips(index, keyframes, ClipSpec(4, 3, align="keyframe"))
    assert summary.clips == 3 + 1  # those of frames 0, 50, 51 (in a cell of its own: 48, 60); 0, 30 does not fit


def test_no_clip_costs_nothing():
    summary = summarise_clips(*make_index(), ClipSpec(101))
    assert (summary.clips, summary.costed, summary.decoded_in_order, summary.videos_without) == (0, 0, 0, 3)
    assert summary.clips_of_videos == Spread(0, 0, 0, 0)


def test_a_million_segments():
    """Nothing goes through segments one by one; so that this ends in about two seconds."""
    videos, segments, gop, frames = 1000, 1000, 500, 1500
    count = videos * segments
    first_frame = np.tile(np.arange(segments, dtype=np.int64) * frames, videos)
    about = {"time_base": (1, 25), "duration": segments * frames, "frame_ticks": 1}
    keys = np.arange(0, frames, gop)
    index = VideoIndex(
        "g",
        tuple(plain_video(number, segments * frames, **about) for number in range(videos)),
        video=np.repeat(np.arange(videos, dtype=np.int64), segments),
        first_frame=first_frame,
        first_pts=first_frame,
        **{
            name: np.full(count, frames, np.int64)
            for name in ("num_frames", "byte_offset", "byte_length", "table_offset", "table_length", "num_packets")
        },
        num_keyframes=np.full(count, len(keys), np.int64),
    )
    frame = (first_frame[:, None] + keys).ravel()
    keyframes = Keyframes(np.arange(count + 1, dtype=np.int64) * len(keys), frame, frame)
    assert summarise(index, keyframes).keyframe_distances == {"256-511": count * len(keys)}
    summary = summarise_clips(index, keyframes, ClipSpec(16, 4))
    assert summary.clips == videos * (segments * frames // 64)
    assert summary.costed == 200_000
    assert summary.decoded_in_order == pytest.approx(64, abs=1.5)  # a hop, and what leads in to a segment
    assert summary.decoded_at_random == pytest.approx(gop / 2 + 30, rel=0.1)
