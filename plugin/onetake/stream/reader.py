"""The open decoders of one process: one per lane, and a few for random access."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onetake.core.clips import ClipSpec
from onetake.core.index import Video
from onetake.decode.decoder import ClipDecoder, Counters
from onetake.decode.scale import converter
from onetake.stream.shard import VideoShard
from onetake.stream.stream import VideoStream

__all__ = ["ClipPlace", "LaneReader"]

RANDOM_ACCESS_DECODERS = 4


@dataclass(frozen=True, slots=True)
class ClipPlace:
    """Where a clip stands: its stream and segment, and its number within the segment."""

    stream: VideoStream
    shard: VideoShard
    clip_in_segment: int

    @property
    def spec(self) -> ClipSpec:
        assert self.stream.clips is not None
        return self.stream.clips

    @property
    def start_frame(self) -> int:
        first = int(self.stream.layout.first_clip[self.shard.segment])
        return self.spec.start_frame(first + self.clip_in_segment)

    @property
    def video(self) -> Video:
        index = self.stream.index
        return index.videos[index.video[self.shard.segment]]

    @property
    def video_id(self) -> str:
        return self.video.video_id

    def frames_from_here(self) -> set[int]:
        """Every frame that this clip and the later ones of the segment hold."""
        frames: set[int] = set()
        first = int(self.stream.layout.first_clip[self.shard.segment])
        for clip in range(self.clip_in_segment, self.shard.samples):
            frames.update(self.spec.frame_index(self.spec.start_frame(first + clip)).tolist())
        return frames


class _Lane(NamedTuple):
    """A lane's open decoder, and the first clip of the segment that it is planned for."""

    shard: VideoShard
    first_clip: int
    decoder: ClipDecoder[NDArray[np.uint8]]


class LaneReader:
    """Reads clips, keeping a decoder open per lane. Not thread-safe; belongs to one process.

    Args:
        counters: where the decoders count.
    """

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self._pid = os.getpid()
        self._lanes: dict[int, _Lane] = {}
        self._random: OrderedDict[int, ClipDecoder[NDArray[np.uint8]]] = OrderedDict()

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one that the reader belongs to."""
        return self._pid != os.getpid()

    def read(
        self, place: ClipPlace, lane: int | None, into: Callable[[int, int], NDArray[np.uint8]]
    ) -> NDArray[np.float64]:
        """Decode one clip.

        Args:
            place: the clip.
            lane: the lane that reads it; None for random access.
            into: given the pictures' height and width, an array [T, H, W, C] (a view will do) to fill.

        Returns:
            float64 [T], the frames' presentation times, in seconds.

        Raises:
            FileNotFoundError: the segment's bytes are not in the cache.
            DecodeError: a frame does not decode.
        """
        frames = place.spec.frame_index(place.start_frame).tolist()
        decoder = self._random_decoder(place) if lane is None else self._lane_decoder(place, lane)
        try:
            pictures = decoder.read(frames)
        except BaseException:
            self.close(lane, place.shard)
            raise
        height, width = pictures[0].shape[:2]
        target = into(height, width)
        for number, picture in enumerate(pictures):
            target[number] = picture
        times = decoder.seconds(frames)
        if lane is not None and place.clip_in_segment == place.shard.samples - 1:
            self.close(lane, place.shard)  # the segment is done
        return times

    def _open(self, place: ClipPlace, plan: set[int] | None) -> ClipDecoder[NDArray[np.uint8]]:
        video, source = place.stream.open_segment(place.shard)
        return ClipDecoder(video, source, converter(place.stream.frame_size, video.rotation), self.counters, plan)

    def _lane_decoder(self, place: ClipPlace, lane: int) -> ClipDecoder[NDArray[np.uint8]]:
        known = self._lanes.get(lane)
        # An epoch may have a segment twice in a row, and the decoder be planned for the end of it alone.
        if known is not None and known.shard is place.shard and known.first_clip <= place.clip_in_segment:
            return known.decoder
        if known is not None:
            self.close(lane, known.shard)
        decoder = self._open(place, place.frames_from_here())
        self._lanes[lane] = _Lane(place.shard, place.clip_in_segment, decoder)
        return decoder

    def _random_decoder(self, place: ClipPlace) -> ClipDecoder[NDArray[np.uint8]]:
        key = id(place.shard)
        decoder = self._random.pop(key, None) or self._open(place, None)
        self._random[key] = decoder
        while len(self._random) > RANDOM_ACCESS_DECODERS:
            self._random.popitem(last=False)[1].close()
        return decoder

    def close(self, lane: int | None, shard: VideoShard) -> None:
        """Close the decoder of a lane, or that of a segment read at random."""
        if lane is None:
            decoder = self._random.pop(id(shard), None)
        else:
            known = self._lanes.pop(lane, None)
            decoder = known and known.decoder
        if decoder is not None:
            decoder.close()

    def close_all(self) -> None:
        """Close every decoder."""
        for lane in self._lanes.values():
            lane.decoder.close()
        for decoder in self._random.values():
            decoder.close()
        self._lanes.clear()
        self._random.clear()
