"""How the odd videos of ``tests/zoo.py`` are made: encoding, muxing packets that were meddled with, byte surgery.

Shares no code with onetake, but for the priority of its process. The same take gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import PictureType

from onetake.decode.priority import usual_priority

os.environ.setdefault("SVT_LOG", "1")  # errors only: SVT-AV1 has no other way to be quiet

Edit = Callable[[list[Packet]], list[Packet]]

FPS = 25
DEFAULTS: dict[str, dict[str, str]] = {
    # Without mbtree: with it, pictures as small as these differ in a few bits from run to run.
    "libx264": {"preset": "veryfast", "crf": "20", "sc_threshold": "0", "b_strategy": "0", "mbtree": "0"},
    "libx265": {"preset": "ultrafast", "crf": "22", "x265-params": "scenecut=0:log-level=none"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "400k"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "400k"},
    "libsvtav1": {"preset": "8", "crf": "30", "svtav1-params": "lp=1"},
    "mpeg4": {"q:v": "3", "sc_threshold": "1000000000"},
    "mpeg2video": {"q:v": "3", "sc_threshold": "1000000000"},
    "mpeg1video": {"q:v": "3", "sc_threshold": "1000000000"},
    "mjpeg": {"q:v": "3", "huffman": "default"},
}
NO_BFRAMES = {"libvpx", "libvpx-vp9", "libsvtav1", "mjpeg", "ffv1", "prores_ks", "wmv2", "msmpeg4v3", "flv", "huffyuv"}


@dataclass(frozen=True)
class Take:
    """One stretch of video, encoded on one codec thread.

    Attributes:
        first: number of its first picture; numbers are what the pixels depend on.
        pts: in 1/``fps``; None: 0, 1, 2, ...
        params: for x264 and x265, added to the encoder's own parameters, as ``name=value:name=value``.
        types: picture type for a number, where the encoder should not choose.
    """

    codec: str = "libx264"
    frames: int = 60
    size: tuple[int, int] = (96, 64)
    pix_fmt: str = "yuv420p"
    gop: int = 20
    bframes: int = 2
    first: int = 0
    fps: Fraction | int = FPS
    pts: Sequence[int] | None = None
    params: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    types: Callable[[int], PictureType] | None = None

    def encoder_options(self) -> dict[str, str]:
        options = {**DEFAULTS.get(self.codec, {}), "g": str(self.gop), **self.options}
        if self.codec not in NO_BFRAMES:
            options.setdefault("bf", str(self.bframes))
        if self.params:
            name = {"libx264": "x264-params", "libx265": "x265-params"}[self.codec]
            options[name] = ":".join(filter(None, (options.get(name, ""), self.params)))
        return options

    def set_up(self, context: Any) -> None:
        (context.width, context.height), context.pix_fmt = self.size, self.pix_fmt
        context.time_base, context.framerate, context.thread_count = 1 / Fraction(self.fps), self.fps, 1
        context.options = self.encoder_options()


def pictures(take: Take) -> Iterator[av.VideoFrame]:
    """Pictures that all differ: a moving texture below, and the number in black and white cells above."""
    width, height = take.size
    rng = np.random.default_rng(0)
    ys, xs = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    blur = np.exp(-200 * (ys**2 + xs**2))
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, height, width))) * blur).real
    texture = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    rows, columns = np.mgrid[: height // 2, :width]
    cell = rows * 2 // max(height // 2, 1) * 8 + columns * 8 // width
    for i in range(take.frames):
        number = take.first + i
        pixels = np.roll(texture, (number, 2 * number), (0, 1))
        code = number * 0x9E37 & 0xFFFF  # odd, so that different numbers have different codes
        pixels[: height // 2] = (30 + 190 * (code >> cell & 1)).astype(np.uint8)[..., None]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format=take.pix_fmt, threads=1)
        frame.pts = i if take.pts is None else take.pts[i]
        frame.time_base = 1 / Fraction(take.fps)
        if take.types:
            frame.pict_type = take.types(number)
        yield frame


def encode(take: Take, context: Any = None) -> list[Packet]:
    """Packets of a take; with no ``context`` of a stream, parameter sets stand in the packets alone."""
    if context is None:
        context = av.CodecContext.create(take.codec, "w")
        take.set_up(context)
    packets = [packet for frame in pictures(take) for packet in context.encode(frame)]
    return [*packets, *context.encode(None)]


def write(
    path: Path,
    *takes: Take,
    edit: Edit | None = None,
    set_up: Callable[[Any, Any], None] | None = None,
    container_options: Mapping[str, str] | None = None,
    gap: int = 4,
    bsf: str | None = None,
    format: str | None = None,
) -> None:
    """Encode takes one after another into one stream of a file.

    Args:
        edit: meddles with the packets, all takes' in one list, in the first take's time base.
        set_up: called as (container, stream) when the encoder is open and no header is written.
        gap: frames of time between two takes.
        bsf: a bitstream filter for all packets.
    """
    options = {"fflags": "+bitexact", **(container_options or {})}  # no random IDs in a Matroska file
    with usual_priority(), av.open(str(path), "w", format=format, options=options) as container:
        stream = container.add_stream(takes[0].codec, rate=takes[0].fps)
        takes[0].set_up(stream.codec_context)
        packets: list[Packet] = []
        shift = 0
        for number, take in enumerate(takes):
            part = encode(take, None if number else stream.codec_context)
            for packet in part:
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packets += part
            shift = max(packet.pts for packet in part) + gap
        if edit:
            packets = edit(packets)
        if bsf:
            chain = BitStreamFilterContext(bsf, in_stream=stream)
            packets = [out for packet in [*packets, None] for out in chain.filter(packet)]
        if set_up:
            set_up(container, stream)
        base = 1 / Fraction(takes[0].fps)
        for packet in packets:
            packet.stream, packet.time_base = stream, base
            container.mux(packet)


def with_payload(packet: Packet, data: bytes) -> Packet:
    """A copy of ``packet`` that holds ``data``."""
    copy = Packet(len(data))
    copy.update(data)
    copy.pts, copy.dts, copy.is_keyframe, copy.time_base = packet.pts, packet.dts, packet.is_keyframe, packet.time_base
    copy.duration = packet.duration
    return copy


@dataclass(frozen=True)
class ZooFile:
    """One odd file.

    Attributes:
        about: what is odd about it.
        write: writes it; the path's suffix is that of the file's name in ``ZOO``.
        claims: some of the file's ``facts``.
        repeats: pictures that are shown a second time.
    """

    about: str
    write: Callable[[Path], None]
    claims: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 0


def takes(
    about: str,
    *parts: Take,
    claims: Mapping[str, Any] | None = None,
    after: Callable[[Path], None] | None = None,
    repeats: int = 0,
    **how: Any,
) -> ZooFile:
    """A file of several takes; ``how`` goes to ``write``, ``after`` meddles with the file."""

    def make(path: Path) -> None:
        write(path, *parts, **how)
        if after:
            after(path)

    return ZooFile(about, make, {"frames": sum(part.frames for part in parts), **(claims or {})}, repeats)


HOW = ("edit", "set_up", "container_options", "bsf", "format", "after", "repeats")


def one(about: str, claims: Mapping[str, Any] | None = None, **how: Any) -> ZooFile:
    """A file of one take; ``how`` goes to ``Take``, ``write`` and ``takes``."""
    other = {name: how.pop(name) for name in HOW if name in how}
    return takes(about, Take(**how), claims=claims, **other)
