"""Decoding clips front to back: go on from where the decoder stands, jump only when that skips work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Generic, TypeVar

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from onetake.core.errors import DecodeError, OnetakeError, VideoError
from onetake.core.index import Video
from onetake.decode.plan import LostFrames, Places, Plan
from onetake.decode.source import PacketSource

__all__ = ["NO_SKIP", "SKIPPABLE_CODECS", "ClipDecoder", "Count", "Counters", "can_skip", "new_counters"]

# Codecs of which one may leave pictures undecoded that no other refers to (skip_frame=NONREF) and still get every
# other picture bit for bit. Not so for MPEG-4 part 2; without effect for VP9 and AV1.
SKIPPABLE_CODECS = frozenset({"h264", "hevc"})
NO_SKIP = "skip_frame=default"  # among a video's codec options: not with this one

T = TypeVar("T")


def can_skip(video: Video) -> bool:
    """Whether pictures of the video that no one needs may be left undecoded."""
    return video.codec in SKIPPABLE_CODECS and NO_SKIP not in video.codec_options.split(",")


_DAMAGED = "the file is damaged here, or changed since it was indexed; copy it again, and run `onetake index`"


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
    FRAMES_REPEATED = 8  # of those delivered, how many their sample has again: `fps` is above the video's, or the
    # clips of one sample overlap
    CLIPS_SUBSTITUTED = 9  # damaged, so that another one or zeros took their place


Counters = NDArray[np.int64]  # one value for each Count


def new_counters() -> Counters:
    """Counters of this process alone, at zero."""
    return np.zeros(len(Count), np.int64)


class _Run:
    """A decoder on its way from a keyframe on.

    Attributes:
        codec: the decoder; None once it was told that this is the end.
        packets: what it is still to be given.
        next_row: the row that would be fed next.
        floor: frames below it may come out broken: they lean on what was before the start.
        is_clean: whether that is the keyframe itself.
        shown: the last frame looked at.
        furthest: the last frame that came out.
        out: frames that came out, and were not looked at yet.
    """

    def __init__(self, source: PacketSource, key_row: int, floor: int) -> None:
        self.codec: VideoCodecContext | None
        self.codec, self.packets = source.start(key_row)
        self.next_row = key_row
        self.floor = floor
        self.is_clean = floor == source.table.frame[key_row]
        self.shown = self.furthest = floor - 1
        self.out: deque[tuple[int, VideoFrame]] = deque()


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
        self._places = Places(source.table)
        self._lost = LostFrames(self._places)
        self._plan = None if plan is None else Plan(self._places, plan)
        self._skips = self._plan is not None and can_skip(video)
        self._run: _Run | None = None
        self._kept: dict[int, T] = {}  # converted, for this clip and those to come
        counters[Count.OPENS] += 1

    def read(self, frames: Sequence[int]) -> list[T]:
        """The frames numbered ``frames``, converted. One may come several times; the first is the lowest, the last the
        highest.

        Raises:
            DecodeError: a frame is not in the source, or does not come out of the decoder.
            ValueError: there is a plan, and a frame is not in it.
        """
        wanted = set(frames)
        if self._plan and not wanted <= self._plan.frames:
            raise ValueError(f"frames {sorted(wanted - self._plan.frames)} are not in the plan")
        for frame in wanted - self._places.row_of.keys():
            raise self._error("is not among the packets at hand", frame)
        self._kept = {number: array for number, array in self._kept.items() if number >= frames[0]}
        # What a later clip needs in between is taken along: to come back for it would cost more.
        for frame in sorted(wanted) if self._plan is None else self._plan.between(frames[0], frames[-1]):
            self._bring(frame)
            if frame in wanted and frame not in self._kept:
                raise self._why_lost(frame)
        self._counters[Count.FRAMES_DELIVERED] += len(frames)
        self._counters[Count.FRAMES_REPEATED] += len(frames) - len(wanted)
        self._counters[Count.CLIPS_DELIVERED] += 1
        got = [self._kept[frame] for frame in frames]
        if self._plan is None:
            self._kept.clear()
        return got

    def seconds(self, frames: Sequence[int]) -> NDArray[np.float64]:
        """When frames are shown, in seconds of the video's own clock: float64, as long as ``frames``."""
        return self._video.to_seconds(self._source.table.pts[[self._places.row_of[frame] for frame in frames]])

    def _bring(self, frame: int) -> None:
        """Have a frame among those that are kept, unless it is lost."""
        for _ in range(2):  # damage behind a frame may take it along; then it is had by stopping before that
            if frame in self._kept or self._lost.find(frame):
                return
            run = self._go_to(frame)
            self._keep(self._decode_until(run, frame), frame)
        if frame not in self._kept and not self._lost.find(frame):
            self._lost.note_frame(frame, f"did not come out of the decoder: {_DAMAGED}")

    def _keep(self, pictures: Iterable[tuple[int, VideoFrame]], frame: int = -1) -> None:
        """Convert those of the pictures that are planned, or numbered ``frame``."""
        for number, picture in pictures:
            if number == frame or (self._plan and number in self._plan.frames and number not in self._kept):
                try:
                    self._kept[number] = self._convert(picture)
                except OnetakeError as error:
                    raise self._error(str(error), number) from None
                self._counters[Count.FRAMES_CONVERTED] += 1

    def _go_to(self, frame: int) -> _Run:
        """Place the decoder so that ``frame`` is still to come, at the least cost."""
        run, places = self._run, self._places
        if run is not None:
            if any(number == frame for number, _ in run.out):
                return run
            if run.codec is not None and frame > run.shown:
                fed = places.row_of[frame] < run.next_row  # then it is inside the decoder
                if fed or places.start_for(frame) <= run.next_row + self._source.jump_cost:
                    return run
            self._keep(self._settled(run))
        key_row = places.start_for(frame)
        if key_row > 0 or run is not None:
            self._counters[Count.SEEKS] += 1
        self._run = None  # should the start fail, nothing of the old run is left
        self._run = _Run(self._source, key_row, places.floor_of(key_row))
        return self._run

    def _decode_until(self, run: _Run, last: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames in the order shown, up to number ``last``; what came out beyond it stays for later."""
        while True:
            yield from self._settled(run, last)
            if run.shown >= last or (run.out and run.out[0][0] > last) or not self._feed(run):
                return

    def _settled(self, run: _Run, last: int | None = None) -> Iterator[tuple[int, VideoFrame]]:
        """Pictures (up to number ``last``) that came out, and after them all that they may lean on: only then it is
        known whether that is damaged."""
        while run.out and (last is None or run.out[0][0] <= last):
            number, picture = run.out[0]
            if run.codec is not None and run.furthest < self._places.highest[self._places.row_of[number]]:
                return
            run.out.popleft()
            if not self._lost.find(number):
                run.shown = number
                yield number, picture

    def _feed(self, run: _Run) -> bool:
        """Give the decoder its next packet, or its end; False if it had its end before."""
        if run.codec is None:
            return False
        row, before = run.next_row, self._source.bytes_read
        try:
            packet = None if self._rest_is_useless(run) else next(run.packets, (row, None))[1]
            self._counters[Count.BYTES_READ] += self._source.bytes_read - before
            run.next_row += packet is not None
            if packet is None or not self._is_leading(run, row):
                self._decode(run, packet)
        except (av.error.FFmpegError, EOFError, VideoError) as error:
            why = getattr(error, "strerror", None) or error
            reason = error.reason if isinstance(error, VideoError) else f"cannot be decoded ({why}): {_DAMAGED}"
            self._lost.note_row(row, run.floor, reason)
            with suppress(av.error.FFmpegError, EOFError):
                self._decode(run, None)  # it still has sound pictures
        return True

    def _rest_is_useless(self, run: _Run) -> bool:
        """Whether no packet from here to the next jump holds a frame of the plan, or the next is known to be damaged.

        Then what the decoder still has is had by telling it that this is the end, and nothing is decoded in vain.
        """
        frame_of = self._places.frame_of
        if run.next_row in self._lost.rows:
            return True
        if not self._plan or (run.next_row < len(frame_of) and frame_of[run.next_row] < 0):
            return False  # a packet without a frame may belong to that of the packet before
        return self._plan.next_start(run.next_row) > run.next_row + self._source.jump_cost

    def _is_leading(self, run: _Run, row: int) -> bool:
        """Whether the row's picture is shown before the keyframe that the run started at: in HEVC, no picture that is
        shown after that may lean on it (ITU-T H.265 on leading and trailing pictures)."""
        return self._video.codec == "hevc" and run.is_clean and 0 <= self._places.frame_of[row] < run.floor

    def _decode(self, run: _Run, packet: Packet | None) -> None:
        """Give the decoder a packet, or None for the end, and take what comes out."""
        codec, frame_of = run.codec, self._places.frame_of
        if codec is None:
            return
        if packet is None:
            run.codec = None
        else:
            self._counters[Count.PACKETS_FED] += 1
            frame = int(frame_of[packet.pts])
            if self._plan and self._skips and frame >= 0:  # a frame's further packets are treated like its first
                codec.skip_frame = "DEFAULT" if frame in self._plan.frames else "NONREF"
        for picture in codec.decode(packet):
            self._counters[Count.FRAMES_DECODED] += 1
            number = -1 if picture.pts is None else int(frame_of[picture.pts])
            if number < run.floor:
                continue
            run.furthest = max(run.furthest, number)
            if picture.is_corrupt:  # what is concealed here spreads to the pictures after it
                self._lost.note_row(int(picture.pts), run.floor, f"decodes with errors: {_DAMAGED}")
            else:
                run.out.append((number, picture))

    def _why_lost(self, frame: int) -> DecodeError:
        lost = self._lost.find(frame)
        assert lost is not None
        at = int(self._places.frame_of[lost.row])
        return self._error(lost.reason, at if at >= 0 else lost.first)

    def _error(self, reason: str, frame: int) -> DecodeError:
        row = self._places.row_of.get(frame)
        offset = -1 if row is None else int(self._source.table.offset[row])
        return DecodeError(self._video.video_id, reason, frame, offset if offset >= 0 else None)

    def close(self) -> None:
        """Close the decoder and its source; safe to call twice."""
        self._run = None
        self._kept.clear()
        self._source.close()
