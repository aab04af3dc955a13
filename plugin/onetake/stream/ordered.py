"""What of a VideoDataset is order: which clip comes when, where an epoch stands, and the state that says so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onetake.core.batching import APART, Deal, DealtOrder, deal_runs, make_deals, num_dealt_batches
from onetake.core.draw import ClipIds, Runs, draw_runs, run_order
from onetake.core.errors import ResumeError
from onetake.core.lane_counts import nearest_lanes
from onetake.core.order import EpochOrder, Lanes, lanes_read, num_batches, share_that_stays
from onetake.core.state import STATE_VERSION, Cursor, check_order, pack_cursors, read_state, read_units
from onetake.stream.compat import HostDataset, World
from onetake.stream.reader import ClipPlace
from onetake.stream.stream import VideoStream
from onetake.stream.units import Units
from onetake.stream.work import WorkerClips

__all__ = ["OrderedDataset"]

BoolArray = NDArray[np.bool_]
Int64Array = NDArray[np.int64]

_STEPS_COUNTED = 1_000_000


def _starts(counts: Int64Array) -> Int64Array:
    """Where each of runs of so many begins."""
    starts: Int64Array = np.cumsum(counts) - counts
    return starts


class OrderedDataset(HostDataset):
    """A dataset of clips in canonical lane order (see ``core.order``), resumed at any sample."""

    streams: Sequence[VideoStream]
    shuffle_by: str
    drop_last: bool
    resume: str

    def _init_order(self, lanes: tuple[int, int]) -> None:
        self._begun = self._iterated = self._over = False
        self._epoch = 0
        # The last one, by what it was made for.
        self._order: tuple[tuple[Any, ...], EpochOrder | DealtOrder] | None = None
        # Whether an epoch has clips of some stream more than once. Asked for every sample, so settled here.
        self.repeats = any(stream.num_chosen > stream.num_clips for stream in self.streams)
        self._has_gaps = not all(stream.layout.kept.all() for stream in self.streams)
        self._stream_per_segment = np.repeat(np.arange(len(self.streams)), [len(s.segments) for s in self.streams])
        self._video_per_segment = self._numbered([stream.index.video for stream in self.streams])
        by_shard = self.shuffle_by == "shard"
        self._group_per_segment = self._numbered(
            [stream.shard_of_segment if by_shard else stream.video_of_segment for stream in self.streams]
        )
        clips = np.concatenate([stream.layout.num_clips[stream.segments] for stream in self.streams])
        self._clips_before_segment: Int64Array = np.concatenate([[0], np.cumsum(clips)])
        # (epoch, first sample, slots, phases, 1 once a loader drives the dataset); workers of any start method see it.
        self._point = torch.tensor([0, 0, *lanes, 0], dtype=torch.int64).share_memory_()
        self._units = Units()

    def _numbered(self, of_streams: Sequence[Int64Array]) -> Int64Array:
        """int64 [S]: something of each segment in which a clip starts, counted over all streams; rising numbers."""
        counts = [int(numbers[-1]) + 1 for numbers in of_streams]
        firsts = np.cumsum(counts) - counts
        parts = [
            numbers[s.segments] + first for s, numbers, first in zip(self.streams, of_streams, firsts, strict=True)
        ]
        return np.concatenate(parts)

    # Size and order.

    @property
    def global_batch_size(self) -> int:
        """Samples that all ranks together get in a step."""
        assert isinstance(self.batch_size, int)
        return self.batch_size * self.rank_world.num_ranks

    @property
    def num_clips(self) -> int:
        """Clips in an epoch, repeats not counted."""
        return sum(stream.num_chosen for stream in self.streams)  # the host does not know of clips_per_video

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, the same for every rank."""
        return self.batches_left(0)

    @property
    def streams_apart(self) -> bool:
        """Whether each stream has an order, and lanes, of its own (see ``core.batching``)."""
        return self.batching_method in APART

    @property
    def _unit(self) -> int:
        """Samples that are of one stream, where streams are apart."""
        assert isinstance(self.batch_size, int)
        return self.global_batch_size if self.batching_method == "per_stream" else self.batch_size

    @property
    def lanes(self) -> tuple[int, int]:
        """(slots, phases): their product is the number of canonical lanes; of each stream, where they are apart."""
        return int(self._point[2]), int(self._point[3])

    @property
    def num_lanes(self) -> int:
        """All lanes there are."""
        slots, phases = self.lanes
        return slots * phases * (len(self.streams) if self.streams_apart else 1)

    def __len__(self) -> int:
        """Samples per rank in an epoch, repeats included."""
        assert isinstance(self.batch_size, int)
        return self.num_batches * self.batch_size

    def epoch_order(self, epoch: int) -> EpochOrder | DealtOrder:
        """The order of one epoch; see ``core.order``. Where that epoch is being iterated, of the lanes that this
        process reads."""
        order = self._last_order(epoch)
        if order is None:
            order = self._keep_order(epoch, self._make_order(epoch))
        return order

    def _last_order(self, epoch: int) -> EpochOrder | DealtOrder | None:
        """The order that was kept, if it is this epoch's."""
        return self._order[1] if self._order is not None and self._order[0] == self._made_for(epoch) else None

    def _made_for(self, epoch: int) -> tuple[Any, ...]:
        return epoch, *self.lanes, *(self._units.of(epoch, self._unit) if self.streams_apart else ())

    def _keep_order(self, epoch: int, order: EpochOrder | DealtOrder) -> EpochOrder | DealtOrder:
        self._order = self._made_for(epoch), order
        return order

    def _whole_order(self, epoch: int) -> EpochOrder | DealtOrder:
        """An epoch's order with all of its lanes. It does not take the place of one that is being iterated."""
        order = self._last_order(epoch)
        if order is None or order.is_whole:
            return self.epoch_order(epoch)
        return self._make_order(epoch)

    def _make_order(self, epoch: int, kept: BoolArray | None = None) -> EpochOrder | DealtOrder:
        runs, ids = self._draw_runs(self._epoch_of_draws(epoch))
        streams = None if self.batching_method == "random" else self._stream_per_segment[runs.segment]
        order = run_order(self._groups_of(runs), self.shuffle, self.shuffle_by, self.shuffle_seed, epoch, streams)
        if not self.streams_apart:
            return EpochOrder(runs, *self.lanes, ids, order, kept, spread=self.batching_method == "stratified")
        assert streams is not None
        return deal_runs(runs, order, streams, ids, self._deals(epoch), kept)

    def _deals(self, epoch: int) -> list[Deal]:
        """The deals of an epoch where streams are apart, one for each size of units; the last one holds."""
        sizes = [stream.num_chosen for stream in self.streams]
        units = self._units.of(epoch, self._unit)
        return make_deals(sizes, *self.lanes, units, self.drop_last, self.shuffle, self.shuffle_seed, epoch)

    def _groups_of(self, runs: Runs) -> Int64Array:
        """int64 [R]: a number for each video, or shard; another one where it comes again, to be read another time."""
        groups: Int64Array = self._group_per_segment[runs.segment]
        if runs.occurrence.any():
            groups += runs.occurrence * (self._group_per_segment[-1] + 1)
        return groups

    def _draw_runs(self, drawn: int) -> tuple[Runs, ClipIds | None]:
        """What the epoch reads that draws by number ``drawn``, and which clips its ordinals stand for."""
        counts: list[Int64Array] = []
        firsts: list[Int64Array] = []  # ordinals of the segments' first clips: those that no epoch takes have theirs
        picks: list[tuple[int, Int64Array | None]] = []
        before = 0
        for stream in self.streams:
            picked = stream.draws.pick(self.shuffle_seed, drawn)
            counts.append(stream.layout.num_picked(picked)[stream.segments])
            picks.append((int(stream.layout.clips_before[-1]), picked))
            if self._has_gaps:
                own = stream.layout.clips_before[stream.segments] if picked is None else _starts(counts[-1])
                firsts.append(own + before)
                before += picks[-1][0] if picked is None else len(picked)
        runs = draw_runs(
            np.concatenate(counts),
            [len(stream.segments) for stream in self.streams],
            [stream.num_chosen for stream in self.streams],
            self.shuffle_seed,
            drawn,
            np.concatenate(firsts) if firsts else None,
        )
        return runs, ClipIds(picks) if any(picked is not None for _, picked in picks) else None

    def _epoch_of_draws(self, epoch: int) -> int:
        """The epoch by which is drawn what an epoch reads: with fixed sampling, the same for all."""
        return epoch if self.sampling_method == "balanced" else 0

    # Epochs and resume.

    def begin_epoch(self) -> tuple[int, int]:
        """Settle (epoch, first sample) of the iteration that is about to start; loaders call it."""
        if self._iterated:
            self._point[0] += 1
            self._point[1] = 0
        self._iterated = self._begun = True
        self._over = False
        self._point[4] = 1
        self.clear_failure()
        self._epoch = int(self._point[0])
        sample = int(self._point[1])
        # Workers that are forked now find what their rank reads, and none goes through the whole epoch itself.
        self._order_of(self._epoch, self._lanes_read(sample, 0, 0))
        return self._epoch, sample

    def batches_left(self, sample: int) -> int:
        """Batches of an epoch that goes on at ``sample``."""
        if self.streams_apart and sample:
            return self._deals(int(self._point[0]))[-1].num_batches(sample, self.global_batch_size, self.drop_last)
        if self.streams_apart:
            sizes = [stream.num_chosen for stream in self.streams]
            return num_dealt_batches(sizes, self._unit, self.global_batch_size, self.drop_last)
        return num_batches(max(self.num_clips - sample, 0), self.global_batch_size, self.drop_last)

    def end_epoch(self) -> None:
        """Note that the iteration is over, at its end or before; loaders call it."""
        self._over = True

    @property
    def is_driven(self) -> bool:
        return bool(self._point[4])

    def resume_point(self, presumed_epoch: int) -> tuple[int, int]:
        epoch, sample = self._point[:2].tolist()
        if self.is_driven or presumed_epoch == epoch:
            return epoch, sample
        return presumed_epoch, 0

    def epoch_work(self, epoch: int, sample_in_epoch: int, world: World) -> Sequence[int]:
        self._epoch = epoch
        assert isinstance(self.batch_size, int)
        kept = self._lanes_read(sample_in_epoch, world.worker_of_rank, world.workers_per_rank)
        order = self._order_of(epoch, kept)
        return WorkerClips(order, sample_in_epoch, self.batch_size, self.drop_last, world)

    def _lanes_read(self, sample: int, worker: int, num_workers: int) -> BoolArray:
        """bool [L]: the lanes that a worker of this rank reads from ``sample`` on; of no workers, the rank."""
        world, lanes = self.rank_world, Lanes(self.num_clips, *self.lanes)
        share = sample, self.global_batch_size, world.rank, world.num_ranks, worker, num_workers
        return self._deals(self._epoch)[-1].lanes_read(*share) if self.streams_apart else lanes_read(lanes, *share)

    def _order_of(self, epoch: int, kept: BoolArray) -> EpochOrder | DealtOrder:
        """An epoch's order with some of its lanes alone; it is kept."""
        order = self._last_order(epoch)
        if order is None or not order.keeps(kept):
            order = self._make_order(epoch, kept)
        return self._keep_order(epoch, order.of(kept))

    def lanes_advice(self, num_workers: int) -> str | None:
        """What is wrong with the number of lanes for this world and ``num_workers``, in words; None if nothing is."""
        slots, phases = self.lanes
        workers = max(num_workers, 1)
        stride = self.global_batch_size * workers
        if slots * phases == 1 or slots * phases % stride == 0:
            return None
        near = nearest_lanes(slots, phases, self.global_batch_size, workers)
        told = ""
        if not self.streams_apart:
            counted = Lanes(min(self.num_clips, slots * phases + _STEPS_COUNTED), slots, phases)
            share = share_that_stays(counted, self.global_batch_size, workers, self.rank_world.num_ranks)
            told = f" ({share:.0%} of the clips are read by the worker that read the one before in their lane)"
        return (
            f"global batch {self.global_batch_size} x {workers} workers does not divide the {slots * phases} canonical "
            "lanes: the samples stay the same, but lanes wander between workers and stretches are decoded again"
            f"{told}; num_canonical_lanes={' or '.join(map(str, near))} fits (for a new run)"
        )

    def _place(self, clip_id: int, epoch: int) -> tuple[int, ClipPlace]:
        """The number of the clip's shard, and where the clip stands in an epoch."""
        shard_id, number = self.spanner[clip_id]
        stream, shard = self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id]
        segment, number = shard.locate(number)
        shift = 0
        if self.sampling_method == "balanced":
            shift = stream.draws.shift(segment, self.shuffle_seed, epoch)
        return shard_id, ClipPlace(stream, shard, segment, number, shift)

    def _video_of(self, clip_id: int) -> tuple[int, range]:
        """The number of a clip's video, counted over all streams, and the clips of that video."""
        segment = np.searchsorted(self._clips_before_segment, clip_id, side="right") - 1
        video = int(self._video_per_segment[segment])
        first, stop = self._clips_before_segment[np.searchsorted(self._video_per_segment, [video, video + 1])].tolist()
        return video, range(first, stop)

    def state_at(self, epoch: int, sample: int) -> dict[str, Any]:
        """The state from which training goes on after ``sample`` trained samples of ``epoch``, counted over all
        ranks. Plain containers only. A finished epoch is saved as the start of the next."""
        if not self.batches_left(sample):
            epoch, sample = epoch + 1, 0
        return self._state(epoch, sample)

    def _state(self, epoch: int, sample: int) -> dict[str, Any]:
        world = self.rank_world
        places = self._next_places(epoch, sample)
        starts = [place and (place.video_id, place.start_frame) for place in places]
        return {
            "epoch": epoch,
            "sample_in_epoch": sample,
            "num_canonical_nodes": self.num_canonical_nodes or world.num_nodes,
            "shuffle_seed": self.shuffle_seed,
            "initial_physical_nodes": self.initial_physical_nodes or world.num_nodes,
            "onetake": {
                "version": STATE_VERSION,
                **({"units": [list(unit) for unit in self._units.of(epoch, self._unit)]} if self.streams_apart else {}),
                "order": self._order_key(),
                "cursors": pack_cursors(
                    starts,
                    [place.video.seconds / place.video.num_frames if place else 0.0 for place in places],
                ),
            },
        }

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """See StreamingDataset.state_dict; ``num_samples`` counts trained samples over all ranks.

        Composer calls it, ``from_beginning`` of what is an epoch by its own clock. That epoch is not over before
        Composer says so, not even after the last batch: then what is left of it is empty. Once it is over, no sample
        of Composer's next one is trained yet, while the dataset has begun none.
        """
        epoch, first = int(self._point[0]), int(self._point[1])
        if not self._iterated:
            return self._state(epoch, first)
        if not from_beginning:
            return self.state_at(epoch, first + num_samples)
        if num_samples == 0 and self._over:
            return self._state(epoch + 1, 0)
        return self._state(epoch, num_samples)

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Go on from a saved state, with any number of ranks and workers, and any batch size.

        Raises:
            ResumeError: the state is none of ours, or (with ``resume="strict"``) its order is not this dataset's.
        """
        epoch, sample, order, cursors = read_state(obj)
        slots, phases = int(order.get("slots", 0)), int(order.get("phases", 0))
        if slots < 1 or phases < 1 or epoch < 0 or sample < 0:
            raise ResumeError("the state's numbers are damaged; load another checkpoint")
        kept, units = self._point.clone(), self._units.of(epoch, self._unit)
        self._units.keep(epoch, read_units(obj) or [(self._unit, 0)])
        self._point[:4] = torch.tensor([epoch, sample, slots, phases])
        changes = check_order(order, self._order_key())
        if not changes and cursors != self.cursors(epoch, sample):
            changes = ["the videos and frames at which lanes go on are not the same"]
        if changes and self.resume == "strict":
            self._point.copy_(kept)
            self._units.keep(epoch, units)
            raise ResumeError(
                "the state does not fit this dataset: " + "; ".join(changes) + ". Restore the settings, or pass "
                'resume="continue" to go on at the same sample of the new order'
            )
        if changes:
            warnings.warn("resuming in another order than was saved: " + "; ".join(changes), stacklevel=2)
            self._units.keep(epoch, [(self._unit, 0)])
            self._point[1] = min(sample, self.num_batches * self.global_batch_size)
        elif self.streams_apart:
            self._units.change(epoch, sample, self._unit)
        self._epoch = epoch
        self._iterated = self._begun = False

    def _order_key(self) -> dict[str, Any]:
        slots, phases = self.lanes
        key = {
            "generations": [stream.index.generation for stream in self.streams],
            "clips": [stream.clips_key() for stream in self.streams],
            "num_clips": self.num_clips,
            "choose": [stream.num_chosen for stream in self.streams],
            "shuffle": self.shuffle,
            "shuffle_by": self.shuffle_by,
            "shuffle_seed": self.shuffle_seed,
            "batching_method": self.batching_method,
            "slots": slots,
            "phases": phases,
        }
        filters = [stream.selection.key() for stream in self.streams]
        for name in sorted({name for own in filters for name in own}):
            key[name] = [own.get(name) for own in filters]
        if any(stream.draws.is_random for stream in self.streams):  # by what they are drawn, beside the seed
            key |= {"names": [stream.name for stream in self.streams], "sampling_method": self.sampling_method}
        return key

    def cursors(self, epoch: int, sample: int) -> list[Cursor]:
        """Per lane, the video ID and frame at which it goes on after ``sample`` samples; None at its end."""
        places = self._next_places(epoch, sample)
        return [place and (place.video_id, place.start_frame) for place in places]

    def _next_places(self, epoch: int, sample: int) -> list[ClipPlace | None]:
        clips = self._whole_order(epoch).next_clips(sample).tolist()
        return [None if clip < 0 else self._place(clip, epoch)[1] for clip in clips]
