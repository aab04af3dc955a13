"""What one video file holds: demuxed from front to back, nothing decoded."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from onetake.core.errors import VideoError
from onetake.core.index import (
    CONTAINER,
    DISCARD,
    KEYFRAME,
    MAX_PACKET,
    PACKETS,
    UNCHECKED,
    PacketTable,
    Video,
    packet_check,
)
from onetake.decode.container import HEADER_BYTES, MAX_PIXELS, decoding_stream, open_video
from onetake.decode.numbering import number_by_pts, start_rows

__all__ = ["Scan", "is_idr", "scan_video"]

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scan:
    """What demuxing tells of a video.

    Attributes:
        video: its parameters. Its kind is PACKETS where every packet's bytes were found in the file in one piece, else
            CONTAINER; whether they decode without the container is not known yet (see ``decode.check``).
        table: its packets. Without numbers (all are -1) where the packets' times don't tell them.
        positions: int64 [n], where the demuxer says that each packet is; -1 if it doesn't.
        torn: whether the demuxer misses a part of a packet, or packets.
        is_open: whether H.264 has keyframes that don't cut it off from what was before (others than IDR pictures).
    """

    video: Video
    table: PacketTable
    positions: Int64Array
    torn: bool
    is_open: bool

    @property
    def numbered(self) -> bool:
        """Whether the packets' times tell the frames' numbers."""
        return bool(np.any(self.table.frame >= 0))


def scan_video(
    path: Path, video_id: str, file: str, stream_index: int | None = None, headers_only: bool = False
) -> Scan:
    """Demux a file.

    Args:
        path: the file.
        video_id: the video's name in errors and in the index.
        file: its path below the videos' folder.
        stream_index: the stream to index. None: the best video stream.
        headers_only: of an MP4 or MOV, the file holds the headers, and zeros for packets. These are then UNCHECKED, and
            whether H.264 is open is not known.

    Raises:
        VideoError: the file is no video, or is cut off.
    """
    stat = path.stat()
    if not stat.st_size:
        raise VideoError(video_id, "the file is empty; remove it or copy it again")
    with (
        open_video(path, video_id) as container,
        path.open("rb") as raw,
        mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        ends = _announced_end(data) if "matroska" in container.format.name else 0
        if ends > stat.st_size:
            reason = f"cut off: its header announces {ends} bytes, the file holds {stat.st_size}; copy it again"
            raise VideoError(video_id, reason)
        stream = decoding_stream(container, video_id, stream_index)
        _check_codec(video_id, stream)
        try:
            streamed = container.format.name in ("mpegts", "mpeg")  # ends anywhere
            packets = _Packets(video_id, stream, data, streamed, headers_only)
            for packet in container.demux(stream):
                if packet.size:
                    packets.add(packet)
        except av.error.FFmpegError as error:
            raise VideoError(video_id, f"cannot be demuxed ({error.strerror}); copy or encode it again") from None
        if headers_only:  # the demuxer takes keyframes for such by their bytes, too
            packets.flag_keyframes({entry.pos for entry in stream.index_entries if entry.is_keyframe})
        table, positions = packets.table()
        _refuse_cut_off(video_id, container, stream, table)
        codec = stream.codec_context
        video = Video(
            video_id=video_id,
            file=file,
            file_bytes=stat.st_size,
            version=str(stat.st_mtime_ns),
            kind=PACKETS if packets.whole else CONTAINER,
            num_frames=0,
            codec=codec.codec.canonical_name,
            decoder=codec.name,
            codec_options="",
            extradata=bytes(codec.extradata or b""),
            time_base=(stream.time_base.numerator, stream.time_base.denominator),
            duration=0,
            frame_ticks=0,
            width=codec.width,
            height=codec.height,
            rotation=0,
            pix_fmt=codec.pix_fmt or "",
            color_matrix="",
            color_range="",
            transfer="",
            stream_index=stream.index,
            container=container.format.name,
        )
    return Scan(video, table, positions, packets.torn, packets.is_open)


class _Packets:
    """The packets of a stream, gathered."""

    def __init__(self, video_id: str, stream: VideoStream, data: mmap.mmap, streamed: bool, blind: bool) -> None:
        self.whole = True  # every packet stands in the file in one piece, and is decoded with the extradata at hand
        self.torn = self.is_open = False
        self._video_id = video_id
        self._data = data
        self._streamed = streamed
        self._blind = blind  # there are no bytes to look at
        self._codec = stream.codec_context
        self._rows: list[tuple[int, ...]] = []  # offset, position, size, pts, flags, check
        self._dts: list[int | None] = []
        self._pts_missing = False

    def add(self, packet: Packet) -> None:
        position = packet.pos if packet.pos is not None else -1
        cut = packet.is_corrupt and not self._streamed and position + packet.size == len(self._data)
        if cut or position + packet.size > len(self._data):
            raise VideoError(self._video_id, f"cut off or damaged at byte {position}; copy it again")
        if packet.size > MAX_PACKET:
            raise VideoError(self._video_id, f"a packet of {packet.size} bytes is over the limit; encode it again")
        changed = packet.has_sidedata("new_extradata") and bool(self._rows)
        self.whole &= position >= 0 and not changed
        self.torn |= packet.is_corrupt
        self._pts_missing |= packet.pts is None
        self._dts.append(packet.dts)
        flags = KEYFRAME * packet.is_keyframe | DISCARD * packet.is_discard
        offset, check = position, 0
        if self._blind:
            flags |= UNCHECKED
        else:
            data = bytes(packet)
            check = packet_check(data)
            if self.whole:
                offset = self._data.find(data, position, position + packet.size + HEADER_BYTES)
                self.whole = offset >= 0
            if self._codec.name == "h264" and packet.is_keyframe and not self.is_open:
                self.is_open = not is_idr(data, bytes(self._codec.extradata or b""))
        self._rows.append((offset, position, packet.size, packet.pts or 0, flags, check))

    def flag_keyframes(self, positions: set[int]) -> None:
        """Let the packets at ``positions`` be the keyframes."""
        for number, (offset, position, size, pts, flags, check) in enumerate(self._rows):
            flags = flags & ~KEYFRAME | KEYFRAME * (position in positions)
            self._rows[number] = offset, position, size, pts, flags, check

    def table(self) -> tuple[PacketTable, Int64Array]:
        """The packet table, and the packets' positions."""
        if not self._rows:
            raise VideoError(self._video_id, "holds no video packet; remove it")
        offset, position, size, pts, flags, check = np.array(self._rows, np.int64).T
        if self._pts_missing:
            pts = self._times_of_dts()
        frame = None if self._pts_missing and self._codec.has_b_frames else number_by_pts(pts, flags)
        if frame is None:
            frame = np.full(len(pts), -1, np.int64)
        elif not np.any(frame >= 0):
            raise VideoError(self._video_id, "every frame is cut away by its edit list; remove it")
        place = offset if self.whole else position
        table = PacketTable(place, size, pts, frame, flags.astype(np.uint8), check.astype(np.uint32))
        return (start_rows(table, table.key_rows) if np.any(frame >= 0) else table), position

    def _times_of_dts(self) -> Int64Array:
        """Times of packets whose pts are missing: their dts, which have the right steps if not the right order."""
        if any(dts is None for dts in self._dts):
            known = [(row, dts) for row, dts in enumerate(self._dts) if dts is not None]
            if len(known) < 2:
                raise VideoError(self._video_id, "its packets carry no times; put it into an MP4 or MKV file")
            rows, times = np.array(known, np.int64).T
            return np.interp(np.arange(len(self._dts)), rows, times).astype(np.int64)
        return np.array(self._dts, np.int64)


