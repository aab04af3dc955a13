"""What readers do, counted over the reads of a simulation."""

from __future__ import annotations

from math import lgamma
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onetake.core.draw import Runs
from onetake.core.order import EpochOrder
from onetake.core.simulate_clips import Clips, Cluster

__all__ = [
    "Distinct",
    "Fetched",
    "Reads",
    "cache_peak",
    "decoding",
    "distinct_videos",
    "expected_distinct",
    "first_batch_bytes",
    "frames_spanned",
    "open_memory",
    "opens",
    "read_block",
    "same_reader",
]

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Reads(NamedTuple):
    """Clips as they are read, by steps and by places in each batch: int64 arrays as long as there are reads. Readers
    are counted over nodes, ranks and workers, and from one block of steps to the next."""

    step: Int64Array
    reader: Int64Array
    lane: Int64Array
    seq: Int64Array
    is_pad: BoolArray


def expected_distinct(clips_of_videos: Int64Array, draws: int) -> float:
    """How many videos are expected among ``draws`` clips drawn without replacement, as after a perfect shuffle.

    Args:
        clips_of_videos: int64 [V], how many clips each video has; at least ``draws`` in all.
    """
    total = int(clips_of_videos.sum())
    sizes, videos = np.unique(clips_of_videos, return_counts=True)
    missed = [_chance_of_none(total, size, draws) for size in sizes.tolist()]
    return float(videos @ (1 - np.array(missed)))


def _chance_of_none(total: int, own: int, draws: int) -> float:
    """C(total - own, draws) / C(total, draws)."""
    others = total - own
    if others < draws:
        return 0.0
    logs = lgamma(others + 1) - lgamma(others - draws + 1) - lgamma(total + 1) + lgamma(total - draws + 1)
    return float(np.exp(min(logs, 0.0)))


