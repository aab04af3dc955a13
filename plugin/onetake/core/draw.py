"""What an epoch reads, and in which order it goes through it: whole segments, but for one remainder per stream.

A stream of which an epoch takes more clips than it has is gone through as a whole as often as that goes; what is left
is made of whole segments picked at random, and of one run within a further one. So an epoch that takes a tenth of a
stream opens a tenth of its segments.

Where an epoch takes a few random clips of each video, that comes first: what it takes then plays the part of all the
clips there are. They are counted by *ordinals*, in the order of the index, as if there were no others; ``ClipIds`` says
which clips they are.

What is drawn of a video depends on the seed, the epoch, and a key made of the stream's name and the video's: videos
that are added leave the others' draws as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import SpecError

__all__ = [
    "SHUFFLE_GROUPS",
    "ClipIds",
    "Runs",
    "default_groups",
    "draw_of_videos",
    "draw_runs",
    "draws",
    "pick_clips",
    "run_order",
    "stream_seed",
    "video_keys",
]

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]

SHUFFLE_GROUPS = ("segment", "video", "shard")
_MASK = 0xFFFFFFFFFFFFFFFF
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_AT_ONCE = 1 << 18  # numbers that are drawn at a time: what lies between them and the result stays small


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a fixed bijection, unlike numpy's generators, whose
    streams may change between versions."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _epoch_key(seed: int, epoch: int) -> UInt64Array:
    """uint64 [1]."""
    with np.errstate(over="ignore"):
        state = np.array([seed & _MASK, epoch], np.uint64)
        return _mix(_mix(state[:1] + _GAMMA) + (state[1:] + np.uint64(1)) * _GAMMA)


def draws(count: int, seed: int, epoch: int) -> UInt64Array:
    """Random numbers of 64 bits, a pure function of the arguments. No two are the same: they are a bijection's."""
    found = np.empty(count, np.uint64)
    with np.errstate(over="ignore"):
        key = _epoch_key(seed, epoch)
        for start in range(0, count, _AT_ONCE):
            part = found[start : start + _AT_ONCE]
            part[:] = _mix(key + np.arange(start + 1, start + len(part) + 1, dtype=np.uint64) * _GAMMA)
    return found


def _permutation(keys: NDArray[np.uint64]) -> Int64Array:
    """The permutation that sorts ``keys``, which differ from each other."""
    return np.argsort(keys).astype(np.int64, copy=False)


# What is drawn of each video.


def video_keys(stream_name: str, video_ids: Iterable[str]) -> UInt64Array:
    """What the draws of each video are keyed by: uint64 [V]."""
    prefix = repr(stream_name) + ":"
    digests = (blake2b((prefix + video_id).encode(errors="surrogatepass"), digest_size=8) for video_id in video_ids)
    return np.frombuffer(b"".join(digest.digest() for digest in digests), "<u8").astype(np.uint64)


def draw_of_videos(keys: UInt64Array, seed: int, epoch: int, number: int = 0) -> UInt64Array:
    """The ``number``-th random number of each video in an epoch, of 64 bits: uint64 [V]."""
    with np.errstate(over="ignore"):
        return _mix(_mix(keys ^ _epoch_key(seed, epoch)) + np.array([number + 1], np.uint64) * _GAMMA)


def pick_clips(num_clips: Int64Array, wanted: int, keys: UInt64Array, seed: int, epoch: int) -> Int64Array:
    """The clips that an epoch takes of each video: ``wanted`` random ones, or all of a video that has no more.

    Args:
        num_clips: int64 [V], clips that each video has; they are numbered from one video to the next.
        wanted: how many to take.
        keys: see ``video_keys``.
        seed: the shuffle seed.
        epoch: the epoch, from 0.

    Returns:
        int64, the clips' numbers, rising.
    """
    counts = np.minimum(num_clips, wanted)
    starts = np.cumsum(counts) - counts
    first = np.cumsum(num_clips) - num_clips
    picked = np.repeat(first - starts, counts) + np.arange(int(counts.sum()), dtype=np.int64)
    many = np.flatnonzero(num_clips > wanted)
    # Floyd's algorithm (Bentley, Floyd 1987), for all videos at once: every choice is as likely.
    chosen = np.zeros((len(many), wanted), np.int64)
    for number in range(wanted if len(many) else 0):
        top = num_clips[many] - wanted + number
        draw = (draw_of_videos(keys[many], seed, epoch, number + 1) % (top + 1).astype(np.uint64)).astype(np.int64)
        taken = (chosen[:, :number] == draw[:, None]).any(axis=1)
        chosen[:, number] = np.where(taken, top, draw)
    chosen.sort(axis=1)
    places = starts[many][:, None] + np.arange(wanted)
    picked[places.ravel()] = (first[many][:, None] + chosen).ravel()
    return picked


