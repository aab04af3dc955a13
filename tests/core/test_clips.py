"""The grid of clips over a video, and how it is shared out over segments, against counting one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.clips import MAX_FRAMES, ClipSpec, clips_of_segments
from onetake.core.errors import OnetakeError, SpecError

law = settings(deadline=None, max_examples=150)

specs = st.builds(
    ClipSpec,
    num_frames=st.integers(1, 12),
    stride=st.integers(1, 6),
    hop=st.none() | st.integers(1, 60),
)


def starts(spec: ClipSpec, video_frames: int) -> list[int]:
    """Every start on the grid whose clip ends inside the video, found by walking."""
    return [start for start in range(0, video_frames, spec.hop_frames) if start + spec.extent <= video_frames]


WHOLE = "must be a whole number of frames, at least 1"
REFUSED = [
    ({"num_frames": 0}, "ClipSpec(num_frames=0): must be at least 1"),
    ({"num_frames": -3}, "ClipSpec(num_frames=-3): must be at least 1"),
    ({"num_frames": None}, f"ClipSpec(num_frames=None): {WHOLE}"),
    ({"num_frames": True}, f"ClipSpec(num_frames=True): {WHOLE}"),
    ({"num_frames": 16.0}, f"ClipSpec(num_frames=16.0): {WHOLE}"),
    ({"num_frames": "16"}, f"ClipSpec(num_frames='16'): {WHOLE}"),
    ({"num_frames": 2**31}, "ClipSpec(num_frames=2147483648): must be at most 2147483647"),
    ({"num_frames": 4, "stride": 0}, "ClipSpec(stride=0): must be at least 1"),
    ({"num_frames": 4, "stride": None}, f"ClipSpec(stride=None): {WHOLE}"),
    ({"num_frames": 4, "stride": 1.5}, f"ClipSpec(stride=1.5): {WHOLE}"),
    ({"num_frames": 4, "stride": False}, f"ClipSpec(stride=False): {WHOLE}"),
    ({"num_frames": 4, "stride": 2**60}, f"ClipSpec(stride={2**60}): must be at most 2147483647"),
    ({"num_frames": 4, "hop": 0}, "ClipSpec(hop=0): must be at least 1"),
    ({"num_frames": 4, "hop": -1}, "ClipSpec(hop=-1): must be at least 1"),
    ({"num_frames": 4, "hop": float("nan")}, f"ClipSpec(hop=nan): {WHOLE}"),
    ({"num_frames": 4, "hop": [1]}, f"ClipSpec(hop=[1]): {WHOLE}"),
    ({"num_frames": 4, "hop": 10**30}, f"ClipSpec(hop={10**30}): must be at most 2147483647"),
]


@pytest.mark.parametrize("arguments, message", REFUSED, ids=[str(a) for a, _ in REFUSED])
def test_impossible_specs_name_the_argument_and_its_value(arguments, message):
    with pytest.raises(SpecError) as caught:
        ClipSpec(**arguments)
    assert str(caught.value) == message
    assert isinstance(caught.value, (OnetakeError, ValueError))


SHAPES = [
    # spec                           extent, hop, frames of the clip at 10
    (ClipSpec(1), 1, 1, [10]),
    (ClipSpec(4), 4, 4, [10, 11, 12, 13]),
    (ClipSpec(4, 3), 10, 12, [10, 13, 16, 19]),
    (ClipSpec(4, 3, 1), 10, 1, [10, 13, 16, 19]),
    (ClipSpec(2, 5, hop=100), 6, 100, [10, 15]),
]


@pytest.mark.parametrize("spec, extent, hop, frames", SHAPES, ids=[str(row[0]) for row in SHAPES])
def test_extent_hop_and_frames(spec, extent, hop, frames):
    assert (spec.extent, spec.hop_frames) == (extent, hop)
    assert spec.frame_index(10).tolist() == frames
    assert spec.frame_index(10).dtype == np.int64
    assert [spec.start_frame(i) for i in range(3)] == [0, hop, 2 * hop]


def test_numbers_of_numpy_are_taken_and_become_plain():
    spec = ClipSpec(np.int64(4), np.uint8(3), np.int32(7))
    assert spec == ClipSpec(4, 3, 7)
    assert [type(value) for value in spec.to_dict().values()] == [int, int, int]


def test_specs_that_mean_the_same_have_the_same_dict():
    assert ClipSpec(4, 3).to_dict() == ClipSpec(4, 3, 12).to_dict() == {"num_frames": 4, "stride": 3, "hop": 12}
    assert ClipSpec(4, 3).to_dict() != ClipSpec(4, 3, 11).to_dict()


def test_a_spec_is_frozen_and_hashable():
    with pytest.raises(AttributeError):
        ClipSpec(4).num_frames = 5
    assert len({ClipSpec(4), ClipSpec(4, 1), ClipSpec(4, 2)}) == 2


@law
@given(specs, st.integers(0, 300))
def test_num_clips_is_what_walking_finds(spec, video_frames):
    found = starts(spec, video_frames)
    assert spec.num_clips(video_frames) == len(found)
    assert [spec.start_frame(i) for i in range(len(found))] == found


@st.composite
def segmentations(draw):
    """Videos as lists of segment lengths; short ones, and segments shorter than a clip, among them."""
    return draw(st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=6), min_size=1, max_size=5))


@law
@given(specs, segmentations())
def test_each_clip_is_in_the_one_segment_it_starts_in(spec, videos):
    first, length, total = [], [], []
    for segments in videos:
        first += np.cumsum([0, *segments[:-1]]).tolist()
        length += segments
        total += [sum(segments)] * len(segments)
    clips = clips_of_segments(spec, *(np.array(column, np.int64) for column in (first, length, total)))
    row = 0
    for segments in videos:
        given_out = []
        for _ in segments:
            begin, stop = first[row], first[row] + length[row]
            expected = [start for start in starts(spec, sum(segments)) if begin <= start < stop]
            numbers = range(clips.first_clip[row], clips.first_clip[row] + clips.num_clips[row])
            assert [spec.start_frame(number) for number in numbers] == expected
            assert clips.stop_frame[row] == (expected[-1] + spec.extent if expected else 0)
            given_out += numbers
            row += 1
        assert given_out == list(range(spec.num_clips(sum(segments))))


TOO_SHORT = [
    # segments, spec, clips per segment, stop frames
    ([9], ClipSpec(4, 3), [0], [0]),
    ([10], ClipSpec(4, 3), [1], [10]),
    ([5, 5], ClipSpec(4, 3), [1, 0], [10, 0]),
    ([5, 4], ClipSpec(4, 3), [0, 0], [0, 0]),
    ([1], ClipSpec(1), [1], [1]),
    ([10, 10], ClipSpec(4, 3, 1), [10, 1], [19, 20]),
    ([12, 12, 6], ClipSpec(4, 3), [1, 1, 0], [10, 22, 0]),
]


@pytest.mark.parametrize("segments, spec, counts, stops", TOO_SHORT, ids=str)
def test_clips_at_the_end_of_a_video(segments, spec, counts, stops):
    lengths = np.array(segments, np.int64)
    clips = clips_of_segments(spec, np.cumsum(lengths) - lengths, lengths, np.full_like(lengths, lengths.sum()))
    assert (clips.num_clips.tolist(), clips.stop_frame.tolist()) == (counts, stops)


def test_the_largest_spec_does_not_overflow():
    spec = ClipSpec(MAX_FRAMES, MAX_FRAMES, MAX_FRAMES)
    one = np.array([10**6], np.int64)
    assert clips_of_segments(spec, 0 * one, one, one).num_clips.tolist() == [0] == [spec.num_clips(10**6)]
