"""One order for any world: what nodes, ranks, workers, batch sizes and stops have a say in, and what not."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core import order as order_module
from onetake.core.draw import Runs, draw_runs, run_order
from onetake.core.lane_counts import nearest_lanes
from onetake.core.order import (
    EpochOrder,
    Lanes,
    lanes_read,
    num_batches,
    share_that_stays,
    worker_batches,
)

law = settings(max_examples=80)


class World(NamedTuple):
    """``size`` samples per batch and rank; 0 workers: the rank reads itself."""

    nodes: int
    ranks_per_node: int
    workers: int
    size: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def batch(self) -> int:
        return self.ranks * self.size

    def readers(self) -> list[tuple[int, int]]:
        return [(rank, worker) for rank in range(self.ranks) for worker in range(max(self.workers, 1))]

    def reads(self, lanes: Lanes, rank: int, worker: int, first: int = 0) -> np.ndarray:
        return lanes_read(lanes, first, self.batch, rank, self.ranks, worker, self.workers)


class Epoch(NamedTuple):
    runs: Runs
    order: np.ndarray
    slots: int
    phases: int

    def made(self, kept: np.ndarray | None = None) -> EpochOrder:
        return EpochOrder(self.runs, self.slots, self.phases, None, self.order, kept)


worlds = st.builds(
    World,
    nodes=st.integers(1, 3),
    ranks_per_node=st.integers(1, 3),
    workers=st.integers(0, 4),
    size=st.integers(1, 5),
)


def worlds_that_share(batch: int) -> st.SearchStrategy[World]:
    parts = [(n, r) for n in range(1, batch + 1) for r in range(1, batch + 1) if batch % (n * r) == 0]
    return st.builds(
        lambda part, workers: World(*part, workers, batch // (part[0] * part[1])),
        st.sampled_from(parts),
        st.integers(0, 4),
    )


@st.composite
def epochs(draw) -> Epoch:
    """Of one to three streams, each of which is taken in part, as a whole, or more than once; some segments empty."""
    segments = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    counts = np.array(draw(st.lists(st.integers(0, 12), min_size=sum(segments), max_size=sum(segments))), np.int64)
    bounds = np.cumsum([0, *segments]).tolist()
    has = [int(counts[start:stop].sum()) for start, stop in pairwise(bounds)]
    choose = [draw(st.integers(0, 5 * own // 2)) for own in has]
    seed, number = draw(st.integers(0, 2**64)), draw(st.integers(0, 3))
    runs = draw_runs(counts, segments, choose, seed, number)
    videos = (np.arange(len(counts)) // 3)[runs.segment] + runs.occurrence * len(counts)
    order = run_order(videos, draw(st.booleans()), draw(st.sampled_from(["segment", "video"])), seed, number)
    return Epoch(runs, order, draw(st.integers(1, 8)), draw(st.integers(1, 4)))


def rows(batch) -> list[tuple]:
    columns = (batch.clip_id, batch.occurrence, batch.lane, batch.seq, batch.is_pad)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def delivered(epoch: Epoch, world: World, first: int = 0) -> list[list[tuple]]:
    """The global batches from sample ``first`` on, each process making its own part of the order alone."""
    lanes = epoch.made().lanes
    total = num_batches(max(lanes.num_clips - first, 0), world.batch, drop_last=False)
    parts: dict[int, dict[int, list[tuple]]] = defaultdict(dict)
    for rank, worker in world.readers():
        own = epoch.made(world.reads(lanes, rank, worker, first))
        for number in worker_batches(total, worker, world.workers):
            start = first + number * world.batch
            parts[number][rank] = rows(own.samples(start, start + world.batch, rank, world.ranks))
    return [[row for rank in range(world.ranks) for row in parts[number][rank]] for number in range(total)]


# The order


@law
@given(st.data(), epochs(), st.sampled_from([1, 6, 8, 12]), st.integers(0, 100))
def test_worlds_that_share_a_batch_size_get_the_same_batches(data, epoch, batch, first):
    one, other = data.draw(worlds_that_share(batch)), data.draw(worlds_that_share(batch))
    whole = epoch.made()
    found = delivered(epoch, one, first)
    assert found == delivered(epoch, other, first)
    starts = range(first, max(len(whole), first), batch)
    assert found == [rows(whole.samples(start, start + batch)) for start in starts]


@law
@given(epochs(), worlds)
def test_each_clip_comes_as_often_as_it_was_drawn_and_pads_are_counted(epoch, world):
    batches = delivered(epoch, world)
    drawn = sorted(
        (clip, occurrence)
        for first, count, occurrence in zip(*(getattr(epoch.runs, name).tolist() for name in (
            "first_clip", "num_clips", "occurrence")), strict=True)
        for clip in range(first, first + count)
    )  # fmt: skip
    assert sorted(row[:2] for batch in batches for row in batch if not row[-1]) == drawn
    pads = [sum(row[-1] for row in batch) for batch in batches]
    assert sum(pads) == -len(drawn) % world.batch == sum(pads[-1:])


@law
@given(st.data(), epochs(), st.lists(worlds, min_size=3, max_size=3))
def test_one_sequence_is_gone_through_however_often_it_is_stopped_and_by_whom(data, epoch, three):
    whole, first = epoch.made(), 0
    reads = defaultdict(list)
    for number, world in enumerate(three):
        batches = delivered(epoch, world, first)
        stop = len(batches) if number == 2 else data.draw(st.integers(0, max(len(batches) - 1, 0)))
        for batch in batches[:stop]:
            expected = rows(whole.samples(first, min(first + world.batch, len(whole))))
            assert [row for row in batch if not row[-1]] == expected
            first += world.batch
            for _, _, lane, seq, is_pad in batch:
                if not is_pad:
                    reads[lane].append(seq)
    starts = whole.lanes.starts().tolist()
    for lane, (start, stop) in enumerate(pairwise(starts)):
        assert reads[lane] == list(range(start, stop))


# Who reads what


def owners(lanes: Lanes, world: World, first: int = 0) -> dict[int, list[tuple[int, int]]]:
    """By whom each lane is read, clip by clip, found by going through all batches."""
    epoch = EpochOrder(one_run(lanes.num_clips), lanes.slots, lanes.phases)
    found = defaultdict(list)
    for number in range(num_batches(max(lanes.num_clips - first, 0), world.batch, drop_last=False)):
        start = first + number * world.batch
        batch = epoch.samples(start, start + world.batch)
        for place, (lane, is_pad) in enumerate(zip(batch.lane.tolist(), batch.is_pad.tolist(), strict=True)):
            if not is_pad:
                found[lane].append((place // world.size, number % max(world.workers, 1)))
    return found


def one_run(clips: int) -> Runs:
    count = np.array([clips][:clips], np.int64)
    return Runs(np.zeros_like(count), np.zeros_like(count), count, np.zeros_like(count))


lanes_of_any_size = st.builds(Lanes, num_clips=st.integers(0, 300), slots=st.integers(1, 12), phases=st.integers(1, 4))


def share_by_counting(lanes: Lanes, world: World) -> float:
    pairs = [pair for readers in owners(lanes, world).values() for pair in pairwise(readers)]
    return sum(one == other for one, other in pairs) / len(pairs) if pairs else 1.0


@law
@given(lanes_of_any_size, worlds)
def test_as_much_stays_as_is_said(lanes, world):
    assert share_that_stays(lanes, world.batch, world.workers, world.ranks) == share_by_counting(lanes, world)


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_shares_are_counted_piece_by_piece(monkeypatch, at_once):
    monkeypatch.setattr(order_module, "_SAMPLES_AT_ONCE", at_once)
    for world in (World(1, 1, 3, 5), World(2, 2, 3, 3), World(3, 1, 0, 5)):
        lanes = Lanes(500, 6, 4)
        share = share_that_stays(lanes, world.batch, world.workers, world.ranks)
        assert 0 <= share < 1
        assert share == share_by_counting(lanes, world)


def test_the_share_of_a_long_epoch_is_that_of_its_period():
    """Nothing is counted clip by clip: that would take years."""
    assert share_that_stays(Lanes(10**15 + 24, 24, 1), 15, 1, 3) == pytest.approx(
        share_that_stays(Lanes(120 * 10 + 24, 24, 1), 15, 1, 3), abs=1e-9
    )


@law
@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 24), st.integers(0, 5), st.integers(1, 3))
def test_the_nearest_lane_counts_keep_every_lane_where_it_is(slots, phases, batch, workers, ranks):
    near, count = nearest_lanes(slots, phases, batch * ranks, workers), slots * phases
    stride = batch * ranks * max(workers, 1)
    good = [stride * n for n in range(1, count // stride + 2)]
    assert near[0] == min(good, key=lambda n: (abs(n - count), n))
    assert set(near) == {n for n in good if abs(n - count) < stride and (n == count or count % stride)}
    for lanes in near:
        assert share_that_stays(Lanes(5 * lanes + 3, lanes, 1), batch * ranks, workers, ranks) == 1


@pytest.mark.parametrize("at_once", [0, 1 << 18], ids=["bounded", "counted"])
@law
@given(lanes=lanes_of_any_size, world=worlds, first=st.integers(0, 60))
def test_a_worker_reads_no_lane_beside_those_that_are_named(at_once, lanes, world, first):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "_SAMPLES_AT_ONCE", at_once)
        named = {reader: world.reads(lanes, *reader, first) for reader in world.readers()}
    for lane, readers in owners(lanes, world, first).items():
        assert all(named[reader][lane] for reader in readers)


@law
@given(st.integers(1, 4), worlds)
def test_where_all_stay_each_lane_is_named_once(times, world):
    count = world.batch * max(world.workers, 1) * times
    lanes = Lanes(3 * count + 1, world.batch, count // world.batch)
    named = np.array([world.reads(lanes, *reader) for reader in world.readers()])
    assert (named.sum(axis=0) == 1).all()


@law
@given(st.integers(2, 9), st.integers(1, 3), st.integers(1, 9))
def test_on_a_few_more_ranks_a_rank_still_reads_neighbours(ranks, size, more):
    """Even where lanes and batches meet again too seldom to go through: slots shift by as many as there are more."""
    lanes = Lanes(10_000, ranks * size, 4)
    world = World(1, ranks + more, 3, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "_SAMPLES_AT_ONCE", 0)
        slots = [world.reads(lanes, rank, 0).reshape(-1, 4).any(axis=1).sum() for rank in range(world.ranks)]
    assert max(slots) <= size + more * size + 1


# A node's share


@st.composite
def first_worlds(draw) -> tuple[Epoch, World]:
    """An epoch, and a world in the midst of its first run: its batch size is the number of slots."""
    epoch, world = draw(epochs()), draw(worlds)
    return epoch._replace(slots=world.batch), world


def lanes_of_nodes(lanes: Lanes, world: World) -> list[np.ndarray]:
    """bool [L] for each node: the lanes that its ranks' workers read."""
    found = [np.zeros(lanes.count, np.bool_) for _ in range(world.nodes)]
    for rank, worker in world.readers():
        found[rank // world.ranks_per_node] |= world.reads(lanes, rank, worker)
    return found


@law
@given(first_worlds())
def test_a_nodes_share_is_one_stretch_and_nodes_share_a_run_only_where_it_is_cut(made):
    epoch, world = made
    whole = epoch.made()
    if len(whole) < whole.lanes.count:
        return  # a repeat may be of any lane
    starts = whole.lanes.starts()
    readers = np.zeros(whole.num_runs, np.int64)
    stretches = []
    for kept in lanes_of_nodes(whole.lanes, world):
        own = np.flatnonzero(kept)
        assert own.tolist() == list(range(own[0], own[-1] + 1))
        stretches.append((int(starts[own[0]]), int(starts[own[-1] + 1])))
        part = whole.of(kept)
        first, last = (int(whole._run(np.array([seq]))[0]) for seq in (stretches[-1][0], stretches[-1][1] - 1))
        assert part.num_runs == epoch.made(kept).num_runs == last + 1 - first
        readers[first : last + 1] += 1
    assert stretches[0][0] == 0
    assert [stop for _, stop in stretches] == [start for start, _ in stretches[1:]] + [len(whole)]
    cuts = np.array([stop for _, stop in stretches[:-1]], np.int64)
    stops = whole._seq_stop
    inside = [int(((cuts > stop - count) & (cuts < stop)).sum()) for stop, count in zip(
        stops, np.diff(stops, prepend=0), strict=True)]  # fmt: skip
    assert readers.tolist() == [1 + number for number in inside]


@law
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=12), worlds, st.integers(0, 9)
)
def test_nodes_share_a_shard_only_where_their_stretches_are_cut(shards, world, epoch):
    counts = np.array([clips for shard in shards for clips in shard], np.int64)
    shard = np.repeat(np.arange(len(shards)), list(map(len, shards)))
    runs = draw_runs(counts, [len(counts)], [int(counts.sum())], 17, epoch)
    whole = EpochOrder(runs, world.batch, 2, order=run_order(shard[runs.segment], True, "shard", 17, epoch))
    if len(whole) < whole.lanes.count:
        return  # a repeat may be of any lane
    starts, ends = whole.lanes.starts(), np.cumsum(counts)
    of_seq = shard[np.searchsorted(ends, whole.clip_ids(np.arange(len(whole))), side="right")]
    owner = np.zeros(len(whole), np.int64)
    for node, kept in enumerate(lanes_of_nodes(whole.lanes, world)):
        own = np.flatnonzero(kept)
        owner[starts[own[0]] : starts[own[-1] + 1]] = node
    cuts = np.flatnonzero(np.diff(owner))
    for number in range(len(shards)):
        places = np.flatnonzero(of_seq == number)
        assert places.tolist() == list(range(places[0], places[-1] + 1))
        inside = np.count_nonzero((cuts >= places[0]) & (cuts < places[-1]))
        assert len(set(owner[places].tolist())) == 1 + inside


