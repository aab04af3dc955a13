"""Packets of a video as a small file of their own: copied as they are, never decoded."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from onetake.core.errors import VideoError
from onetake.core.index import KEYFRAME, PACKETS, PacketTable, Video
from onetake.decode.sound import Sound

__all__ = ["can_cut", "locate", "new_stream", "remux"]

# By codec, the container that holds its packets byte for byte; tried over all codecs and containers of tests/zoo.py.
# Matroska takes eight bytes off ProRes; both it and MP4 replace the start codes of H.264 from an AVI.
FORMATS = {
    **dict.fromkeys(("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg"), "mp4"),
    **dict.fromkeys(("prores", "dnxhd"), "mov"),
    **dict.fromkeys(("vp8", "ffv1"), "matroska"),
}
# Codecs whose encoder has another name; see ``new_stream``.
_ENCODERS = {
    "h264": "libx264", "hevc": "libx265", "av1": "libsvtav1",
    "vp9": "libvpx-vp9", "vp8": "libvpx", "prores": "prores_ks",
}  # fmt: skip


def can_cut(video: Video, table: PacketTable) -> bool:
    """Whether segments of the video can be files of their own. Others are packed whole, as the file that they are.

    Args:
        video: the video.
        table: all of its packets.
    """
    if video.kind != PACKETS or video.codec not in FORMATS:
        return False
    if video.codec in ("h264", "hevc") and video.extradata[:1] != b"\1":  # start codes instead of lengths
        return False
    shown = np.flatnonzero(table.frame >= 0)
    in_order = shown[np.argsort(table.frame[shown])]
    plain = len(np.unique(table.pts)) == len(table) and bool(np.all(np.diff(table.pts[in_order]) > 0))
    # Only an edit list can hide what is shown before the first frame, and Matroska has none.
    before = table.frame < np.maximum.accumulate(np.where(table.flags & KEYFRAME, table.frame, -1))
    return plain and not (FORMATS[video.codec] == "matroska" and bool(np.any(before & (table.frame >= 0))))


def new_stream(container: av.container.OutputContainer, video: Video) -> av.VideoStream:
    """A stream for packets that are encoded already.

    PyAV makes one from the stream of another container alone. Here is none at hand, so that of a scratch one serves,
    whose encoder is never opened.
    """
    with av.open(io.BytesIO(), "w", format=FORMATS[video.codec]) as scratch:
        template = scratch.add_stream(_ENCODERS.get(video.codec, video.codec), rate=25)
        stream = container.add_stream_from_template(template, opaque=True)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = video.width, video.height, video.pix_fmt
    context.extradata = video.extradata or None
    stream.time_base = Fraction(*video.time_base)
    if video.rotation:
        stream.set_display_rotation(-video.rotation)
    return stream


def remux(
    video: Video, table: PacketTable, payloads: Sequence[bytes], first_frame: int, sound: Sound | None = None
) -> bytes:
    """A file of some packets, the same bytes at every time. Its clock begins at ``first_frame``; pictures that are
    shown before that are hidden by an edit list.

    Args:
        video: the video; see ``can_cut``.
        table: the packets, in decode order, from a keyframe on.
        payloads: their bytes.
        first_frame: the first frame to be shown.
        sound: what is heard from then on.

    Raises:
        VideoError: the muxer refuses them.
    """
    out = io.BytesIO()
    base = Fraction(*video.time_base)
    pts = table.pts - table.pts[np.flatnonzero(table.frame == first_frame)[0]]
    dts, duration = _decode_times(pts), _durations(pts)
    try:
        with av.open(out, "w", format=FORMATS[video.codec], options={"fflags": "+bitexact"}) as container:
            stream = new_stream(container, video)
            waiting = _add_sound(container, sound)
            for row, payload in enumerate(payloads):
                while waiting and waiting[0][0] <= dts[row] * base:
                    container.mux(waiting.popleft()[1])
                packet = Packet(len(payload))  # Packet(payload) would lack the zeros that parsers read beyond its end
                packet.update(payload)
                packet.pts, packet.dts, packet.duration = int(pts[row]), int(dts[row]), int(duration[row])
                packet.stream, packet.time_base = stream, base
                packet.is_keyframe = bool(table.flags[row] & KEYFRAME)
                container.mux(packet)
            while waiting:
                container.mux(waiting.popleft()[1])
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            video.video_id, f"its packets cannot be copied ({error}); pack with --transcode, or encode it again"
        ) from None
    return out.getvalue()


def _add_sound(container: av.container.OutputContainer, sound: Sound | None) -> deque[tuple[float, Packet]]:
    """(seconds, packet) of audio streams that are added to a container."""
    waiting: deque[tuple[float, Packet]] = deque()
    if sound is None:
        return waiting
    streams = [container.add_stream_from_template(stream, opaque=True) for stream in sound.streams]
    for number, seconds, packet in sound.packets:
        packet.pts = packet.dts = round(seconds / packet.time_base)
        packet.stream = streams[number]
        waiting.append((seconds, packet))
    return waiting


def locate(video: Video, data: bytes, payloads: Sequence[bytes]) -> NDArray[np.int64]:
    """Where in a file its packets stand, which are ``payloads``, in this order: int64 [n].

    Raises:
        VideoError: the muxer changed one of them.
    """
    offsets = np.empty(len(payloads), np.int64)
    place = 0
    for row, payload in enumerate(payloads):
        place = data.find(payload, place)
        if place < 0:
            raise VideoError(
                video.video_id, "its packets cannot be copied byte for byte; pack with --transcode, or encode it again"
            )
        offsets[row] = place
        place += len(payload)
    return offsets


def _decode_times(pts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times at which packets in decode order have to be decoded: rising, and never behind their pts."""
    rising = np.sort(pts)
    return rising - int((rising - pts).max())


def _durations(pts: NDArray[np.int64]) -> NDArray[np.int64]:
    """From each packet's pts to the next one's; the last one's are as long as most."""
    rising = np.sort(pts)
    steps = np.diff(rising)
    last = int(np.median(steps)) if len(steps) else 0
    return np.append(steps, last)[np.searchsorted(rising, pts)]
