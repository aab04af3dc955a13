"""The canonical order: which clip is read when, on which lane, by which rank and worker.

An epoch's clips, drawn and shuffled in runs that keep their inner order (``core.draw``), form one sequence ``seq`` of
N clips. It is cut
into L = slots * phases *lanes*: lane j = slot * phases + phase reads one contiguous run of ``seq`` front to back.
Sample k of the epoch is the clip on

    slot k mod slots,   phase (k div slots) mod phases,   at position k div L of that lane.

Nothing here knows the world: a global batch of B samples takes the next B samples, sorted by lane; rank r gets the
r-th of R equal parts of it; worker w of W gets every W-th batch. With slots = 4, phases = 2, N = 20, B = 4:

    lane (slot, phase)     0 (0,0)   1 (0,1)   2 (1,0)   3 (1,1)   4 (2,0)   5 (2,1)   6 (3,0)   7 (3,1)
    reads seq              0 1 2     3 4       5 6 7     8 9       10 11 12  13 14     15 16 17  18 19
    batch 0 (phase 0)      0                   5                   10                  15
    batch 1 (phase 1)                3                   8                   13                  18
    batch 2 (phase 0)      1                   6                   11                  16
    batch 3 (phase 1)                4                   9                   14                  19
    batch 4 (phase 0)      2                   7                   12                  17
    2 ranks                | rank 0: slots 0 and 1               | rank 1: slots 2 and 3
    2 workers              worker 0: batches 0 2 4 (phase 0), worker 1: batches 1 3 (phase 1)

So if B * W divides L, every lane stays on one worker of one rank, which reads it front to back: ``nearest_lanes`` names
such L, ``share_that_stays`` says how much of that is left where it does not. Lanes whose turn comes early in a step are
the ones that are a clip longer where L does not divide N: the rule above then holds to the last sample.

Where B is B0, a rank's lanes are neighbours, so that a node reads one stretch of ``seq``, and shares a segment with
another node only where its stretch begins or ends. A process keeps the runs of the lanes that it reads
(``lanes_read``), and no more of the epoch than that.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from onetake.core.draw import ClipIds, Runs

__all__ = [
    "Batch",
    "EpochOrder",
    "Lanes",
    "lanes_read",
    "num_batches",
    "share_that_stays",
    "worker_batches",
]

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_SAMPLES_AT_ONCE = 1 << 18
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of 2^64


@dataclass(frozen=True, slots=True)
class Lanes:
    """How ``num_clips`` clips are dealt to lanes; see the module's table.

    Args:
        num_clips: clips in the epoch (N).
        slots: B0, the global batch size of the first run.
        phases: P, lanes per slot.
    """

    num_clips: int
    slots: int
    phases: int

    @property
    def count(self) -> int:
        """L, the number of lanes."""
        return self.slots * self.phases

    @property
    def turns(self) -> Int64Array:
        """int64 [L]: the place of lane j within each step, phase * slots + slot."""
        lanes = np.arange(self.count, dtype=np.int64)
        turns: Int64Array = lanes % self.phases * self.slots + lanes // self.phases
        return turns

    def locate(self, samples: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The lane of each sample of the epoch, and its position in that lane."""
        position, turn = np.divmod(samples, self.count)
        phase, slot = np.divmod(turn, self.slots)
        return slot * self.phases + phase, position

    def clips_read(self, sample: int) -> Int64Array:
        """int64 [L]: how many clips each lane has given before sample number ``sample``."""
        sample = min(sample, self.num_clips)
        return np.maximum(sample - self.turns + self.count - 1, 0) // self.count

    def starts(self) -> Int64Array:
        """int64 [L + 1]: where in ``seq`` each lane starts; the last entry is N."""
        return np.concatenate([[0], np.cumsum(self.clips_read(self.num_clips))]).astype(np.int64)

    def spread(self) -> Int64Array:
        """int64 [L]: the lanes, such that any stretch of them has slots all over a batch: by the fractions of multiples
        of the golden section (Weyl's sequence)."""
        slots = np.argsort(np.arange(self.slots, dtype=np.uint64) * _GOLDEN)
        lanes: Int64Array = (slots[:, None] * self.phases + np.arange(self.phases, dtype=np.int64)).ravel()
        return lanes

    def places(self, samples: Int64Array, starts: Int64Array, batch_size: int) -> Int64Array:
        """Where samples stand in their batches, which begin at samples ``starts`` and are sorted by lane."""
        lane, _ = self.locate(samples)
        before = self._on_lanes_below(lane, starts + batch_size) - self._on_lanes_below(lane, starts)
        return before + (samples - starts) // self.count

    def _on_lanes_below(self, lane: Int64Array, stop: Int64Array) -> Int64Array:
        """How many of the samples before number ``stop`` are on a lane below ``lane``."""
        slot, phase = np.divmod(lane, self.phases)
        steps, turns = np.divmod(stop, self.count)
        rows, rest = np.divmod(turns, self.slots)
        below: Int64Array = steps * lane + rows * slot
        below += np.minimum(rows, phase) + np.minimum(rest, slot + (rows < phase))
        return below


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples of an epoch. All arrays have the same length.

    Attributes:
        clip_id: int64, global clip IDs.
        lane: int64, the lane that reads each clip.
        seq: int64, the clip's place in ``seq``.
        occurrence: int64, how often the epoch draws the clip before this time.
        is_pad: bool, True where a clip is repeated to fill the epoch's last batch.
    """

    clip_id: Int64Array
    lane: Int64Array
    seq: Int64Array
    occurrence: Int64Array
    is_pad: BoolArray


class EpochOrder:
    """One epoch's samples, in canonical order; or those of some of its lanes.

    Args:
        runs: what the epoch reads (see ``core.draw``).
        slots: B0.
        phases: P.
        ids: the clips that the runs' ordinals stand for; None: an ordinal is a clip's ID.
        order: int64 [R], the order of ``seq``; None: as the runs stand.
        kept: bool [L], the lanes to keep, the only ones that may be asked for; None: all.
        spread: neighbouring stretches of ``seq`` are not those of neighbouring slots, but lie far apart in a batch.
    """

    def __init__(
        self,
        runs: Runs,
        slots: int,
        phases: int,
        ids: ClipIds | None = None,
        order: Int64Array | None = None,
        kept: BoolArray | None = None,
        spread: bool = False,
    ) -> None:
        seq_stop = np.cumsum(runs.num_clips if order is None else runs.num_clips[order])
        self._ids = ids
        self.lanes = Lanes(int(seq_stop[-1]) if len(seq_stop) else 0, slots, phases)
        self._by_seq = self.lanes.spread() if spread else np.arange(self.lanes.count, dtype=np.int64)
        lengths = self.lanes.clips_read(len(self))
        self._stops = np.empty_like(lengths)
        self._stops[self._by_seq] = np.cumsum(lengths[self._by_seq])
        self._starts = self._stops - lengths
        self._kept = np.ones(self.lanes.count, np.bool_) if kept is None else kept
        if kept is not None:
            numbers = self._runs_of(kept, seq_stop)
            seq_stop, order = seq_stop[numbers], numbers if order is None else order[numbers]
        own = runs if order is None else runs.take(order)
        self._seq_stop = seq_stop
        self._seq_start = seq_stop - own.num_clips
        self._id_shift = own.first_clip - self._seq_start
        self._occurrence = own.occurrence

    def of(self, kept: BoolArray) -> EpochOrder:
        """The same epoch, with the runs of some of its lanes alone, out of those that are kept here."""
        assert self.keeps(kept), "a lane that was not kept"
        if kept[self._kept].all():
            return self
        part = copy(self)
        numbers = self._runs_of(kept, self._seq_stop)
        part._seq_stop, part._seq_start = self._seq_stop[numbers], self._seq_start[numbers]
        part._id_shift, part._occurrence = self._id_shift[numbers], self._occurrence[numbers]
        part._kept = kept
        return part

    def rest(self, read: Int64Array) -> EpochOrder:
        """What is left once each lane has given ``read`` of its clips, in the order of ``seq``: an epoch with lanes of
        its own, as many."""
        assert self.is_whole, "a lane that was not kept"
        starts = self._starts + read
        lanes = self._by_seq[(starts < self._stops)[self._by_seq]]
        starts, stops = starts[lanes], self._stops[lanes]
        first, last = (np.searchsorted(self._seq_stop, seq, side="right") for seq in (starts, stops - 1))
        counts = last + 1 - first
        run = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()), dtype=np.int64)
        begin = np.maximum(self._seq_start[run], np.repeat(starts, counts))
        end = np.minimum(self._seq_stop[run], np.repeat(stops, counts))
        runs = Runs(np.zeros_like(run), begin + self._id_shift[run], end - begin, self._occurrence[run])
        return EpochOrder(runs, self.lanes.slots, self.lanes.phases, self._ids)

    def keeps(self, lanes: BoolArray) -> bool:
        """Whether all of these lanes are kept: bool [L]."""
        return bool(self._kept[lanes].all())

    @property
    def is_whole(self) -> bool:
        """Whether every lane is kept."""
        return bool(self._kept.all())

    def _runs_of(self, kept: BoolArray, seq_stop: Int64Array) -> Int64Array:
        """The numbers of the runs that lanes read, of those that end at ``seq_stop``: rising."""
        lanes = self._by_seq[(kept & (self._stops > self._starts))[self._by_seq]]
        first = np.searchsorted(seq_stop, self._starts[lanes], side="right")
        last = np.searchsorted(seq_stop, self._stops[lanes] - 1, side="right")
        first[1:] = np.maximum(first[1:], last[:-1] + 1)  # the run that the lane before has begun
        counts = np.maximum(last + 1 - first, 0)
        before = np.cumsum(counts) - counts
        return np.repeat(first - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)

    @property
    def num_runs(self) -> int:
        """How many runs are kept."""
        return len(self._seq_stop)

    def __len__(self) -> int:
        return self.lanes.num_clips

    def _run(self, seq: Int64Array) -> Int64Array:
        """The run that each place of the sequence is in."""
        run = np.searchsorted(self._seq_stop, seq, side="right").astype(np.int64, copy=False)
        kept = bool((run < self.num_runs).all()) and bool((self._seq_start[run] <= seq).all())
        assert kept, "a lane that was not kept"
        return run

    def clip_ids(self, seq: Int64Array) -> Int64Array:
        """The clips at places ``seq`` of the sequence."""
        ordinals: Int64Array = seq + self._id_shift[self._run(seq)]
        return ordinals if self._ids is None else self._ids(ordinals)

    def coming(self, seq: int, lane: int) -> Int64Array:
        """The clips that ``lane`` reads from place ``seq`` on before it goes to another run: rising, in one segment."""
        stop = min(self._seq_stop[self._run(np.array([seq]))[0]], self._stops[lane])
        return self.clip_ids(np.arange(seq, stop, dtype=np.int64))

    def samples(self, start: int, stop: int, rank: int = 0, num_ranks: int = 1) -> Batch:
        """Samples ``start`` to ``stop`` of the epoch, sorted by lane: a global batch, or a rank's equal part of one.

        Samples at or past N repeat the last clip of the lane whose turn it would be.
        """
        samples = np.arange(start, stop, dtype=np.int64)
        total, count = self.lanes.num_clips, self.lanes.count
        is_pad = samples >= total
        turns_back = -(-(samples - total + 1) // count)
        repeated = samples - turns_back * count
        samples = np.where(is_pad, np.where(repeated >= 0, repeated, samples % max(total, 1)), samples)
        lane, position = self.lanes.locate(samples)
        size = len(samples) // num_ranks
        by_lane = np.lexsort((is_pad, position, lane))[rank * size : (rank + 1) * size]
        lane, position = lane[by_lane], position[by_lane]
        seq = self._starts[lane] + position
        return Batch(self.clip_ids(seq), lane, seq, self._occurrence[self._run(seq)], is_pad[by_lane])

    def next_clips(self, sample: int) -> Int64Array:
        """int64 [L]: the clip that each lane reads next after ``sample`` samples; -1 for a finished lane."""
        return self.following(self.lanes.clips_read(sample))

    def following(self, read: Int64Array) -> Int64Array:
        """int64 [L]: the clip that each lane reads after ``read`` of its clips; -1 for a finished lane."""
        if not len(self):
            return np.full(self.lanes.count, -1, np.int64)
        seq = self._starts + read
        return np.where(seq >= self._stops, -1, self.clip_ids(np.minimum(seq, len(self) - 1)))

    def num_batches(self, first_sample: int, batch_size: int, drop_last: bool) -> int:
        """Global batches from ``first_sample`` on."""
        return num_batches(max(len(self) - first_sample, 0), batch_size, drop_last)

    def batch(self, first_sample: int, number: int, batch_size: int, rank: int, num_ranks: int) -> Batch:
        """A rank's part of the ``number``-th global batch from ``first_sample`` on."""
        start = first_sample + number * batch_size
        return self.samples(start, start + batch_size, rank, num_ranks)


