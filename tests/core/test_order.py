"""Laws of the canonical order: every clip once, lanes read front to back, the world without a say."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onetake.core import order
from onetake.core.draw import ClipIds, Runs
from onetake.core.errors import SpecError
from onetake.core.lane_counts import default_lanes
from onetake.core.order import (
    EpochOrder,
    Lanes,
    num_batches,
    worker_batches,
)

law = settings(max_examples=120)

lanes_of_any_size = st.builds(
    Lanes, num_clips=st.integers(0, 200), slots=st.integers(1, 9), phases=st.integers(1, 8)
)  # N < L among them


def runs(segments, counts) -> Runs:
    """The whole of each of the ``segments``, which have ``counts`` clips."""
    segments, counts = np.array(segments, np.int64), np.array(counts, np.int64)
    first = np.cumsum(counts) - counts
    return Runs(segments, first[segments], counts[segments], np.zeros(len(segments), np.int64))


@st.composite
def epochs(draw, smallest=1):
    """Orders over shuffled segments, some of them empty, in lanes that need not divide anything."""
    counts = np.array(draw(st.lists(st.integers(0, 12), min_size=1, max_size=20)), np.int64)
    segments = np.array(draw(st.permutations(range(len(counts)))), np.int64)
    counts[0] += max(smallest - counts.sum(), 0)
    return EpochOrder(runs(segments, counts), draw(st.integers(1, 8)), draw(st.integers(1, 4)))


def epoch_sizes(epoch: EpochOrder) -> list[int]:
    """How many clips each run has."""
    return np.diff(epoch._seq_stop, prepend=0).tolist()


class Sample(NamedTuple):
    clip: int
    lane: int
    seq: int
    is_pad: bool


def samples(batch) -> list[Sample]:
    rows = zip(batch.clip_id.tolist(), batch.lane.tolist(), batch.seq.tolist(), batch.is_pad.tolist(), strict=True)
    return [Sample(*row) for row in rows]


def batches(epoch: EpochOrder, size: int, start: int = 0) -> list[list[Sample]]:
    count = num_batches(len(epoch) - start, size, drop_last=False)
    return [samples(epoch.samples(start + i * size, start + (i + 1) * size)) for i in range(count)]


def shown(epoch: EpochOrder, size: int, start: int = 0) -> list[int]:
    """Clips in the order of their batches, pads left out."""
    return [s.clip for batch in batches(epoch, size, start) for s in batch if not s.is_pad]


def table_rows() -> dict[str, list[str]]:
    """The table in the module's docstring: what stands behind each row's name."""
    text = order.__doc__.split("With slots = 4, phases = 2, N = 20, B = 4:")[1]
    rows = re.findall(r"^ {4}(lane \(slot, phase\)|reads seq|batch \d \(phase \d\))  +(.*)$", text, re.M)
    return {name: re.split(r"\s{2,}", cells.strip()) for name, cells in rows}


# Lanes


@law
@given(lanes_of_any_size)
def test_lanes_share_the_clips_evenly(lanes):
    starts = lanes.starts()
    lengths = np.diff(starts)
    assert len(lengths) == lanes.count == lanes.slots * lanes.phases
    assert (starts[0], lengths.sum()) == (0, lanes.num_clips)
    assert lengths.max() - lengths.min() <= 1


@law
@given(lanes_of_any_size)
def test_every_sample_has_a_place_of_its_own_and_lanes_are_read_front_to_back(lanes):
    lane, position = lanes.locate(np.arange(lanes.num_clips))
    read = defaultdict(list)
    for one, place in zip(lane.tolist(), position.tolist(), strict=True):
        read[one].append(place)
    for one, length in enumerate(np.diff(lanes.starts()).tolist()):
        assert read[one] == list(range(length))


@law
@given(lanes_of_any_size)
def test_sample_k_is_where_the_rule_says(lanes):
    lane, position = lanes.locate(np.arange(lanes.num_clips))
    for k in range(lanes.num_clips):
        slot, phase = k % lanes.slots, k // lanes.slots % lanes.phases
        assert (lane[k], position[k]) == (slot * lanes.phases + phase, k // lanes.count)


@law
@given(lanes_of_any_size)
def test_turns_number_the_lanes_within_a_step(lanes):
    lane, _ = lanes.locate(np.arange(lanes.count))
    assert lanes.turns[lane].tolist() == list(range(lanes.count))


@law
@given(lanes_of_any_size, st.integers(0, 250))
def test_clips_read_counts_what_has_been_read(lanes, sample):
    lane, _ = lanes.locate(np.arange(min(sample, lanes.num_clips)))
    assert lanes.clips_read(sample).tolist() == np.bincount(lane, minlength=lanes.count).tolist()


# Epochs


def test_the_table_in_the_docstring_is_what_the_code_gives():
    rows = table_rows()
    epoch = EpochOrder(runs([0], [20]), slots=4, phases=2)
    starts = epoch.lanes.starts().tolist()
    reads = [list(range(*stretch)) for stretch in pairwise(starts)]
    assert rows.pop("lane (slot, phase)") == [f"{lane} ({lane // 2},{lane % 2})" for lane in range(8)]
    assert [[int(clip) for clip in cell.split()] for cell in rows.pop("reads seq")] == reads
    assert len(rows) == 5
    for number, (name, cells) in enumerate(rows.items()):
        batch = samples(epoch.samples(4 * number, 4 * number + 4))
        assert name == f"batch {number} (phase {batch[0].lane % 2})"
        assert [s.clip for s in batch] == [int(cell) for cell in cells]
        assert {s.lane % 2 for s in batch} == {number % 2}
        assert [s.lane // 2 for s in batch] == [0, 1, 2, 3]  # and 2 ranks have slots 0 and 1, 2 and 3
        assert number in worker_batches(5, number % 2, 2)


@law
@given(epochs(), st.integers(1, 40))
def test_an_epoch_delivers_each_clip_once_and_pads_only_at_its_end(epoch, size):
    all_batches = batches(epoch, size)
    assert sorted(s.clip for batch in all_batches for s in batch if not s.is_pad) == list(range(len(epoch)))
    assert all(len(batch) == size for batch in all_batches)
    assert not any(s.is_pad for batch in all_batches[:-1] for s in batch)
    assert sum(s.is_pad for s in all_batches[-1]) == -len(epoch) % size
    assert all(0 <= s.clip < len(epoch) for s in all_batches[-1])


@law
@given(epochs(), st.integers(1, 40))
def test_a_batch_is_sorted_by_lane_and_a_lane_reads_forward_in_it(epoch, size):
    for batch in batches(epoch, size):
        assert [s.lane for s in batch] == sorted(s.lane for s in batch)
    order_of = {clip: place for place, clip in enumerate(epoch.clip_ids(np.arange(len(epoch))).tolist())}
    read = defaultdict(list)
    for batch in batches(epoch, size):
        for s in batch:
            if not s.is_pad:
                read[s.lane].append(order_of[s.clip])
    starts = epoch.lanes.starts().tolist()
    for lane, places in read.items():
        assert places == list(range(starts[lane], starts[lane + 1]))


@law
@given(epochs(smallest=40), st.integers(1, 40))
def test_a_pad_repeats_the_last_clip_of_the_lane_whose_turn_it_would_be(epoch, size):
    total = len(epoch)  # no lane is empty
    last = (num_batches(total, size, False) - 1) * size
    lanes, _ = epoch.lanes.locate(np.arange(total, last + size))
    ends = epoch.clip_ids(epoch.lanes.starts()[1:] - 1)
    pads = [s for s in samples(epoch.samples(last, last + size)) if s.is_pad]
    assert sorted((s.lane, s.clip) for s in pads) == sorted((lane, ends[lane]) for lane in lanes.tolist())


@law
@given(epochs(), st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]))
def test_the_ranks_parts_are_the_batch(epoch, per_rank, ranks):
    size = 12 * per_rank  # any of these numbers of ranks shares it
    for start in range(0, len(epoch), size):
        batch = epoch.samples(start, start + size)
        parts = [epoch.samples(start, start + size, rank, ranks) for rank in range(ranks)]
        assert [s for part in parts for s in samples(part)] == samples(batch)
        assert {len(part.clip_id) for part in parts} == {size // ranks}


@st.composite
def worlds(draw):
    """(slots, phases, ranks, batch per rank, workers) with B * W dividing L."""
    ranks, per_rank, workers = (draw(st.integers(1, 3)) for _ in range(3))
    count = ranks * per_rank * workers * draw(st.integers(1, 3))
    slots = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    return slots, count // slots, ranks, per_rank, workers


@law
@given(worlds(), st.integers(1, 150), st.integers(0, 150))
def test_where_batches_and_workers_divide_the_lanes_each_stays_in_one_place(world, total, start):
    slots, phases, ranks, per_rank, workers = world
    epoch = EpochOrder(runs([0], [total]), slots, phases)
    size = ranks * per_rank
    assume(start < total)
    place = {}
    count = num_batches(total - start, size, False)
    for worker in range(workers):
        for number in worker_batches(count, worker, workers):
            first = start + number * size
            for rank in range(ranks):
                for s in samples(epoch.samples(first, first + size, rank, ranks)):
                    if not s.is_pad or total >= slots * phases:
                        assert place.setdefault(s.lane, (rank, worker)) == (rank, worker)


@law
@given(epochs(), st.data(), st.integers(1, 40))
def test_going_on_from_any_sample_with_any_batch_size_gives_what_is_left(epoch, data, size):
    start = data.draw(st.integers(0, len(epoch)))
    one_by_one = shown(epoch, 1)
    rest = batches(epoch, size, start)
    for number, batch in enumerate(rest):
        stretch = one_by_one[start + number * size : start + (number + 1) * size]
        assert sorted(s.clip for s in batch if not s.is_pad) == sorted(stretch)
    assert sum(not s.is_pad for batch in rest for s in batch) == len(epoch) - start


@law
@given(epochs(), st.data())
def test_next_clips_is_what_each_lane_reads_next(epoch, data):
    start = data.draw(st.integers(0, len(epoch)))
    coming = [-1] * epoch.lanes.count
    for number in range(len(epoch) - 1, start - 1, -1):
        (s,) = samples(epoch.samples(number, number + 1))
        coming[s.lane] = s.clip
    assert epoch.next_clips(start).tolist() == coming


@law
@given(epochs(), st.integers(1, 12))
def test_what_a_lane_still_reads_of_a_run(epoch, size):
    """From each sample on: the lane's following ones, until the first that is not the next clip of the same run."""
    seen = [s for batch in batches(epoch, size) for s in batch if not s.is_pad]
    reads = defaultdict(list)
    for s in seen:
        reads[s.lane].append((s.seq, s.clip))
    runs_of = dict(zip(range(len(epoch)), np.repeat(range(len(epoch._seq_stop)), epoch_sizes(epoch)), strict=True))
    for lane, own in reads.items():
        for place, (seq, _) in enumerate(own):
            rest = [clip for at, clip in own[place:] if runs_of[at] == runs_of[seq]]
            assert epoch.coming(seq, lane).tolist() == rest


