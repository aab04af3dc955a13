"""What is shuffled: segments, or the shards that hold several of them, or whole videos."""

from __future__ import annotations

import numpy as np
import pytest

from onetake import VideoStream
from onetake.core.errors import ResumeError
from tests.helpers import make_loader, record

ONE_LANE = {"num_canonical_lanes": 1, "batch_size": 1}


@pytest.fixture
def packed(monkeypatch):
    """Every three segments of an index stand in one shard."""
    pairs = property(lambda stream: np.arange(stream.index.num_segments) // 3)
    monkeypatch.setattr(VideoStream, "shard_of_segment", pairs)


def stretches(numbers: np.ndarray) -> list[int]:
    return numbers[np.flatnonzero(np.diff(numbers, prepend=-1))].tolist()


def segments_read(dataset) -> np.ndarray:
    """The segment of each clip of an epoch."""
    order = dataset.epoch_order(0)
    clips = order.clip_ids(np.arange(len(order)))
    before = np.cumsum(dataset.streams[0].layout.num_clips)
    return np.searchsorted(before, clips, side="right")


def test_in_place_shards_are_segments(numbered):
    by_default = make_loader(numbered)
    assert by_default.dataset.shuffle_by == "segment"
    one, other = (make_loader(numbered, shuffle_by=group) for group in ("segment", "shard"))
    assert segments_read(one.dataset).tolist() == segments_read(other.dataset).tolist()


def test_by_default_a_shard_is_gone_through_before_the_next_its_segments_shuffled(numbered, packed):
    loader = make_loader(numbered, **ONE_LANE)
    assert loader.dataset.shuffle_by == "shard"
    segments = segments_read(loader.dataset)
    shards = stretches(segments // 3)
    assert sorted(shards) == sorted(set(shards)) == sorted(set((loader.dataset.streams[0].segments // 3).tolist()))
    assert shards != sorted(shards)
    inside = [stretches(segments[segments // 3 == shard]) for shard in shards]
    assert any(own != sorted(own) for own in inside)
    assert sorted(clip for batch in loader for clip, *_ in record(batch)) == list(range(loader.dataset.num_clips))


def test_the_user_has_the_last_word(numbered, packed):
    by_segment, by_shard = (make_loader(numbered, shuffle_by=group, **ONE_LANE) for group in ("segment", None))
    shards = stretches(segments_read(by_segment.dataset) // 3)
    assert len(shards) > len(set(shards))
    with pytest.raises(ResumeError, match="shuffle_by was 'shard' and is now 'segment'"):
        by_segment.load_state_dict(by_shard.state_dict())
