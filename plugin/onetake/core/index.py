"""What an index holds: videos, their segments, and each segment's packet table.

Reading and writing the files is ``onetake.decode.store``; here is what they mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import IndexFileError

__all__ = [
    "CONTAINER",
    "DISCARD",
    "FORMAT_VERSION",
    "JUMP_COST",
    "KEYFRAME",
    "LATE",
    "MAX_PACKET",
    "MAX_SEGMENT_PACKETS",
    "PACKETS",
    "RECOVERED",
    "UNCHECKED",
    "Keyframes",
    "PacketTable",
    "Video",
    "VideoIndex",
    "packet_check",
]

FORMAT_VERSION = 4

# Kinds of video. PACKETS: a packet's bytes stand in the file as they are, and decode to the right frames without
# the container. CONTAINER: they don't; the file is fetched whole and demuxed.
PACKETS, CONTAINER = "packets", "container"

# Per kind, packets that a decoder is given in less time than it takes to start anew at a later one: in a container, to
# seek and to find the packet takes longer than to decode a few.
JUMP_COST = {PACKETS: 0, CONTAINER: 16}

# Packet flags.
KEYFRAME = 1  # a decoder can start here
DISCARD = 2  # decoded, never shown (an edit list cuts it away)
LATE = 4  # a keyframe of intra refresh: a decoder that starts here is right only from a RECOVERED packet's frame on
RECOVERED = 8
UNCHECKED = 16  # its bytes were not read when it was indexed: `check` says nothing

_FLAGS = KEYFRAME | DISCARD | LATE | RECOVERED | UNCHECKED

MAX_SEGMENT_PACKETS = 1 << 22  # that many take 160 MB of memory
MAX_PACKET = 1 << 28  # bytes
_CHECK_BYTES = 3
_ROW_BYTES = 4 * 8 + 1 + _CHECK_BYTES
_MAX_PLACE = 1 << 60  # of bytes, and of ticks

Int64Array = NDArray[np.int64]


def packet_check(data: bytes | memoryview) -> int:
    """What tells a packet's bytes from others, damaged ones above all: 24 bits of their CRC-32."""
    return zlib.crc32(data) & 0xFFFFFF


@dataclass(frozen=True, slots=True)
class PacketTable:
    """The video packets of a run of a file, in decode order. All arrays have length n.

    Attributes:
        offset: int64, where the packet's payload starts in the file, in bytes.
        size: int64, its length in bytes.
        pts: int64, presentation time in the stream's time base.
        frame: int64, number of the frame it holds, in presentation order; -1 if it is never shown.
        flags: uint8, KEYFRAME, DISCARD, LATE, RECOVERED and UNCHECKED.
        check: uint32, ``packet_check`` of its bytes; 0 where UNCHECKED.
    """

    offset: Int64Array
    size: Int64Array
    pts: Int64Array
    frame: Int64Array
    flags: NDArray[np.uint8]
    check: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.pts)

    def __getitem__(self, rows: slice) -> PacketTable:
        return PacketTable(*(getattr(self, name)[rows] for name in self.__slots__))

    def end_of(self, row: int) -> int:
        """The row behind the last packet of the picture at ``row``: further ones, such as its second field, have no
        number of their own."""
        row += 1
        while row < len(self) and self.frame[row] < 0 and not self.flags[row] & DISCARD:
            row += 1
        return row

    def has_bytes(self, row: int, data: bytes) -> bool:
        """Whether ``data`` is the packet of that row, as far as is known."""
        right = self.flags[row] & UNCHECKED or packet_check(data) == self.check[row]
        return len(data) == self.size[row] and bool(right)

    @property
    def key_rows(self) -> Int64Array:
        """Rows at which a decoder can start, rising."""
        return np.flatnonzero(self.flags & KEYFRAME)

    @property
    def clean_key_rows(self) -> Int64Array:
        """Those of ``key_rows`` from which every frame comes out right, and that are shown."""
        rows = self.key_rows
        clean: Int64Array = rows[((self.flags[rows] & LATE) == 0) & ((self.frame[rows] >= 0) | (rows == 0))]
        return clean

    @classmethod
    def concatenate(cls, tables: Sequence[PacketTable]) -> PacketTable:
        """One table of several that follow one another in decode order."""
        return cls(
            *(np.concatenate([getattr(table, name) for table in tables]) for name in cls.__slots__),
        )

    def to_bytes(self) -> bytes:
        """Compressed form: columns as small differences, bytes of equal weight together, deflated."""
        gap = self.offset - np.concatenate([[0], (self.offset + self.size)[:-1]])
        columns = np.stack([gap, self.size, np.diff(self.pts, prepend=0), np.diff(self.frame, prepend=0)])
        planes = columns.astype("<i8").view(np.uint8).reshape(4, len(self), 8).transpose(0, 2, 1)
        check = self.check.astype("<u4").view(np.uint8).reshape(len(self), 4)[:, :_CHECK_BYTES]
        return zlib.compress(planes.tobytes() + self.flags.tobytes() + check.tobytes(), 9)

    @classmethod
    def from_bytes(cls, data: bytes, num_packets: int) -> PacketTable:
        """Inverse of ``to_bytes``.

        Raises:
            IndexFileError: ``data`` is not the table of ``num_packets`` packets, or what it says can't be.
        """
        size = min(num_packets, MAX_SEGMENT_PACKETS) * _ROW_BYTES
        try:
            inflate = zlib.decompressobj()
            raw = inflate.decompress(data, size + 1)  # a bomb stays small
        except (zlib.error, ValueError, OverflowError) as error:
            raise IndexFileError(f"packets.bin is damaged ({error}): run `onetake index` again") from None
        if len(raw) != num_packets * _ROW_BYTES or not inflate.eof:  # its checksum stands at the very end
            raise IndexFileError("packets.bin is damaged (wrong length): run `onetake index` again")
        planes = np.frombuffer(raw, np.uint8, num_packets * 32).reshape(4, 8, num_packets)
        gap, length, pts_step, frame_step = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<i8")[..., 0]
        stop = np.cumsum(gap + length)
        check = np.zeros((num_packets, 4), np.uint8)
        check[:, :_CHECK_BYTES] = np.frombuffer(raw, np.uint8, offset=num_packets * 33).reshape(-1, _CHECK_BYTES)
        table = cls(
            offset=stop - length,
            size=length.astype(np.int64),
            pts=np.cumsum(pts_step),
            frame=np.cumsum(frame_step),
            flags=np.frombuffer(raw, np.uint8, num_packets, num_packets * 32),
            check=check.view("<u4")[:, 0],
        )
        if not table._is_possible():
            raise IndexFileError("packets.bin is damaged (a packet that can't be): run `onetake index` again")
        return table

    def _is_possible(self) -> bool:
        shown = self.frame[self.frame >= 0]
        return bool(
            len(self)
            and self.flags[0] & KEYFRAME
            and np.all(self.flags <= _FLAGS)
            and np.all((self.offset >= -1) & (self.offset < _MAX_PLACE) & (self.size > 0) & (self.size <= MAX_PACKET))
            and np.all((self.frame >= -1) & (self.frame < 2**31) & (self.pts > -_MAX_PLACE) & (self.pts < _MAX_PLACE))
            and len(np.unique(shown)) == len(shown)
        )


