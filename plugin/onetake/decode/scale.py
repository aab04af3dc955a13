"""From a decoded picture to RGB of the size asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from onetake.core.errors import SpecError

__all__ = ["FrameSize", "check_frame_size", "converter", "scaled_size"]

# (height, width): scaled to cover, centre-cropped. int: the short side. None: as in the video.
FrameSize = tuple[int, int] | int | None

UInt8Array = NDArray[np.uint8]


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


def converter(frame_size: FrameSize, rotation: int = 0) -> Callable[[VideoFrame], UInt8Array]:
    """A function from decoded pictures to RGB arrays, uint8 [H, W, 3], upright, of ``frame_size``.

    Planar YUV is scaled as it is, by averaging areas, and converted at the small size: of the routes tried this
    costs least, a third of scaling and converting at once. It keeps one scaler, at one thread, so it is cheap to
    call and not thread-safe.

    Args:
        frame_size: see FrameSize; of the upright picture.
        rotation: degrees clockwise by which pictures must be turned: 0, 90, 180 or 270.
    """
    scaler, to_rgb = VideoReformatter(), VideoReformatter()
    turned = rotation % 180 == 90
    crop = frame_size if isinstance(frame_size, tuple) else None

    def convert(picture: VideoFrame) -> UInt8Array:
        height, width = picture.height, picture.width
        upright = (width, height) if turned else (height, width)
        scaled_h, scaled_w = scaled_size(frame_size, *upright)
        out_h, out_w = (scaled_w, scaled_h) if turned else (scaled_h, scaled_w)
        if (out_h, out_w) != (height, width):
            picture = scaler.reformat(picture, width=out_w, height=out_h, interpolation=Interpolation.AREA, threads=1)
        rgb = to_rgb.reformat(picture, format="rgb24", threads=1).to_ndarray()
        if rotation:
            rgb = np.rot90(rgb, -rotation // 90)
        if crop is not None:
            top, left = (rgb.shape[0] - crop[0]) // 2, (rgb.shape[1] - crop[1]) // 2
            rgb = rgb[top : top + crop[0], left : left + crop[1]]
        return rgb

    return convert
