"""Spans as videos: their clips are those of a video that holds nothing but the span."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.clips import ClipSpec
from onetake.core.layout import Layout
from onetake.core.spans import span_index, span_keyframes
from tests.core.grids import Times, make_index, specs_by_frames, timeline

law = settings(max_examples=150)

timed = st.builds(
    ClipSpec,
    num_frames=st.integers(1, 5),
    fps=st.fractions(1, 40, max_denominator=1001),
    hop_seconds=st.none() | st.fractions(1 / 50, 3),
)
aligned = st.builds(ClipSpec, st.integers(1, 5), st.integers(1, 4), st.integers(1, 30), align=st.just("keyframe"))


@st.composite
def videos_with_spans(draw):
    """Videos of even or uneven frames in segments, and spans of them: sorted (video, start, stop)."""
    videos, spans = [], []
    for number in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
        count = sum(lengths)
        even = draw(st.booleans())
        steps = [1] * count if even else draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
        pts = np.cumsum(steps) + draw(st.integers(-50, 50))
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        keys = sorted({*starts, *draw(st.lists(st.integers(0, count - 1), max_size=6))})
        videos.append(Times(pts.tolist(), (1, 25) if even else (1, 600), starts, keys))
        for start in draw(st.lists(st.integers(0, count - 1), max_size=4)):
            spans.append((number, start, draw(st.integers(start + 1, count))))
    return videos, sorted(spans)


def ends(index, videos, video, frame):
    times = videos[video]
    if frame < len(times.pts):
        return times.pts[frame]
    return times.pts[0] + index.videos[video].duration


@law
@given(videos_with_spans(), specs_by_frames | timed | aligned, st.integers(0, 2**64 - 1))
def test_clips_of_spans(drawn, spec, draw):
    videos, spans = drawn
    if not spans:
        return
    index, keyframes = make_index(videos)
    start_pts = [videos[video].pts[start] for video, start, _ in spans]
    stop_pts = [ends(index, videos, video, stop) for video, _, stop in spans]
    bounds = tuple(np.array(values, np.int64) for values in (*zip(*spans, strict=True), start_pts, stop_pts))
    made, segment = span_index(index, bounds)
    inside = span_keyframes(index, lambda: keyframes, made, segment)
    layout = Layout(spec, made, inside)

    # The same, as videos that hold nothing else.
    alone, alone_keys = make_index(
        [
            Times(
                videos[video].pts[start:stop],
                videos[video].time_base,
                [0, *(first - start for first in videos[video].segments if start < first < stop)],
                [key - start for key in videos[video].keys if start <= key < stop],
            )
            for video, start, stop in spans
        ]
    )
    as_spans = [
        replace(video, duration=stop - start, frame_ticks=index.videos[span[0]].frame_ticks)
        for video, span, start, stop in zip(alone.videos, spans, start_pts, stop_pts, strict=True)
    ]
    expected = Layout(spec, replace(alone, videos=tuple(as_spans)), alone_keys)

    assert layout.num_clips_of_videos.tolist() == expected.num_clips_of_videos.tolist()
    filled, alone_filled = np.flatnonzero(layout.num_clips), np.flatnonzero(expected.num_clips)
    assert layout.num_clips[filled].tolist() == expected.num_clips[alone_filled].tolist()
    for own, other in zip(filled.tolist(), alone_filled.tolist(), strict=True):
        video, start, stop = spans[made.video[own]]
        shown = timeline(videos[video], int(made.first_frame[own]))
        shift = layout.shift(own, draw) if spec.align is None else 0
        times = Times([pts for pts in videos[video].pts[start:stop]])
        alone_shown = timeline(times, int(alone.first_frame[other]))
        for clip in range(int(layout.num_clips[own])):
            frames = layout.frames(own, clip, shift, lambda shown=shown: shown)
            found = expected.frames(other, clip, shift, lambda shown=alone_shown: shown)
            assert frames == [start + frame for frame in found]
            assert start <= frames[0] <= frames[-1] < stop
            assert made.first_frame[own] <= frames[0] or shift
            assert frames[-1] < layout.stop_frame[own] <= stop or shift
    assert [made.segment_name(n) for n in range(1)] == [f"{spans[0][0]}.mp4@{spans[0][1]}"]


def test_a_span_ends_with_the_segment_behind_it_if_there_is_one():
    index, _ = make_index([Times(range(60), segments=[0, 20, 40]), Times(range(30))])
    spans = [(0, 5, 15), (0, 5, 40), (0, 45, 60), (1, 10, 20)]
    bounds = tuple(
        np.array(values, np.int64) for values in (*zip(*spans, strict=True), [5, 5, 45, 10], [15, 40, 60, 20])
    )
    made, segment = span_index(index, bounds)
    rows = zip(made.video, segment, made.first_frame, made.num_frames, made.first_pts, strict=True)
    assert [tuple(map(int, row)) for row in rows] == [
        (0, 0, 5, 10, 5),
        (0, 1, 15, 0, 15),
        (1, 0, 5, 15, 5),
        (1, 1, 20, 20, 20),
        (1, 2, 40, 0, 40),
        (2, 2, 45, 15, 45),
        (3, 3, 10, 10, 10),
    ]
    assert [video.num_frames for video in made.videos] == [10, 35, 15, 10]
    assert [video.video_id for video in made.videos] == ["0.mp4", "0.mp4", "0.mp4", "1.mp4"]
