"""Where clips are: shared out over segments, by frames and by seconds, against looking at every frame."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onetake.core.clips import MAX_FRAMES, ClipSpec
from onetake.core.layout import Grid, Layout
from tests.core.grids import Times, make_index, specs_by_frames, timeline

law = settings(max_examples=150)

rates = st.fractions(Fraction(1, 3), 40, max_denominator=1001)
timed = st.builds(
    ClipSpec, num_frames=st.integers(1, 6), fps=rates, hop_seconds=st.none() | st.fractions(Fraction(1, 50), 5)
)


def clips(layout, videos, epoch_draw=None):
    """Per segment, the frames of each clip."""
    found = []
    for segment, count in enumerate(layout.num_clips.tolist()):
        times = videos[layout.index.video[segment]]
        first = int(layout.index.first_frame[segment])
        moved = 0 if epoch_draw is None else layout.shift(segment, epoch_draw)
        shown = timeline(times, first)
        found.append([layout.frames(segment, number, moved, lambda shown=shown: shown) for number in range(count)])
    return found


@st.composite
def segmented(draw):
    """Videos with a frame per tick, as lists of segment lengths; short ones, and segments shorter than a clip."""
    lengths = draw(st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=6), min_size=1, max_size=5))
    return [Times(range(sum(own)), segments=np.cumsum([0, *own[:-1]]).tolist()) for own in lengths]


def walked(spec, count):
    return [start for start in range(0, count, spec.hop_frames) if start + spec.extent <= count]


@law
@given(specs_by_frames, segmented())
def test_each_clip_is_in_the_one_segment_it_starts_in(spec, videos):
    layout = Layout(spec, make_index(videos)[0])
    found = iter(zip(clips(layout, videos), layout.stop_frame.tolist(), layout.first_clip.tolist(), strict=True))
    for times in videos:
        number = 0
        for begin, end in pairwise([*times.segments, len(times.pts)]):
            own, stop, first = next(found)
            expected = [start for start in walked(spec, len(times.pts)) if begin <= start < end]
            assert own == [spec.frame_index(start).tolist() for start in expected]
            assert stop == (expected[-1] + spec.extent if expected else 0)
            assert not expected or first == number
            number += len(expected)
    assert layout.num_clips_of_videos.tolist() == [spec.num_clips(len(times.pts)) for times in videos]
    assert layout.clips_before.tolist() == np.cumsum([0, *layout.num_clips]).tolist()


@law
@given(st.one_of(specs_by_frames, timed), segmented(), st.integers(1, 5) | st.just("all"), st.booleans())
def test_samples_are_runs_of_the_clips_of_their_video(spec, videos, each, jitter):
    index = make_index(videos)[0]
    spec = replace(spec, jitter=jitter)
    single, several = Layout(spec, index), Layout(spec, index, clips_per_sample=each)
    draw = 3 << 62 if jitter else None  # by three quarters of a hop
    alone, together = clips(single, videos, draw), clips(several, videos, draw)
    for video, times in enumerate(videos):
        segments = np.flatnonzero(index.video == video).tolist()
        own = [clip for segment in segments for clip in alone[segment]]
        size = max(len(own), 1) if each == "all" else each
        samples = [own[at : at + size] for at in range(0, len(own) - size + 1, size)]
        found = [(segment, sample) for segment in segments for sample in together[segment]]
        assert [sample for _, sample in found] == [list(chain.from_iterable(sample)) for sample in samples]
        for number, (segment, sample) in enumerate(found):
            assert number * size in range(*(single.first_clip[segment] + [0, single.num_clips[segment]]).tolist())
            assert (sample[0], sample[-1]) == (min(sample), max(sample))
            assert sample[-1] < several.stop_frame[segment] <= len(times.pts)
        assert several.num_clips_of_videos[video] == len(samples)


TOO_SHORT = [
    # segments, spec, clips per segment, stop frames
    ([9], ClipSpec(4, 3), [0], [0]),
    ([10], ClipSpec(4, 3), [1], [10]),
    ([5, 5], ClipSpec(4, 3), [1, 0], [10, 0]),
    ([5, 4], ClipSpec(4, 3), [0, 0], [0, 0]),
    ([1], ClipSpec(1), [1], [1]),
    ([10, 10], ClipSpec(4, 3, 1), [10, 1], [19, 20]),
    ([12, 12, 6], ClipSpec(4, 3), [1, 1, 0], [10, 22, 0]),
    ([1], ClipSpec(1, fps=25), [1], [1]),
    ([1], ClipSpec(2, fps=25), [0], [0]),
    ([10, 10], ClipSpec(4, fps="25/3", hop_seconds=0.04), [10, 1], [19, 20]),
]


@pytest.mark.parametrize("segments, spec, counts, stops", TOO_SHORT, ids=str)
def test_clips_at_the_end_of_a_video(segments, spec, counts, stops):
    times = Times(range(sum(segments)), segments=np.cumsum([0, *segments[:-1]]).tolist())
    layout = Layout(spec, make_index([times])[0])
    assert (layout.num_clips.tolist(), layout.stop_frame.tolist()) == (counts, stops)


def test_the_largest_specs_do_not_overflow():
    videos = [Times(range(1000))]
    for spec in (ClipSpec(MAX_FRAMES, MAX_FRAMES, MAX_FRAMES), ClipSpec(MAX_FRAMES, fps=Fraction(1, 10**9))):
        assert Layout(spec, make_index(videos)[0]).num_clips.tolist() == [0]
    fine = Times([0, 10**15, 2 * 10**15, 3 * 10**15], (1, 10**9))
    spec = ClipSpec(2, fps="0.000001000000001", hop_seconds="1000000.000000001")
    layout = Layout(spec, make_index([fine])[0])
    assert clips(layout, [fine]) == [[[0, 0], [1, 1], [2, 2], [3, 3]]]


# Times


ROUNDINGS = {"nearest": round, "floor": int}
CLOCKS = {
    # name: frames a second, tick, and what becomes of a frame's exact time
    "mp4 24": (Fraction(24), (1, 12288), None),
    "mp4 25": (Fraction(25), (1, 12800), None),
    "mp4 29.97": (Fraction(30000, 1001), (1, 30000), None),
    "mp4 30": (Fraction(30), (1, 15360), None),
    "mp4 60": (Fraction(60), (1, 15360), None),
    "ts 25": (Fraction(25), (1, 90000), None),
    "ts 23.976": (Fraction(24000, 1001), (1, 90000), "both"),
    "avi 29.97": (Fraction(30000, 1001), (1001, 30000), None),
    "mkv 15": (Fraction(15), (1, 1000), "both"),
    "mkv 24": (Fraction(24), (1, 1000), "both"),
    "mkv 29.97": (Fraction(30000, 1001), (1, 1000), "both"),
    "mkv 30": (Fraction(30), (1, 1000), "both"),
    "mkv 60": (Fraction(60), (1, 1000), "both"),
    "mkv 119.88": (Fraction(120000, 1001), (1, 1000), "both"),
}
FIRST_TIMES = [Fraction(0), Fraction(1, 3), Fraction(12345678, 977)]


def stored(number, rate, tick, first, rounding):
    """The pts that a container with that clock gives to a frame of a constant rate, the first shown at ``first``."""
    return rounding((first + number / rate) / Fraction(*tick))


def constant(clock):
    """Videos of a constant frame rate as a container stores them: several lengths, first times and segments."""
    rate, tick, rounded = CLOCKS[clock]
    for first in FIRST_TIMES:
        for rounding in ROUNDINGS.values() if rounded else [round]:
            if not rounded:
                first = round(first / Fraction(*tick)) * Fraction(*tick)
            for count in (1, 2, 3, 12, 13, 25, 97):
                segments = [start for start in (0, 5, 6, 48, 90) if start < count]
                keys = sorted({*segments, *range(0, count, 7)})
                pts = [stored(number, rate, tick, first, rounding) for number in range(count)]
                yield Times(pts, tick, segments, keys)


@pytest.mark.parametrize("align", [None, "keyframe"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_by_seconds_and_by_frames_is_the_same_where_the_rate_is_constant(clock, align):
    rate = CLOCKS[clock][0]
    videos = list(constant(clock))
    index, keyframes = make_index(videos)
    for num_frames in (1, 2, 5):
        for stride in (1, 2, 7):
            for hop in (None, 1, 5, 40):
                frames = Layout(ClipSpec(num_frames, stride, hop, align=align), index, keyframes)
                hop_seconds = None if hop is None else hop / rate
                spec = ClipSpec(num_frames, fps=rate / stride, hop_seconds=hop_seconds, align=align)
                seconds = Layout(spec, index, keyframes)
                assert seconds.num_clips.tolist() == frames.num_clips.tolist()
                assert seconds.first_clip.tolist() == frames.first_clip.tolist()
                assert (seconds.stop_frame >= frames.stop_frame).all()
                assert clips(seconds, videos) == clips(frames, videos)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_nothing_drifts_in_hours(clock, rounding):
    """A clip at every frame: each one's target is at its own frame, and not yet at the next one."""
    rate, tick, rounded = CLOCKS[clock]
    first, tolerance = (Fraction(1, 3), 1) if rounded else (Fraction(0), 0)
    grid = Grid.of(ClipSpec(1, fps=rate, hop_seconds=1 / rate), tick)
    origin = stored(0, rate, tick, first, ROUNDINGS[rounding])
    for number in (*range(100), *range(10**6, 10**6 + 100)):
        (target,) = grid.targets(number * grid.hop, 1)
        own, following = (stored(n, rate, tick, first, ROUNDINGS[rounding]) for n in (number, number + 1))
        assert own <= origin + target + tolerance < following


