"""Segments encoded anew: smaller pictures, a keyframe every few frames, and the frames and times that were."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import KEYFRAME, PACKETS, PacketTable, Video, packet_check
from onetake.core.packing import Cut, TranscodeSpec
from onetake.decode.colour import colour_tags, hdr_name, is_limited_gray, source_matrix
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.priority import usual_priority
from onetake.decode.source import PacketSource

__all__ = ["Transcoded", "transcode"]

# One thread, closed GOPs.
_OPTIONS = {
    "libx264": {"x264-params": "open-gop=0"},
    "libx265": {"x265-params": "open-gop=0:pools=none:frame-threads=1:log-level=error"},
    "libvpx-vp9": {"b": "0", "cpu-used": "4", "row-mt": "0"},
    "libsvtav1": {"preset": "8", "svtav1-params": "lp=1"},
}
_X265_SIDE = 64  # of the smallest picture; on smaller ones it writes where it must not
_REPORT_ERRORS = "err_detect=explode"  # what decoders of a pack are told: what was encoded here has none


@dataclass(frozen=True, slots=True)
class Transcoded:
    """A segment, encoded anew.

    Attributes:
        video: the video, as it is now.
        data: the segment as a file.
        table: its packets, whose offsets are counted from the file's start; frames and times are those of the original.
        lost: of the segment's own frames, how many did not decode, so that the one before stands for them.
    """

    video: Video
    data: bytes
    table: PacketTable
    lost: int


def transcode(video: Video, source: PacketSource, cut: Cut, spec: TranscodeSpec) -> Transcoded:
    """Decode a segment, with all that it carries, and encode it.

    Args:
        video: its video.
        source: its packets; closed.
        cut: which frames.
        spec: how to encode.

    Raises:
        VideoError: none of its frames decodes, or they can't be encoded.
    """
    frames = range(cut.first_frame, cut.stop_frame)
    times = _times(source.table, frames)
    pictures = _Pictures(video, source, frames, _shrink(video, spec))
    ticks = times - times[0]
    if np.any(np.diff(ticks) <= 0):  # what no container holds
        ticks = np.arange(len(frames)) * max(video.duration // video.num_frames, 1)
    try:
        data, picture = _encode(video, spec, zip(pictures, ticks.tolist(), strict=True))
        made, table = _read_back(video, data, frames, times)
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            video.video_id, f"cannot be encoded by {spec.codec} ({error}); take another --codec, or remove it"
        ) from None
    matrix, color_range = colour_tags(picture)
    made = replace(made, color_matrix=matrix, color_range=color_range, transfer=hdr_name(picture))
    return Transcoded(made, data, table, sum(frame < cut.first_frame + cut.num_frames for frame in pictures.lost))


def _times(table: PacketTable, frames: range) -> NDArray[np.int64]:
    rows = np.flatnonzero((table.frame >= frames.start) & (table.frame < frames.stop))
    times = np.empty(len(frames), np.int64)
    times[table.frame[rows] - frames.start] = table.pts[rows]
    return times


def _rate(video: Video) -> Fraction:
    """Frames a second, on average."""
    return Fraction(video.num_frames / max(video.seconds, 1e-3)).limit_denominator(1001)


def _coded_size(video: Video, height: int | None) -> tuple[int, int]:
    """(width, height) of the pictures, as they are coded: even, and never larger than they were."""
    upright = video.width if video.rotation % 180 == 90 else video.height
    scale = 1.0 if height is None else min(height / upright, 1.0)
    width, height = (max(2 * round(side * scale / 2), 2) for side in (video.width, video.height))
    return width, height


def _shrink(video: Video, spec: TranscodeSpec) -> Callable[[VideoFrame], VideoFrame]:
    """A function from decoded pictures to what is encoded: 8 bits, 4:2:0, limited range, and the matrix that was."""
    reformatter = VideoReformatter()
    width, height = _coded_size(video, spec.height)

    def shrink(picture: VideoFrame) -> VideoFrame:
        matrix, color_range = colour_tags(picture)
        is_full = color_range == "full" or picture.format.name.startswith("gray")
        known = source_matrix(picture, None)
        return reformatter.reformat(
            picture,
            width,
            height,
            "yuv420p",
            src_colorspace=known,
            dst_colorspace=Colorspace.ITU709 if matrix == "rgb" else known,
            interpolation=Interpolation.AREA,
            src_color_range=ColorRange.JPEG if is_full and not is_limited_gray(picture) else ColorRange.MPEG,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )

    return shrink


class _Pictures:
    """The pictures of ``frames``, shrunk, one for each; ``lost`` are those for which another one stands."""

    def __init__(
        self, video: Video, source: PacketSource, frames: range, shrink: Callable[[VideoFrame], VideoFrame]
    ) -> None:
        self.lost: list[int] = []
        self._video, self._source, self._frames, self._shrink = video, source, frames, shrink

    def __iter__(self) -> Iterator[VideoFrame]:
        decoder = ClipDecoder(self._video, self._source, self._shrink, new_counters(), self._frames)
        waiting, last = 0, None  # frames lost before the first one that decodes; the last one that did
        reason = ""
        try:
            for frame in self._frames:
                try:
                    (last,) = decoder.read([frame])
                except DecodeError as error:
                    self.lost.append(frame)
                    reason = str(error)
                    if last is None:
                        waiting += 1
                        continue
                yield from [last] * (waiting + 1)
                waiting = 0
        finally:
            decoder.close()
        if last is None:
            raise VideoError(self._video.video_id, f"no frame of a segment decodes ({reason}); remove it")


def _encode(video: Video, spec: TranscodeSpec, pictures: Iterator[tuple[VideoFrame, int]]) -> tuple[bytes, VideoFrame]:
    """(the file, the last picture)."""
    out, base = io.BytesIO(), Fraction(*video.time_base)
    picture = None
    with usual_priority(), av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(spec.codec, rate=_rate(video))
        context = stream.codec_context
        context.options = {**_OPTIONS[spec.codec], "crf": str(spec.crf), "g": str(spec.gop)}
        context.thread_count = 1
        for picture, pts in pictures:
            if not context.is_open:
                if spec.codec == "libx265" and min(picture.width, picture.height) < _X265_SIDE:
                    raise ValueError(f"pictures of {picture.width} x {picture.height} are too small for it")
                context.width, context.height, context.pix_fmt = picture.width, picture.height, "yuv420p"
                context.time_base = stream.time_base = base
                context.color_range, context.colorspace = int(ColorRange.MPEG), int(picture.colorspace)
                context.color_primaries, context.color_trc = int(picture.color_primaries), int(picture.color_trc)
                if video.rotation:
                    stream.set_display_rotation(-video.rotation)
            picture.pts, picture.time_base = pts, base
            picture.pict_type = PictureType.NONE  # the encoder is free to choose its own
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert picture is not None
    return out.getvalue(), picture


def _read_back(video: Video, data: bytes, frames: range, times: NDArray[np.int64]) -> tuple[Video, PacketTable]:
    """The video as it is in the file, and its packets."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        packets = [packet for packet in container.demux(stream) if packet.size]
        made = replace(
            video,
            kind=PACKETS,
            codec=context.codec.canonical_name,
            decoder=context.name,
            codec_options=_REPORT_ERRORS,
            extradata=bytes(context.extradata or b""),
            width=context.width,
            height=context.height,
            pix_fmt="yuv420p",
            stream_index=0,
            container=container.format.name,
        )
    if len(packets) != len(frames):
        raise ValueError(f"{len(frames)} frames came out as {len(packets)} packets")
    payloads = [bytes(packet) for packet in packets]
    rank = np.argsort(np.argsort([packet.pts for packet in packets]))
    table = PacketTable(
        offset=np.array([packet.pos for packet in packets], np.int64),
        size=np.array([len(payload) for payload in payloads], np.int64),
        pts=times[rank],
        frame=frames.start + rank.astype(np.int64),
        flags=np.array([KEYFRAME * packet.is_keyframe for packet in packets], np.uint8),
        check=np.array([packet_check(payload) for payload in payloads], np.uint32),
    )
    for offset, payload in zip(table.offset.tolist(), payloads, strict=True):
        if data[offset : offset + len(payload)] != payload:
            raise ValueError("its packets are not where the file says")
    return made, table
