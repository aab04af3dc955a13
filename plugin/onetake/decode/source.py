"""Packet sources: the packets of one video from any keyframe on, and a decoder to feed them to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import CONTAINER, JUMP_COST, PACKETS, PacketTable, Video
from onetake.decode.container import HEADER_BYTES, MAX_PIXELS, decoding_stream, open_video

__all__ = ["ContainerSource", "PacketSource", "TableSource", "codec_options", "open_source"]

_CHANGED = "the file ends before it: it changed since it was indexed, or is cut off; run `onetake index` again"
_OTHER = "its bytes are not those that were indexed: the file is damaged here, or changed; copy it again, and index it"


class PacketSource(Protocol):
    """Whoever decodes sees this. Not thread-safe.

    Attributes:
        table: the packets that there are, in decode order.
        bytes_read: payload bytes read so far.
        jump_cost: packets that are given in less time than it takes to start anew.
    """

    table: PacketTable
    bytes_read: int
    jump_cost: int

    def start(self, row: int) -> tuple[VideoCodecContext, Iterator[tuple[int, Packet]]]:
        """A decoder without a past, at one thread, and (row, packet) pairs from ``row``, which must be a
        keyframe's, to the table's last row. Ends what an earlier call gave.

        A packet's pts is its row: decoders hand it on to the picture, which thus says where it comes from, whatever
        the container says of times.
        """

    def close(self) -> None:
        """Close what is open. The source cannot be used after."""


def codec_options(video: Video) -> dict[str, str]:
    """Options to open the video's decoder with."""
    options = dict(pair.split("=", 1) for pair in video.codec_options.split(",") if pair)
    return {**options, "max_pixels": str(MAX_PIXELS)}


class TableSource:
    """Packets cut straight out of a file (or out of a stretch of it) by their packet table.

    Args:
        video: the video.
        table: rows of its packet table.
        path: a file that holds the table's packets.
        file_start: which byte of the video's file ``path`` starts with.

    Raises:
        FileNotFoundError: ``path`` does not exist.
    """

    jump_cost = JUMP_COST[PACKETS]

    def __init__(self, video: Video, table: PacketTable, path: Path, file_start: int = 0) -> None:
        self.table = table
        self.bytes_read = 0
        self._video = video
        self._file_start = file_start
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        self._file_stop = file_start + status.st_size if S_ISREG(status.st_mode) else 0

    def start(self, row: int) -> tuple[VideoCodecContext, Iterator[tuple[int, Packet]]]:
        # Not the old one, flushed: it would keep parameter sets that a later packet brought. A new one costs 50 us.
        video = self._video
        codec = VideoCodecContext.create(video.decoder, "r")
        assert isinstance(codec, VideoCodecContext)
        codec.extradata = video.extradata or None
        codec.width, codec.height = video.width, video.height
        codec.thread_count = 1
        codec.options = codec_options(video)
        return codec, self._packets(row)

    def _packets(self, start_row: int) -> Iterator[tuple[int, Packet]]:
        table = self.table
        for row in range(start_row, len(table)):
            size, offset = int(table.size[row]), int(table.offset[row])
            inside = self._file_start <= offset <= self._file_stop - size
            data = os.pread(self._fd, size, offset - self._file_start) if inside else b""
            self.bytes_read += len(data)
            if len(data) != size:
                raise DecodeError(self._video.video_id, _CHANGED, int(table.frame[row]), offset)
            if not table.has_bytes(row, data):
                raise DecodeError(self._video.video_id, _OTHER, int(table.frame[row]), offset)
            packet = Packet(size)  # Packet(data) would lack the zeros that decoders read beyond its end
            packet.update(data)
            packet.pts = row
            yield row, packet

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1