@st.composite
def uneven(draw):
    """A video whose frames last as they like, in segments."""
    steps = draw(st.lists(st.integers(1, 300), min_size=0, max_size=40))
    first = draw(st.integers(-500, 500))
    pts = np.cumsum([first, *steps]).tolist()
    starts = draw(st.sets(st.integers(0, len(pts) - 1), max_size=4)) | {0}
    keys = draw(st.sets(st.integers(0, len(pts) - 1), max_size=8)) | starts
    tick = draw(st.sampled_from([(1, 1000), (1, 600), (1001, 30000), (1, 90)]))
    return Times(pts, tick, sorted(starts), sorted(keys))


def tolerance_of(times):
    steps = set(np.diff(times.pts).tolist())
    length = times.pts[-1] - times.pts[0] + int(np.median(list(np.diff(times.pts))) if len(times.pts) > 1 else 0)
    even = len(steps) == 1 and len(times.pts) >= 64
    return int(not even and length >= 8 * len(times.pts)), max(length, 1)


def by_looking(spec, times):
    """(start in ticks, frames) of every clip, by the definition alone."""
    tick = Fraction(*times.time_base)
    tolerance, length = tolerance_of(times)
    number, found = 0, []
    while True:
        start = number * spec.hop_time / tick
        targets = [start + k * spec.frame_time / tick for k in range(spec.num_frames)]
        if not targets[-1] + 2 * tolerance < length:
            return found
        frames = [bisect_right(times.pts, times.pts[0] + target + tolerance) - 1 for target in targets]
        found.append((start, frames))
        number += 1


