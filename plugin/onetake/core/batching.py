"""How global batches take clips of several streams: the ``batching_method`` of streaming, under lanes.

    random              an epoch is shuffled as a whole, so that lanes and batches mix streams by chance
    stratified          every global batch has each stream in proportion: streams follow one another in ``seq``, so that
                        each has neighbouring lanes, as many as are its share; and lanes' slots are spread over a batch
    per_stream          every global batch is of one stream
    device_per_stream   every rank's part of a global batch is of one stream

Under the last two, each stream is *apart*: it has an order, and L lanes, of its own (see ``core.order``). Its samples
are cut into *units*, global batches or ranks' parts of them, and the units of all streams are dealt at random to the
batches of the epoch, in a way that leaves a lane where it is. A stream's last unit is filled with repeats, or left out
with ``drop_last``.

Units go through the lanes of their stream in turns of C = L / unit, if that is whole: the i-th is of turn i mod C. Laid
one stream after another, the units of an epoch have numbers q, and a stream's turns rise with q. Units change places
only with others whose q is the same mod C. With unit = 2, L = 6 (C = 3), streams a and b of 9 and 7 clips:

    q                 0    1    2    3    4    5    6    7    8
    laid out          a0   a1   a2   a3   a4   b0   b1   b2   b3
    q mod C           0    1    2    0    1    2    0    1    2
    dealt, perhaps    a0   b2   b0   a3   a1   a2   b1   a4   b3

So, where C is a multiple of ranks (if they get units of their own) times workers, a lane stays on one worker of one
rank, and reads front to back: the law of ``core.order``, that B * W divides L.

Units come to their lanes out of turn, so that those of another size can't be cut where some have been read. Where the
size changes in the middle of an epoch, what each lane has left becomes, one after another, an epoch to deal anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onetake.core.draw import ClipIds, Runs, draws, stream_seed
from onetake.core.order import Batch, EpochOrder, Lanes, lanes_read, num_batches

__all__ = ["APART", "BATCHING_METHODS", "Deal", "DealtOrder", "deal_runs", "make_deals", "num_dealt_batches"]

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BATCHING_METHODS = ("random", "stratified", "per_stream", "device_per_stream")
APART = ("per_stream", "device_per_stream")


def num_dealt_batches(sizes: Sequence[int], unit: int, batch_size: int, drop_last: bool) -> int:
    """Global batches of a whole epoch; see ``Deal``."""
    units = sum(num_batches(size, unit, drop_last) for size in sizes)
    return num_batches(units, batch_size // unit, drop_last)


class Deal:
    """Whose unit each of an epoch's is.

    Args:
        sizes: clips that the epoch takes of each stream.
        slots, phases: of each stream's lanes.
        unit: samples that are of one stream.
        drop_last: leave out a stream's last unit, if it is not full.
        shuffle: False deals them stream after stream.
        seed: the shuffle seed.
        epoch: the epoch, from 0.
        first_sample: where in the epoch the deal begins: ``sizes`` are what is left there.

    Attributes:
        stream: int64 [units], the stream of each.
        number: int64 [units], which of its stream's units it is.
        turns: C, after how many units of a stream the same lanes have their turn; 1 where lanes change all the time.
    """

    def __init__(
        self, sizes: Sequence[int], slots: int, phases: int, unit: int, drop_last: bool, shuffle: bool, seed: int,
        epoch: int, first_sample: int = 0,
    ) -> None:  # fmt: skip
        self.first_sample = first_sample
        self.unit, self._sizes, self._slots, self._phases = unit, sizes, slots, phases
        self._counts = counts = np.array([num_batches(size, unit, drop_last) for size in sizes], np.int64)
        self._first = np.cumsum(counts) - counts
        laid = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        lanes = slots * phases
        self.turns = lanes // unit if lanes % unit == 0 else 1
        at = np.arange(len(laid), dtype=np.int64)
        place = at
        if shuffle:
            turn = at % self.turns
            shuffled = np.lexsort((draws(len(laid), stream_seed(seed, len(counts)), epoch), turn))
            dealt = np.empty_like(laid)
            dealt[np.lexsort((at, turn))] = laid[shuffled]
            place = np.empty_like(at)  # where each was laid out; of one stream and turn, they keep their order
            place[np.lexsort((at, turn, dealt))] = np.lexsort((at, turn, laid))
            laid = dealt
        self.stream, self.number = laid, place - self._first[laid]

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def num_streams(self) -> int:
        """How many streams there are."""
        return len(self._sizes)

    def units_before(self, sample: int) -> int:
        """How many units are dealt before a sample of the epoch."""
        return max(sample - self.first_sample, 0) // self.unit

    def num_batches(self, first_sample: int, batch_size: int, drop_last: bool) -> int:
        """Global batches from ``first_sample`` on."""
        left = max(len(self) - self.units_before(first_sample), 0)
        return num_batches(left, batch_size // self.unit, drop_last)

    def left(self, sample: int) -> list[int]:
        """How many clips of each stream come at or after a sample of the epoch."""
        units = self.units_before(sample)
        return [size - int(self.clips_read(stream, units).sum()) for stream, size in enumerate(self._sizes)]

    def at(self, place: int) -> tuple[int, int]:
        """(stream, which of its units) is dealt to a place; behind the last, one that repeats the ends of its lanes."""
        if place < len(self):
            return int(self.stream[place]), int(self.number[place])
        stream = int(self.stream[-1])
        number, first = int(self._counts[stream]), int(self._first[stream])
        return stream, number + (place - first - number) % self.turns

    def lanes_of(self, stream: int) -> Lanes:
        """Those of one stream."""
        return Lanes(self._sizes[stream], self._slots, self._phases)

    def clips_read(self, stream: int, units: int) -> Int64Array:
        """int64 [L]: how many clips each lane of a stream has given before the epoch's unit number ``units``."""
        lanes = self.lanes_of(stream)
        numbers = self.number[:units][self.stream[:units] == stream]
        if self.turns == 1:  # in their order
            return lanes.clips_read(len(numbers) * self.unit)
        samples = np.arange(lanes.count, dtype=np.int64)
        read = np.empty(lanes.count, np.int64)
        read[lanes.locate(samples)[0]] = np.bincount(numbers % self.turns, minlength=self.turns)[samples // self.unit]
        return np.minimum(read, lanes.clips_read(lanes.num_clips))

    def lanes_read(
        self, first_sample: int, batch_size: int, rank: int, num_ranks: int, worker: int, num_workers: int
    ) -> BoolArray:
        """bool [streams * L], False for lanes of which a worker surely reads nothing; see ``core.order.lanes_read``."""
        per_batch, begun = batch_size // self.unit, self.units_before(first_sample)
        num_workers = max(num_workers, 1)
        stride = per_batch * num_workers
        parts = []
        for stream, first in enumerate(self._first.tolist()):
            own, readers = begun + worker * per_batch + (rank if per_batch > 1 else 0) - first, stride
            if self.turns % stride:  # anyone may get any unit
                own, readers = 0, 1
            share = (0, 1) if per_batch > 1 else (rank, num_ranks)
            parts.append(lanes_read(self.lanes_of(stream), 0, self.unit, *share, own % readers, readers))
        return np.concatenate(parts)


class DealtOrder:
    """One epoch's samples, where streams are apart, as ``core.order.EpochOrder`` otherwise; or those of some lanes.

    Lanes are numbered stream after stream.

    Args:
        parts: each stream's epoch.
        deal: whose unit comes when.
    """

    def __init__(self, parts: Sequence[EpochOrder], deal: Deal) -> None:
        self._parts, self._deal = parts, deal

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def _lanes_each(self) -> int:
        return self._parts[0].lanes.count

    def of(self, kept: BoolArray) -> DealtOrder:
        """The same epoch, with some of its lanes alone; see ``EpochOrder.of``."""
        own = kept.reshape(len(self._parts), -1)
        return DealtOrder([part.of(lanes) for part, lanes in zip(self._parts, own, strict=True)], self._deal)

    def keeps(self, lanes: BoolArray) -> bool:
        """Whether all of these lanes are kept."""
        own = lanes.reshape(len(self._parts), -1)
        return all(part.keeps(kept) for part, kept in zip(self._parts, own, strict=True))

    @property
    def is_whole(self) -> bool:
        """Whether every lane is kept."""
        return all(part.is_whole for part in self._parts)

    def coming(self, seq: int, lane: int) -> Int64Array:
        """See ``EpochOrder.coming``; ``seq`` counts within the lane's stream."""
        return self._parts[lane // self._lanes_each].coming(seq, lane % self._lanes_each)

    def next_clips(self, sample: int) -> Int64Array:
        """int64 [streams * L]: the clip that each lane reads next after ``sample`` samples; -1 for a finished lane."""
        units = min(self._deal.units_before(sample), len(self._deal))
        own = (part.following(self._deal.clips_read(stream, units)) for stream, part in enumerate(self._parts))
        return np.concatenate(list(own))

    def rest(self, sample: int) -> list[EpochOrder]:
        """What is left of each stream at a sample of the epoch, for another deal; see ``EpochOrder.rest``."""
        units = self._deal.units_before(sample)
        return [part.rest(self._deal.clips_read(stream, units)) for stream, part in enumerate(self._parts)]

    def num_batches(self, first_sample: int, batch_size: int, drop_last: bool) -> int:
        """Global batches from ``first_sample`` on."""
        return self._deal.num_batches(first_sample, batch_size, drop_last)

    def batch(self, first_sample: int, number: int, batch_size: int, rank: int, num_ranks: int) -> Batch:
        """A rank's part of the ``number``-th global batch from ``first_sample`` on, sorted by lane."""
        deal, per_batch = self._deal, batch_size // self._deal.unit
        at = deal.units_before(first_sample) + number * per_batch + (rank if per_batch > 1 else 0)
        stream, unit = deal.at(at)
        share = (0, 1) if per_batch > 1 else (rank, num_ranks)
        own = self._parts[stream].samples(unit * deal.unit, (unit + 1) * deal.unit, *share)
        return Batch(own.clip_id, own.lane + stream * self._lanes_each, own.seq, own.occurrence, own.is_pad)


def make_deals(
    sizes: Sequence[int], slots: int, phases: int, units: Sequence[tuple[int, int]], drop_last: bool, shuffle: bool,
    seed: int, epoch: int,
) -> list[Deal]:  # fmt: skip
    """The deals of an epoch, one for each of ``units``, (size, first sample); the last one holds. See ``Deal``."""
    deals: list[Deal] = []
    for size, first in units:
        sizes = deals[-1].left(first) if deals else sizes
        deals.append(Deal(sizes, slots, phases, size, drop_last, shuffle, seed, epoch, first))
    return deals


def deal_runs(
    runs: Runs,
    order: Int64Array,
    streams: Int64Array,
    ids: ClipIds | None,
    deals: Sequence[Deal],
    kept: BoolArray | None = None,
) -> DealtOrder:
    """What is left of an epoch's runs where the last of ``deals`` begins.

    Args:
        runs: what the epoch reads (see ``core.draw``).
        order: int64 [R], in which order: stream after stream.
        streams: int64 [R], the stream of each run.
        ids: the clips that the runs' ordinals stand for; None: an ordinal is a clip's ID.
        deals: of the epoch.
        kept: bool [streams * L], the lanes to keep; None: all.
    """
    each, lanes = deals[0].num_streams, deals[0].lanes_of(0)
    stops = np.cumsum(np.bincount(streams, minlength=each))[:-1]
    own = [None] * each if kept is None or len(deals) > 1 else list(kept.reshape(each, -1))
    parts = [
        EpochOrder(runs, lanes.slots, lanes.phases, ids, part, some)
        for part, some in zip(np.split(order, stops), own, strict=True)
    ]
    for deal, following in pairwise(deals):
        parts = DealtOrder(parts, deal).rest(following.first_sample)
    dealt = DealtOrder(parts, deals[-1])
    return dealt if kept is None else dealt.of(kept)