def test_an_epoch_without_clips_has_no_next_one():
    for segments, counts in (([], []), ([0, 1], [0, 0])):
        epoch = EpochOrder(runs(segments, counts), 2, 2)
        assert len(epoch) == 0
        assert epoch.next_clips(0).tolist() == [-1] * 4
        assert batches(epoch, 4) == []


def test_one_lane_without_shuffling_is_plain_order():
    assert shown(EpochOrder(runs([0, 1, 2, 3], [3, 0, 4, 2]), 1, 1), 4) == list(range(9))


def test_ordinals_are_told_as_clips():
    ids = ClipIds([(9, np.array([2, 5, 7])), (4, None)])
    epoch = EpochOrder(runs([1, 0], [3, 4]), 1, 1, ids)
    assert shown(epoch, 1) == [9, 10, 11, 12, 2, 5, 7]
    assert epoch.next_clips(4).tolist() == [2]
    assert epoch.coming(5, 0).tolist() == [5, 7]


def test_only_segments_that_are_drawn_are_read():
    epoch = EpochOrder(runs([3, 1], [3, 2, 4, 2]), 1, 1)
    assert shown(epoch, 1) == [9, 10, 3, 4]


# Counts

DEFAULTS = [
    # batch, asked for, lead-in, frames -> slots, phases
    (8, None, 0, 1_000_000, (8, 8)),
    (8, None, 125, 1_000_000, (8, 8)),  # 64 * 125 = 8,000 of 20,000 allowed
    (8, None, 125, 400_000, (8, 8)),  # 8,000 of 8,000
    (8, None, 125, 399_999, (8, 4)),
    (8, None, 125, 150_000, (8, 2)),
    (8, None, 125, 60_000, (8, 1)),
    (8, None, 125, 1, (8, 1)),
    (8, None, 0, 0, (8, 8)),
    (1, None, 12.5, 10_000, (1, 8)),
    (8, 32, 125, 1, (8, 4)),
    (8, 8, 125, 1, (8, 1)),
    (8, 12, 125, 1, (12, 1)),
    (8, 1, 125, 1, (1, 1)),
    (8, 4, 125, 1, (4, 1)),
    (3, 48, 125, 1, (3, 16)),
]


@pytest.mark.parametrize("batch, asked, lead_in, frames, expected", DEFAULTS)
def test_default_lanes(batch, asked, lead_in, frames, expected):
    assert default_lanes(batch, asked, lead_in, frames) == expected


@pytest.mark.parametrize("asked", [0, -8])
def test_no_lanes_are_refused(asked):
    with pytest.raises(SpecError, match=f"num_canonical_lanes={asked}: must be at least 1"):
        default_lanes(8, asked, 1, 1)


BATCHES = [
    # samples, size -> filled, dropped
    (0, 4, 0, 0),
    (1, 4, 1, 0),
    (4, 4, 1, 1),
    (5, 4, 2, 1),
    (8, 1, 8, 8),
]


@pytest.mark.parametrize("total, size, filled, dropped", BATCHES)
def test_num_batches(total, size, filled, dropped):
    assert num_batches(total, size, drop_last=False) == filled
    assert num_batches(total, size, drop_last=True) == dropped


@law
@given(st.integers(0, 50), st.integers(0, 7))
def test_workers_share_the_batches(total, workers):
    shares = [list(worker_batches(total, worker, workers)) for worker in range(max(workers, 1))]
    assert sorted(chain(*shares)) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