class ClipIds:
    """The clips that an epoch's ordinals stand for.

    Args:
        parts: stream after stream, (how many clips it has, which of them the epoch draws from: rising numbers within
            the stream; None for all).
    """

    def __init__(self, parts: Sequence[tuple[int, Int64Array | None]]) -> None:
        self._parts = [picked for _, picked in parts]
        drawn = np.array([count if picked is None else len(picked) for count, picked in parts], np.int64)
        self._ordinal_stop = np.cumsum(drawn)
        self._ordinal_start = self._ordinal_stop - drawn
        counts = np.array([count for count, _ in parts], np.int64)
        self._first_id = np.cumsum(counts) - counts

    def __call__(self, ordinals: Int64Array) -> Int64Array:
        """Global clip IDs, as many."""
        stream = np.searchsorted(self._ordinal_stop, ordinals, side="right")
        within: Int64Array = ordinals - self._ordinal_start[stream]
        for number, picked in enumerate(self._parts):
            if picked is not None:
                own = stream == number
                within[own] = picked[within[own]]
        return within + self._first_id[stream]


# What an epoch reads.


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of consecutive clips, each within one segment. All arrays are int64 [R].

    Attributes:
        segment: the segment's number, counted over all streams.
        first_clip: the ordinal of the run's first clip; its global ID, where an epoch draws from all clips.
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
    clips_per_segment: Int64Array,
    segments_per_stream: Sequence[int],
    choose: Sequence[int],
    seed: int,
    epoch: int,
    first_clips: Int64Array | None = None,
) -> Runs:
    """What an epoch reads, in the order of the index, one stream after the other.

    Args:
        clips_per_segment: int64 [S], the clips of every segment, all streams' one after the other. Segments without any
            are left out.
        segments_per_stream: how many of those segments each stream has.
        choose: how many clips the epoch takes of each stream.
        seed: the shuffle seed.
        epoch: the epoch, from 0: the remainder is another in each.
        first_clips: int64 [S], the ordinal of each segment's first clip. None: they are counted without a gap.
    """
    filled = np.flatnonzero(clips_per_segment)
    stops = np.searchsorted(filled, np.cumsum([0, *segments_per_stream])).tolist()
    taken: list[Int64Array] = []  # segments, pass after pass
    occurrences: list[int] = []
    parts: list[tuple[int, int, int, int]] = []  # where a pass starts, and its segment in part: see _remainder
    for stream, (start, stop, wanted) in enumerate(zip(stops[:-1], stops[1:], choose, strict=True)):
        own = filled[start:stop]
        passes, left = divmod(wanted, max(int(clips_per_segment[own].sum()), 1))
        taken += [own] * passes
        occurrences += range(passes)
        if left:
            chosen, part = _remainder(own, clips_per_segment[own], left, stream_seed(seed, stream), epoch)
            taken.append(chosen)
            occurrences.append(passes)
            parts.append((sum(map(len, taken)) - len(chosen), *part))
    segment = taken[0] if len(taken) == 1 else np.concatenate([np.zeros(0, np.int64), *taken])
    lengths = [len(segments) for segments in taken]
    del taken, filled
    occurrence = np.broadcast_to(np.int64(0), len(segment))  # takes no memory
    if any(occurrences):
        occurrence = np.repeat(np.array(occurrences, np.int64), lengths)
    if first_clips is None:
        first_clips = np.cumsum(clips_per_segment) - clips_per_segment
    first_clip = first_clips[segment]
    del first_clips
    num_clips = clips_per_segment[segment]
    for start, place, skip, count in parts:
        first_clip[start + place] += skip
        num_clips[start + place] = count
    return Runs(segment, first_clip, num_clips, occurrence)


