"""Decoding clips front to back: go on from where the decoder stands, jump only when that skips work."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import IntEnum
from typing import Generic, TypeVar

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from onetake.core.errors import DecodeError
from onetake.core.index import Video
from onetake.decode.source import PacketSource

__all__ = ["SKIPPABLE_CODECS", "ClipDecoder", "Count", "Counters", "new_counters"]

# Codecs of which one may leave pictures undecoded that no other refers to (skip_frame=NONREF) and still get every
# other picture bit for bit. Not so for MPEG-4 part 2; without effect for VP9 and AV1.
SKIPPABLE_CODECS = frozenset({"h264", "hevc"})

T = TypeVar("T")

# A decoder that jumps ahead leaves out at least so many packets: fewer are fed faster than a new start pays.
MIN_JUMP = 16


class Count(IntEnum):
    """What decoding cost: places in an array of counters. Plain sums, to be added up over decoders and workers."""

    OPENS = 0  # decoders opened
    SEEKS = 1  # jumps of a decoder, forwards or back, and starts behind its source's first packet
    PACKETS_FED = 2  # packets given to a decoder, those of pictures that it may skip included
    FRAMES_DECODED = 3  # frames that came out of a decoder
    FRAMES_CONVERTED = 4  # frames scaled and turned to RGB
    FRAMES_DELIVERED = 5  # frames in the clips handed out
    CLIPS_DELIVERED = 6
    BYTES_READ = 7  # payload bytes read from files


Counters = NDArray[np.int64]  # one value for each Count


def new_counters() -> Counters:
    """Counters of this process alone, at zero."""
    return np.zeros(len(Count), np.int64)


class ClipDecoder(Generic[T]):
    """Reads frames of one video by number. Not thread-safe.

    Args:
        video: the video.
        source: its packets; closed by ``close``.
        convert: what to make of a decoded picture: an RGB array (see ``decode.scale``), a digest.
        counters: where to count.
        plan: every frame that will be asked for, where that is known: pictures that neither it nor another
            picture needs are then not decoded, and frames that clips have in common are kept from one clip
            to the next. Clips must be asked for in the order of their first frames.
    """

    def __init__(
        self,
        video: Video,
        source: PacketSource,
        convert: Callable[[VideoFrame], T],
        counters: Counters,
        plan: Collection[int] | None = None,
    ) -> None:
        self._video = video
        self._source = source
        self._convert = convert
        self._counters = counters
        table = source.table
        shown = np.flatnonzero(table.frame >= 0)
        self._row_of = dict(zip(table.frame[shown].tolist(), shown.tolist(), strict=True))
        self._frame_of = dict(zip(table.pts[shown].tolist(), table.frame[shown].tolist(), strict=True))
        self._key_rows = table.key_rows.tolist()
        self._key_pts = table.pts[table.key_rows].tolist()
        self._plan = frozenset(plan or ())
        self._planned = sorted(self._plan & self._row_of.keys())
        self._can_skip = plan is not None and video.codec in SKIPPABLE_CODECS
        self._codec: VideoCodecContext | None = None  # None: not started, or drained
        self._packets: Iterator[tuple[int, Packet]] = iter(())
        self._next_row = 0  # the row that would be fed next
        self._floor = 0  # frames below it may come out broken: they lean on what was before the start
        self._shown = -1  # the last frame looked at since the start
        self._out: deque[tuple[int, VideoFrame]] = deque()  # came out, not looked at yet
        self._kept: dict[int, T] = {}  # converted for a clip still to come
        counters[Count.OPENS] += 1

    def read(self, frames: Sequence[int]) -> list[T]:
        """The frames numbered ``frames`` (rising), converted.

        Raises:
            DecodeError: a frame is not in the source, or does not come out of the decoder.
        """
        self._kept = {number: array for number, array in self._kept.items() if number >= frames[0]}
        missing = [frame for frame in frames if frame not in self._kept]
        got = {frame: self._kept[frame] for frame in frames if frame in self._kept}
        if missing:
            self._go_to(missing[0])
            wanted = set(missing)
            for number, picture in self._decode_until(missing[-1]):
                planned = number in self._plan
                if number in wanted or planned:
                    array = self._convert(picture)
                    self._counters[Count.FRAMES_CONVERTED] += 1
                    if number in wanted:
                        got[number] = array
                    if planned and number > frames[0]:
                        self._kept[number] = array
        for frame in frames:
            if frame not in got:
                raise self._error("did not come out of the decoder: its packets are damaged", frame)
        self._counters[Count.FRAMES_DELIVERED] += len(frames)
        self._counters[Count.CLIPS_DELIVERED] += 1
        return [got[frame] for frame in frames]

    def seconds(self, frames: Sequence[int]) -> NDArray[np.float64]:
        """When frames are shown, in seconds of the video's own clock: float64, as long as ``frames``."""
        numerator, denominator = self._video.time_base
        pts = self._source.table.pts[[self._row_of[frame] for frame in frames]]
        return pts * numerator / denominator

    def _go_to(self, frame: int) -> None:
        """Place the decoder so that ``frame`` is still to come, at the least cost."""
        if frame not in self._row_of:
            raise self._error("is not among the packets at hand", frame)
        if any(number == frame for number, _ in self._out):
            return
        key_row = self._key_row_before(frame)
        if self._codec is not None and frame > self._shown:
            # A jump must not leave out what a later clip needs: to come back for it costs more than to go on.
            coming = bisect_right(self._planned, self._shown)
            if coming < len(self._planned) and self._planned[coming] < frame:
                key_row = self._key_row_before(self._planned[coming])
            if key_row < self._next_row + MIN_JUMP:
                return
        if key_row > 0 or self._shown >= 0:
            self._counters[Count.SEEKS] += 1
        self._codec, self._packets = self._source.start(key_row)
        self._out.clear()
        self._next_row = key_row
        self._floor = max(int(self._source.table.frame[key_row]), 0)
        self._shown = self._floor - 1

    def _key_row_before(self, frame: int) -> int:
        """The row at which to start for ``frame``."""
        before = bisect_right(self._key_pts, int(self._source.table.pts[self._row_of[frame]])) - 1
        return self._key_rows[before] if before >= 0 else 0

    def _decode_until(self, last: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames in the order shown, up to number ``last``; what came out beyond it stays for later."""
        while True:
            while self._out:
                number, picture = self._out[0]
                if number > last:
                    return
                self._out.popleft()
                self._shown = number
                yield number, picture
                if number == last:
                    return
            if not self._feed():
                return

    def _feed(self) -> bool:
        """Give the decoder its next packet, or its end; False if it had its end before."""
        if self._codec is None:
            return False
        codec, table = self._codec, self._source.table
        before = self._source.bytes_read
        row, packet = next(self._packets, (len(table), None))
        self._counters[Count.BYTES_READ] += self._source.bytes_read - before
        if packet is None:
            self._codec = None
        else:
            self._counters[Count.PACKETS_FED] += 1
            if self._can_skip:
                codec.skip_frame = "DEFAULT" if int(table.frame[row]) in self._plan else "NONREF"
        try:
            pictures = codec.decode(packet)
        except (av.error.FFmpegError, EOFError) as error:
            frame = int(table.frame[min(row, len(table) - 1)])
            raise self._error(f"cannot be decoded ({error})", frame) from None
        self._next_row = row + 1
        for picture in pictures:
            self._counters[Count.FRAMES_DECODED] += 1
            number = self._frame_of.get(picture.pts, -1) if picture.pts is not None else -1
            if number >= self._floor:
                if picture.is_corrupt:  # what is concealed here spreads to the pictures after it
                    raise self._error("its packets are damaged; copy the video again, and run `onetake index`", number)
                self._out.append((number, picture))
        return True

    def _error(self, reason: str, frame: int) -> DecodeError:
        row = self._row_of.get(frame)
        offset = -1 if row is None else int(self._source.table.offset[row])
        return DecodeError(self._video.video_id, reason, frame, offset if offset >= 0 else None)

    def close(self) -> None:
        """Close the decoder and its source; safe to call twice."""
        self._codec, self._packets = None, iter(())
        self._out.clear()
        self._kept.clear()
        self._source.close()
