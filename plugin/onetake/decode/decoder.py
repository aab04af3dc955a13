"""Decoding clips front to back: go on from where the decoder stands, jump only when that skips work."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from onetake.core.errors import DecodeError, OnetakeError, VideoError
from onetake.core.index import LATE, RECOVERED, PacketTable, Video
from onetake.decode.source import PacketSource

__all__ = ["NO_SKIP", "SKIPPABLE_CODECS", "ClipDecoder", "Count", "Counters", "key_frames", "new_counters"]

# Codecs of which one may leave pictures undecoded that no other refers to (skip_frame=NONREF) and still get every
# other picture bit for bit. Not so for MPEG-4 part 2; without effect for VP9 and AV1.
SKIPPABLE_CODECS = frozenset({"h264", "hevc"})
NO_SKIP = "skip_frame=default"  # among a video's codec options: not with this one

T = TypeVar("T")

_NEVER = 2**62  # above every frame number
_DAMAGED = "the file is damaged here, or changed since it was indexed; copy it again, and run `onetake index`"


class _Damage(NamedTuple):
    """Frames ``first`` to ``stop`` (not included) cannot be had: why, and at which row that shows."""

    first: int
    stop: int
    row: int
    reason: str


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
    FRAMES_REPEATED = 8  # of those delivered, how many stand for the frame before again: `fps` is above the video's
    CLIPS_SUBSTITUTED = 9  # damaged, so that another one or zeros took their place


Counters = NDArray[np.int64]  # one value for each Count


def new_counters() -> Counters:
    """Counters of this process alone, at zero."""
    return np.zeros(len(Count), np.int64)


class ClipDecoder(Generic[T]):
    """Reads frames of one video by number. Not thread-safe.

    Damage costs the frames from where it shows to the next keyframe; the others are read as ever.

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
        # Per row, the last frame, as they are shown, of those stored up to there: the row's picture may lean on it.
        self._highest = np.maximum.accumulate(table.frame)
        self._key_rows = table.key_rows.tolist()
        self._key_frames = key_frames(table).tolist()
        self._plan = set(plan or ())
        self._planned = sorted(self._plan & self._row_of.keys())
        self._planned_rows = sorted(self._row_of[frame] for frame in self._planned)
        # Per planned row, the first keyframe row at which one must have started for it or for one after it.
        starts = [self._key_row_before(int(table.frame[row])) for row in self._planned_rows]
        self._planned_starts = list(accumulate(reversed(starts), min))[::-1]
        options = video.codec_options.split(",")
        self._can_skip = plan is not None and video.codec in SKIPPABLE_CODECS and NO_SKIP not in options
        self._codec: VideoCodecContext | None = None  # None: not started, or drained
        self._packets: Iterator[tuple[int, Packet]] = iter(())
        self._next_row = 0  # the row that would be fed next
        self._floor = 0  # frames below it may come out broken: they lean on what was before the start
        self._shown = -1  # the last frame looked at since the start
        self._furthest = -1  # the last frame that came out since the start
        self._out: deque[tuple[int, VideoFrame]] = deque()  # came out, not looked at yet
        self._kept: dict[int, T] = {}  # converted for a clip still to come
        self._damage: list[_Damage] = []
        counters[Count.OPENS] += 1

    def read(self, frames: Sequence[int]) -> list[T]:
        """The frames numbered ``frames`` (never falling; one may come several times in a row), converted.

        Raises:
            DecodeError: a frame is not in the source, or does not come out of the decoder.
        """
        self._kept = {number: array for number, array in self._kept.items() if number >= frames[0]}
        wanted = set(frames)
        for frame in sorted(wanted - self._kept.keys()):
            for _ in range(2):  # damage behind a frame may take it along; then it is had by stopping before that
                if frame not in self._kept:  # nor met on the way to one before it
                    self._go_to(frame)
                    self._keep(self._decode_until(frame), wanted)
            if frame not in self._kept:
                self._refuse_damaged(frame)
                raise self._error(f"did not come out of the decoder: {_DAMAGED}", frame)
        self._counters[Count.FRAMES_DELIVERED] += len(frames)
        self._counters[Count.FRAMES_REPEATED] += len(frames) - len(wanted)
        self._counters[Count.CLIPS_DELIVERED] += 1
        got = [self._kept[frame] for frame in frames]
        if not self._plan:
            self._kept.clear()
        return got

    def _keep(self, pictures: Iterable[tuple[int, VideoFrame]], wanted: Collection[int] = ()) -> None:
        """Convert those of the pictures that are wanted now, or planned for a clip to come."""
        for number, picture in pictures:
            if number in wanted or number in self._plan:
                try:
                    self._kept[number] = self._convert(picture)
                except OnetakeError as error:
                    raise self._error(str(error), number) from None
                self._counters[Count.FRAMES_CONVERTED] += 1

    def seconds(self, frames: Sequence[int]) -> NDArray[np.float64]:
        """When frames are shown, in seconds of the video's own clock: float64, as long as ``frames``."""
        numerator, denominator = self._video.time_base
        pts = self._source.table.pts[[self._row_of[frame] for frame in frames]]
        return pts * numerator / denominator

    def _go_to(self, frame: int) -> None:
        """Place the decoder so that ``frame`` is still to come, at the least cost."""
        if frame not in self._row_of:
            raise self._error("is not among the packets at hand", frame)
        self._refuse_damaged(frame)
        if any(number == frame for number, _ in self._out):
            return
        fed = self._row_of[frame] < self._next_row
        if self._codec is not None and frame > self._shown:
            if fed and (frame in self._plan or not self._can_skip):
                return  # inside the decoder
            # A jump must not leave out what a later clip needs: to come back for it costs more than to go on.
            coming = bisect_right(self._planned, self._shown)
            first = min([frame, *self._planned[coming : coming + 1]])
            if not fed and self._key_row_before(first) <= self._next_row + self._source.jump_cost:
                return
            if not fed:
                frame = first
        self._start(self._key_row_before(frame))

    def _start(self, key_row: int) -> None:
        self._keep(self._settled(_NEVER))
        if key_row > 0 or self._shown >= 0:
            self._counters[Count.SEEKS] += 1
        self._codec, self._packets = self._source.start(key_row)
        self._out.clear()
        self._next_row = key_row
        self._floor = self._key_frames[bisect_left(self._key_rows, key_row)]
        self._shown = self._furthest = self._floor - 1

    def _key_row_before(self, frame: int) -> int:
        """The row at which to start for ``frame``."""
        return self._key_rows[max(bisect_right(self._key_frames, frame) - 1, 0)]

    def _decode_until(self, last: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames in the order shown, up to number ``last``; what came out beyond it stays for later."""
        while True:
            yield from self._settled(last)
            if self._shown >= last or (self._out and self._out[0][0] > last) or not self._feed():
                return

    def _settled(self, last: int) -> Iterator[tuple[int, VideoFrame]]:
        """Pictures up to number ``last`` that came out, and after them all that they may lean on: only then it is known
        whether that is damaged."""
        while self._out and self._out[0][0] <= last:
            number, picture = self._out[0]
            if self._codec is not None and self._furthest < self._highest[self._row_of[number]]:
                return
            self._out.popleft()
            if not self._is_damaged(number):
                self._shown = number
                yield number, picture

    def _feed(self) -> bool:
        """Give the decoder its next packet, or its end; False if it had its end before."""
        if self._codec is None:
            return False
        row = self._next_row
        before = self._source.bytes_read
        try:
            packet = None if self._rest_is_useless() else next(self._packets, (row, None))[1]
            self._counters[Count.BYTES_READ] += self._source.bytes_read - before
            self._next_row += packet is not None
            self._decode(packet, row)
        except (av.error.FFmpegError, EOFError, VideoError) as error:
            why = getattr(error, "strerror", None) or error
            reason = error.reason if isinstance(error, VideoError) else f"cannot be decoded ({why}): {_DAMAGED}"
            self._note_damage(row, reason)
            if self._codec is not None:
                self._drain()
        return True

    def _rest_is_useless(self) -> bool:
        """Whether no packet from here to the next jump holds a frame of the plan, or the next is known to be damaged.

        Then what the decoder still has is had by telling it that this is the end, and nothing is decoded in vain.
        """
        if any(damage.row == self._next_row for damage in self._damage):
            return True
        frame_of = self._source.table.frame
        at = bisect_left(self._planned_rows, self._next_row)
        if not self._planned_rows or (self._next_row < len(frame_of) and frame_of[self._next_row] < 0):
            return False  # a packet without a frame may belong to that of the packet before
        if at == len(self._planned_rows):
            return True
        return self._planned_starts[at] > self._next_row + self._source.jump_cost

    def _decode(self, packet: Packet | None, row: int) -> None:
        codec, frame_of = self._codec, self._source.table.frame
        assert codec is not None
        if packet is None:
            self._codec = None
        else:
            self._counters[Count.PACKETS_FED] += 1
            if self._can_skip and frame_of[row] >= 0:  # a frame's further packets are treated like its first
                codec.skip_frame = "DEFAULT" if int(frame_of[row]) in self._plan else "NONREF"
        for picture in codec.decode(packet):
            self._counters[Count.FRAMES_DECODED] += 1
            number = -1 if picture.pts is None else int(frame_of[picture.pts])
            if number < self._floor:
                continue
            self._furthest = max(self._furthest, number)
            if picture.is_corrupt:  # what is concealed here spreads to the pictures after it
                self._note_damage(int(picture.pts), f"decodes with errors: {_DAMAGED}")
            else:
                self._out.append((number, picture))

    def _drain(self) -> None:
        """Take the sound pictures that a decoder which met damage still holds."""
        with suppress(av.error.FFmpegError, EOFError):
            self._decode(None, self._next_row)

    # Damage.

    def _note_damage(self, row: int, reason: str) -> None:
        """Frames that lean on ``row`` are lost: all from there in decode order, to the next keyframe."""
        table = self._source.table
        after = bisect_right(self._key_rows, row)
        stop = self._key_frames[after] if after < len(self._key_rows) else int(table.frame.max()) + 1
        later = table.frame[row : self._key_rows[after] if after < len(self._key_rows) else len(table)]
        later = later[later >= 0]
        first = min(int(later.min()) if len(later) else stop, stop)
        if not self._is_damaged(first):
            self._damage.append(_Damage(max(first, self._floor), stop, row, reason))

    def _is_damaged(self, frame: int) -> bool:
        return any(damage.first <= frame < damage.stop for damage in self._damage)

    def _refuse_damaged(self, frame: int) -> None:
        """Raise DecodeError for a frame that is known to be lost."""
        for damage in self._damage:
            if damage.first <= frame < damage.stop:
                at = int(self._source.table.frame[damage.row])
                raise self._error(damage.reason, at if at >= 0 else damage.first)

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


def key_frames(table: PacketTable) -> NDArray[np.int64]:
    """Per row of ``table.key_rows``, the first frame that comes out right when a decoder starts there."""
    keys = table.key_rows
    frames = np.maximum(table.frame[keys], 0)
    frames[(table.flags[keys] & LATE) > 0] = _NEVER  # unless the table reaches as far as the recovery
    for row in np.flatnonzero(table.flags & RECOVERED).tolist():
        frames[np.searchsorted(keys, row, side="right") - 1] = table.frame[row]
    return frames
