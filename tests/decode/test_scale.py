"""Sizes, rotation and conversion of decoded pictures."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import resize

from onetake.core.errors import OnetakeError, SpecError
from onetake.decode.scale import SCALINGS, check_frame_size, check_scaling, converter, scaled_size
from onetake.decode.synthetic import read_number, write_numbered_video

law = settings(max_examples=150)

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


def test_scalings_that_are_taken():
    assert [check_scaling(value) for value in SCALINGS] == ["fast", "exact"]


@pytest.mark.parametrize("value", [None, "", "Fast", "bilinear", 1, True, ("fast",), {}], ids=repr)
def test_scalings_that_are_refused(value):
    with pytest.raises(SpecError) as caught:
        check_scaling(value)
    assert str(caught.value) == (
        f"scaling={value!r}: must be 'fast', or 'exact' (nearer to a resize of the RGB frames, and slower)"
    )


# Pictures

both_scalings = pytest.mark.parametrize("scaling", SCALINGS)


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
@both_scalings
def test_native_conversion_is_that_of_to_ndarray(shape, pix_fmt, scaling):
    picture = made(*shape, pix_fmt)
    found = converter(None, scaling=scaling)(picture)
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
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le", "yuvj422p", "gray", "gbrp"])
@both_scalings
def test_output_shapes(frame_size, rotation, picture, expected, pix_fmt, scaling):
    found = converter(frame_size, rotation, scaling)(made(*picture, pix_fmt))
    assert (found.shape, found.dtype) == ((*expected, 3), np.uint8)


@pytest.mark.parametrize("rotation, quarters", [(0, 0), (90, -1), (180, -2), (270, -3)])
def test_rotation_is_clockwise(numbered, rotation, quarters):
    upright = converter(None)(numbered[5])
    assert np.array_equal(converter(None, rotation)(numbered[5]), np.rot90(upright, quarters))


@pytest.mark.parametrize("rotation, quarters", [(90, -1), (180, -2), (270, -3)])
@both_scalings
def test_rotation_comes_after_scaling(numbered, rotation, quarters, scaling):
    small = converter(48, scaling=scaling)(numbered[5])
    assert np.array_equal(converter(48, rotation, scaling)(numbered[5]), np.rot90(small, quarters))


@pytest.mark.parametrize("frame_size", [48, 64, 96, 144, (48, 80), (96, 160), (50, 83)], ids=str)
@both_scalings
def test_scaled_frames_still_read_their_number(numbered, frame_size, scaling):
    convert = converter(frame_size, scaling=scaling)
    assert [read_number(convert(picture)) for picture in numbered] == list(range(12))


@both_scalings
def test_the_crop_is_the_middle(numbered, scaling):
    whole = converter(None, scaling=scaling)(numbered[3])
    assert np.array_equal(converter((96, 100), scaling=scaling)(numbered[3]), whole[:, 30:130])
    assert np.array_equal(converter((96, 101), scaling=scaling)(numbered[3]), whole[:, 29:130])
    small = converter(48, scaling=scaling)(numbered[3])
    assert np.array_equal(converter((48, 48), scaling=scaling)(numbered[3]), small[:, 16:64])


@both_scalings
def test_scaling_down_leaves_no_alias(scaling):
    flat = np.zeros((64, 64, 3), np.uint8)
    flat[:, ::2] = 255  # thin stripes: without averaging, some of them show
    picture = av.VideoFrame.from_ndarray(flat, format="rgb24").reformat(format="yuv444p")
    found = converter(16, scaling=scaling)(picture)[:, 1:-1]  # beyond the border, its own pixels are repeated
    assert found.min() > 124
    assert found.max() < 132


def blocks(height: int, width: int, pix_fmt: str) -> av.VideoFrame:
    """Blocks of any colour, eight pixels wide, with some noise."""
    rng = np.random.default_rng(1)
    colours = rng.integers(20, 236, (-(-height // 8), -(-width // 8), 3))
    rgb = np.kron(colours, np.ones((8, 8, 1), int))[:height, :width] + rng.integers(-15, 16, (height, width, 3))
    careful = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    whole = av.VideoFrame.from_ndarray(rgb.clip(0, 255).astype(np.uint8), format="rgb24")
    return whole.reformat(format=pix_fmt, interpolation=careful)


def mean_error(found: np.ndarray, picture: av.VideoFrame) -> float:
    """From torchvision's antialiased resize, in float, of the whole RGB picture."""
    rgb = torch.from_numpy(picture.to_ndarray(format="rgb24")).permute(2, 0, 1).float()
    careful = resize(rgb, list(found.shape[:2]), antialias=True).permute(1, 2, 0).numpy()
    return float(np.abs(found - careful).mean())


