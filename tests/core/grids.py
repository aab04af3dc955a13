"""Indexes made of nothing but times, for tests of what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from onetake.core.clips import ClipSpec
from onetake.core.index import KEYFRAME, PACKETS, Keyframes, PacketTable, Video, VideoIndex
from onetake.core.layout import Timeline


@dataclass(frozen=True)
class Times:
    """One video: the time of each frame, in ticks; the frames at which its segments begin; those that are keyframes."""

    pts: Sequence[int]
    time_base: tuple[int, int] = (1, 25)
    segments: Sequence[int] = (0,)
    keys: Sequence[int] = (0,)


specs_by_frames = st.builds(
    ClipSpec,
    num_frames=st.integers(1, 12),
    stride=st.integers(1, 6),
    hop=st.none() | st.integers(1, 60),
)


def plain_video(number: int, num_frames: int, **values: Any) -> Video:
    """A video of which nothing is said but what a test is about."""
    about: dict[str, Any] = dict(
        video_id=f"{number}.mp4",
        file=f"{number}.mp4",
        file_bytes=1,
        version="",
        kind=PACKETS,
        num_frames=num_frames,
        codec="h264",
        decoder="h264",
        codec_options="",
        extradata=b"",
        width=64,
        height=64,
        rotation=0,
        pix_fmt="yuv420p",
        color_matrix="",
        color_range="",
        transfer="",
        stream_index=0,
        container="mp4",
    )
    return Video(**{**about, **values})


def make_video(number: int, times: Times) -> Video:
    steps = np.diff(times.pts)
    step = int(np.median(steps)) if len(steps) else 0
    return plain_video(
        number,
        len(times.pts),
        time_base=times.time_base,
        duration=int(times.pts[-1] - times.pts[0]) + step,
        frame_ticks=step if np.all(steps == step) else 0,
    )


def make_index(videos: Sequence[Times]) -> tuple[VideoIndex, Keyframes]:
    """An index as building it from such videos would give it, as far as times go."""
    rows: list[tuple[int, int, int, int]] = []
    keys: list[list[tuple[int, int]]] = []
    for number, times in enumerate(videos):
        for first, stop in zip(times.segments, [*times.segments[1:], len(times.pts)], strict=True):
            rows.append((number, first, stop - first, times.pts[first]))
            keys.append([(key, times.pts[key]) for key in times.keys if first <= key < stop])
    video, first_frame, num_frames, first_pts = np.array(rows, np.int64).T
    none = np.zeros(len(rows), np.int64)
    made = [make_video(number, times) for number, times in enumerate(videos)]
    index = VideoIndex(
        "", tuple(made), video, first_frame, num_frames, first_pts, none, none, none, none, num_frames, none + 1
    )
    flat = np.array([key for own in keys for key in own], np.int64).reshape(-1, 2)
    start = np.cumsum([0, *map(len, keys)]).astype(np.int64)
    return index, Keyframes(start, flat[:, 0], flat[:, 1])


def timeline(times: Times, first_frame: int = 0) -> Timeline:
    """The whole of it, from a frame on."""
    count = len(times.pts)
    frame, pts = np.arange(count), np.array(times.pts, np.int64)
    flags = np.full(count, KEYFRAME, np.uint8)
    return Timeline.of(PacketTable(frame, frame, pts, frame, flags, np.zeros(len(frame), np.uint32)), first_frame)