def is_idr(data: bytes, extradata: bytes) -> bool:
    """Whether a packet of H.264 holds an IDR picture (ITU-T H.264, NAL unit type 5)."""
    if extradata[:1] != b"\1":  # start codes
        return any(unit and unit[0] & 31 == 5 for unit in data.split(b"\0\0\1")[1:])
    width, place = (extradata[4] & 3) + 1 if len(extradata) > 4 else 4, 0  # lengths (ISO/IEC 14496-15)
    while place + width < len(data):
        if data[place + width] & 31 == 5:
            return True
        place += width + int.from_bytes(data[place : place + width], "big")
    return False


def _check_codec(video_id: str, stream: VideoStream) -> None:
    codec = stream.codec_context
    if not (codec.width and codec.height):
        raise VideoError(video_id, "no picture size is known, so the stream is damaged or encrypted; encode it again")
    if codec.width * codec.height > MAX_PIXELS:
        reason = f"pictures of {codec.width} x {codec.height} are over the limit of {MAX_PIXELS} pixels"
        raise VideoError(video_id, f"{reason}; scale it down")


def _refuse_cut_off(video_id: str, container: InputContainer, stream: VideoStream, table: PacketTable) -> None:
    announced, held = stream.frames, len(table)
    if "mp4" in container.format.name:  # what an edit list cuts away has no entry, but is announced
        announced = len(stream.index_entries)
    elif container.format.name == "avi":  # a frame that was dropped at capture is announced, and takes its time
        held = max(held, int(table.pts.max()) + 1)
    if announced > held:
        reason = f"cut off: its header announces {announced} frames, the file holds {held}; copy it again"
        raise VideoError(video_id, reason)


def _announced_end(data: mmap.mmap) -> int:
    """Where a Matroska file says that it ends; 0 where it does not say, as in a live recording."""
    end = 0
    for element in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # the EBML header, the segment
        width = 9 - data[end + 4 : end + 5].ljust(1)[0].bit_length()
        size = int.from_bytes(data[end + 4 : end + 4 + width], "big") - (1 << 7 * width)
        if data[end : end + 4] != element or width > 8 or size == (1 << 7 * width) - 1:
            return 0
        end += 4 + width + size
    return end