def num_batches(num_samples: int, batch_size: int, drop_last: bool) -> int:
    """Global batches of ``batch_size`` in ``num_samples`` samples, all full: the last one is filled with
    repeats, or left out with ``drop_last``."""
    return num_samples // batch_size if drop_last else -(-num_samples // batch_size)


def worker_batches(total: int, worker: int, num_workers: int) -> range:
    """The batches, out of ``total``, that a worker gets."""
    return range(worker, total, max(num_workers, 1))


def lanes_read(
    lanes: Lanes, first_sample: int, batch_size: int, rank: int, num_ranks: int, worker: int, num_workers: int
) -> BoolArray:
    """The lanes that a worker reads, of a rank, from ``first_sample`` on, with global batches of ``batch_size``.

    Returns:
        bool [L], False for lanes of which it surely reads nothing. Exact where the epoch is long, and lanes and batches
        meet again soon, as they do where B * W divides L.
    """
    kept = np.zeros(lanes.count, np.bool_)
    size, num_workers = batch_size // num_ranks, max(num_workers, 1)
    period = lanes.count // gcd(lanes.count, batch_size * num_workers)
    if lanes.num_clips < lanes.count:  # a repeat may be of any lane
        kept[:] = True
    elif period * batch_size <= _SAMPLES_AT_ONCE:
        numbers = worker + num_workers * np.arange(period, dtype=np.int64)
        starts = np.repeat(first_sample + batch_size * numbers, batch_size)
        samples = starts + np.tile(np.arange(batch_size, dtype=np.int64), period)
        mine = lanes.places(samples, starts, batch_size) // size == rank
        kept[lanes.locate(samples[mine])[0]] = True
    else:
        # A batch has ``rounds`` samples of each slot, and one more of ``more`` of them. So many come before a slot's:
        rounds, more = divmod(batch_size, lanes.slots)
        slots = np.arange(lanes.slots, dtype=np.int64)
        fewest = rounds * slots + np.maximum(more - (lanes.slots - slots), 0)
        most = rounds * slots + np.minimum(more, slots)
        mine = (fewest < (rank + 1) * size) & (most + rounds + (more > 0) > rank * size)
        kept[:] = np.repeat(mine, lanes.phases)
    return kept


