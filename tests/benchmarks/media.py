"""Videos to measure with: textures that drift under noise, or real videos scaled to the size asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from onetake.decode.synthetic import write_drift_video

FPS = 25
GOP = 250
# Each encoder's defaults (B-frames, pyramid, weighted prediction), but for keyframes where they are wanted.
ENCODERS = {
    "h264": ("libx264", {"preset": "medium", "g": str(GOP), "sc_threshold": "0"}),
    "hevc": (
        "libx265",
        {"preset": "medium", "x265-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:log-level=error"},
    ),
}
_GRAIN = 2.0  # deviation of the noise on luma, in levels


def pictures(videos: Sequence[Path], height: int, width: int, count: int) -> Iterator[VideoFrame]:
    """``count`` pictures, yuv420p, of the size asked for: of real videos one after the other, over and over, or,
    without any, made."""
    with TemporaryDirectory() as folder:
        grain = None
        if not videos:
            path = Path(folder) / "drift.mp4"
            write_drift_video(path, "left", seconds=count / FPS, size=(width, height), options={"crf": "12"})
            videos = [path]
            grain = np.random.default_rng(0).normal(0, _GRAIN, (8, height, width)).round().astype(np.int16)
        yield from _decoded(videos, height, width, count, grain)


def _decoded(
    videos: Sequence[Path], height: int, width: int, count: int, grain: np.ndarray | None
) -> Iterator[VideoFrame]:
    scaler, done = VideoReformatter(), 0
    while done < count:
        for path in videos:
            with av.open(str(path)) as container:
                for picture in container.decode(video=0):
                    if done == count:
                        return
                    scaled = scaler.reformat(picture, width, height, "yuv420p", interpolation=Interpolation.BICUBIC)
                    planes = scaled.to_ndarray()
                    if grain is not None:
                        luma = planes[:height] + grain[done % len(grain)]
                        planes = np.concatenate([luma.clip(16, 235).astype(np.uint8), planes[height:]])
                    yield VideoFrame.from_ndarray(planes, format="yuv420p")
                    done += 1


def write_video(path: Path, codec: str, videos: Sequence[Path], height: int, width: int, count: int) -> None:
    """Encode ``count`` pictures with ENCODERS[codec]."""
    encoder, options = ENCODERS[codec]
    partial = path.with_suffix(".partial.mp4")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, picture in enumerate(pictures(videos, height, width, count)):
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    partial.rename(path)
