"""The open decoders of one process: one per lane, and a few for random access."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onetake.core.clips import ClipSpec
from onetake.core.errors import DecodeError
from onetake.core.index import Video
from onetake.core.layout import Timeline
from onetake.decode.decoder import ClipDecoder, Counters
from onetake.decode.scale import converter
from onetake.stream.caching import close_for_lane, open_for_lane
from onetake.stream.shard import VideoShard
from onetake.stream.stream import VideoStream

__all__ = ["ClipPlace", "LaneReader", "LaneTurn"]

RANDOM_ACCESS_DECODERS = 4


@dataclass(frozen=True, slots=True)
class ClipPlace:
    """Where a clip stands: its stream, the shard that has it, its segment, its number within the segment, and the
    epoch's shift of its video (see ``core.layout``)."""

    stream: VideoStream
    shard: VideoShard
    segment: int
    clip_in_segment: int
    shift: int = 0

    @property
    def spec(self) -> ClipSpec:
        assert self.stream.clips is not None
        return self.stream.clips

    @property
    def start_frame(self) -> int:
        """Its first frame. May read a packet table."""
        timeline = partial(self.stream.timeline, self.segment)
        return self.stream.layout.start_frame(self.segment, self.clip_in_segment, self.shift, timeline)

    def frames(self, timeline: Callable[[], Timeline]) -> list[int]:
        """Its frames (see ``Layout.frames``); ``timeline`` gives that of the segment, where it is needed."""
        return self.stream.layout.frames(self.segment, self.clip_in_segment, self.shift, timeline)

    @property
    def video(self) -> Video:
        index = self.stream.index
        return index.videos[index.video[self.segment]]

    @property
    def video_id(self) -> str:
        return self.video.video_id


class LaneTurn(NamedTuple):
    """Which lane reads a clip, and when.

    Attributes:
        lane: the lane.
        seq: the clip's place in the epoch's sequence.
        coming: gives the clips that the lane reads from this one on before it goes to another run, by their numbers
            within the segment.
    """

    lane: int
    seq: int
    coming: Callable[[], Sequence[int]]


class _Open:
    """A decoder, and the times of the frames that it has."""

    def __init__(self, place: ClipPlace, coming: Sequence[int] | None, counters: Counters) -> None:
        stream, video = place.stream, place.video
        _, source = stream.open_segment(place.shard, place.segment)
        self._table = source.table
        self._first_frame = int(stream.index.first_frame[place.segment])
        self._known: Timeline | None = None
        convert = converter(stream.frame_size, video.rotation, stream.scaling, stream.color_matrix)
        self._place, self._by_lane = place, coming is not None
        plan = None
        if coming is not None:
            clips = (replace(place, clip_in_segment=number) for number in coming)
            plan = {frame for clip in clips for frame in clip.frames(self.timeline)}
        self.decoder: ClipDecoder[NDArray[np.uint8]] = ClipDecoder(video, source, convert, counters, plan)
        if self._by_lane:  # one that is read at random can be fetched again at any time
            open_for_lane(stream, place.shard)

    def close(self, finished: bool = False) -> None:
        """Close the decoder; ``finished`` where the lane read all it had to."""
        self.decoder.close()
        if self._by_lane:
            close_for_lane(self._place.stream, self._place.shard, finished)

    def timeline(self) -> Timeline:
        if self._known is None:
            self._known = Timeline.of(self._table, self._first_frame)
        return self._known


@dataclass(slots=True)
class _Lane:
    """What a lane has open, to read places ``next_seq`` to ``stop_seq`` of the epoch's sequence with."""

    opened: _Open
    next_seq: int
    stop_seq: int


class LaneReader:
    """Reads clips, keeping a decoder open per lane. Not thread-safe; belongs to one process.

    Args:
        counters: where the decoders count.
    """

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self._pid = os.getpid()
        self._lanes: dict[int, _Lane] = {}
        self._random: OrderedDict[tuple[int, int], _Open] = OrderedDict()

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one that the reader belongs to."""
        return self._pid != os.getpid()

    def read(
        self, place: ClipPlace, turn: LaneTurn | None, into: Callable[[int, int, int], Sequence[NDArray[np.uint8]]]
    ) -> tuple[list[int], NDArray[np.float64]]:
        """Decode one clip.

        Args:
            place: the clip.
            turn: the lane that reads it; None for random access.
            into: given the number of pictures, their height and width, arrays [H, W, 3] (views will do) to fill.

        Returns:
            The frames' numbers, and their presentation times in seconds, float64 [T].

        Raises:
            FileNotFoundError: the segment's bytes are not in the cache.
            DecodeError: a frame does not decode, or is of another size than those before it.
        """
        opened = self._opened_at_random(place) if turn is None else self._opened_by_lane(place, turn)
        try:
            frames = place.frames(opened.timeline)
            pictures = opened.decoder.read(frames)
            _check_sizes(place, frames, pictures)
        except DecodeError:  # the decoder knows what it can't give, and has the rest
            self._go_on(place, turn)
            raise
        except BaseException:
            self._close(place, turn)
            raise
        height, width = pictures[0].shape[:2]
        for room, picture in zip(into(len(pictures), height, width), pictures, strict=True):
            room[...] = picture
        times = opened.decoder.seconds(frames)
        self._go_on(place, turn)
        return frames, times

    def _go_on(self, place: ClipPlace, turn: LaneTurn | None) -> None:
        """Note that a lane's clip is done; close its decoder after the last one."""
        if turn is not None:
            lane = self._lanes[turn.lane]
            lane.next_seq = turn.seq + 1
            if lane.next_seq == lane.stop_seq:
                self._close(place, turn, finished=True)

    def _opened_by_lane(self, place: ClipPlace, turn: LaneTurn) -> _Open:
        known = self._lanes.get(turn.lane)
        if known is not None and known.next_seq <= turn.seq < known.stop_seq:
            return known.opened
        self._close(place, turn)
        coming = turn.coming()
        opened = _Open(place, coming, self.counters)
        self._lanes[turn.lane] = _Lane(opened, turn.seq, turn.seq + len(coming))
        return opened

    def _opened_at_random(self, place: ClipPlace) -> _Open:
        key = id(place.shard), place.segment
        opened = self._random.pop(key, None) or _Open(place, None, self.counters)
        self._random[key] = opened
        while len(self._random) > RANDOM_ACCESS_DECODERS:
            self._random.popitem(last=False)[1].close()
        return opened

    def _close(self, place: ClipPlace, turn: LaneTurn | None, finished: bool = False) -> None:
        """Close the decoder of a lane, or that of a segment read at random."""
        if turn is None:
            opened = self._random.pop((id(place.shard), place.segment), None)
        else:
            known = self._lanes.pop(turn.lane, None)
            opened = known and known.opened
        if opened is not None:
            opened.close(finished)

    def close_all(self) -> None:
        """Close every decoder."""
        for opened in (*(lane.opened for lane in self._lanes.values()), *self._random.values()):
            opened.close()
        self._lanes.clear()
        self._random.clear()


def _check_sizes(place: ClipPlace, frames: list[int], pictures: list[NDArray[np.uint8]]) -> None:
    height, width = pictures[0].shape[:2]
    for frame, picture in zip(frames, pictures, strict=True):
        if picture.shape[:2] != (height, width):
            found = f"{picture.shape[0]} x {picture.shape[1]} (height x width)"
            reason = f"is {found}, and those before it in the clip are {height} x {width}; give frame_size="
            raise DecodeError(place.video_id, reason, frame)