class ContainerSource:
    """Packets demuxed from the whole file, for videos whose packets do not stand alone.

    Args:
        video: the video.
        table: its packet table, whole or in part; an offset is where the demuxer says that a packet is (or its payload,
            behind the container's header), -1 if it doesn't.
        path: the whole file, or one that holds it.
        window: (start, length) of the video's file in ``path``. None: all.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        VideoError: the file cannot be opened.
    """

    jump_cost = JUMP_COST[CONTAINER]

    def __init__(self, video: Video, table: PacketTable, path: Path, window: tuple[int, int] | None = None) -> None:
        self.table = table
        self.bytes_read = 0
        self._video = video
        self._path = path
        self._window = window
        self._started = False
        self._open()

    def _open(self) -> None:
        self._container = open_video(self._path, self._video.video_id, self._window)
        self._stream = decoding_stream(self._container, self._video.video_id, self._video.stream_index)
        self._stream.codec_context.options = codec_options(self._video)

    def start(self, row: int) -> tuple[VideoCodecContext, Iterator[tuple[int, Packet]]]:
        packets = self._sought(row) if row > 0 or self.table.frame[row] > 0 else None
        if packets is None:
            if self._started:
                self._container.close()
                self._open()
            packets = self._from(row)
        self._started = True
        codec = self._stream.codec_context
        codec.flush_buffers()
        return codec, self._packets(row, packets)

    def _sought(self, row: int) -> Iterator[Packet] | None:
        """Packets from ``row`` on, by seeking; None if the container cannot."""
        try:
            # A second before it: streams without an index seek by dts, which is below pts.
            numerator, denominator = self._video.time_base
            before = int(self.table.pts[row]) - denominator // numerator
            self._container.seek(before, stream=self._stream, backward=True)
            self._started = True
            first = next(self._demux(), None)  # where did that lead?
            if first is None or first.pts is None or first.pts > self.table.pts[row]:
                return None
            self._container.seek(before, stream=self._stream, backward=True)
            return self._from(row)
        except (av.error.FFmpegError, VideoError):
            return None

    def _demux(self) -> Iterator[Packet]:
        try:
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except av.error.FFmpegError as error:
            raise VideoError(self._video.video_id, f"cannot be demuxed ({error}); copy it again") from None

    def _from(self, row: int) -> Iterator[Packet]:
        """Packets from ``row`` on, out of those that the container gives from where it stands.

        Raises:
            DecodeError: the row's packet is not among them.
        """
        table, packets = self.table, self._demux()
        offset = int(table.offset[row])
        for packet in packets:
            placed = packet.pos is not None and packet.pos >= 0 and offset >= 0
            if self._is_row(packet, row) and (not placed or 0 <= offset - packet.pos <= HEADER_BYTES):
                return chain([packet], packets)
        raise DecodeError(self._video.video_id, _CHANGED, int(table.frame[row]))

    def _packets(self, row: int, packets: Iterator[Packet]) -> Iterator[tuple[int, Packet]]:
        for packet in packets:
            if not self._is_row(packet, row):
                raise DecodeError(self._video.video_id, _OTHER, int(self.table.frame[row]))
            self.bytes_read += packet.size
            packet.pts = row
            yield row, packet
            row += 1
            if row == len(self.table):
                return
        raise DecodeError(self._video.video_id, _CHANGED, int(self.table.frame[row]))

    def _is_row(self, packet: Packet, row: int) -> bool:
        return packet.size == self.table.size[row] and self.table.has_bytes(row, bytes(packet))

    def close(self) -> None:
        self._container.close()


def open_source(
    video: Video, table: PacketTable, path: Path, file_start: int = 0, window: tuple[int, int] | None = None
) -> PacketSource:
    """The packet source that the video's kind asks for.

    Args:
        video, table, path: see there.
        file_start: of a TableSource: which byte of what the table's offsets count ``path`` starts with.
        window: of a ContainerSource: where in ``path`` the container is.
    """
    if video.kind == CONTAINER:
        return ContainerSource(video, table, path, window)
    return TableSource(video, table, path, file_start)