RESIZES = [
    # picture, short side
    ((270, 480), 96),
    ((270, 480), 31),  # far
    ((135, 241), 96),  # by little
    ((95, 127), 96),  # by next to nothing
    ((67, 121), 96),  # enlarged
    ((121, 67), 50),
]


@pytest.mark.parametrize("shape, side", RESIZES, ids=str)
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "gbrp", "rgb24"]
)
def test_exact_scaling_is_an_antialiased_resize_of_the_rgb_picture(shape, side, pix_fmt):
    picture = blocks(*shape, pix_fmt)
    found = converter(side, scaling="exact")(picture)
    assert mean_error(found, picture) <= (0.3 if min(shape) < 2 * side else 0.5)  # far down, borders weigh more


@pytest.mark.parametrize("shape, side", RESIZES, ids=str)
@pytest.mark.parametrize("pix_fmt, most", [("yuv444p", 0.8), ("yuv444p10le", 1.5), ("gray", 0.5), ("gbrp", 0.5)])
def test_fast_scaling_is_near_it_where_chroma_is_whole(shape, side, pix_fmt, most):
    picture = blocks(*shape, pix_fmt)
    assert mean_error(converter(side)(picture), picture) <= most


@pytest.mark.parametrize("shape, side", RESIZES, ids=str)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv420p10le"])
def test_fast_scaling_blurs_nothing_but_colour(shape, side, pix_fmt):
    picture = blocks(*shape, pix_fmt)
    luma = np.array([0.299, 0.587, 0.114])
    found, exact = (converter(side, scaling=scaling)(picture) @ luma for scaling in SCALINGS)
    assert np.abs(found - exact).mean() < 3


def test_fast_scaling_keeps_more_colour_than_scaled_420_holds():
    picture = blocks(270, 480, "yuv420p")
    scaled = picture.reformat(width=171, height=96, interpolation=Interpolation.BILINEAR)
    assert scaled.format.name == "yuv420p"
    assert mean_error(converter(96)(picture), picture) < 0.8 * mean_error(scaled.to_ndarray(format="rgb24"), picture)


@both_scalings
def test_a_converter_follows_a_change_of_size_format_and_tags(scaling):
    convert = converter((32, 32), 90, scaling)
    for shape, pix_fmt in (
        ((96, 128), "yuv420p"),
        ((64, 64), "yuv444p"),
        ((48, 200), "yuv420p10le"),
        ((48, 200), "gbrp"),
        ((32, 32), "gray"),
        ((33, 35), "yuvj422p"),
        ((96, 128), "yuv420p"),
    ):
        for tag in (2, 1, 9):
            picture = made(*shape, pix_fmt)
            picture.colorspace = tag if pix_fmt.startswith("yuv") else 2
            alone = converter((32, 32), 90, scaling)(picture)
            assert alone.shape == (32, 32, 3)
            assert np.array_equal(convert(picture), alone)


@both_scalings
def test_a_size_that_cannot_be_made_is_an_error(scaling):
    message = r"a picture of 4 x 1000, yuv420p: cannot be scaled to 1000 x 250000 .*; name another frame_size"
    with pytest.raises(OnetakeError, match=message):
        converter((3, 1000), scaling=scaling)(made(1000, 4))


@both_scalings
def test_pixels_are_the_callers_own(numbered, scaling):
    convert = converter((48, 48), 90, scaling)
    first = convert(numbered[0])
    kept = first.copy()
    convert(numbered[7])
    assert np.array_equal(first, kept)