def _remainder(
    segments: Int64Array, sizes: Int64Array, left: int, seed: int, epoch: int
) -> tuple[Int64Array, tuple[int, int, int]]:
    """Whole segments picked at random, and one in part, that make up ``left`` clips, which is fewer than all.

    Returns:
        The segments, rising; of the one in part (or of any), its place among them, the clips left out at its start, and
        the clips taken.
    """
    drawn = draws(len(segments) + 1, seed, epoch)
    picked = _permutation(drawn[:-1])
    reach = np.cumsum(sizes[picked])
    last = int(np.searchsorted(reach, left))  # the pick that fills the epoch, wholly or in part
    size = int(sizes[picked[last]])
    count = left - int(reach[last]) + size
    skip = int(drawn[-1]) % (size - count + 1)
    chosen = np.sort(picked[: last + 1])
    place = int(np.searchsorted(chosen, picked[last]))
    return segments[chosen], (place, skip, count)


def stream_seed(seed: int, stream: int) -> int:
    """A seed for what is drawn of a stream, independent of the shuffle's and of the other streams'; other numbers than
    streams' give seeds for other things."""
    with np.errstate(over="ignore"):
        return int(_mix(np.array([seed & _MASK], np.uint64) + np.uint64(stream + 1) * _GAMMA)[0])


def default_groups(shards: Iterable[Int64Array]) -> str:
    """What is shuffled, unless the user says so: shards where any of them holds several segments.

    Args:
        shards: of each stream, the shard of each segment, never falling.
    """
    return "shard" if any(int(own[-1]) + 1 < len(own) for own in shards) else "segment"


def run_order(
    groups: Int64Array, shuffle: bool, shuffle_by: str, seed: int, epoch: int, streams: Int64Array | None = None
) -> Int64Array:
    """The order in which an epoch goes through its runs.

    Args:
        groups: int64 [R], the shard of each run, if they are shuffled by shard; or else the video. Runs of one video
            stand together, in time order.
        shuffle: False gives the order of the index.
        shuffle_by: "segment" shuffles runs; "shard" shuffles whole shards, and the runs inside each; "video" shuffles
            whole videos, each read from its start to its end.
        seed: the shuffle seed.
        epoch: the epoch, from 0.
        streams: int64 [R], the stream of each run, if streams are to follow one another; None: they mix.

    Returns:
        int64 [R], run numbers.

    Raises:
        SpecError: ``shuffle_by`` is not one of SHUFFLE_GROUPS.
    """
    if shuffle_by not in SHUFFLE_GROUPS:
        raise SpecError(f"shuffle_by={shuffle_by!r}: must be one of {', '.join(SHUFFLE_GROUPS)}")
    if not shuffle:
        return np.arange(len(groups), dtype=np.int64)
    if shuffle_by == "segment":
        order = _permutation(draws(len(groups), seed, epoch))
    elif shuffle_by == "shard":
        order = _shuffled_shards(groups, seed, epoch)
    else:
        order = _shuffled_videos(groups, seed, epoch)
    return order if streams is None else order[np.argsort(streams[order], kind="stable")]


def _shuffled_shards(shards: Int64Array, seed: int, epoch: int) -> Int64Array:
    _, number = np.unique(shards, return_inverse=True)
    among = draws(int(number.max(initial=-1)) + 1, seed, epoch)
    inside = draws(len(shards), stream_seed(seed, -1), epoch)
    order: Int64Array = np.lexsort((inside, among[number])).astype(np.int64, copy=False)
    return order


def _shuffled_videos(videos: Int64Array, seed: int, epoch: int) -> Int64Array:
    count = len(videos)
    is_first = np.ones(count, np.bool_)
    np.not_equal(videos[1:], videos[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    del is_first
    lengths = np.diff(starts, append=count)
    picked = _permutation(draws(len(starts), seed, epoch))
    lengths = lengths[picked]
    first_out = np.cumsum(lengths) - lengths
    order: Int64Array = np.repeat(starts[picked] - first_out, lengths)
    order += np.arange(count, dtype=np.int64)
    return order
