"""What the open decoders of a node hold of memory, known before the first batch."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from streaming.base.util import bytes_to_int
from streaming.base.world import World

from onetake.core.clips import ClipSpec
from onetake.core.errors import SpecError
from onetake.core.index import Video
from onetake.core.memory import decoder_bytes
from onetake.decode.scale import output_size
from onetake.stream.stream import VideoStream
from onetake.stream.whole_videos import VideoMemory

__all__ = ["LaneMemory", "plan_memory"]

logger = logging.getLogger(__name__)

Int64Array = NDArray[np.int64]


def plan_memory(
    streams: Sequence[VideoStream],
    world: World,
    replication: int,
    lanes: int,
    times: int,
    global_batch: int,
    max_memory: int | str | None,
) -> LaneMemory | VideoMemory | None:
    """Log what the open lanes of a node hold, and see that it is within ``max_memory``.

    Args:
        streams: open, and weighed.
        world: counts every rank.
        replication: ranks that read the same clips.
        lanes: how many there are.
        times: how often: where each stream has its own, as often as there are streams.
        global_batch: samples per step.
        max_memory: bytes, or a text such as "8gb"; None: no bound.

    Returns:
        What a loader has to check again, with its workers and the lanes of a checkpoint; None without a bound.

    Raises:
        SpecError: ``max_memory`` is no bound, or too small; names the num_canonical_lanes= that fits.
    """
    limit = _check_limit(max_memory)
    if limit is not None and streams[0].clips_per_sample == "all":
        samples = VideoMemory.of(streams, global_batch * replication // world.num_nodes, limit)
        samples.check(world.ranks_per_node, 0, 1)
        return samples
    told = world.is_leader and logger.isEnabledFor(logging.INFO)
    if limit is None and not told:
        return None
    memory = LaneMemory.of(streams, world, replication, times, limit)
    if told:
        logger.info(memory.in_words(lanes))
    memory.check(lanes, global_batch)
    return memory if limit is not None else None


def _check_limit(limit: object) -> int | None:
    if limit is None:
        return None
    try:
        count = bytes_to_int(limit) if isinstance(limit, (int, str)) and not isinstance(limit, bool) else 0
    except ValueError:
        count = 0
    if count <= 0:
        raise SpecError(f'max_memory={limit!r}: must be a number of bytes, or a text such as "8gb"')
    return count


@dataclass(frozen=True)
class LaneMemory:
    """What lanes may hold, by the segments that they read.

    Attributes:
        segment_bytes: int64 [S], what a lane holds while it reads a segment.
        segment_clips: int64 [S], clips of each.
        repeats: int64 [S], how often an epoch reads it, at most.
        num_clips: clips in an epoch, that the lanes share.
        num_nodes: nodes that share the lanes.
        ranks_per_node: ranks on each.
        replication: ranks that read the same clips.
        limit: bytes that a node's decoders may hold; None: no bound.
        times: how often there are so many lanes.
    """

    segment_bytes: Int64Array
    segment_clips: Int64Array
    repeats: Int64Array
    num_clips: int
    num_nodes: int
    ranks_per_node: int
    replication: int
    limit: int | None
    times: int = 1

    @classmethod
    def of(
        cls, streams: Sequence[VideoStream], world: World, replication: int, times: int, limit: int | None
    ) -> LaneMemory:
        """That of open streams; see ``plan_memory``."""
        weights, clips, repeats = [], [], []
        for stream in streams:
            of_video = np.array([_lane_bytes(stream, video) for video in stream.index.videos], np.int64)
            weights.append(of_video[stream.index.video[stream.drawn_segments]])
            clips.append(stream.layout.num_clips[stream.drawn_segments].astype(np.int64))
            repeats.append(np.full(len(stream.drawn_segments), -(-stream.num_chosen // stream.num_clips), np.int64))
        chosen = [stream.num_chosen for stream in streams if stream.num_chosen]
        num_clips = sum(chosen) if times == 1 else min(chosen)
        arrays = (np.concatenate(values) for values in (weights, clips, repeats))
        return cls(*arrays, num_clips, world.num_nodes, world.ranks_per_node, replication, limit, times)

    def decoders(self, lanes: int) -> int:
        """Decoders that are open on a node at once, at most, where every lane stays on its worker."""
        return -(-lanes * self.times * self.replication // self.num_nodes)

    def at_most(self, lanes: int) -> int:
        """Bytes that a node's open lanes hold, at most, where every lane stays on its worker.

        A segment can't be read by all of them at once: its clips follow one another, and lanes take longer runs.
        """
        shortest = max(self.num_clips // lanes, 1)
        readers = self.repeats * (1 + -(-(self.segment_clips - 1) // shortest)) * self.replication
        heaviest_first = np.argsort(-self.segment_bytes, kind="stable")
        readers, weights = readers[heaviest_first], self.segment_bytes[heaviest_first]
        before = np.cumsum(readers) - readers
        return int((np.clip(self.decoders(lanes) - before, 0, readers) * weights).sum())

    def wandering(self, lanes: int, num_workers: int) -> int:
        """Bytes at most where they don't stay: each worker may open each lane, and hold it as long."""
        open_lanes = min(lanes, self.num_clips) * self.times
        return self.ranks_per_node * num_workers * open_lanes * int(self.segment_bytes.max())

    def in_words(self, lanes: int) -> str:
        """What a node's lanes hold."""
        each = -(-self.decoders(lanes) // self.ranks_per_node)
        return (
            f"{lanes * self.times} lanes keep up to {self.decoders(lanes)} decoders open on a node ({each} in each "
            f"rank, dealt to its workers), which hold up to {self.at_most(lanes) / 1e6:.0f} MB of memory"
        )

    def check(self, lanes: int, global_batch: int, num_workers: int = 0) -> None:
        """Raise SpecError where a node's lanes may hold more than the limit; ``num_workers`` are a rank's, 0 for as
        many as suit the lanes."""
        if self.limit is None:
            return
        if num_workers and lanes % (global_batch * num_workers):
            held = self.wandering(lanes, num_workers)
            if held > self.limit:
                raise SpecError(
                    f"max_memory={self.limit:,} bytes is too small: global batch {global_batch} x {num_workers} "
                    f"workers does not divide the {lanes} canonical lanes, so that each worker opens all of them, "
                    f"and a node may hold {held:,} bytes: give a number of workers that divides them"
                    f"{self._remedy(lanes, global_batch, num_workers)}"
                )
        elif self.at_most(lanes) > self.limit:
            raise SpecError(
                f"max_memory={self.limit:,} bytes is too small: {lanes} lanes keep {self.decoders(lanes)} decoders of "
                f"up to {int(self.segment_bytes.max()):,} bytes open on a node, {self.at_most(lanes):,} bytes in all: "
                f"raise it{self._remedy(lanes, global_batch, max(num_workers, 1))}"
            )

    def _remedy(self, lanes: int, global_batch: int, num_workers: int) -> str:
        unit = global_batch * num_workers
        fits = self.largest(max(lanes, unit), unit)
        if fits:
            times = fits // global_batch
            workers = "one worker per rank" if times == 1 else f"a number of workers per rank that divides {times}"
            return f"; or, for a new run, num_canonical_lanes={fits} fits with {workers}"
        fewer = (count for count in range(min(global_batch - 1, lanes), 0, -1) if global_batch % count == 0)
        fits = next((count for count in fewer if self.wandering(count, 1) <= self.limit), 0)
        if fits:
            return f"; or, for a new run, num_canonical_lanes={fits} fits with one worker per rank"
        return f"; not even one lane fits, which takes {self.wandering(1, 1):,} bytes: a smaller frame_size= takes less"

    def largest(self, lanes: int, unit: int) -> int:
        """The most lanes, up to ``lanes``, that are within the limit and a multiple of ``unit``; 0 if none are."""
        return unit * bisect_right(
            range(1, lanes // unit + 1), self.limit, key=lambda times: self.at_most(times * unit)
        )


def _lane_bytes(stream: VideoStream, video: Video) -> int:
    """What a lane holds of a video: its decoder, and the pictures of the clip that it read last."""
    assert stream.clips is not None
    height, width = output_size(stream.frame_size, video.rotation, video.height, video.width)
    decoder = decoder_bytes(video.codec, video.width, video.height, video.pix_fmt)
    assert isinstance(stream.clips_per_sample, int)
    return decoder + _kept_frames(stream.clips, stream.clips_per_sample) * 3 * height * width


def _kept_frames(spec: ClipSpec, clips_per_sample: int) -> int:
    """Frames of a sample, and those that later ones have between them."""
    extent, hop = (spec.extent_time, spec.hop_time) if spec.by_time else (spec.extent, spec.hop_frames)
    extent, hop = extent + (clips_per_sample - 1) * hop, clips_per_sample * hop
    overlapping = -(-extent // hop) if hop else 1
    most = clips_per_sample * spec.num_frames * max(int(overlapping), 1)
    return most if spec.by_time else min(most, int(extent))
