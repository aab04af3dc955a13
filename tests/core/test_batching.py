"""Laws of batches that take clips of several streams: in proportion, or of one stream each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import chain
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core import batching
from onetake.core.batching import Deal, DealtOrder, deal_runs, make_deals, num_dealt_batches
from onetake.core.draw import draw_runs, run_order
from onetake.core.order import EpochOrder, num_batches, worker_batches
from tests.core.test_order import Sample, samples

law = settings(max_examples=120)


class World(NamedTuple):
    ranks: int
    workers: int
    size: int

    @property
    def batch(self) -> int:
        return self.ranks * self.size


class Streams(NamedTuple):
    """Segments' clips, stream by stream; how many the epoch takes of each; the order's arguments."""

    counts: list[list[int]]
    choose: list[int]
    slots: int
    phases: int
    shuffle: bool = True
    epoch: int = 0

    @property
    def bounds(self) -> np.ndarray:
        """The first clip of each stream, and how many there are."""
        return np.cumsum([0, *map(sum, self.counts)])

    def stream_of(self, clips) -> list[int]:
        return (np.searchsorted(self.bounds, clips, side="right") - 1).tolist()

    def parts(self):
        clips = np.array([clip for own in self.counts for clip in own], np.int64)
        runs = draw_runs(clips, list(map(len, self.counts)), self.choose, 17, self.epoch)
        streams = np.repeat(np.arange(len(self.counts)), list(map(len, self.counts)))[runs.segment]
        order = run_order(runs.segment, self.shuffle, "segment", 17, self.epoch, streams)
        return runs, order, streams

    def stratified(self) -> EpochOrder:
        runs, order, _ = self.parts()
        return EpochOrder(runs, self.slots, self.phases, order=order, spread=True)

    def deal(self, unit: int, drop_last: bool = False) -> Deal:
        return Deal(self.choose, self.slots, self.phases, unit, drop_last, self.shuffle, 17, self.epoch)

    def dealt(self, unit: int, drop_last: bool = False) -> DealtOrder:
        return deal_runs(*self.parts(), None, [self.deal(unit, drop_last)])


@st.composite
def streams_of(draw, slots=None):
    counts = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=4))
    choose = [draw(st.just(sum(own)) | st.integers(0, 2 * sum(own))) for own in counts]
    choose[0] += not any(choose)
    slots = slots or draw(st.integers(1, 8))
    return Streams(counts, choose, slots, draw(st.integers(1, 4)), draw(st.booleans()), draw(st.integers(0, 5)))


worlds = st.builds(World, ranks=st.integers(1, 3), workers=st.integers(1, 3), size=st.integers(1, 3))
methods = st.sampled_from(["per_stream", "device_per_stream"])


def unit_of(world: World, method: str) -> int:
    return world.batch if method == "per_stream" else world.size


def delivered(order, world: World, first: int = 0, drop_last: bool = False) -> list[list[list[Sample]]]:
    """What each rank gets, batch by batch."""
    count = order.num_batches(first, world.batch, drop_last)
    return [
        [samples(order.batch(first, number, world.batch, rank, world.ranks)) for rank in range(world.ranks)]
        for number in range(count)
    ]


def shown(batches) -> list[int]:
    return [s.clip for batch in batches for part in batch for s in part if not s.is_pad]


def drawn(streams: Streams) -> list[int]:
    runs, _, _ = streams.parts()
    return sorted(
        clip
        for first, count in zip(runs.first_clip.tolist(), runs.num_clips.tolist(), strict=True)
        for clip in range(first, first + count)
    )


# Streams apart


@law
@given(streams_of(), worlds, methods)
def test_every_clip_once_in_full_batches_of_one_stream(streams, world, method):
    unit = unit_of(world, method)
    batches = delivered(streams.dealt(unit), world)
    assert sorted(shown(batches)) == drawn(streams)
    assert len(batches) == num_dealt_batches(streams.choose, unit, world.batch, False)
    for batch in batches:
        assert [len(part) for part in batch] == [world.size] * world.ranks
        of_ranks = [set(streams.stream_of([s.clip for s in part])) for part in batch]
        assert all(len(found) == 1 for found in of_ranks)
        assert method != "per_stream" or len(set.union(*of_ranks)) == 1
    short = sum(-size % unit for size in streams.choose)
    units = sum(num_batches(size, unit, False) for size in streams.choose)
    assert sum(s.is_pad for batch in batches for part in batch for s in part) == short + unit * (
        -units % (world.batch // unit)
    )


@law
@given(streams_of(), worlds, methods)
def test_with_drop_last_there_are_no_repeats_and_each_stream_lacks_less_than_a_unit(streams, world, method):
    unit = unit_of(world, method)
    batches = delivered(streams.dealt(unit, drop_last=True), world, drop_last=True)
    assert not any(s.is_pad for batch in batches for part in batch for s in part)
    given_out, wanted = Counter(shown(batches)), Counter(drawn(streams))
    assert not given_out - wanted
    lacking = Counter(streams.stream_of(list((wanted - given_out).elements())))
    if method == "per_stream":
        assert all(count < unit for count in lacking.values())
    assert sum(lacking.values()) == len(drawn(streams)) - world.batch * len(batches)


@law
@given(streams_of(), worlds, methods)
def test_a_lane_is_read_front_to_back(streams, world, method):
    read = defaultdict(list)
    for batch in delivered(streams.dealt(unit_of(world, method)), world):
        for part in batch:
            assert [s.lane for s in part] == sorted(s.lane for s in part)
            for s in part:
                if not s.is_pad:
                    read[s.lane].append(s.seq)
    for own in read.values():
        assert own == list(range(own[0], own[0] + len(own)))


@law
@given(st.data(), worlds, methods, st.integers(1, 3))
def test_where_batches_and_workers_divide_the_lanes_each_stays_in_one_place(data, world, method, times):
    streams = data.draw(streams_of(slots=world.batch))._replace(phases=world.workers * times)
    order = streams.dealt(unit_of(world, method))
    first = data.draw(st.integers(0, 3)) * world.batch
    place = {}
    for number, batch in enumerate(delivered(order, world, first)):
        for rank, part in enumerate(batch):
            for s in part:
                if not s.is_pad:
                    assert place.setdefault(s.lane, (rank, number % world.workers)) == (rank, number % world.workers)


@law
@given(st.data(), streams_of(), worlds, methods)
def test_a_worker_reads_no_lane_beside_those_that_are_named(data, streams, world, method):
    unit = unit_of(world, method)
    whole, first = streams.dealt(unit), data.draw(st.integers(0, 3)) * world.batch
    deal = streams.deal(unit)
    count = whole.num_batches(first, world.batch, False)
    for worker in range(world.workers):
        for rank in range(world.ranks):
            kept = deal.lanes_read(first, world.batch, rank, world.ranks, worker, world.workers)
            own = whole.of(kept)
            assert own.keeps(kept)
            for number in worker_batches(count, worker, world.workers):
                part = own.batch(first, number, world.batch, rank, world.ranks)  # asserts that the lanes are kept
                assert samples(part) == samples(whole.batch(first, number, world.batch, rank, world.ranks))


@law
@given(st.data(), streams_of(), worlds, methods)
def test_it_goes_on_anywhere_and_says_what_each_lane_reads_next(data, streams, world, method):
    order = streams.dealt(unit_of(world, method))
    batches = delivered(order, world)
    at = data.draw(st.integers(0, len(batches)))
    assert delivered(order, world, at * world.batch) == batches[at:]
    lanes = len(streams.counts) * streams.slots * streams.phases
    coming = [-1] * lanes
    for batch in reversed(batches[at:]):
        for part in reversed(batch):
            for s in reversed(part):
                if not s.is_pad:
                    coming[s.lane] = s.clip
    assert order.next_clips(at * world.batch).tolist() == coming


@law
@given(st.data(), streams_of(), st.lists(worlds, min_size=3, max_size=3), methods)
def test_units_may_change_their_size_twice_in_an_epoch(data, streams, three, method):
    first, units, given_out = 0, [], []
    for number, world in enumerate(three):
        unit = unit_of(world, method)
        if not units or units[-1][0] != unit:
            units.append((unit, first))
        deals = make_deals(
            streams.choose, streams.slots, streams.phases, units, False, streams.shuffle, 17, streams.epoch
        )
        order = deal_runs(*streams.parts(), None, deals)
        batches = delivered(order, world, first)
        assert all(len(part) == world.size for batch in batches for part in batch)
        stop = len(batches) if number == 2 else data.draw(st.integers(0, max(len(batches) - 1, 0)))
        for batch in batches[:stop]:
            for part in batch:
                assert len(set(streams.stream_of([s.clip for s in part]))) == 1
        given_out += shown(batches[:stop])
        first += stop * world.batch
        if units[-1][1] == first:  # nothing was read of that size
            units.pop()
    assert sorted(given_out) == drawn(streams)


@law
@given(streams_of(), st.integers(1, 3), st.integers(1, 3))
def test_the_batches_of_one_stream_are_the_same_for_any_number_of_ranks(streams, ranks, size):
    few, many = World(1, 2, 6 * size), World(6 // ranks, 1, ranks * size)
    order = streams.dealt(6 * size)
    one, other = delivered(order, few), delivered(order, many)
    assert [list(chain(*batch)) for batch in one] == [list(chain(*batch)) for batch in other]


def test_shuffled_streams_take_turns_and_others_follow_one_another():
    streams = Streams([[40] * 10, [40] * 10], [400, 400], 4, 2)
    dealt = streams.deal(4).stream
    assert Counter(dealt.tolist()) == {0: 100, 1: 100}
    assert 70 < np.count_nonzero(np.diff(dealt)) < 130
    assert dealt.tolist() != streams._replace(epoch=1).deal(4).stream.tolist()
    assert streams._replace(shuffle=False).deal(4).stream.tolist() == [0] * 100 + [1] * 100


def test_the_table_in_the_docstring_is_what_the_code_gives_and_never_changes_between_versions():
    rows = dict(re.findall(r"^ {4}(q|laid out|q mod C|dealt, perhaps)  +(.*)$", batching.__doc__, re.M))
    deal = Deal([9, 7], 2, 3, 2, False, True, 17, 0)
    assert deal.turns == 3
    assert rows["q"].split() == [str(q) for q in range(len(deal))]
    assert rows["q mod C"].split() == [str(q % 3) for q in range(len(deal))]
    assert rows["laid out"].split() == [f"a{n}" for n in range(5)] + [f"b{n}" for n in range(4)]
    found = zip(deal.stream.tolist(), deal.number.tolist(), strict=True)
    assert rows["dealt, perhaps"].split() == [f"{'ab'[stream]}{number}" for stream, number in found]


# Streams in proportion


@law
@given(st.data(), st.integers(1, 6))
def test_every_batch_has_each_stream_in_proportion(data, phases):
    slots = data.draw(st.integers(2, 12))
    counts = data.draw(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=4))
    streams = Streams(counts, list(map(sum, counts)), slots, phases)
    order, total = streams.stratified(), sum(streams.choose)
    for start in range(0, total - slots + 1, slots):
        found = Counter(streams.stream_of(order.samples(start, start + slots).clip_id))
        for stream, size in enumerate(streams.choose):
            assert abs(found[stream] - slots * size / total) < 2


def test_each_share_is_exact_to_one_clip_where_lanes_are_long():
    streams = Streams([[50] * 20, [50] * 12, [50] * 3], [1000, 600, 150], 14, 4)
    order, total = streams.stratified(), 1750
    found = [Counter(streams.stream_of(order.samples(s, s + 14).clip_id)) for s in range(0, total, 14)]
    for stream, share in enumerate([8, 4.8, 1.2]):
        counts = {batch[stream] for batch in found}
        assert counts <= {int(share) - (share == 8), int(share), int(share) + 1}
    halves = [Counter(streams.stream_of(order.samples(s, s + 7).clip_id)) for s in range(0, total, 7)]
    assert all(abs(batch[0] - 4) <= 1 for batch in halves)  # another batch size takes the same sequence


@law
@given(streams_of(), worlds)
def test_nothing_is_lost_in_proportion_and_ranks_have_their_shares(streams, world):
    order = streams.stratified()
    batches = delivered(order, world)
    assert sorted(shown(batches)) == drawn(streams)
    read = defaultdict(list)
    for batch in batches:
        for part in batch:
            for s in part:
                if not s.is_pad:
                    read[s.lane].append(s.seq)
    for own in read.values():
        assert own == list(range(own[0], own[0] + len(own)))
    assert sorted(seq for own in read.values() for seq in own) == list(range(len(order)))


@law
@given(st.data(), streams_of())
def test_some_lanes_of_streams_in_proportion_are_read_as_of_all(data, streams):
    runs, order, _ = streams.parts()
    whole = streams.stratified()
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=whole.lanes.count, max_size=whole.lanes.count)))
    own = EpochOrder(runs, streams.slots, streams.phases, order=order, kept=kept, spread=True)
    for sample in range(len(whole)):
        batch = whole.samples(sample, sample + 1)
        if kept[batch.lane[0]]:
            assert samples(own.samples(sample, sample + 1)) == samples(batch)
            assert own.coming(int(batch.seq[0]), int(batch.lane[0])).tolist() == whole.coming(
                int(batch.seq[0]), int(batch.lane[0])
            ).tolist()  # fmt: skip


@pytest.mark.parametrize("slots", [1, 2, 3, 6, 8, 12, 30, 64])
def test_neighbours_are_spread_over_a_batch(slots):
    order = Streams([[100]], [100], slots, 2).stratified()
    lanes = order.lanes.spread()
    assert sorted(lanes.tolist()) == list(range(2 * slots))
    assert (lanes.reshape(-1, 2) == lanes[::2, None] + np.array([0, 1])).all()
    if slots >= 30:
        quarter = np.sort(lanes[::2][: slots // 4] // 2)
        assert np.diff(quarter).max() <= 9