@dataclass(frozen=True, slots=True)
class Video:
    """What the index knows of a video as a whole: enough to decode its packets without its container.

    Attributes:
        video_id: its name, unique in the index: the file's path below the videos' folder.
        file: path below the videos' folder, with forward slashes.
        file_bytes: size of the file when it was indexed.
        version: another text whenever the file is another: its modification time then, or an object's ETag. No part of
            what the index is of: a copy of the same videos elsewhere has the same generation.
        kind: PACKETS or CONTAINER.
        num_frames: frames that a full sequential decode shows.
        codec: the codec's name in FFmpeg, such as "h264".
        decoder: the FFmpeg decoder that the index was checked with.
        codec_options: options that the decoder needs, as "name=value" joined by commas.
        extradata: the codec's out-of-band headers.
        time_base: (numerator, denominator) in seconds of one pts tick.
        duration: pts ticks from the first frame shown to the end of the last one.
        frame_ticks: pts ticks from each frame to the next; 0 if that varies.
        width, height: of the decoded picture, in pixels, before any rotation.
        rotation: degrees by which a picture must be turned clockwise to stand upright: 0, 90, 180 or 270.
        pix_fmt: FFmpeg's name of the pixel format.
        color_matrix: how its YUV is to be turned to RGB, such as "bt709"; "" if it does not say.
        color_range: "full" or "limited"; "" if it does not say.
        transfer: "PQ" or "HLG" for high dynamic range; "" for anything else.
        stream_index: the stream's number in the container.
        container: FFmpeg's name of the container format.
    """

    video_id: str
    file: str
    file_bytes: int
    version: str
    kind: str
    num_frames: int
    codec: str
    decoder: str
    codec_options: str
    extradata: bytes
    time_base: tuple[int, int]
    duration: int
    frame_ticks: int
    width: int
    height: int
    rotation: int
    pix_fmt: str
    color_matrix: str
    color_range: str
    transfer: str
    stream_index: int
    container: str

    def to_seconds(self, pts: Int64Array) -> NDArray[np.float64]:
        """Times of its clock in seconds, float64, as many as ``pts``."""
        return pts.astype(np.float64) * self.time_base[0] / self.time_base[1]

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self.duration * self.time_base[0] / self.time_base[1]


@dataclass(frozen=True, slots=True)
class Keyframes:
    """The K keyframes of all S segments, those that are never shown left out, in the order of segments.

    Attributes:
        start: int64 [S + 1], where each segment's begin; the last entry is K.
        frame: int64 [K], frame numbers within the video.
        pts: int64 [K], when they are shown, in ticks of the video's clock.
    """

    start: Int64Array
    frame: Int64Array
    pts: Int64Array


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """An index in memory: V videos and S segments. A video's segments stand together, in time order.

    Attributes:
        generation: hash of all content; a dataset, its ranks and its checkpoints agree by it.
        videos: the V videos, sorted by video_id.
        video: int64 [S], each segment's video, as a number in ``videos``.
        first_frame: int64 [S], the segment's first frame, in presentation order.
        num_frames: int64 [S], its frames.
        first_pts: int64 [S], when its first frame is shown, in ticks of the video's clock.
        byte_offset, byte_length: int64 [S], the stretch of the file that holds its packets.
        table_offset, table_length: int64 [S], where packets.bin holds its packet table.
        num_packets, num_keyframes: int64 [S].
    """

    generation: str
    videos: tuple[Video, ...]
    video: Int64Array
    first_frame: Int64Array
    num_frames: Int64Array
    first_pts: Int64Array
    byte_offset: Int64Array
    byte_length: Int64Array
    table_offset: Int64Array
    table_length: Int64Array
    num_packets: Int64Array
    num_keyframes: Int64Array

    @property
    def num_segments(self) -> int:
        """S."""
        return len(self.video)

    @property
    def video_frames(self) -> Int64Array:
        """int64 [S]: frames of the video that each segment belongs to."""
        return np.array([video.num_frames for video in self.videos], np.int64)[self.video]

    def segment_name(self, segment: int) -> str:
        """A name for people: video ID and first frame."""
        return f"{self.videos[self.video[segment]].video_id}@{self.first_frame[segment]}"
