"""What a picture says of its colours: matrix, range and transfer, and what is taken where it says nothing.

A matrix tells how RGB follows from Y, Cb and Cr, a range which codes stand for black and white. Both are taken from
the picture's tags. Where it has none, it is read as FFmpeg reads it, BT.601 and limited range (full for the
``yuvj`` formats), so that pixels are those of other loaders that build on FFmpeg; ``color_matrix`` puts another
matrix in the place of BT.601, for pictures without a tag only. Gray and RGB pictures are taken for full range, gray
ones that say so for limited. Primaries and transfer are left as they are: no gamut is mapped and no tone, so HDR
pictures look pale (see ``hdr_name``).
"""

from __future__ import annotations

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, ColorTrc

from onetake.core.errors import SpecError

__all__ = [
    "COLOR_MATRICES",
    "check_color_matrix",
    "colour_tags",
    "hdr_name",
    "is_limited_gray",
    "not_convertible",
    "source_matrix",
]

_SWSCALE = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
    "smpte240m": Colorspace.SMPTE240M,
    "fcc": Colorspace.FCC,
}
COLOR_MATRICES = tuple(_SWSCALE)
"""Names of the matrices that pictures can be converted with."""

# Values of FFmpeg's AVColorSpace, as ITU-T H.273 numbers them. 2 says "unspecified", 3 is reserved.
_MATRIX_TAGS = {
    0: "rgb",
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}
_RANGE_TAGS = {1: "limited", 2: "full"}
_HDR = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}


def check_color_matrix(value: object) -> str | None:
    """A valid name of COLOR_MATRICES or None (as FFmpeg takes it), from what a user or a config file gave.

    Raises:
        SpecError: it is neither.
    """
    if value is None or (isinstance(value, str) and value in _SWSCALE):
        return value
    names = ", ".join(repr(name) for name in COLOR_MATRICES)
    raise SpecError(
        f"color_matrix={value!r}: must be {names}, or None (BT.601); it is that of videos that do not name theirs"
    )


def colour_tags(picture: VideoFrame) -> tuple[str, str]:
    """A picture's (matrix, range), "" where it does not say.

    Matrices have the names of COLOR_MATRICES, or others for those that cannot be converted with; ranges are
    "limited" and "full".
    """
    if picture.format.is_rgb:
        return "rgb", _RANGE_TAGS.get(int(picture.color_range), "")
    matrix = _MATRIX_TAGS.get(int(picture.colorspace), "")
    full = picture.format.name.startswith("yuvj")
    return "" if matrix == "rgb" else matrix, "full" if full else _RANGE_TAGS.get(int(picture.color_range), "")


def hdr_name(source: VideoFrame | VideoCodecContext) -> str:
    """ "PQ" (SMPTE ST 2084) or "HLG" (ARIB STD-B67) where the transfer is one of HDR video, else ""."""
    return _HDR.get(int(source.color_trc), "")


def is_limited_gray(picture: VideoFrame) -> bool:
    """Whether it is gray and says that black is 16: FFmpeg's scaler takes every gray picture for full range."""
    return int(picture.color_range) == 1 and picture.format.name.startswith(("gray", "ya"))


def not_convertible(picture: VideoFrame) -> str:
    """Why a picture cannot be turned to RGB: a matrix that FFmpeg's scaler does not know. "" where it can."""
    matrix, _ = colour_tags(picture)
    if not matrix or matrix == "rgb" or matrix in _SWSCALE:
        return ""
    return (
        f"its colour matrix, {matrix}, cannot be turned to RGB; encode it again in one of {', '.join(COLOR_MATRICES)}"
    )


def source_matrix(picture: VideoFrame, color_matrix: str | None) -> Colorspace | None:
    """What VideoReformatter must be told of the matrix of a picture; None: nothing, its tag is right.

    Args:
        picture: the picture.
        color_matrix: the name of the matrix of pictures without a tag; None: as FFmpeg takes it.
    """
    tag = int(picture.colorspace)
    if tag in _MATRIX_TAGS and tag != 0:
        return None
    if picture.format.is_rgb:
        return None
    if color_matrix is not None:
        return _SWSCALE[color_matrix]
    return Colorspace.ITU601 if tag == 3 else None  # swscale refuses the reserved tag
