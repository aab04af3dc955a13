"""Spans as videos: an index in which each annotated span is a video of its own.

A span's segments are the parts of its video's segments that lie inside it, so that nothing beyond it is ever part of a
clip. They are read by the same packet tables and bytes. Where its video goes on, a span ends with one more segment,
which has no frame: the packets of its last frames may stand behind the keyframe with which that begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onetake.core.index import Keyframes, VideoIndex

__all__ = ["SpanBounds", "span_index", "span_keyframes", "times_rise"]

Int64Array = NDArray[np.int64]

SpanBounds = tuple[Int64Array, Int64Array, Int64Array, Int64Array, Int64Array]
"""Of N spans, int64 [N] each: the video, the first frame, the last frame plus 1, when the first frame is shown, and
when the last one ends, in ticks of the video's clock. Sorted by the first three."""

_BITS = 32  # of a frame's number


def _place(video: Int64Array, frame: Int64Array) -> Int64Array:
    """One number for a frame of a video; they rise with time, and with the videos."""
    return (video.astype(np.int64) << _BITS) | frame


def _parts(index: VideoIndex, spans: SpanBounds) -> tuple[Int64Array, ...]:
    """int64 [S] each, of the parts of segments that spans consist of: the span, the segment, the first frame, the
    frames, and when the first is shown."""
    video, start, stop, start_pts, stop_pts = spans
    places = _place(index.video, index.first_frame)
    first = np.searchsorted(places, _place(video, start), side="right") - 1
    last = np.searchsorted(places, _place(video, stop - 1), side="right") - 1
    last += np.append(index.video, -1)[last + 1] == video  # the one that holds no frame of it
    counts = last - first + 1
    span = np.repeat(np.arange(len(video)), counts)
    segment = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
    begin = np.clip(index.first_frame[segment], start[span], stop[span])
    end = np.minimum(index.first_frame[segment] + index.num_frames[segment], stop[span])
    pts = np.where(begin == stop[span], stop_pts[span], index.first_pts[segment])
    pts = np.where(begin == start[span], start_pts[span], pts)
    return span, segment, begin, np.maximum(end - begin, 0), pts


def times_rise(index: VideoIndex, spans: SpanBounds) -> bool:
    """Whether what spans say of their times agrees with their videos' segments."""
    span, _, _, _, pts = _parts(index, spans)
    return not np.any((np.diff(pts) < 0) & (np.diff(span) == 0))


def span_index(index: VideoIndex, spans: SpanBounds) -> tuple[VideoIndex, Int64Array]:
    """The index of N spans, each a video under its video's ID; and int64 [S], whose segment each of its segments is."""
    video, start, stop, start_pts, stop_pts = spans
    span, segment, begin, num_frames, pts = _parts(index, spans)
    videos = tuple(
        replace(index.videos[number], num_frames=frames, duration=duration)
        for number, frames, duration in zip(
            video.tolist(), (stop - start).tolist(), (stop_pts - start_pts).tolist(), strict=True
        )
    )
    names = ("byte_offset", "byte_length", "table_offset", "table_length", "num_packets", "num_keyframes")
    rest = {name: getattr(index, name)[segment] for name in names}
    made = VideoIndex(index.generation, videos, span, begin, num_frames, pts, **rest)
    return made, segment


def span_keyframes(
    index: VideoIndex, read: Callable[[], Keyframes], spans: VideoIndex, segment: Int64Array
) -> Keyframes:
    """The keyframes inside of spans.

    Args:
        index: the index of the videos.
        read: gives its keyframes.
        spans, segment: what ``span_index`` gave.
    """
    keyframes = read()
    of_keys = np.repeat(index.video, np.diff(keyframes.start))
    places = _place(of_keys, keyframes.frame)
    video = index.video[segment]
    first = np.searchsorted(places, _place(video, spans.first_frame))
    counts = np.searchsorted(places, _place(video, spans.first_frame + spans.num_frames)) - first
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.repeat(first - start[:-1], counts) + np.arange(int(start[-1]))
    return Keyframes(start, keyframes.frame[rows], keyframes.pts[rows])