def share_that_stays(lanes: Lanes, batch_size: int, num_workers: int, num_ranks: int = 1) -> float:
    """Of the clips of an epoch that are not the first of their lane, the share that is read by the same worker, of the
    same rank, as the clip before it in its lane. 1 where ``batch_size`` (global) times workers divides the lanes."""
    count, num_workers = lanes.count, max(num_workers, 1)
    steps = lanes.num_clips - count
    if steps <= 0 or count % (batch_size * num_workers) == 0:
        return 1.0

    def owners(samples: Int64Array) -> tuple[Int64Array, Int64Array]:
        batch = samples // batch_size
        place = lanes.places(samples, batch * batch_size, batch_size)
        return batch % num_workers, place // (batch_size // num_ranks)

    def staying(stop: int) -> int:
        """How many of the first ``stop`` steps stay."""
        total = 0
        for start in range(0, stop, _SAMPLES_AT_ONCE):
            samples = np.arange(count + start, count + min(start + _SAMPLES_AT_ONCE, stop), dtype=np.int64)
            (worker, rank), (worker_before, rank_before) = owners(samples), owners(samples - count)
            total += int(np.count_nonzero((worker == worker_before) & (rank == rank_before)))
        return total

    period = lcm(batch_size * num_workers, count if num_ranks > 1 else 1)
    periods, rest = divmod(steps, period)
    return ((periods * staying(period) if periods else 0) + staying(rest)) / steps
