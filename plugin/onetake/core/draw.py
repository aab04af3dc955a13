"""What an epoch reads, and in which order it goes through it: whole segments, but for one remainder per stream.

A stream of which an epoch takes more clips than it has is gone through as a whole as often as that goes; what is left
is made of whole segments picked at random, and of one run within a further one. So an epoch that takes a tenth of a
stream opens a tenth of its segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import SpecError

__all__ = ["SHUFFLE_GROUPS", "Runs", "draw_runs", "run_order"]

Int64Array = NDArray[np.int64]

SHUFFLE_GROUPS = ("segment", "video", "shard")
_MASK = 0xFFFFFFFFFFFFFFFF
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a fixed bijection, unlike numpy's generators, whose
    streams may change between versions."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _draws(count: int, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Random numbers of 64 bits, a pure function of the arguments."""
    with np.errstate(over="ignore"):
        state = np.array([seed & _MASK, epoch], np.uint64)
        key = _mix(_mix(state[:1] + _GAMMA) + (state[1:] + np.uint64(1)) * _GAMMA)
        return _mix(key + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA)


def _permutation(draws: NDArray[np.uint64]) -> Int64Array:
    """The permutation that sorts ``draws``."""
    return np.argsort(draws, kind="stable").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of consecutive clips, each within one segment. All arrays are int64 [R].

    Attributes:
        segment: the segment's number, counted over all streams.
        first_clip: the global ID of the run's first clip.
        num_clips: how many clips it has, at least 1.
        occurrence: how often the epoch has the segment's clips before.
    """

    segment: Int64Array
    first_clip: Int64Array
    num_clips: Int64Array
    occurrence: Int64Array

    def __len__(self) -> int:
        return len(self.segment)

    def take(self, order: Int64Array) -> Runs:
        """The runs in another order."""
        return Runs(self.segment[order], self.first_clip[order], self.num_clips[order], self.occurrence[order])


def draw_runs(
    clips_per_segment: Int64Array, segments_per_stream: Sequence[int], choose: Sequence[int], seed: int, epoch: int
) -> Runs:
    """What an epoch reads, in the order of the index, one stream after the other.

    Args:
        clips_per_segment: int64 [S], the clips of every segment, at least 1, all streams' one after the other.
        segments_per_stream: how many of those segments each stream has.
        choose: how many clips the epoch takes of each stream.
        seed: the shuffle seed.
        epoch: the epoch, from 0: the remainder is another in each.
    """
    first_clip = np.cumsum(clips_per_segment) - clips_per_segment
    segments: list[Int64Array] = []
    skipped: list[Int64Array] = []
    counts: list[Int64Array] = []
    occurrences: list[Int64Array] = []

    def add(segment: Int64Array, skip: Int64Array, count: Int64Array, occurrence: int) -> None:
        segments.append(segment)
        skipped.append(skip)
        counts.append(count)
        occurrences.append(np.full(len(segment), occurrence, np.int64))

    start = 0
    for stream, (num_segments, wanted) in enumerate(zip(segments_per_stream, choose, strict=True)):
        own = np.arange(start, start + num_segments, dtype=np.int64)
        sizes = clips_per_segment[own]
        passes, left = divmod(wanted, max(int(sizes.sum()), 1))
        for occurrence in range(passes):
            add(own, np.zeros_like(own), sizes, occurrence)
        if left:
            draws = _draws(num_segments + 1, _stream_seed(seed, stream), epoch)
            picked = _permutation(draws[:-1])
            stop = np.cumsum(sizes[picked])
            whole = int(np.searchsorted(stop, left, side="right"))
            left -= int(stop[whole - 1]) if whole else 0
            skip, count = np.zeros_like(own), sizes.copy()
            if left:
                part = picked[whole]
                skip[part], count[part] = int(draws[-1]) % (int(sizes[part]) - left + 1), left
            taken = np.sort(picked[: whole + bool(left)])
            add(own[taken], skip[taken], count[taken], passes)
        start += num_segments
    empty = np.zeros(0, np.int64)
    segment, skip = np.concatenate([empty, *segments]), np.concatenate([empty, *skipped])
    count, occurrence = np.concatenate([empty, *counts]), np.concatenate([empty, *occurrences])
    return Runs(segment, first_clip[segment] + skip, count, occurrence)


def _stream_seed(seed: int, stream: int) -> int:
    """A seed for what is drawn of a stream, independent of the shuffle's and of the other streams'."""
    with np.errstate(over="ignore"):
        return int(_mix(np.array([seed & _MASK], np.uint64) + np.uint64(stream + 1) * _GAMMA)[0])


def run_order(videos: Int64Array, shuffle: bool, shuffle_by: str, seed: int, epoch: int) -> Int64Array:
    """The order in which an epoch goes through its runs.

    Args:
        videos: int64 [R], the video of each run; those of one video stand together, in time order.
        shuffle: False gives the order of the index.
        shuffle_by: "segment" shuffles runs ("shard" is the same where a shard is a segment); "video"
            shuffles whole videos, each read from its start to its end.
        seed: the shuffle seed.
        epoch: the epoch, from 0.

    Returns:
        int64 [R], run numbers.

    Raises:
        SpecError: ``shuffle_by`` is not one of SHUFFLE_GROUPS.
    """
    if shuffle_by not in SHUFFLE_GROUPS:
        raise SpecError(f"shuffle_by={shuffle_by!r}: must be one of {', '.join(SHUFFLE_GROUPS)}")
    count = len(videos)
    if not shuffle:
        return np.arange(count, dtype=np.int64)
    if shuffle_by != "video":
        return _permutation(_draws(count, seed, epoch))
    starts = np.flatnonzero(np.diff(videos, prepend=-1))
    lengths = np.diff(starts, append=count)
    picked = _permutation(_draws(len(starts), seed, epoch))
    lengths = lengths[picked]
    first_out = np.cumsum(lengths) - lengths
    return np.repeat(starts[picked] - first_out, lengths) + np.arange(count, dtype=np.int64)
