"""Colours: each picture's own matrix and range, against the textbook's formula in float."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, ColorTrc

from onetake.core.errors import OnetakeError, SpecError
from onetake.decode.colour import COLOR_MATRICES, check_color_matrix, colour_tags, hdr_name, not_convertible
from onetake.decode.scale import SCALINGS, converter

HEIGHT, WIDTH = 64, 96
UNTAGGED = 2  # AVColorSpace's "unspecified"
# name: (value of the tag, weights of red and blue in luma)
MATRICES = {
    "bt601": (6, 0.299, 0.114),
    "bt709": (1, 0.2126, 0.0722),
    "bt2020": (9, 0.2627, 0.0593),
    "smpte240m": (7, 0.212, 0.087),
    "fcc": (4, 0.30, 0.11),
}
FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
# Y, Cb, Cr: red, blue, green, a purple, gray; none leaves the range of RGB by much in any matrix
COLOURS = [(81, 90, 220), (50, 220, 110), (145, 74, 64), (120, 150, 150), (180, 128, 128)]


def rgb_of(colour: tuple[int, int, int], matrix: str, full: bool) -> np.ndarray:
    """By the textbook: float [3], 0 to 255, of 8-bit codes."""
    _, red, blue = MATRICES[matrix]
    y, cb, cr = ((c - o) / s for c, o, s in zip(colour, *([0, 128, 128], [255] * 3), strict=True)) if full else (
        (c - o) / s for c, o, s in zip(colour, [16, 128, 128], [219, 224, 224], strict=True)
    )  # fmt: skip
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.array([r, g, b]) * 255, 0, 255)


def flat(pix_fmt: str, colour: tuple[int, ...], tag: int = UNTAGGED, color_range: int = 0) -> av.VideoFrame:
    """A picture of one colour, given in 8-bit codes."""
    picture = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
    for plane, code in zip(picture.planes, colour, strict=False):
        deep = "10" in pix_fmt
        plane.update(
            np.full(plane.buffer_size // (1 + deep), code * (4 if deep else 1), np.uint16 if deep else np.uint8)
        )
    picture.colorspace, picture.color_range = tag, color_range
    return picture


def most_apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(float) - expected).max())


def tolerance(pix_fmt: str, full: bool) -> float:
    """FFmpeg's fast conversion rounds down at several places, of limited range most."""
    return 1.3 if "444" in pix_fmt else 2.2 if full else 3.2


# Tagged


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG], ids=["limited", "full"])
def test_a_tagged_picture_is_converted_by_its_tags(pix_fmt, matrix, color_range, scaling):
    full = color_range == ColorRange.JPEG or pix_fmt.startswith("yuvj")
    tag = MATRICES[matrix][0]
    for colour in COLOURS:
        picture = flat(pix_fmt, colour, tag, color_range)
        expected = rgb_of(colour, matrix, full)
        for frame_size in (None, 24, (20, 30), 90):
            found = converter(frame_size, 0, scaling)(picture)
            assert most_apart(found, expected) <= tolerance(pix_fmt, full), (colour, frame_size)
        assert (int(picture.colorspace), int(picture.color_range)) == (tag, color_range)  # left as they were


def test_matrices_and_ranges_are_far_enough_apart_to_be_told_from_each_other():
    for colour in COLOURS[:3]:
        for full in (False, True):
            right = {name: rgb_of(colour, name, full) for name in ("bt601", "bt709", "bt2020")}
            assert most_apart(right["bt601"], right["bt709"]) > 7
            assert most_apart(right["bt709"], right["bt2020"]) > 3.5
        assert most_apart(rgb_of(colour, "bt709", False), rgb_of(colour, "bt709", True)) > 7


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_tag_is_not_overridden(pix_fmt, scaling):
    for frame_size in (None, 24):
        picture = flat(pix_fmt, COLOURS[0], MATRICES["bt709"][0])
        expected = converter(frame_size, 0, scaling)(picture)
        for color_matrix in COLOR_MATRICES:
            assert np.array_equal(converter(frame_size, 0, scaling, color_matrix)(picture), expected)


# Not tagged


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("color_matrix", [None, *COLOR_MATRICES])
@pytest.mark.parametrize(
    "tag", [UNTAGGED, 0, 3], ids=["unspecified", "rgb", "reserved"]
)  # the others make no sense here
def test_an_untagged_picture_is_bt601_and_limited_or_what_it_is_said_to_be(pix_fmt, scaling, color_matrix, tag):
    full = pix_fmt.startswith("yuvj")
    for colour in COLOURS:
        picture = flat(pix_fmt, colour, tag)
        for frame_size in (None, 24, 90):
            found = converter(frame_size, 0, scaling, color_matrix)(picture)
            expected = rgb_of(colour, color_matrix or "bt601", full)
            assert most_apart(found, expected) <= tolerance(pix_fmt, full), (colour, frame_size)