@law
@given(timed, st.lists(uneven(), min_size=1, max_size=4))
def test_every_frame_is_the_one_on_screen_and_each_clip_in_the_segment_of_its_start(spec, videos):
    for times in videos:
        assume((times.pts[-1] - times.pts[0]) * Fraction(*times.time_base) / spec.hop_time < 400)
    layout = Layout(spec, make_index(videos)[0])
    found = clips(layout, videos)
    row = 0
    for times in videos:
        tolerance, _ = tolerance_of(times)
        expected = by_looking(spec, times)
        for begin, end in pairwise([*times.segments, len(times.pts)]):
            low = times.pts[begin] - times.pts[0] if begin else -(10**9)
            high = times.pts[end] - times.pts[0] if end < len(times.pts) else 10**9
            own = [frames for start, frames in expected if low <= start + tolerance < high]
            assert found[row] == own
            last = max((frames[-1] for frames in own), default=-1)
            assert layout.stop_frame[row] > last
            if own:
                assert times.pts[last] <= layout.stop_pts[row]
                assert last + 1 == len(times.pts) or times.pts[last + 1] > layout.stop_pts[row]
            assert all(begin <= frames[0] < end for frames in own)
            row += 1


def test_frames_repeat_where_the_video_is_slower():
    times = Times([0, 100, 1100, 1150], (1, 1000))
    layout = Layout(ClipSpec(4, fps=4), make_index([times])[0])
    assert clips(layout, [times]) == [[[0, 1, 1, 1]]]


# Keyframes


