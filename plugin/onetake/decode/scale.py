"""From a decoded picture to RGB of the size asked for."""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from onetake.core.errors import OnetakeError, SpecError
from onetake.decode.colour import is_limited_gray, not_convertible, source_matrix

__all__ = ["SCALINGS", "FrameSize", "check_frame_size", "check_scaling", "converter", "output_size", "scaled_size"]

# (height, width): scaled to cover, centre-cropped. int: the short side. None: as in the video.
FrameSize = tuple[int, int] | int | None

SCALINGS = ("fast", "exact")
"""Both average over what a pixel covers (a triangle, antialiased). "fast": in YUV, at a fifth of the cost, with colours
blurred a little at edges. "exact": in RGB, within rounding of an antialiased resize of the RGB picture.
"""

UInt8Array = NDArray[np.uint8]
Scale = Callable[[VideoFrame, tuple[int, int], Colorspace | None], VideoFrame]  # picture, (height, width), its matrix

# Without the chroma flags, swscale would leave out every other pixel's colour, also where RGB becomes RGB.
_CAREFUL = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# Limited range to full.
_EXPANDED = np.rint((np.arange(256) - 16).clip(0, 219) * (255 / 219)).astype(np.uint8)


def check_frame_size(frame_size: object) -> FrameSize:
    """A valid FrameSize, from what a user or a config file gave.

    Raises:
        SpecError: it is none.
    """
    if frame_size is None:
        return None
    if isinstance(frame_size, int) and not isinstance(frame_size, bool) and frame_size >= 1:
        return frame_size
    if isinstance(frame_size, (tuple, list)) and len(frame_size) == 2:
        height, width = frame_size
        if all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in (height, width)):
            return int(height), int(width)
    raise SpecError(
        f"frame_size={frame_size!r}: must be (height, width), one int (the short side), or None (as in the video)"
    )


def scaled_size(frame_size: FrameSize, height: int, width: int) -> tuple[int, int]:
    """(height, width) that a picture is scaled to, before any crop: it covers ``frame_size``, aspect kept."""
    if frame_size is None:
        return height, width
    want_h, want_w = (frame_size, frame_size) if isinstance(frame_size, int) else frame_size
    if height * want_w <= width * want_h:  # the height is what runs short
        return want_h, max(want_w, round(width * want_h / height))
    return max(want_h, round(height * want_w / width)), want_w