@pytest.mark.parametrize("tag", [UNTAGGED, *(tag for tag, *_ in MATRICES.values()), 0, 5])
@pytest.mark.parametrize("color_range", [0, 1, 2])
@pytest.mark.parametrize("pix_fmt", [*FORMATS, "yuv411p", "nv12", "gbrp", "rgb24"])
def test_native_pixels_are_those_of_to_ndarray(pix_fmt, tag, color_range):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)
    picture.colorspace, picture.color_range = tag, color_range
    for scaling in SCALINGS:
        assert np.array_equal(converter(None, 0, scaling)(picture), picture.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("pix_fmt, deep", [("gray", 1), ("gray10le", 4)])
@pytest.mark.parametrize("frame_size", [None, 24])
def test_gray_is_full_range_unless_it_says_otherwise(pix_fmt, deep, frame_size):
    """FFmpeg's scaler leaves limited gray as it is: black would be 16."""
    convert = converter(frame_size)
    for color_range, codes in (
        (0, {16: 16, 235: 235}),
        (2, {16: 16, 235: 235}),
        (1, {0: 0, 16: 0, 126: 128, 235: 255}),
    ):
        for code, expected in codes.items():
            assert most_apart(convert(flat(pix_fmt, (code,), UNTAGGED, color_range)), np.array([expected] * 3)) <= 1


# Files


def encode(path: Path, codec: str, pix_fmt: str, colour, matrix: str | None, full: bool | None, trc: int = 0) -> Path:
    tag = UNTAGGED if matrix is None else MATRICES[matrix][0]
    color_range = 0 if full is None else 1 + full
    with av.open(str(path), "w") as container:
        options = {"x265-params": "log-level=error"} if codec == "libx265" else {"crf": "1"}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range = tag, color_range
        if trc:
            context.color_trc = trc
        for number in range(3):
            picture = flat(pix_fmt, colour, tag, color_range)
            if trc:
                picture.color_trc = trc
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


FILES = [
    # codec, pixel format, matrix, full range -> tags
    ("libx264", "yuv420p", None, None, ("", "")),
    ("libx264", "yuv420p", "bt709", False, ("bt709", "limited")),
    ("libx264", "yuv420p", "bt601", False, ("bt601", "limited")),
    ("libx264", "yuvj420p", "bt709", True, ("bt709", "full")),
    ("libx264", "yuv422p", "smpte240m", False, ("smpte240m", "limited")),
    ("libx264", "yuv444p", "bt709", True, ("bt709", "full")),
    ("libx264", "yuv420p10le", "bt2020", False, ("bt2020", "limited")),
    ("libx265", "yuv420p", "bt709", False, ("bt709", "limited")),
    ("libx265", "yuv420p10le", "bt2020", True, ("bt2020", "full")),
    ("libvpx-vp9", "yuv420p", "bt709", False, ("bt709", "limited")),
]


@pytest.mark.parametrize("codec, pix_fmt, matrix, full, tags", FILES)
def test_tags_of_a_file_come_through(tmp_path, codec, pix_fmt, matrix, full, tags):
    colour = COLOURS[3]
    path = encode(tmp_path / "v.mp4", codec, pix_fmt, colour, matrix, full)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert len(decoded) == 3
    for picture in decoded:
        assert colour_tags(picture) == tags
        for scaling in SCALINGS:
            for frame_size in (None, 32):
                found = converter(frame_size, 0, scaling)(picture)
                assert most_apart(found, rgb_of(colour, matrix or "bt601", bool(full))) <= 4.5  # coding costs some


@pytest.mark.parametrize(
    "trc, name", [(0, ""), (ColorTrc.BT709, ""), (ColorTrc.SMPTE2084, "PQ"), (ColorTrc.ARIB_STD_B67, "HLG")]
)
def test_hdr_is_named(tmp_path, trc, name):
    path = encode(tmp_path / "v.mp4", "libx265", "yuv420p10le", COLOURS[3], "bt2020", False, trc)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
        assert hdr_name(picture) == name
        assert hdr_name(container.streams.video[0].codec_context) == name
    before = picture.color_trc
    assert most_apart(converter(32)(picture), rgb_of(COLOURS[3], "bt2020", False)) <= 4.5  # its tones are left alone
    assert picture.color_trc == before


# What can't be


@pytest.mark.parametrize("tag, name", [(8, "ycgco"), (10, "bt2020c"), (14, "ictcp"), (13, "chroma-derived-c")])
def test_a_matrix_that_ffmpeg_cannot_convert_is_an_error(tag, name):
    picture = flat("yuv420p", COLOURS[0], tag)
    assert colour_tags(picture) == (name, "")
    reason = (
        f"its colour matrix, {name}, cannot be turned to RGB; encode it again in one of {', '.join(COLOR_MATRICES)}"
    )
    assert not_convertible(picture) == reason
    for scaling in SCALINGS:
        for frame_size in (None, 24):
            with pytest.raises(OnetakeError, match=re.escape(f"a picture of 96 x 64, yuv420p: {reason}")):
                converter(frame_size, 0, scaling, "bt709")(picture)


def test_what_can_be_converted_is_not_refused():
    for tag in (UNTAGGED, 0, 3, 5, *(tag for tag, *_ in MATRICES.values())):
        assert not_convertible(flat("yuv420p", COLOURS[0], tag)) == ""
    assert not_convertible(flat("gbrp", COLOURS[0], 8)) == ""


def test_tags_of_rgb_and_of_yuvj():
    assert colour_tags(flat("gbrp", COLOURS[0], 0, 2)) == ("rgb", "full")
    assert colour_tags(flat("yuvj420p", COLOURS[0])) == ("", "full")
    assert colour_tags(flat("yuv420p", COLOURS[0], 5, 1)) == ("bt601", "limited")


def test_color_matrices_that_are_taken():
    assert set(COLOR_MATRICES) == set(MATRICES)
    assert [check_color_matrix(value) for value in (None, *COLOR_MATRICES)] == [None, *COLOR_MATRICES]


@pytest.mark.parametrize("value", ["", "BT709", "709", "srgb", 1, True, ("bt709",), {}], ids=repr)
def test_color_matrices_that_are_refused(value):
    with pytest.raises(SpecError) as caught:
        check_color_matrix(value)
    assert str(caught.value) == (
        f"color_matrix={value!r}: must be 'bt601', 'bt709', 'bt2020', 'smpte240m', 'fcc', or None (BT.601); "
        "it is that of videos that do not name theirs"
    )
