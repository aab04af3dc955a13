"""What an order costs in a world, and how well it mixes, told from the index alone: no video is read.

The epoch's batches are gone through as ranks and workers get them, and what their readers would do is counted: when a
lane's decoder is opened or jumps, which segments a node needs and when. Opens, segments and videos are those of a real
run. Frames decoded are an upper bound: the index does not say which pictures others lean on, so that all from a
keyframe on count. Bytes are the segments' own, those of a part of one by its share of frames.

Where clips are counted in seconds, frames are found by their video's mean frame rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import SpecError
from onetake.core.order import num_batches
from onetake.core.simulate_clips import Clips, Cluster
from onetake.core.simulate_costs import (
    Fetched,
    Reads,
    cache_peak,
    decoding,
    distinct_videos,
    first_batch_bytes,
    frames_spanned,
    open_memory,
    opens,
    read_block,
    same_reader,
    step_spans,
)

__all__ = ["Series", "Simulation", "simulate"]

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class Simulation:
    """What an epoch, or the blocks of steps that were gone through, would be like.

    Attributes:
        lanes, slots, phases: see ``core.order``.
        clips: of the epoch.
        steps: of the epoch.
        steps_simulated: how many of them were gone through; all that follows is of these.
        distinct_videos: different videos in a global batch, on average; repeats that fill the last batch left out.
        distinct_videos_perfect: the same, after a perfect shuffle of the epoch's clips.
        distinct_ratio: the one over the other.
        stay_steps: steps in a row whose global batches hold a video once it came up, on average.
        stretch_steps: steps from the first to the last clip that a lane reads of a segment, both included, on average.
        stretches: the least number of decoders that can be opened: one for each stretch that a lane reads of a segment.
        opens: decoders opened.
        seeks: starts behind a segment's first keyframe, and jumps to a keyframe over pictures that are not needed; off
            by a few where pictures are stored in another order than they are shown, or where clips overlap.
        frames_decoded: frames from the keyframes at which decoders start to the last ones needed: at most.
        frames_spanned: frames from the first to the last of clips, those that follow one another have in common once.
        closure: the one over the other: 1 is ideal.
        same_reader: the share of clips that are read where the clip before them on their lane was.
        node_bytes_min, node_bytes, node_bytes_max: bytes that a node fetches: least, mean, most.
        segments: segments fetched, each counted once.
        segments_shared: of these, how many more than one node fetches.
        bytes_shared: the share of all bytes fetched that another node fetches too, one of them left out.
        first_batch_bytes: bytes that a node needs for its first batch, at most.
        cache_peak_bytes: bytes of the segments that a node has open or fetched ahead, at most.
        open_decoders: decoders that a reader has open, at most.
        reader_decoder_bytes: about how much memory these take, at most.
        node_decoder_bytes: the same, for all readers of a node.
    """

    lanes: int
    slots: int
    phases: int
    clips: int
    steps: int
    steps_simulated: int
    distinct_videos: float
    distinct_videos_perfect: float
    distinct_ratio: float
    stay_steps: float
    stretch_steps: float
    stretches: float
    opens: float
    seeks: float
    frames_decoded: float
    frames_spanned: float
    closure: float
    same_reader: float
    node_bytes_min: float
    node_bytes: float
    node_bytes_max: float
    segments: float
    segments_shared: float
    bytes_shared: float
    first_batch_bytes: float
    cache_peak_bytes: float
    open_decoders: float
    reader_decoder_bytes: float
    node_decoder_bytes: float

    @classmethod
    def mean(cls, epochs: Sequence[Simulation]) -> Simulation:
        """Of several epochs: the mean of each number; of those that say "at most", the highest."""
        values = {}
        for field in fields(cls):
            column = [getattr(epoch, field.name) for epoch in epochs]
            values[field.name] = (
                max(column) if field.name in _HIGHEST or field.type == "int" else sum(column) / len(column)
            )
        return cls(**values)


_HIGHEST = {"first_batch_bytes", "cache_peak_bytes", "open_decoders", "reader_decoder_bytes", "node_decoder_bytes"}


@dataclass(frozen=True, slots=True)
class Series:
    """What a plot shows of a simulation.

    Attributes:
        step: int64 [n], the steps gone through.
        distinct: int64 [n], different videos in each global batch.
        perfect: float64 [n], the same, expected of a perfect shuffle.
        node_bytes: int64 [nodes], what each node fetches.
    """

    step: Int64Array
    distinct: Int64Array
    perfect: Float64Array
    node_bytes: Int64Array


def simulate(
    clips: Clips,
    cluster: Cluster,
    lanes: tuple[int, int],
    epoch: int = 0,
    max_steps: int | None = None,
    drop_last: bool = False,
) -> tuple[Simulation, Series]:
    """Go through an epoch as the cluster's readers would.

    Args:
        clips: what is read.
        cluster: who reads.
        lanes: (slots, phases).
        epoch: the epoch, from 0.
        max_steps: go through about so many steps, in four blocks spread over the epoch, each as a run that is resumed
            at its first step and stopped after its last. None: all.
        drop_last: leave out an incomplete last batch.

    Raises:
        SpecError: there is no batch.
    """
    order, runs = clips.epoch(epoch, lanes)
    steps = num_batches(len(order), cluster.global_batch, drop_last)
    if not steps:
        raise SpecError(
            f"a global batch of {cluster.global_batch} is more than the {len(order)} clips of an epoch: with drop_last "
            "no batch is left; lower the batch size"
        )
    blocks = _blocks(steps, max_steps)
    parts = [read_block(order, cluster, block, number) for number, block in enumerate(blocks)]
    reads = Reads(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    run_stop = np.cumsum(runs.num_clips)
    run = np.searchsorted(run_stop, reads.seq, side="right").astype(np.int64)
    segment = runs.segment[run]
    video = clips.index.video[segment]
    starts = order.lanes.starts()
    stretch = np.searchsorted(np.unique(np.concatenate([starts, run_stop])), reads.seq, side="right").astype(np.int64)
    stop_seq = np.minimum(run_stop[run], starts[reads.lane + 1])
    by_lane, opened = opens(reads, run, order.lanes.count)
    first, last = clips.frames(order.clip_ids(reads.seq), segment, epoch)
    seeks, decoded = decoding(clips, segment[by_lane], first[by_lane], last[by_lane], opened)
    nodes, distinct = cluster.nodes, distinct_videos(reads, video, runs, clips)
    node = reads.reader // (cluster.ranks * cluster.readers)
    begins = np.concatenate([np.full(nodes, block.start, np.int64) for block in blocks])
    fetched = Fetched.of(node % nodes, segment, nodes, clips.bytes)
    real = ~reads.is_pad
    span_first, span_last, _ = step_spans(stretch[real], reads.step[real])
    lasting = span_last - span_first + 1
    open_most, reader_most, node_most = open_memory(clips, cluster, reads, video, stop_seq, by_lane, opened)
    spanned = frames_spanned(stretch[real], reads.seq[real], first[real], last[real])
    simulation = Simulation(
        lanes=order.lanes.count,
        slots=lanes[0],
        phases=lanes[1],
        clips=len(order),
        steps=steps,
        steps_simulated=sum(map(len, blocks)),
        distinct_videos=float(distinct.videos.mean()),
        distinct_videos_perfect=float(distinct.perfect.mean()),
        distinct_ratio=float(distinct.videos.sum() / distinct.perfect.sum()),
        stay_steps=distinct.stay,
        stretch_steps=float(lasting.mean()),
        stretches=len(lasting),
        opens=int(opened.sum()),
        seeks=seeks,
        frames_decoded=decoded,
        frames_spanned=spanned,
        closure=decoded / spanned,
        same_reader=same_reader(reads, order.lanes.count, cluster),
        node_bytes_min=int(fetched.by_node.min()),
        node_bytes=float(fetched.by_node.mean()),
        node_bytes_max=int(fetched.by_node.max()),
        segments=fetched.segments,
        segments_shared=fetched.shared,
        bytes_shared=fetched.bytes_shared,
        first_batch_bytes=first_batch_bytes(reads, node, segment, nodes, clips.bytes),
        cache_peak_bytes=cache_peak(clips, reads, node, stretch, segment, cluster.steps_ahead, begins),
        open_decoders=open_most,
        reader_decoder_bytes=reader_most,
        node_decoder_bytes=node_most,
    )
    return simulation, Series(distinct.step, distinct.videos, distinct.perfect, fetched.by_node)


def _blocks(steps: int, max_steps: int | None) -> list[range]:
    if max_steps is None or max_steps >= steps:
        return [range(steps)]
    count = min(_BLOCKS, max_steps)
    size = max_steps // count
    starts = [number * (steps - size) // max(count - 1, 1) for number in range(count)]
    return [range(start, start + size) for start in starts]
