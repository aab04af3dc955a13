"""Laws of what an epoch draws: whole segments, one remainder per stream, and the order of the runs."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.draw import ClipIds, draw_of_videos, draw_runs, pick_clips, run_order, video_keys
from onetake.core.errors import SpecError

law = settings(max_examples=120)


# Draws


@st.composite
def draws(draw):
    """(clips per segment, segments per stream, clips chosen per stream, seed, epoch)."""
    segments = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    counts = np.array(draw(st.lists(st.integers(1, 9), min_size=sum(segments), max_size=sum(segments))), np.int64)
    choose = [draw(st.integers(0, 100)) for _ in segments]
    return counts, segments, choose, draw(st.integers(0, 2**64)), draw(st.integers(0, 9))


def clips_of(runs) -> list[tuple[int, int]]:
    """(clip, occurrence) of every clip drawn."""
    rows = zip(runs.first_clip.tolist(), runs.num_clips.tolist(), runs.occurrence.tolist(), strict=True)
    return [(clip, occurrence) for first, count, occurrence in rows for clip in range(first, first + count)]


@law
@given(draws())
def test_every_stream_gives_what_is_chosen_as_evenly_as_can_be(drawn):
    counts, segments, choose, _, _ = drawn
    clips = clips_of(draw_runs(*drawn))
    times = Counter(clip for clip, _ in clips)
    assert len(set(clips)) == len(clips)
    bounds = np.concatenate([[0], np.cumsum(counts)])[np.concatenate([[0], np.cumsum(segments)])]
    for first, stop, wanted in zip(bounds[:-1].tolist(), bounds[1:].tolist(), choose, strict=True):
        own = [times[clip] for clip in range(first, stop)]
        assert sum(own) == wanted
        assert max(own) - min(own) <= 1
    for clip, number in times.items():
        assert {occurrence for c, occurrence in clips if c == clip} == set(range(number))


@law
@given(draws())
def test_a_remainder_opens_whole_segments_and_one_more(drawn):
    counts, segments, choose, _, _ = drawn
    runs = draw_runs(*drawn)
    assert (runs.num_clips >= 1).all()
    cut = runs.num_clips < counts[runs.segment]
    stream = np.repeat(np.arange(len(segments)), segments)[runs.segment]
    for number in range(len(segments)):
        assert cut[stream == number].sum() <= 1
    first = np.cumsum(counts) - counts
    assert (runs.first_clip >= first[runs.segment]).all()
    assert (runs.first_clip + runs.num_clips <= (first + counts)[runs.segment]).all()
    assert runs.num_clips.sum() == sum(choose)


@law
@given(draws())
def test_a_draw_is_a_pure_function(drawn):
    first, second = draw_runs(*drawn), draw_runs(*drawn)
    assert clips_of(first) == clips_of(second)


def test_all_clips_once_is_the_index_itself():
    runs = draw_runs(np.array([3, 2, 4]), [2, 1], [5, 4], 17, 3)
    assert runs.segment.tolist() == [0, 1, 2]
    assert clips_of(runs) == [(clip, 0) for clip in range(9)]


def test_a_tenth_opens_a_tenth_of_the_segments_another_in_each_epoch_and_all_in_time():
    opened = [set(draw_runs(np.full(1000, 7), [1000], [700], 17, epoch).segment.tolist()) for epoch in range(60)]
    assert all(len(epoch) == 100 for epoch in opened)
    assert len(set.union(*opened)) > 980
    assert len({frozenset(epoch) for epoch in opened}) == 60


def test_a_remainder_within_one_segment_reaches_all_of_its_clips():
    starts = {int(draw_runs(np.array([10]), [1], [3], 17, epoch).first_clip[0]) for epoch in range(100)}
    assert starts == set(range(8))


def test_streams_are_drawn_from_independently():
    runs = draw_runs(np.full(200, 5), [100, 100], [50, 50], 17, 0)
    first = set(runs.segment[runs.segment < 100].tolist())
    second = {segment - 100 for segment in runs.segment[runs.segment >= 100].tolist()}
    assert len(first) == len(second) == 10
    assert first != second


PINNED_DRAW = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (9, 0),
    (10, 0),
    (11, 0),
    (12, 0),
    (13, 0),
    (14, 0),
    (13, 1),
    (14, 1),
]


def test_the_draw_never_changes_between_versions():
    runs = draw_runs(np.array([3, 2, 4, 5, 1]), [3, 2], [5, 8], 17, 2)
    assert clips_of(runs) == PINNED_DRAW


def test_segments_without_clips_are_left_out_and_leave_the_others_draws_as_they_are():
    full, gaps = np.array([3, 2, 4, 5, 1]), np.array([3, 0, 2, 4, 0, 5, 0, 1])
    kept = np.flatnonzero(gaps)
    for epoch in range(10):
        one, other = draw_runs(full, [3, 2], [5, 8], 17, epoch), draw_runs(gaps, [4, 4], [5, 8], 17, epoch)
        assert kept[one.segment].tolist() == other.segment.tolist()
        assert clips_of(one) == clips_of(other)
    assert len(draw_runs(np.array([0, 0]), [1, 1], [0, 0], 17, 0)) == 0


# What is drawn of each video


@law
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 6), st.integers(0, 2**64), st.integers(0, 9)
)
def test_as_many_clips_of_each_video_as_it_has_or_are_wanted(counts, wanted, seed, epoch):
    counts = np.array(counts, np.int64)
    keys = video_keys("", map(str, range(len(counts))))
    picked = pick_clips(counts, wanted, keys, seed, epoch)
    assert picked.tolist() == sorted(set(picked.tolist()))
    bounds = np.concatenate([[0], np.cumsum(counts)])
    assert np.diff(np.searchsorted(picked, bounds)).tolist() == np.minimum(counts, wanted).tolist()
    assert picked.tolist() == pick_clips(counts, wanted, keys, seed, epoch).tolist()


def test_a_video_draws_the_same_whatever_others_there_are():
    alone = pick_clips(np.array([50]), 4, video_keys("s", ["b"]), 17, 3)
    among = pick_clips(np.array([9, 50, 2]), 4, video_keys("s", ["a", "b", "c"]), 17, 3)
    assert (among[4:8] - 9).tolist() == alone.tolist()
    elsewhere = pick_clips(np.array([50]), 4, video_keys("t", ["b"]), 17, 3)
    assert elsewhere.tolist() != alone.tolist()


def test_every_choice_of_clips_comes_about_as_often():
    keys = video_keys("", map(str, range(6000)))
    picked = pick_clips(np.full(6000, 5), 3, keys, 17, 0).reshape(-1, 3) % 5
    found = Counter(map(tuple, picked.tolist()))
    assert len(found) == 10
    assert min(found.values()) > 500
    assert max(found.values()) < 700


def test_another_choice_in_every_epoch_and_with_every_seed():
    keys = video_keys("", map(str, range(20)))
    found = {tuple(pick_clips(np.full(20, 30), 2, keys, seed, epoch)) for seed in range(5) for epoch in range(20)}
    assert len(found) == 100


def test_of_many_videos_clips_are_picked_at_once(monkeypatch):
    """No loop over videos or clips: as many draws as clips are wanted of a video, however many videos there are."""
    calls = []
    monkeypatch.setattr("onetake.core.draw.draw_of_videos", lambda *a: calls.append(1) or draw_of_videos(*a))
    counts = np.arange(100_000) % 1000 + 5
    picked = pick_clips(counts, 4, np.arange(100_000, dtype=np.uint64), 17, 0)
    assert len(picked) == 400_000
    assert len(calls) == 4


PINNED_KEYS = [12703745820936720966, 652154595313741931]
PINNED_NUMBERS = [5452665879405713601, 5914048949440384370]
PINNED_PICKS = [2, 15, 19, 37, 40, 41, 42]


def test_the_numbers_drawn_of_a_video_never_change_between_versions():
    keys = video_keys("train", ["a.mp4", "ü/b.mkv"])
    assert keys.tolist() == PINNED_KEYS
    assert draw_of_videos(keys, 17, 2).tolist() == PINNED_NUMBERS
    assert pick_clips(np.array([40, 3]), 4, keys, 17, 2).tolist() == PINNED_PICKS


@law
@given(
    st.lists(st.tuples(st.integers(0, 9), st.none() | st.sets(st.integers(0, 8))), min_size=1, max_size=5), st.data()
)
def test_ordinals_stand_for_the_clips_that_were_picked(streams, data):
    parts, expected, first = [], [], 0
    for count, picked in streams:
        own = None if picked is None else sorted(clip for clip in picked if clip < count)
        parts.append((count, None if own is None else np.array(own, np.int64)))
        expected += [first + clip for clip in (range(count) if own is None else own)]
        first += count
    asked = np.array(data.draw(st.permutations(range(len(expected)))), np.int64)
    assert ClipIds(parts)(asked).tolist() == [expected[ordinal] for ordinal in asked.tolist()]


# Orders of runs


@st.composite
def videos_of_segments(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
    return np.repeat(np.arange(len(lengths)), lengths)


@law
@given(videos_of_segments(), st.sampled_from(["segment", "video", "shard"]), st.integers(0, 2**64), st.integers(0, 99))
def test_run_order_is_a_permutation(videos, shuffle_by, seed, epoch):
    found = run_order(videos, True, shuffle_by, seed, epoch)
    assert sorted(found.tolist()) == list(range(len(videos)))
    assert found.dtype == np.int64
    assert found.tolist() == run_order(videos, True, shuffle_by, seed, epoch).tolist()


@law
@given(videos_of_segments(), st.integers(0, 1000), st.integers(0, 99))
def test_by_video_each_video_is_drained_before_the_next(videos, seed, epoch):
    found = run_order(videos, True, "video", seed, epoch)
    stretches = np.split(found, np.flatnonzero(np.diff(videos[found])) + 1)
    assert len(stretches) == videos.max() + 1
    for stretch in stretches:
        assert stretch.tolist() == np.flatnonzero(videos == videos[stretch[0]]).tolist()


@law
@given(videos_of_segments(), st.integers(0, 1000), st.integers(0, 99))
def test_by_shard_each_is_gone_through_before_the_next_in_an_order_of_its_own(shards, seed, epoch):
    found = run_order(shards, True, "shard", seed, epoch)
    stretches = np.split(found, np.flatnonzero(np.diff(shards[found])) + 1)
    assert len(stretches) == shards.max() + 1
    for stretch in stretches:
        assert sorted(stretch.tolist()) == np.flatnonzero(shards == shards[stretch[0]]).tolist()


def test_segments_are_shuffled_inside_their_shards():
    orders = {tuple(run_order(np.zeros(4, np.int64), True, "shard", 17, epoch).tolist()) for epoch in range(200)}
    assert len(orders) == 24


def test_where_a_shard_is_a_segment_shards_are_shuffled_as_segments_are():
    for epoch in range(20):
        by_shard, by_segment = (run_order(np.arange(50), True, group, 17, epoch) for group in ("shard", "segment"))
        assert by_shard.tolist() == by_segment.tolist()


@law
@given(videos_of_segments(), st.sampled_from(["segment", "video", "shard"]), st.integers(0, 99), st.data())
def test_streams_follow_one_another_where_they_are_told(videos, shuffle_by, epoch, data):
    cut = data.draw(st.integers(0, int(videos.max()) + 1))
    streams = (videos >= cut).astype(np.int64)
    mixed = run_order(videos, True, shuffle_by, 17, epoch)
    parted = run_order(videos, True, shuffle_by, 17, epoch, streams)
    assert parted.tolist() == [run for stream in (0, 1) for run in mixed.tolist() if streams[run] == stream]


@pytest.mark.parametrize("shuffle_by", ["segment", "video", "shard"])
def test_without_shuffling_the_order_is_that_of_the_index(shuffle_by):
    videos = np.array([0, 0, 1, 2, 2, 2])
    assert run_order(videos, False, shuffle_by, 17, 3).tolist() == [0, 1, 2, 3, 4, 5]
    assert run_order(np.array([], np.int64), True, shuffle_by, 17, 3).tolist() == []


@pytest.mark.parametrize("shuffle_by", ["segment", "video", "shard"])
def test_seed_and_epoch_tell_and_nothing_repeats(shuffle_by):
    videos = np.repeat(np.arange(30), 2)
    found = {
        tuple(run_order(videos, True, shuffle_by, seed, epoch).tolist()) for seed in range(8) for epoch in range(8)
    }
    assert len(found) == 64


def test_each_segment_comes_first_about_as_often():
    firsts = [run_order(np.arange(10), True, "segment", seed, 0)[0] for seed in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    assert counts.min() > 140
    assert counts.max() < 260


PINNED = [
    # shuffle_by, seed, epoch: the order of ten segments in five videos, the same in every version for ever
    ("segment", 17, 0, [0, 1, 7, 2, 4, 5, 6, 8, 3, 9]),
    ("segment", 17, 1, [1, 8, 0, 7, 9, 3, 4, 6, 5, 2]),
    ("segment", 2**63 + 5, 40, [6, 1, 2, 3, 8, 0, 5, 7, 9, 4]),
    ("shard", 17, 0, [0, 1, 3, 2, 5, 4, 9, 8, 6, 7]),
    ("video", 17, 0, [0, 1, 2, 3, 4, 5, 8, 9, 6, 7]),
    ("video", 18, 0, [2, 3, 4, 5, 0, 1, 6, 7, 8, 9]),
]


@pytest.mark.parametrize("shuffle_by, seed, epoch, expected", PINNED)
def test_the_permutation_never_changes_between_versions(shuffle_by, seed, epoch, expected):
    assert run_order(np.repeat(np.arange(5), 2), True, shuffle_by, seed, epoch).tolist() == expected


@pytest.mark.parametrize("shuffle_by", ["frame", "", None])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_unknown_group_is_refused(shuffle, shuffle_by):
    message = f"shuffle_by={shuffle_by!r}: must be one of segment, video, shard"
    with pytest.raises(SpecError, match=re.escape(message)):
        run_order(np.arange(3), shuffle, shuffle_by, 17, 0)
