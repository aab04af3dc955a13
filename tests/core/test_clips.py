"""Which clips a spec means: what it refuses, what it takes for the same, and counting one by one."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.clips import ClipSpec
from onetake.core.errors import OnetakeError, SpecError
from tests.core.grids import specs_by_frames

law = settings(max_examples=150)


def starts(spec: ClipSpec, video_frames: int) -> list[int]:
    """Every start on the grid whose clip ends inside the video, found by walking."""
    return [start for start in range(0, video_frames, spec.hop_frames) if start + spec.extent <= video_frames]


FRAMES_OR_SECONDS = (
    "clips are counted in frames (stride=, hop=) or in seconds (fps=, hop_seconds=): leave out one of the two pairs, "
    "or set it to None"
)
NUMBER = "must be a number, or a text such as '30000/1001'"
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
    ({"num_frames": 4, "stride": 1.5}, f"ClipSpec(stride=1.5): {WHOLE}"),
    ({"num_frames": 4, "stride": False}, f"ClipSpec(stride=False): {WHOLE}"),
    ({"num_frames": 4, "stride": 2**60}, f"ClipSpec(stride={2**60}): must be at most 2147483647"),
    ({"num_frames": 4, "hop": 0}, "ClipSpec(hop=0): must be at least 1"),
    ({"num_frames": 4, "hop": -1}, "ClipSpec(hop=-1): must be at least 1"),
    ({"num_frames": 4, "hop": float("nan")}, f"ClipSpec(hop=nan): {WHOLE}"),
    ({"num_frames": 4, "hop": [1]}, f"ClipSpec(hop=[1]): {WHOLE}"),
    ({"num_frames": 4, "hop": 10**30}, f"ClipSpec(hop={10**30}): must be at most 2147483647"),
    ({"num_frames": 4, "fps": 8, "stride": 2}, f"ClipSpec(stride=2, fps=8): {FRAMES_OR_SECONDS}"),
    ({"num_frames": 4, "fps": 8, "hop": 2}, f"ClipSpec(hop=2, fps=8): {FRAMES_OR_SECONDS}"),
    (
        {"num_frames": 4, "stride": 2, "hop_seconds": 1.5},
        f"ClipSpec(stride=2, hop_seconds=1.5): {FRAMES_OR_SECONDS}",
    ),
    (
        {"num_frames": 4, "hop_seconds": 2},
        "ClipSpec(hop_seconds=2): hop_seconds= needs fps=; clips counted in frames have hop=",
    ),
    ({"num_frames": 4, "fps": 0}, "ClipSpec(fps=0): must be from 1e-09 to 1e+06"),
    ({"num_frames": 4, "fps": -8}, "ClipSpec(fps=-8): must be from 1e-09 to 1e+06"),
    ({"num_frames": 4, "fps": 10**7}, "ClipSpec(fps=10000000): must be from 1e-09 to 1e+06"),
    ({"num_frames": 4, "fps": True}, f"ClipSpec(fps=True): {NUMBER}"),
    ({"num_frames": 4, "fps": "fast"}, f"ClipSpec(fps='fast'): {NUMBER}"),
    ({"num_frames": 4, "fps": "30/0"}, f"ClipSpec(fps='30/0'): {NUMBER}"),
    ({"num_frames": 4, "fps": float("nan")}, f"ClipSpec(fps=nan): {NUMBER}"),
    ({"num_frames": 4, "fps": [8]}, f"ClipSpec(fps=[8]): {NUMBER}"),
    ({"num_frames": 4, "fps": 8, "hop_seconds": 0}, "ClipSpec(hop_seconds=0): must be from 1e-06 to 1e+09"),
    (
        {"num_frames": 4, "fps": 8, "hop_seconds": float("inf")},
        "ClipSpec(hop_seconds=inf): must be a number, or a text",
    ),
    ({"num_frames": 4, "clips_per_video": 0}, "ClipSpec(clips_per_video=0): must be at least 1"),
    (
        {"num_frames": 4, "clips_per_video": 1.5},
        "ClipSpec(clips_per_video=1.5): must be a whole number of clips, at least 1",
    ),
    ({"num_frames": 4, "align": "key"}, "ClipSpec(align='key'): must be 'keyframe', or None"),
    ({"num_frames": 4, "jitter": 1}, "ClipSpec(jitter=1): must be True or False"),
    ({"num_frames": 4, "jitter": True, "align": "keyframe"}, "keyframes stay where they are: give one of the two"),
]


@pytest.mark.parametrize("arguments, message", REFUSED, ids=[str(a) for a, _ in REFUSED])
def test_impossible_specs_name_the_argument_and_its_value(arguments, message):
    with pytest.raises(SpecError) as caught:
        ClipSpec(**arguments)
    assert message in str(caught.value)
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
    assert ClipSpec(4, fps=np.float32(29.97)).frame_time == Fraction(100, 2997)
    assert ClipSpec(4, fps=np.int64(8)) == ClipSpec(4, fps=8)


def test_specs_that_mean_the_same_have_the_same_dict():
    assert ClipSpec(4, 3).to_dict() == ClipSpec(4, 3, 12).to_dict() == {"num_frames": 4, "stride": 3, "hop": 12}
    assert ClipSpec(4, 3).to_dict() != ClipSpec(4, 3, 11).to_dict()
    assert ClipSpec(16) == ClipSpec(16, 1) == ClipSpec(16, stride=None)
    assert ClipSpec(16).to_dict() == {"num_frames": 16, "stride": 1, "hop": 16}
    assert hash(ClipSpec(4, fps=8)) == hash(ClipSpec(4, fps="8"))


SAME_RATE = [
    (8, "8"),
    (8.0, 8),
    (29.97, "29.97"),
    (29.97, Fraction(2997, 100)),
    (0.1, Fraction(1, 10)),
    (1e-05, Fraction(1, 100_000)),
    ("30000/1001", Fraction(30000, 1001)),
    (np.float64(23.976), "23.976"),
]


@pytest.mark.parametrize("one, other", SAME_RATE, ids=str)
def test_a_rate_is_the_number_that_is_printed(one, other):
    assert ClipSpec(4, fps=one) == ClipSpec(4, fps=other)
    assert ClipSpec(4, fps=one).to_dict() == ClipSpec(4, fps=other).to_dict()


def test_a_spec_in_seconds_has_plain_values_too():
    spec = ClipSpec(16, fps="30000/1001", hop_seconds=0.1)
    assert spec.to_dict() == {"num_frames": 16, "fps": "30000/1001", "hop_seconds": "1/10"}
    assert ClipSpec(16, fps=8).to_dict() == ClipSpec(16, fps=8, hop_seconds=2).to_dict()
    assert (spec.frame_time, spec.extent_time) == (Fraction(1001, 30000), 15 * Fraction(1001, 30000))
    assert ClipSpec(16, fps=8).hop_time == 2


def test_what_else_a_spec_says_is_in_its_dict_where_it_is_said():
    spec = ClipSpec(16, 4, clips_per_video=2, align="keyframe")
    assert spec.to_dict() == {"num_frames": 16, "stride": 4, "hop": 64, "clips_per_video": 2, "align": "keyframe"}
    assert ClipSpec(16, 4, jitter=True).to_dict() == {"num_frames": 16, "stride": 4, "hop": 64, "jitter": True}


def test_a_spec_survives_pickling():
    spec = ClipSpec(16, fps=29.97, hop_seconds="1/3", clips_per_video=3, jitter=True)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_spec_is_frozen_and_hashable():
    with pytest.raises(AttributeError):
        ClipSpec(4).num_frames = 5
    assert len({ClipSpec(4), ClipSpec(4, 1), ClipSpec(4, 2)}) == 2


@law
@given(specs_by_frames, st.integers(0, 300))
def test_num_clips_is_what_walking_finds(spec, video_frames):
    found = starts(spec, video_frames)
    assert spec.num_clips(video_frames) == len(found)
    assert [spec.start_frame(i) for i in range(len(found))] == found