@law
@given(specs_by_frames | timed, st.lists(uneven(), min_size=1, max_size=4))
def test_aligned_clips_start_at_the_first_keyframe_of_each_cell(spec, videos):
    by_time = spec.by_time
    pair = {"fps": spec.fps, "hop_seconds": spec.hop_seconds} if by_time else {"stride": spec.stride, "hop": spec.hop}
    spec = ClipSpec(spec.num_frames, **pair, align="keyframe")
    layout = Layout(spec, *make_index(videos))
    found = clips(layout, videos)
    row = 0
    for times in videos:
        tolerance, length = tolerance_of(times)
        cells = set()
        for begin, end in pairwise([*times.segments, len(times.pts)]):
            expected = []
            for key in times.keys:
                if not begin <= key < end:
                    continue
                tick = Fraction(*times.time_base)
                at = times.pts[key] - times.pts[0]
                cell = (at + tolerance) * tick // spec.hop_time if by_time else key // spec.hop_frames
                last = at + spec.extent_time / tick + 3 * tolerance if by_time else key + spec.extent - 1
                if cell not in cells and last < (length if by_time else len(times.pts)):
                    expected.append(key)
                cells.add(cell)
            assert [frames[0] for frames in found[row]] == expected
            for frames in found[row]:
                assert frames == sorted(frames)
                assert frames[-1] < layout.stop_frame[row]
            row += 1


# Jitter


@law
@given(specs_by_frames, segmented(), st.integers(0, 2**64 - 1))
def test_jitter_shifts_every_clip_of_a_video_alike_and_none_beyond_its_end(spec, videos, draw):
    plain = Layout(spec, make_index(videos)[0])
    layout = Layout(ClipSpec(spec.num_frames, spec.stride, spec.hop, jitter=True), make_index(videos)[0])
    assert layout.num_clips.tolist() == plain.num_clips.tolist()
    assert layout.clips_before.tolist() == plain.clips_before.tolist()
    shift = spec.hop_frames * draw >> 64
    rows = zip(clips(plain, videos), clips(layout, videos, epoch_draw=draw), layout.stop_frame.tolist(), strict=True)
    for segment, (before, after, stop) in enumerate(rows):
        count = len(videos[layout.index.video[segment]].pts)
        assert [frames[0] for frames in after] == [min(f[0] + shift, count - spec.extent) for f in before]
        assert [np.diff(frames).tolist() for frames in after] == [np.diff(frames).tolist() for frames in before]
        assert all(frames[-1] < stop for frames in after)


def test_jitter_reaches_everything_and_the_stretch_serves_every_shift():
    videos = [Times(range(40))]
    layout = Layout(ClipSpec(4, 1, 10, jitter=True), make_index(videos)[0])
    reached = {
        (number, clip[0])
        for draw in range(0, 2**64, 2**57)
        for number, clip in enumerate(clips(layout, videos, epoch_draw=draw)[0])
    }
    assert reached == {(n, min(10 * n + shift, 36)) for n in range(4) for shift in range(10)}
    assert layout.stop_frame.tolist() == [40]
    assert Layout(ClipSpec(4, 1, 10, jitter=True), make_index([Times(range(50))])[0]).stop_frame.tolist() == [50]


@law
@given(timed, st.lists(uneven(), min_size=1, max_size=3), st.integers(0, 2**64 - 1))
def test_jitter_in_seconds_is_an_exact_part_of_a_hop(spec, videos, draw):
    for times in videos:
        assume((times.pts[-1] - times.pts[0]) * Fraction(*times.time_base) / spec.hop_time < 400)
    shifted = ClipSpec(spec.num_frames, fps=spec.fps, hop_seconds=spec.hop_seconds, jitter=True)
    plain, layout = (Layout(each, make_index(videos)[0]) for each in (spec, shifted))
    assert layout.num_clips.tolist() == plain.num_clips.tolist()
    for segment, own in enumerate(clips(layout, videos, epoch_draw=draw)):
        times = videos[layout.index.video[segment]]
        grid = Grid.of(spec, times.time_base)
        assert 0 <= layout.shift(segment, draw) < grid.hop
        for number, frames in enumerate(own):
            before = layout.frames(segment, number, 0, lambda t=times: timeline(t))
            assert all(early <= late for early, late in zip(before, frames, strict=True))
            assert frames[-1] < layout.stop_frame[segment]
            assert times.pts[frames[-1]] <= layout.stop_pts[segment]
