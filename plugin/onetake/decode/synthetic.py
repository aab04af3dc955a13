"""Videos made on the spot, for tests and for the demo.

Two kinds. A *numbered* video carries in every frame that frame's number, drawn as black and white cells that
survive lossy coding and scaling down, so that a test reads back which frame it was given. A *drift* video
shows textured shapes drifting in one direction while everything else about them is redrawn from a seed every
few seconds, so that only motion tells the label.

Layout of the code (upper half of the picture, 8 columns by 4 rows, cell sizes proportional to the frame)::

    cell  0 .. 19   frame number, most significant bit first
    cell 20 .. 31   check: 12 bits of a CRC over the number
    lower half      a moving texture, so that predicted frames have something to predict
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise, product
from os import PathLike, fspath
from typing import Any, Literal, cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from onetake.decode.priority import usual_priority

Array = NDArray[np.uint8]
Direction = Literal["left", "right", "up", "down"]

DIRECTIONS: tuple[Direction, ...] = ("left", "right", "up", "down")
"""The directions of :func:`write_drift_video`, in the order of their integer labels."""

_COLUMNS, _ROWS = 8, 4
_NUMBER_BITS, _CHECK_BITS = 20, 12
_DARK, _BRIGHT = 32, 220  # luma of a cell; inside the limited range, with room for ringing
_LOW, _HIGH = 100, 156  # a cell whose mean lies between is a blend of two frames, or no code at all
_AUDIO_RATE = 48000
# Fast, with a keyframe exactly every `gop` frames and B-frames wherever they may stand.
_CODEC_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "23", "sc_threshold": "0", "b_strategy": "0"},
    "libx265": {"preset": "ultrafast", "crf": "26", "x265-params": "scenecut=0:log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"},
    "libsvtav1": {"preset": "8", "crf": "30", "svtav1-params": "lp=1"},  # presets from 10 on get cells wrong
    "mpeg4": {"q:v": "3", "sc_threshold": "1000000000"},
}


def write_numbered_video(
    path: str | PathLike[str],
    num_frames: int,
    *,
    codec: str = "libx264",
    width: int = 128,
    height: int = 96,
    fps: int | Fraction = 25,
    gop: int = 48,
    bframes: int = 2,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    first_pts: int = 0,
    audio: bool = False,
) -> None:
    """Encode a video whose frame ``i`` (in presentation order) reads as ``i`` under :func:`read_number`.

    Args:
        path: file to write; its suffix chooses the container.
        num_frames: at most ``2**20``.
        codec: name of an FFmpeg encoder.
        width, height: coded size in pixels; even, and at least 64 so that a cell is no smaller than 8 px.
        gop: distance between keyframes (the largest, where an encoder won't be held to it).
        options: encoder options, over this module's defaults for the codec.
        container_options: muxer options, such as ``{"movflags": "faststart"}``.
        pts: presentation timestamps in ``time_base``, one a frame, increasing; None: ``1/fps`` apart.
        time_base: of the encoder's timestamps; None: ``1/fps``. The muxer may store a finer one.
        first_pts: added to every timestamp, in ``time_base``.
        audio: interleave a sine tone in the container's own audio codec, as long as the video.
    """
    if not 1 <= num_frames <= 1 << _NUMBER_BITS:
        raise ValueError(f"{num_frames=} must be between 1 and {1 << _NUMBER_BITS}")
    _check_size(width, height, smallest=8 * _COLUMNS)
    rate = Fraction(fps)
    stamps = _timestamps(num_frames, 1 / rate / (time_base or 1 / rate), pts, first_pts)
    pictures = zip(stamps, _numbered_planes(num_frames, width, height), strict=True)
    defaults = {**_CODEC_OPTIONS.get(codec, {}), "g": str(gop)}
    if codec not in ("libvpx-vp9", "libvpx", "libsvtav1"):
        defaults["bf"] = str(bframes)
    defaults.update(options or {})
    shape = (width, height)
    _encode(path, pictures, codec, shape, rate, defaults, time_base, pix_fmt, container_options, audio)


def read_number(frame: NDArray[Any]) -> int:
    """Read the frame number out of a whole (not cropped) frame, at half the coded size or more.

    Args:
        frame: uint8 ``[H, W, 3]``, ``[3, H, W]`` or ``[H, W]``.

    Raises:
        ValueError: a cell is neither dark nor bright, or the check bits do not fit the number.
    """
    picture = np.asarray(frame)
    if picture.ndim == 3:
        picture = picture.mean(axis=0 if picture.shape[0] == 3 else 2)
    if picture.ndim != 2 or picture.shape[0] < 4 * _ROWS or picture.shape[1] < 2 * _COLUMNS:
        raise ValueError(f"frame of shape {np.shape(frame)} is not a picture with a frame number")
    cell_height, cell_width = picture.shape[0] / 2 / _ROWS, picture.shape[1] / _COLUMNS
    code = 0
    for row, column in product(range(_ROWS), range(_COLUMNS)):
        # Only the middle of a cell counts, away from its neighbours' ringing.
        top, bottom = round((row + 0.25) * cell_height), round((row + 0.75) * cell_height)
        left, right = round((column + 0.25) * cell_width), round((column + 0.75) * cell_width)
        level = float(picture[top : max(bottom, top + 1), left : max(right, left + 1)].mean())
        if _LOW <= level <= _HIGH:
            raise ValueError(f"cell ({row}, {column}) is neither dark nor bright: {level:.0f}")
        code = code << 1 | (level > _HIGH)
    number = code >> _CHECK_BITS
    if code & ((1 << _CHECK_BITS) - 1) != _check_bits(number):
        raise ValueError(f"the check bits of frame number {number} do not fit")
    return number


def write_drift_video(
    path: str | PathLike[str],
    direction: Direction,
    *,
    seconds: float = 60,
    fps: int | Fraction = 25,
    size: tuple[int, int] = (160, 120),
    gop: int = 250,
    bframes: int = 2,
    seed: int = 0,
    scene_seconds: tuple[float, float] = (2.0, 5.0),
    speed: tuple[float, float] = (0.008, 0.02),
    options: Mapping[str, str] | None = None,
) -> None:
    """Encode H.264 in which textured shapes drift over a still, textured background.

    Every few seconds the background, the shapes, their textures, colours and speed are redrawn from ``seed``;
    the direction stays. A single frame therefore tells nothing about it. Same arguments, same file.

    Args:
        size: (width, height) in pixels; even, at least 32.
        gop: largest distance between keyframes; x264 also sets one where it sees a scene begin.
        seed: of everything drawn; never of the direction.
        scene_seconds: shortest and longest time before everything is redrawn.
        speed: slowest and fastest drift a frame, in parts of the shorter side (so it does not tell the axis).
        options: encoder options, over this module's defaults.

    """
    num_frames = round(seconds * Fraction(fps))
    if direction not in DIRECTIONS or num_frames < 1:
        raise ValueError(f"{direction=} must be one of {DIRECTIONS}, and {seconds=} at {fps=} make a frame")
    _check_size(*size, smallest=32)
    scene = (max(1, round(scene_seconds[0] * Fraction(fps))), max(1, round(scene_seconds[1] * Fraction(fps))))
    planes = _drift_planes(num_frames, size, direction, np.random.default_rng(seed), scene, speed)
    defaults = {"preset": "veryfast", "crf": "26", "b_strategy": "0", "g": str(gop), "bf": str(bframes)}
    _encode(path, enumerate(planes), "libx264", size, Fraction(fps), {**defaults, **(options or {})})


def _check_size(width: int, height: int, smallest: int) -> None:
    if width % 2 or height % 2 or min(width, height) < smallest:
        raise ValueError(f"size {width}x{height} must be even, and at least {smallest} on each side")


def _timestamps(num_frames: int, step: Fraction, pts: Sequence[int] | None, first_pts: int) -> list[int]:
    stamps = [round(i * step) for i in range(num_frames)] if pts is None else [int(stamp) for stamp in pts]
    if len(stamps) != num_frames:
        raise ValueError(f"pts has {len(stamps)} timestamps for num_frames={num_frames}")
    if any(late <= early for early, late in pairwise(stamps)):
        raise ValueError("pts must be strictly increasing (is time_base too coarse for fps?)")
    return [stamp + first_pts for stamp in stamps]


def _encode(
    path: str | PathLike[str],
    pictures: Iterable[tuple[int, Array]],
    codec: str,
    size: tuple[int, int],
    fps: Fraction,
    options: dict[str, str],
    time_base: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    container_options: Mapping[str, str] | None = None,
    audio: bool = False,
) -> None:
    """Encode (pts, planes in the layout of a yuv420p array) pairs on one codec thread."""
    base, next_sample = time_base or 1 / fps, 0
    with usual_priority(), av.open(fspath(path), "w", options=dict(container_options or {})) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=options))
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        stream.codec_context.time_base, stream.thread_count = base, 1
        tone: Any = container.add_stream(container.default_audio_codec, rate=_AUDIO_RATE) if audio else None
        for stamp, planes in pictures:
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            if pix_fmt != "yuv420p":
                frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
            if tone:
                next_sample = _write_tone(container, tone, next_sample, stamp * base * _AUDIO_RATE)
        container.mux(stream.encode(None))
        if tone:
            container.mux(tone.encode(None))


def _write_tone(container: OutputContainer, stream: Any, start: int, stop: Fraction) -> int:
    """Encode a sine tone from sample ``start`` to past ``stop``, in whole blocks; returns the next sample."""
    while start < stop:
        phase = np.arange(start, start + 960) * (2 * np.pi * 440 / _AUDIO_RATE)
        samples = np.tile((0.2 * np.sin(phase)).astype(np.float32), (2, 1))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = _AUDIO_RATE, start, Fraction(1, _AUDIO_RATE)
        container.mux(stream.encode(frame))
        start += 960
    return start


def _check_bits(number: int) -> int:
    return zlib.crc32(number.to_bytes(3, "big")) & ((1 << _CHECK_BITS) - 1)


def _texture(rng: np.random.Generator, height: int, width: int, smooth: int, level: float, contrast: float) -> Array:
    """Luma of noise on a torus, smoothed to about ``smooth`` pixels; ``contrast`` is its deviation."""
    ys, xs = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    blur = np.exp(-((np.pi * smooth) ** 2) * (ys**2 + xs**2) / 2)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) * blur).real
    noise = level + contrast * (noise - noise.mean()) / noise.std()
    return cast(Array, np.clip(noise, 16, 235).astype(np.uint8))


def _numbered_planes(num_frames: int, width: int, height: int) -> Iterator[Array]:
    """Frames as yuv420p arrays ``[H * 3 / 2, W]``; one buffer, overwritten at each step."""
    rng = np.random.default_rng(0)
    planes = np.full((height * 3 // 2, width), 128, np.uint8)
    texture = _texture(rng, height - height // 2, width, smooth=4, level=128, contrast=40)
    ys, xs = np.mgrid[: height // 2, :width]
    cell = ys * _ROWS // (height // 2) * _COLUMNS + xs * _COLUMNS // width
    shifts = np.arange(_NUMBER_BITS + _CHECK_BITS)[::-1]
    for number in range(num_frames):
        code = number << _CHECK_BITS | _check_bits(number)
        levels = np.where((code >> shifts) & 1, _BRIGHT, _DARK).astype(np.uint8)
        planes[: height // 2] = levels[cell]
        planes[height // 2 : height] = np.roll(texture, (number, 2 * number), (0, 1))
        yield planes


def _drift_planes(
    num_frames: int,
    size: tuple[int, int],
    direction: Direction,
    rng: np.random.Generator,
    scene_frames: tuple[int, int],
    speed: tuple[float, float],
) -> Iterator[Array]:
    """Frames as yuv420p arrays ``[H * 3 / 2, W]``; one buffer, overwritten at each step."""
    width, height = size
    axis, sign = int(direction in ("left", "right")), 1 if direction in ("right", "down") else -1
    planes = np.empty((height * 3 // 2, width), np.uint8)
    luma, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
    done = 0
    while done < num_frames:
        stop = min(num_frames, done + int(rng.integers(scene_frames[0], scene_frames[1] + 1)))
        back, front, mask = _draw_scene(rng, width, height)
        colour = rng.integers(80, 177, (2, 1, 1)).astype(np.uint8)  # Cb and Cr of the background
        tint = np.stack([_texture(rng, height // 2, width // 2, 20, 128, 40) for _ in colour])
        pixels = rng.uniform(*speed) * min(size) * sign
        for step in range(stop - done):
            shift = round(pixels * step)
            shown = np.roll(mask, shift, axis)
            np.copyto(luma, back)
            np.copyto(luma, np.roll(front, shift, axis), where=shown)
            chroma[:] = np.where(shown[::2, ::2], np.roll(tint, shift // 2, axis + 1), colour)
            yield planes
        done = stop


def _draw_scene(rng: np.random.Generator, width: int, height: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Background, texture in front, and where the front is shown: five to nine discs and boxes on a torus."""
    layers = []
    for _ in range(2):
        look = (int(rng.integers(3, 9)), rng.uniform(70, 180), rng.uniform(15, 35))
        layers.append(_texture(rng, height, width, *look))
    mask = np.zeros((height, width), np.bool_)
    ys, xs = np.mgrid[:height, :width]
    for _ in range(int(rng.integers(5, 10))):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        half_height, half_width = rng.uniform(0.07, 0.2, 2) * min(width, height)
        dy = np.abs((ys - y + height / 2) % height - height / 2) / half_height
        dx = np.abs((xs - x + width / 2) % width - width / 2) / half_width
        mask |= (dy**2 + dx**2 < 1) if rng.random() < 0.5 else (np.maximum(dy, dx) < 1)
    return layers[0], layers[1], mask