def output_size(frame_size: FrameSize, rotation: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of what ``converter`` makes of a picture of ``height`` x ``width``."""
    if isinstance(frame_size, tuple):
        return frame_size
    return scaled_size(frame_size, *((width, height) if rotation % 180 == 90 else (height, width)))


def check_scaling(value: object) -> str:
    """A valid one of SCALINGS, from what a user or a config file gave.

    Raises:
        SpecError: it is none.
    """
    if isinstance(value, str) and value in SCALINGS:
        return value
    raise SpecError(f"scaling={value!r}: must be 'fast', or 'exact' (nearer to a resize of the RGB frames, and slower)")


def converter(
    frame_size: FrameSize, rotation: int = 0, scaling: str = "fast", color_matrix: str | None = None
) -> Callable[[VideoFrame], UInt8Array]:
    """A function from decoded pictures to RGB arrays, uint8 [H, W, 3], upright, of ``frame_size``.

    Colours follow the picture's own tags (see ``decode.colour``). A picture that need not be scaled comes out as
    ``picture.to_ndarray(format="rgb24")`` gives it: FFmpeg's fast conversion, of 4:2:0 a level too dark on
    average and 3 at most. Pictures may change in size and pixel format from call to call.
    It keeps its scalers, at one thread, so it is cheap to call and not thread-safe.

    CPU ms a picture, and mean error in levels from torchvision's antialiased resize, in float, of the RGB picture,
    as tests/benchmarks/bench_scale.py prints them::

        to 455x256 from    1280x720       640x360        320x180
        "fast"             0.43, 1.24     0.17, 0.88     0.12, 1.12
        "exact"            2.36, 0.25     1.33, 0.25     0.59, 0.24

    Args:
        frame_size: see FrameSize; of the upright picture.
        rotation: degrees clockwise by which pictures must be turned: 0, 90, 180 or 270.
        scaling: see SCALINGS.
        color_matrix: the matrix of pictures that do not name theirs, one of COLOR_MATRICES. None: BT.601.

    The function raises:
        OnetakeError: the picture cannot be scaled so far, or its matrix is one that cannot be turned to RGB.
    """
    scale = _exact() if scaling == "exact" else _fast()
    turned = rotation % 180 == 90
    crop = frame_size if isinstance(frame_size, tuple) else None

    def convert(picture: VideoFrame) -> UInt8Array:
        height, width = picture.height, picture.width
        scaled_h, scaled_w = scaled_size(frame_size, *((width, height) if turned else (height, width)))
        size = (scaled_w, scaled_h) if turned else (scaled_h, scaled_w)
        try:
            rgb = scale(picture, size, source_matrix(picture, color_matrix)).to_ndarray()
        except (av.error.FFmpegError, ValueError) as error:
            reason = (
                not_convertible(picture)
                or f"cannot be scaled to {scaled_w} x {scaled_h} ({error}); name another frame_size"
            )
            raise OnetakeError(f"a picture of {width} x {height}, {picture.format.name}: {reason}") from None
        if is_limited_gray(picture):
            rgb = _EXPANDED[rgb]
        if rotation:
            rgb = np.rot90(rgb, -rotation // 90)
        if crop is not None:
            top, left = (rgb.shape[0] - crop[0]) // 2, (rgb.shape[1] - crop[1]) // 2
            rgb = rgb[top : top + crop[0], left : left + crop[1]]
        return rgb

    return convert


def _fast() -> Scale:
    """Scaled as planar YUV, which costs least, then converted at the small size.

    Chroma is kept at full height (4:2:2, or 4:4:4 where the picture has it): from 4:2:2, RGB costs what it costs
    from 4:2:0, and is nearer to the RGB of the whole picture scaled down.
    """
    scaler, to_rgb = VideoReformatter(), VideoReformatter()

    def scale(picture: VideoFrame, size: tuple[int, int], matrix: Colorspace | None) -> VideoFrame:
        height, width = size
        if size != (picture.height, picture.width):
            small = _small_format(picture)
            if small is None:
                return to_rgb.reformat(picture, width, height, "rgb24", matrix, interpolation=_CAREFUL, threads=1)
            picture = scaler.reformat(picture, width, height, small, matrix, matrix, Interpolation.BILINEAR, threads=1)
        return to_rgb.reformat(picture, format="rgb24", src_colorspace=matrix, threads=1)

    return scale


def _exact() -> Scale:
    """Converted as the picture is, then scaled in RGB by an antialiased triangle."""
    to_rgb, scaler = VideoReformatter(), VideoReformatter()

    def scale(picture: VideoFrame, size: tuple[int, int], matrix: Colorspace | None) -> VideoFrame:
        rgb = to_rgb.reformat(picture, format="rgb24", src_colorspace=matrix, threads=1)
        return scaler.reformat(rgb, size[1], size[0], interpolation=_CAREFUL, threads=1)

    return scale


def _small_format(picture: VideoFrame) -> str | None:
    """The pixel format to scale a picture to before it is turned to RGB; None: turn it at once."""
    pixels = picture.format
    if not pixels.name.startswith("yuv"):
        return None
    depth = pixels.components[0].bits
    if depth > 8:  # RGB from it costs the same from any chroma; rounded to 8 bits before, colours would be 4 levels off
        return f"yuv444p{depth}le"
    family = "yuvj" if pixels.name.startswith("yuvj") else "yuv"
    return f"{family}444p" if pixels.chroma_width(2) == 2 else f"{family}422p"