def read_block(order: EpochOrder, cluster: Cluster, steps: range, block: int) -> Reads:
    """What the readers read in a block of steps."""
    batch, readers = cluster.global_batch, cluster.readers
    full = max(min(steps.stop, len(order) // batch), steps.start)
    lane, position = order.lanes.locate(np.arange(steps.start * batch, full * batch, dtype=np.int64))
    key = (lane * (len(order) // order.lanes.count + 1) + position).reshape(-1, batch)
    if np.any(key[:, 1:] < key[:, :-1]):
        places = (np.argsort(key, axis=1, kind="stable") + np.arange(len(key))[:, None] * batch).ravel()
        lane, position = lane[places], position[places]
    seq, is_pad = order.lanes.starts()[lane] + position, np.zeros(len(lane), np.bool_)
    if full < steps.stop:
        last = order.samples(full * batch, (full + 1) * batch)
        lane, seq = np.concatenate([lane, last.lane]), np.concatenate([seq, last.seq])
        is_pad = np.concatenate([is_pad, last.is_pad])
    step = np.repeat(np.arange(steps.start, steps.stop, dtype=np.int64), batch)
    rank = np.tile(np.arange(batch, dtype=np.int64) // cluster.batch_size, len(steps))
    rank += block * cluster.nodes * cluster.ranks
    return Reads(step, rank * readers + (step - steps.start) % readers, lane, seq, is_pad)


def opens(reads: Reads, run: Int64Array, lanes: int) -> tuple[Int64Array, BoolArray]:
    """(reads by reader and lane, each lane's in the order of time; which of these open a decoder).

    A reader keeps a lane's decoder as long as it goes on in the run that it was opened for.
    """
    key = reads.reader * lanes + reads.lane
    by_lane = np.argsort(key, kind="stable").astype(np.int64)
    key, run, seq = key[by_lane], run[by_lane], reads.seq[by_lane]
    opened = np.ones(len(key), np.bool_)
    opened[1:] = (key[1:] != key[:-1]) | (run[1:] != run[:-1]) | (seq[1:] <= seq[:-1])
    return by_lane, opened


def decoding(
    clips: Clips, segment: Int64Array, first: Int64Array, last: Int64Array, opened: BoolArray
) -> tuple[int, int]:
    """(seeks, frames decoded) of reads as ``opens`` sorts them."""
    key = clips.keyframe_at(segment, first)
    before = np.concatenate([np.zeros(1, np.int64), last[:-1]])
    jumped = ~opened & (key > before + 1 + clips.jump_cost[clips.index.video[segment]])
    behind = opened & (key > clips.index.first_frame[segment])
    seeks, left_out = clips.passed_over(segment, first, last)
    decoded = int((last - np.where(opened | jumped, key - 1, before)).sum())
    return seeks + int((jumped | behind).sum()), decoded - left_out


def frames_spanned(stretch: Int64Array, seq: Int64Array, first: Int64Array, last: Int64Array) -> int:
    """Frames that clips span, those that neighbours on a stretch have in common once."""
    by_seq = np.argsort(seq, kind="stable")
    stretch, seq, first, last = stretch[by_seq], seq[by_seq], first[by_seq], last[by_seq]
    follows = (stretch[1:] == stretch[:-1]) & (seq[1:] == seq[:-1] + 1)
    common = np.where(follows, np.maximum(last[:-1] + 1 - first[1:], 0), 0)
    return int((last + 1 - first).sum() - common.sum())


def open_memory(
    clips: Clips,
    cluster: Cluster,
    reads: Reads,
    video: Int64Array,
    stop_seq: Int64Array,
    by_lane: Int64Array,
    opened: BoolArray,
) -> tuple[int, int, int]:
    """(open decoders of a reader, bytes of them, bytes of those of a node), each at most."""
    by_reader = np.argsort(reads.reader, kind="stable").astype(np.int64)
    place = np.empty_like(by_reader)  # of each read among those of all readers, one reader's after another's
    place[by_reader] = np.arange(len(place))
    heads = np.flatnonzero(np.diff(reads.reader[by_reader], prepend=-1))
    at = np.flatnonzero(opened)
    tails = np.append(at[1:], len(opened)) - 1
    begin, end = by_lane[at], by_lane[tails]
    following = by_lane[np.minimum(tails + 1, len(opened) - 1)]
    replaced = (
        (tails + 1 < len(opened))
        & (reads.reader[following] == reads.reader[end])
        & (reads.lane[following] == reads.lane[end])
    )
    reader_end = np.append(heads[1:], len(place))[np.searchsorted(heads, place[end], side="right") - 1]
    done = reads.seq[end] + 1 == stop_seq[end]
    close = np.where(done, place[end] + 1, np.where(replaced, place[following], reader_end))
    levels = []
    for weight in (np.ones(len(at), np.int64), clips.decoder_bytes[video[begin]]):
        change = np.zeros(len(place) + 1, np.int64)
        np.add.at(change, place[begin], weight)
        np.subtract.at(change, close, weight)
        levels.append(np.maximum.reduceat(np.cumsum(change)[:-1], heads))
    node = reads.reader[by_reader[heads]] // (cluster.ranks * cluster.readers)
    per_node = np.bincount(node, levels[1])
    return int(levels[0].max()), int(levels[1].max()), int(per_node.max())


class Distinct(NamedTuple):
    """Per step, the different videos in its global batch, and how many are to be expected of a perfect shuffle; for how
    many steps in a row a video is in them, on average."""

    step: Int64Array
    videos: Int64Array
    perfect: Float64Array
    stay: float


def distinct_videos(reads: Reads, video: Int64Array, runs: Runs, clips: Clips) -> Distinct:
    real = ~reads.is_pad
    step, height = reads.step[real], int(reads.step.max()) + 2
    pairs = np.unique(video[real] * height + step)
    streaks = np.count_nonzero(np.diff(pairs, prepend=-2) != 1)
    steps, count = np.unique(pairs % height, return_counts=True)
    sizes = np.unique(step, return_counts=True)[1]
    of_video = np.bincount(clips.index.video[runs.segment], runs.num_clips).astype(np.int64)
    expected = {size: expected_distinct(of_video[of_video > 0], size) for size in np.unique(sizes).tolist()}
    perfect = np.array([expected[size] for size in sizes.tolist()], np.float64)
    return Distinct(steps, count.astype(np.int64), perfect, len(pairs) / streaks)


def same_reader(reads: Reads, lanes: int, cluster: Cluster) -> float:
    """The share of reads that follow another on their lane whose reader is that one's."""
    real = ~reads.is_pad
    reader = reads.reader[real]
    key = reader // (cluster.nodes * cluster.ranks * cluster.readers) * lanes + reads.lane[real]
    by_lane = np.argsort(key, kind="stable")
    key, reader = key[by_lane], reader[by_lane]
    follows = key[1:] == key[:-1]
    return float((reader[1:] == reader[:-1])[follows].mean()) if follows.any() else 1.0


class Fetched(NamedTuple):
    by_node: Int64Array  # bytes
    segments: int
    shared: int
    bytes_shared: float

    @classmethod
    def of(cls, node: Int64Array, segment: Int64Array, nodes: int, size: Int64Array) -> Fetched:
        """What nodes fetch that read ``segment``, each of which weighs ``size[segment]``."""
        node, segment = np.divmod(np.unique(node * len(size) + segment), len(size))
        by_node = np.bincount(node, size[segment], nodes).astype(np.int64)
        distinct, times = np.unique(segment, return_counts=True)
        share = 1 - int(size[distinct].sum()) / max(int(by_node.sum()), 1)
        return cls(by_node, len(distinct), int(np.count_nonzero(times > 1)), share)


def first_batch_bytes(reads: Reads, node: Int64Array, segment: Int64Array, nodes: int, size: Int64Array) -> int:
    """Bytes of the segments in the first batch, of the node that needs most."""
    first = reads.step == reads.step[0]
    return int(Fetched.of(node[first], segment[first], nodes, size).by_node.max())


def step_spans(group: Int64Array, step: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Per group, its first and its last step, and the first place at which it stands. Steps never fall."""
    by_group = np.argsort(group, kind="stable")
    heads = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    tails = np.append(heads[1:], len(group)) - 1
    return step[by_group[heads]], step[by_group[tails]], by_group[heads]


def cache_peak(
    clips: Clips,
    reads: Reads,
    node: Int64Array,
    stretch: Int64Array,
    segment: Int64Array,
    ahead: int,
    begins: Int64Array,
) -> int:
    """Bytes that a node has in its cache at most, if a segment comes ``ahead`` steps before a lane reads it, and goes
    when no lane reads it any more; ``begins`` says at which step each node starts."""
    first, last, at = step_spans(node * (int(stretch.max()) + 1) + stretch, reads.step)
    node, segment = node[at], segment[at]
    first = np.maximum(first - ahead, begins[node])
    owner = node * len(clips.bytes) + segment
    by_owner = np.lexsort((first, owner))
    owner, first, last = owner[by_owner], first[by_owner], last[by_owner]
    # Where several stretches of a segment overlap, it is there once.
    group = np.cumsum(np.diff(owner, prepend=-1) != 0) * (int(last.max()) + 1)
    furthest = np.maximum.accumulate(group + last) - group
    anew = np.ones(len(owner), np.bool_)
    anew[1:] = (owner[1:] != owner[:-1]) | (first[1:] > furthest[:-1])
    heads = np.flatnonzero(anew)
    tails = np.append(heads[1:], len(owner)) - 1
    node, segment = np.divmod(owner[heads], len(clips.bytes))
    time = np.concatenate([first[heads], furthest[tails] + 1])
    change = np.concatenate([clips.bytes[segment], -clips.bytes[segment]])
    by_time = np.lexsort((change, time, np.tile(node, 2)))  # what goes makes room before anything comes
    return int(np.cumsum(change[by_time]).max())
