"""Sizes, rotation and conversion of decoded pictures."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.errors import SpecError
from onetake.decode.scale import check_frame_size, converter, scaled_size
from onetake.decode.synthetic import read_number, write_numbered_video

law = settings(deadline=None, max_examples=150)

SIZES = [
    # frame_size, (height, width) of the picture -> scaled to
    (None, (720, 1280), (720, 1280)),
    (None, (95, 127), (95, 127)),
    (360, (720, 1280), (360, 640)),
    (360, (1280, 720), (640, 360)),
    (360, (720, 720), (360, 360)),
    (720, (360, 640), (720, 1280)),  # enlarged
    (256, (1080, 1920), (256, 455)),
    ((256, 256), (720, 1280), (256, 455)),
    ((256, 256), (1280, 720), (455, 256)),
    ((256, 456), (720, 1280), (256, 456)),
    ((360, 640), (720, 1280), (360, 640)),
    ((112, 112), (112, 112), (112, 112)),
    ((100, 50), (100, 400), (100, 400)),  # the height fits already: only cropped
    ((50, 100), (400, 100), (400, 100)),
    ((1, 1), (720, 1280), (1, 2)),
    ((3, 1000), (1000, 3), (333333, 1000)),
]


@pytest.mark.parametrize("frame_size, picture, expected", SIZES, ids=str)
def test_scaled_size(frame_size, picture, expected):
    assert scaled_size(frame_size, *picture) == expected


side = st.integers(1, 4000)


@law
@given(side, side, side, side)
def test_a_scaled_picture_covers_what_is_asked_and_fits_one_side(want_h, want_w, height, width):
    scaled_h, scaled_w = scaled_size((want_h, want_w), height, width)
    assert scaled_h >= want_h
    assert scaled_w >= want_w
    assert scaled_h == want_h or scaled_w == want_w
    assert abs(scaled_w * height - scaled_h * width) <= max(height, width) / 2  # aspect kept, but for rounding


@law
@given(side, side, side)
def test_an_int_is_the_short_side(short, height, width):
    assert min(scaled_size(short, height, width)) == short


GIVEN = [
    # from a user or a config file -> taken as
    (None, None),
    (224, 224),
    (1, 1),
    ((224, 320), (224, 320)),
    ([224, 320], (224, 320)),
]


@pytest.mark.parametrize("frame_size, taken", GIVEN, ids=str)
def test_frame_sizes_that_are_taken(frame_size, taken):
    assert check_frame_size(frame_size) == taken
    assert type(check_frame_size(frame_size)) is type(taken)


REFUSED = [0, -1, True, 2.0, "224", "native", (224,), (1, 2, 3), (0, 5), (5, -1), (5, None), (5.0, 5), (True, 5), {}]


@pytest.mark.parametrize("frame_size", REFUSED, ids=repr)
def test_frame_sizes_that_are_refused(frame_size):
    with pytest.raises(SpecError) as caught:
        check_frame_size(frame_size)
    assert str(caught.value) == (
        f"frame_size={frame_size!r}: must be (height, width), one int (the short side), or None (as in the video)"
    )


# Pictures


def pictures(path: Path, count: int) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return [frame for frame, _ in zip(container.decode(video=0), range(count), strict=False)]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> list[av.VideoFrame]:
    path = tmp_path_factory.mktemp("numbered") / "v.mp4"
    write_numbered_video(path, 12, width=160, height=96)
    return pictures(path, 12)


def made(height: int, width: int, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)


@pytest.mark.parametrize("shape", [(96, 128), (96, 126), (64, 98), (95, 127), (33, 65)], ids=str)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuvj420p", "rgb24", "gray"])
def test_native_conversion_is_that_of_to_ndarray(shape, pix_fmt):
    picture = made(*shape, pix_fmt)
    found = converter(None)(picture)
    assert (found.shape, found.dtype) == ((*shape, 3), np.uint8)
    assert np.array_equal(found, picture.to_ndarray(format="rgb24"))


def test_native_conversion_of_a_video(numbered):
    convert = converter(None)
    for number, picture in enumerate(numbered):
        assert np.array_equal(convert(picture), picture.to_ndarray(format="rgb24"))
        assert read_number(convert(picture)) == number


SHAPES = [
    # frame_size, rotation, picture -> shape
    ((48, 48), 0, (96, 128), (48, 48)),
    ((48, 48), 90, (96, 128), (48, 48)),
    ((47, 61), 0, (96, 128), (47, 61)),
    ((47, 61), 90, (96, 128), (47, 61)),
    ((47, 61), 180, (95, 127), (47, 61)),
    ((61, 47), 270, (95, 127), (61, 47)),
    ((1, 1), 0, (96, 128), (1, 1)),
    ((200, 100), 0, (96, 128), (200, 100)),
    ((200, 101), 90, (33, 65), (200, 101)),
    (48, 0, (96, 128), (48, 64)),
    (48, 90, (96, 128), (64, 48)),
    (48, 270, (96, 128), (64, 48)),
    (33, 0, (95, 127), (33, 44)),
    (None, 0, (95, 127), (95, 127)),
    (None, 90, (95, 127), (127, 95)),
    (None, 180, (95, 127), (95, 127)),
]


@pytest.mark.parametrize("frame_size, rotation, picture, expected", SHAPES, ids=str)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_output_shapes(frame_size, rotation, picture, expected, pix_fmt):
    found = converter(frame_size, rotation)(made(*picture, pix_fmt))
    assert (found.shape, found.dtype) == ((*expected, 3), np.uint8)


@pytest.mark.parametrize("rotation, quarters", [(0, 0), (90, -1), (180, -2), (270, -3)])
def test_rotation_is_clockwise(numbered, rotation, quarters):
    upright = converter(None)(numbered[5])
    assert np.array_equal(converter(None, rotation)(numbered[5]), np.rot90(upright, quarters))


@pytest.mark.parametrize("rotation, quarters", [(90, -1), (180, -2), (270, -3)])
def test_rotation_comes_after_scaling(numbered, rotation, quarters):
    small = converter(48)(numbered[5])
    assert np.array_equal(converter(48, rotation)(numbered[5]), np.rot90(small, quarters))


@pytest.mark.parametrize("frame_size", [48, 64, 96, 144, (48, 80), (96, 160), (50, 83)], ids=str)
def test_scaled_frames_still_read_their_number(numbered, frame_size):
    convert = converter(frame_size)
    assert [read_number(convert(picture)) for picture in numbered] == list(range(12))


def test_the_crop_is_the_middle(numbered):
    whole = converter(None)(numbered[3])
    assert np.array_equal(converter((96, 100))(numbered[3]), whole[:, 30:130])
    assert np.array_equal(converter((96, 101))(numbered[3]), whole[:, 29:130])
    small = converter(48)(numbered[3])
    assert np.array_equal(converter((48, 48))(numbered[3]), small[:, 16:64])


def test_scaling_averages_areas():
    flat = np.zeros((64, 64, 3), np.uint8)
    flat[:, ::2] = 255  # thin stripes: any other way than averaging shows some of them
    picture = av.VideoFrame.from_ndarray(flat, format="rgb24").reformat(format="yuv444p")
    found = converter(16)(picture)
    assert found.min() > 120
    assert found.max() < 136


def test_a_converter_follows_a_change_of_size_and_format():
    convert = converter((32, 32))
    for shape, pix_fmt in (((96, 128), "yuv420p"), ((64, 64), "yuv444p"), ((48, 200), "yuv420p10le")):
        assert convert(made(*shape, pix_fmt)).shape == (32, 32, 3)


def test_pixels_are_the_callers_own(numbered):
    convert = converter((48, 48), 90)
    first = convert(numbered[0])
    kept = first.copy()
    convert(numbered[7])
    assert np.array_equal(first, kept)