def test_what_an_order_takes_follows_segments_never_clips():
    counts = np.full(1000, 10**9)
    runs = draw_runs(counts, [1000], [10**12], 17, 0)
    order = run_order(np.arange(1000), True, "segment", 17, 0)
    world = World(8, 2, 2, 4)
    lanes = Lanes(10**12, 64, 4)
    sizes = []
    for rank, worker in world.readers():
        own = EpochOrder(runs, 64, 4, None, order, world.reads(lanes, rank, worker))
        batch = own.samples(10**12 - 64 * (2 - worker), 10**12 - 64 * (1 - worker), rank, world.ranks)
        assert len(set(batch.clip_id.tolist())) == 4
        sizes.append(own.num_runs)
    assert max(sizes) <= 1000 // 32 + 2 * 8  # a lane begins and ends within a run


def test_a_lane_that_was_not_kept_is_not_made_up():
    lanes = Lanes(40, 4, 2)
    kept = World(1, 2, 0, 2).reads(lanes, 0, 0)
    assert kept.tolist() == [True] * 4 + [False] * 4
    runs = Runs(*(np.array(column, np.int64) for column in ([0, 1, 2, 3], [0, 10, 20, 30], [10] * 4, [0] * 4)))
    own = EpochOrder(runs, 4, 2, kept=kept)
    assert (own.is_whole, own.num_runs) == (False, 2)
    assert own.clip_ids(np.array([0, 19])).tolist() == [0, 19]
    for seq in (20, 39):
        with pytest.raises(AssertionError, match="a lane that was not kept"):
            own.clip_ids(np.array([seq]))
    assert own.of(kept) is own
    with pytest.raises(AssertionError, match="a lane that was not kept"):
        own.of(~kept)
