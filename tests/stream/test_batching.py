"""How global batches take clips of several streams: at random over an epoch, and in no other way."""

from __future__ import annotations

import pytest

from onetake import ClipSpec, VideoStream
from onetake.core.errors import SpecError
from tests.helpers import make_loader, record


def test_random_is_what_there_is_anyway(numbered):
    said = make_loader(numbered, batching_method="random")
    assert [record(batch) for batch in said] == [record(batch) for batch in make_loader(numbered)]


def test_random_mixes_streams_in_batches(numbered):
    specs = (ClipSpec(4, 3), ClipSpec(4, 2))
    streams = [VideoStream(local=numbered, name=str(spec), clips=spec) for spec in specs]
    loader = make_loader(numbered, streams=streams, batching_method="random")
    of_first = loader.dataset.streams[0].num_clips
    mixed = [{clip < of_first for clip in batch["clip_id"].tolist()} for batch in loader]
    assert {True, False} in mixed


REFUSED = [
    ("per_stream", "does not apply to VideoDataset: a lane crosses streams"),
    ("stratified", "does not apply to VideoDataset: .* use proportion= for that"),
    ("device_per_stream", "does not apply to VideoDataset: lanes are dealt to ranks by their place"),
    ("randomly", "must be 'random'"),
    (None, "must be 'random'"),
    (["random"], "must be 'random'"),
]


@pytest.mark.parametrize(("method", "reason"), REFUSED, ids=[str(method) for method, _ in REFUSED])
def test_other_ways_are_refused_with_the_reason(numbered, method, reason):
    with pytest.raises(SpecError, match=reason) as failure:
        make_loader(numbered, batching_method=method)
    assert str(failure.value).startswith(f"batching_method={method!r}")
