"""Packet sources: the packets of one video from any keyframe on, and a decoder to feed them to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import CONTAINER, PacketTable, Video
from onetake.decode.container import decoding_stream, open_video

__all__ = ["ContainerSource", "PacketSource", "TableSource", "open_source"]

_CHANGED = "the file ends before it: it changed since it was indexed, or is cut off; run `onetake index` again"


class PacketSource(Protocol):
    """Whoever decodes sees this. Not thread-safe.

    Attributes:
        table: the packets that there are, in decode order.
        bytes_read: payload bytes read so far.
    """

    table: PacketTable
    bytes_read: int

    def start(self, row: int) -> tuple[VideoCodecContext, Iterator[tuple[int, Packet]]]:
        """A decoder without a past, at one thread, and (row, packet) pairs from ``row``, which must be a
        keyframe's, to the table's last row. Ends what an earlier call gave."""

    def close(self) -> None:
        """Close what is open. The source cannot be used after."""


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

    def __init__(self, video: Video, table: PacketTable, path: Path, file_start: int = 0) -> None:
        self.table = table
        self.bytes_read = 0
        self._video = video
        self._file_start = file_start
        self._codec: VideoCodecContext | None = None
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def start(self, row: int) -> tuple[VideoCodecContext, Iterator[tuple[int, Packet]]]:
        if self._codec is None:
            self._codec = self._open_codec()
        else:
            self._codec.flush_buffers()
        return self._codec, self._packets(row)

    def _open_codec(self) -> VideoCodecContext:
        video = self._video
        codec = VideoCodecContext.create(video.decoder, "r")
        assert isinstance(codec, VideoCodecContext)
        codec.extradata = video.extradata or None
        codec.width, codec.height = video.width, video.height
        codec.thread_count = 1
        if video.codec_options:
            codec.options = dict(pair.split("=", 1) for pair in video.codec_options.split(","))
        return codec

    def _packets(self, start_row: int) -> Iterator[tuple[int, Packet]]:
        table = self.table
        for row in range(start_row, len(table)):
            size, offset = int(table.size[row]), int(table.offset[row])
            data = os.pread(self._fd, size, offset - self._file_start)
            self.bytes_read += len(data)
            if len(data) != size:
                raise DecodeError(self._video.video_id, _CHANGED, int(table.frame[row]), offset)
            packet = Packet(size)  # Packet(data) would lack the zeros that decoders read beyond its end
            packet.update(data)
            packet.pts = int(table.pts[row])
            yield row, packet

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd, self._codec = -1, None


class ContainerSource:
    """Packets demuxed from the whole file, for videos whose packets do not stand alone.

    Args:
        video: the video.
        table: its packet table, whole or in part; only pts, frames and flags are used.
        path: the whole file.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        VideoError: the file cannot be opened.
    """

    def __init__(self, video: Video, table: PacketTable, path: Path) -> None:
        self.table = table
        self.bytes_read = 0
        self._video = video
        self._path = path
        self._started = False
        self._open()

    def _open(self) -> None:
        self._container = open_video(self._path, self._video.video_id)
        self._stream = decoding_stream(self._container, self._video.video_id, self._video.stream_index)

    def start(self, row: int) -> tuple[VideoCodecContext, Iterator[tuple[int, Packet]]]:
        first_pts = int(self.table.pts[row])
        if self._started if row == 0 else not self._seek(first_pts):
            self._container.close()
            self._open()
        self._started = True
        self._stream.codec_context.flush_buffers()
        return self._stream.codec_context, self._packets(row, first_pts)

    def _seek(self, pts: int) -> bool:
        """Go to ``pts`` or before it; False if the container cannot."""
        try:
            self._container.seek(pts, stream=self._stream, backward=True)
            first = next(self._demux(), None)  # where did that lead?
            if first is None or first.pts is None or first.pts > pts:
                return False
            self._container.seek(pts, stream=self._stream, backward=True)
        except (av.error.FFmpegError, VideoError):
            return False
        return True

    def _demux(self) -> Iterator[Packet]:
        try:
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except av.error.FFmpegError as error:
            raise VideoError(self._video.video_id, f"cannot be demuxed ({error}); copy it again") from None

    def _packets(self, row: int, first_pts: int) -> Iterator[tuple[int, Packet]]:
        packets = self._demux()
        for packet in packets:
            if packet.pts == first_pts:
                break
        else:
            raise DecodeError(self._video.video_id, _CHANGED, int(self.table.frame[row]))
        while True:
            self.bytes_read += packet.size
            yield row, packet
            row += 1
            if row == len(self.table):
                return
            packet = next(packets, None)
            if packet is None:
                raise DecodeError(self._video.video_id, _CHANGED, int(self.table.frame[row]))

    def close(self) -> None:
        self._container.close()


def open_source(video: Video, table: PacketTable, path: Path, file_start: int = 0) -> PacketSource:
    """The packet source that the video's kind asks for."""
    if video.kind == CONTAINER:
        return ContainerSource(video, table, path)
    return TableSource(video, table, path, file_start)
