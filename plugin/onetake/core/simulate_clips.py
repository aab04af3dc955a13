"""What a simulation goes through: the clips of an index, and who reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onetake.core.clips import ClipSpec
from onetake.core.draw import ClipIds, Runs, default_groups, draw_of_videos, draw_runs, run_order, video_keys
from onetake.core.errors import SpecError
from onetake.core.index import CONTAINER, JUMP_COST, Keyframes, VideoIndex
from onetake.core.layout import Grid, Layout, Timeline, choose_lanes
from onetake.core.memory import decoder_bytes
from onetake.core.order import EpochOrder
from onetake.core.tuner import PREDOWNLOAD_BATCHES

__all__ = ["Clips", "Cluster", "segment_bytes"]

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who reads.

    Args:
        nodes: machines; each has a cache.
        ranks: processes that train, per node.
        workers: processes that decode, per rank; 0: the rank itself does.
        batch_size: clips per rank and step.
        predownload: clips per worker whose segments are fetched ahead. None: 8 batches.

    Raises:
        SpecError: one of them is out of range.
    """

    nodes: int = 1
    ranks: int = 1
    workers: int = 0
    batch_size: int = 8
    predownload: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("nodes", 1), ("ranks", 1), ("workers", 0), ("batch_size", 1), ("predownload", 1)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise SpecError(f"{name}={value}: must be at least {lowest}")

    @property
    def global_batch(self) -> int:
        """Clips in a step of all ranks."""
        return self.nodes * self.ranks * self.batch_size

    @property
    def readers(self) -> int:
        """Readers per rank."""
        return max(self.workers, 1)

    @property
    def stride(self) -> int:
        """What must divide the number of lanes, for each of them to stay on one reader."""
        return self.global_batch * self.readers

    @property
    def steps_ahead(self) -> int:
        """By how many steps segments are fetched before they are read."""
        predownload = PREDOWNLOAD_BATCHES * self.batch_size if self.predownload is None else self.predownload
        return -(-predownload // self.batch_size) * self.readers


def segment_bytes(layout: Layout) -> Int64Array:
    """int64 [S]: about how much is fetched for the clips that start in each segment: its own bytes as far as its clips
    reach, and the part of the next ones that they need; a video that only its container can read, whole."""
    index = layout.index
    total = np.zeros(index.num_segments, np.float64)
    segments = np.flatnonzero(layout.num_clips)
    further = segments
    while len(segments):
        needed = np.minimum(layout.stop_frame[segments] - index.first_frame[further], index.num_frames[further])
        total[segments] += index.byte_length[further] * np.maximum(needed, 0) / np.maximum(index.num_frames[further], 1)
        inside = further + 1 < index.num_segments
        segments, further = segments[inside], further[inside] + 1
        reached = (index.video[further] == index.video[segments]) & (
            index.first_frame[further] < layout.stop_frame[segments]
        )
        segments, further = segments[reached], further[reached]
    size = np.array([video.file_bytes if video.kind == CONTAINER else -1 for video in index.videos], np.int64)
    whole = size[index.video]
    return np.where((whole >= 0) & (layout.num_clips > 0), whole, np.ceil(total).astype(np.int64))


class Clips:
    """The clips of an index, and how epochs go through them; as of a VideoDataset with one stream.

    Args:
        index: the index.
        keyframes: its keyframes.
        spec: which clips.
        shuffle, shuffle_by, seed: as VideoDataset's arguments.
        name: the stream's name, by which random clips are drawn.
        shards: int64 [S], the shard of each segment of a pack; None: in place, where each is one.

    Raises:
        SpecError: no video is long enough for a clip, or ``shuffle_by`` is unknown.
    """

    def __init__(
        self,
        index: VideoIndex,
        keyframes: Keyframes,
        spec: ClipSpec,
        *,
        shuffle: bool = True,
        shuffle_by: str | None = None,
        seed: int = 17,
        name: str = "",
        shards: Int64Array | None = None,
    ) -> None:
        self.index, self.spec = index, spec
        self._shards = np.arange(index.num_segments, dtype=np.int64) if shards is None else shards
        if shuffle_by is None:
            shuffle_by = default_groups([self._shards])
        self.shuffle, self.shuffle_by, self.seed = shuffle, shuffle_by, seed
        self.layout = Layout(spec, index, keyframes if spec.align else None)
        self.num_clips = self.layout.num_drawn
        if not self.num_clips:
            raise SpecError(
                "no video of the index has a clip: the longest has "
                f"{max(video.num_frames for video in index.videos)} frames; use fewer frames, or a smaller stride"
            )
        self.bytes = segment_bytes(self.layout)
        self.decoder_bytes = np.array(
            [decoder_bytes(video.codec, video.width, video.height, video.pix_fmt) for video in index.videos], np.int64
        )
        # What a decoder would rather decode than jump over, in packets; see ``decode.source``.
        self.jump_cost = np.array([JUMP_COST[video.kind] for video in index.videos], np.int64)
        # Keyframes in the order of frames of all videos, one after the other.
        frames = np.array([video.num_frames for video in index.videos], np.int64)
        self._first_of_video = np.cumsum(frames) - frames
        owner = np.repeat(index.video, np.diff(keyframes.start))
        self._keys = np.sort(self._first_of_video[owner] + keyframes.frame)
        self._video_keys = video_keys(name, (video.video_id for video in index.videos))

    def choose_lanes(self, global_batch: int, num_lanes: int | None) -> tuple[int, int]:
        """(slots, phases) as VideoDataset chooses them."""
        return choose_lanes([self.layout], [self.num_clips], global_batch, num_lanes)[0]

    def epoch(self, epoch: int, lanes: tuple[int, int]) -> tuple[EpochOrder, Runs]:
        """The order of an epoch, and its runs in the order of the sequence."""
        picked = self.layout.pick(self._video_keys, self.seed, epoch)
        per_segment = self.layout.num_picked(picked)
        runs = draw_runs(per_segment, [len(per_segment)], [self.num_clips], self.seed, epoch)
        groups = (self._shards if self.shuffle_by == "shard" else self.index.video)[runs.segment]
        order = run_order(groups, self.shuffle, self.shuffle_by, self.seed, epoch)
        ids = None if picked is None else ClipIds([(int(self.layout.clips_before[-1]), picked)])
        return EpochOrder(runs.take(order), *lanes, ids), runs.take(order)

    def frames(self, clip_id: Int64Array, segment: Int64Array, epoch: int) -> tuple[Int64Array, Int64Array]:
        """The first and the last frame of clips; see the module on clips counted in seconds."""
        index, spec, layout = self.index, self.spec, self.layout
        number = clip_id - layout.clips_before[segment]
        if spec.align is not None:
            places = zip(segment.tolist(), number.tolist(), strict=True)
            first = np.array([layout.start_frame(*place, 0, _no_timeline) for place in places], np.int64)
            return first, first + self._extent(index.video[segment])
        video = index.video[segment]
        number = number + layout.first_clip[segment]
        shift = self._shifts(epoch)[video]
        if not spec.by_time:
            length = np.array([video.num_frames for video in index.videos], np.int64)[video]
            first = np.minimum(number * spec.hop_frames + shift, length - spec.extent)
            return first, first + spec.extent - 1
        units = np.array([Grid.of(spec, v.time_base).scale * max(v.duration, 1) for v in index.videos], np.float64)
        hop = np.array([Grid.of(spec, v.time_base).hop for v in index.videos], np.float64)
        length = np.array([v.num_frames for v in index.videos], np.int64)
        found = np.floor((number * hop[video] + shift) / units[video] * length[video] + 1e-6).astype(np.int64)
        extent = self._extent(video)
        first = np.clip(found, 0, np.maximum(length[video] - 1 - extent, 0))
        return first, np.minimum(first + extent, length[video] - 1)

    def _extent(self, video: Int64Array) -> Int64Array:
        """Frames from a clip's first to its last, by the mean rate of its video."""
        if not self.spec.by_time:
            return np.full(len(video), self.spec.extent - 1, np.int64)
        seconds = float(self.spec.extent_time)
        extents = [round(seconds * v.num_frames / max(v.seconds, 1e-6)) for v in self.index.videos]
        return np.array(extents, np.int64)[video]

    def _shifts(self, epoch: int) -> NDArray[Any]:
        """Per video, by how many units jitter shifts its clips."""
        if not self.spec.jitter:
            return np.zeros(len(self.index.videos), np.int64)
        draws = draw_of_videos(self._video_keys, self.seed, epoch).tolist()
        firsts = np.searchsorted(self.index.video, np.arange(len(draws))).tolist()
        shifts = [self.layout.shift(first, draw) for first, draw in zip(firsts, draws, strict=True)]
        return np.array(shifts, np.float64 if self.spec.by_time else np.int64)

    def keyframe_at(self, segment: Int64Array, frame: Int64Array) -> Int64Array:
        """The last keyframe at or before each frame, but none before the segment."""
        base = self._first_of_video[self.index.video[segment]]
        first = self.index.first_frame[segment]
        if not len(self._keys):
            return first
        found = self._keys[np.maximum(np.searchsorted(self._keys, base + frame, side="right") - 1, 0)] - base
        return np.minimum(np.maximum(found, first), frame)

    def passed_over(self, segment: Int64Array, first: Int64Array, last: Int64Array) -> tuple[int, int]:
        """(jumps, frames left out by them) within clips: where a keyframe stands between two frames of a clip, and not
        right behind the one before. None are told of clips that overlap: the frames of others lie between."""
        spec = self.spec
        if (spec.hop_time < spec.extent_time) if spec.by_time else (spec.hop_frames < spec.extent):
            return 0, 0
        video = self.index.video[segment]
        base = self._first_of_video[video]
        start, stop = (np.searchsorted(self._keys, base + frame, side="right") for frame in (first, last))
        count = stop - start
        clip = np.repeat(np.arange(len(count)), count)
        key = self._keys[np.repeat(start - np.cumsum(count) + count, count) + np.arange(len(clip))] - base[clip]
        spacing = (self._extent(video) / max(spec.num_frames - 1, 1))[clip]
        turn = np.floor((key - 1 - first[clip]) / spacing)
        before = first[clip] + np.floor(turn * spacing).astype(np.int64)
        is_last = np.ones(len(clip), np.bool_)  # of several keyframes, the decoder starts at the last
        is_last[:-1] = (clip[1:] != clip[:-1]) | (turn[1:] != turn[:-1])
        jumps = is_last & (key > before + 1 + self.jump_cost[video[clip]])
        return int(jumps.sum()), int((key - 1 - before)[jumps].sum())


def _no_timeline() -> Timeline:
    raise AssertionError("a clip that starts at a keyframe needs no times to be found")
