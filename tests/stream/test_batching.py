"""How global batches take clips of several streams, through loaders, workers and states."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from itertools import islice

import pytest

from onetake import ClipSpec, VideoStream
from onetake.core.errors import ResumeError, SpecError
from tests.helpers import make_loader, record

SIZES = {"small": (24, 32), "large": (32, 24)}
PER_STREAM = {"batching_method": "per_stream"}


def two_streams(folder, **more):
    """Streams with clips of their own length and size."""
    return [
        VideoStream(local=folder, name=name, clips=ClipSpec(frames, 3), frame_size=SIZES[name], **more)
        for name, frames in (("small", 4), ("large", 6))
    ]


def make(folder, num_workers=0, **dataset):
    return make_loader(folder, num_workers, **{"streams": two_streams(folder), **dataset})


def alike(folder, **dataset):
    """Streams whose samples may stand in one batch; the second has half as many clips."""
    streams = [VideoStream(local=folder, name="a", clips=ClipSpec(4, 3), choose=40),
               VideoStream(local=folder, name="b", clips=ClipSpec(4, 2), choose=20)]  # fmt: skip
    return make_loader(folder, **{"streams": streams, "frame_size": (24, 24), "batch_size": 6,
                                  "num_canonical_lanes": 12, "batching_method": "stratified", **dataset})  # fmt: skip


def of_first(dataset, batch) -> int:
    """How many of a batch's samples are of the first stream."""
    return sum(clip < dataset.streams[0].num_clips for clip in batch["clip_id"].tolist())


def test_random_is_what_there_is_anyway(numbered):
    said = make_loader(numbered, batching_method="random")
    assert [record(batch) for batch in said] == [record(batch) for batch in make_loader(numbered)]


def test_random_mixes_streams_in_batches(numbered):
    streams = [VideoStream(local=numbered, name=str(step), clips=ClipSpec(4, step)) for step in (3, 2)]
    loader = make_loader(numbered, streams=streams)
    assert len({of_first(loader.dataset, batch) for batch in loader}) > 2


@pytest.mark.parametrize("workers", [0, 2])
def test_each_batch_has_one_shape_where_streams_differ(numbered, workers):
    loader = make(numbered, workers, **PER_STREAM)
    shapes = Counter()
    clips, opens = [], 0
    for batch in loader:
        shapes[tuple(batch["video"].shape)] += 1
        clips += [clip for clip, *_ in record(batch)]
    assert shapes.keys() == {(4, 4, 3, 24, 32), (4, 6, 3, 32, 24)}
    assert sorted(clips) == list(range(loader.dataset.num_clips))
    assert sum(shapes.values()) == len(loader) == sum(-(-s.num_clips // 4) for s in loader.dataset.streams)
    assert loader.dataset.lanes_advice(workers) is None
    opens = loader.stats()["opens"]
    segments = len(loader.dataset.shards)
    assert segments <= opens <= segments + 2 * 8 + 2 * 3  # once more per lane cut, and per repeat


@pytest.mark.parametrize("method", ["per_stream", "stratified", "device_per_stream"])
def test_workers_and_a_stop_leave_the_batches_as_they_are(numbered, method):
    settings = {"batching_method": method, "streams": None} | ({} if method != "stratified" else {"frame_size": 24})
    make_streams = two_streams if method != "stratified" else lambda folder: [
        VideoStream(local=folder, name=name, clips=ClipSpec(4, stride)) for name, stride in (("a", 3), ("b", 2))
    ]  # fmt: skip

    def loader(workers=0):
        return make_loader(numbered, workers, **settings | {"streams": make_streams(numbered)})

    one = loader()
    epochs = [[record(batch) for batch in one] for _ in range(2)]
    assert epochs[0] != epochs[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [record(batch) for batch in loader(3)] == epochs[0]
    stopped = loader(2)
    running = iter(stopped)
    assert [record(batch) for batch in islice(running, 5)] == epochs[0][:5]
    state = json.loads(json.dumps(stopped.state_dict()))
    running.close()
    resumed = loader(1)
    resumed.load_state_dict(state)
    assert [record(batch) for batch in resumed] == epochs[0][5:]
    assert [record(batch) for batch in resumed] == epochs[1]
    finished = resumed.state_dict()
    assert (finished["epoch"], finished["sample_in_epoch"]) == (2, 0)


def test_every_batch_has_streams_in_proportion(numbered):
    loader = alike(numbered)
    assert [of_first(loader.dataset, batch) for batch in loader] == [4] * 10


def test_proportions_go_on_with_another_batch_size(numbered):
    first = alike(numbered)
    running = iter(first)
    seen = [clip for batch in islice(running, 3) for clip, *_ in record(batch)]
    state = first.state_dict()
    running.close()
    other = alike(numbered, batch_size=3)
    other.load_state_dict(state)
    rest = list(other)
    assert all(of_first(other.dataset, batch) == 2 for batch in rest)
    every = sorted(seen + [clip for batch in rest for clip, *_ in record(batch)])
    assert every == sorted(clip for batch in alike(numbered) for clip, *_ in record(batch))


@pytest.mark.filterwarnings("ignore:global batch")
def test_batches_of_one_stream_go_on_with_another_batch_size_and_another(numbered):
    every, state = [], None
    for workers, size, batches in ((0, 4, 3), (2, 3, 4), (1, 3, 1), (0, 5, None)):
        loader = make(numbered, workers, batch_size=size, **PER_STREAM)
        if state:
            loader.load_state_dict(state)
        running = iter(loader)
        for batch in islice(running, batches):
            assert len(batch["clip_id"]) == size
            every += record(batch)
        state = json.loads(json.dumps(loader.state_dict()))
        running.close()
    assert (state["epoch"], state["sample_in_epoch"]) == (1, 0)
    assert sorted(clip for clip, *_ in every) == list(range(loader.dataset.num_clips))
    assert sorted(every) == sorted(sample for batch in make(numbered, **PER_STREAM) for sample in record(batch))


def test_the_way_in_which_batches_are_made_is_part_of_the_order(numbered):
    loader = make(numbered, **PER_STREAM)
    next(iter(loader))
    state = loader.state_dict()
    mixed = make(numbered)
    with pytest.raises(ResumeError, match="batching_method was 'per_stream' and is now 'random'"):
        mixed.load_state_dict(state)


def test_with_drop_last_each_streams_last_batch_is_left_out(numbered):
    loader = make(numbered, batch_size=7, num_canonical_lanes=7, drop_last=True, **PER_STREAM)
    batches = list(loader)
    assert len(batches) == len(loader) == sum(stream.num_clips // 7 for stream in loader.dataset.streams)
    assert not any(batch["is_pad"].any() for batch in batches)


def test_a_stream_of_which_nothing_is_taken_gives_no_batch(numbered):
    streams = two_streams(numbered, choose=8)
    streams[1].weights["choose"] = streams[1].choose = 0
    assert {tuple(batch["video"].shape[1:]) for batch in make(numbered, streams=streams, **PER_STREAM)} == {
        (4, 3, 24, 32)
    }


def test_each_stream_has_lanes_of_its_own_which_count(numbered):
    limit = {"max_memory": "8gb"}
    mixed, apart = (make(numbered, **more, **limit).dataset for more in ({}, PER_STREAM))
    assert apart.lanes == mixed.lanes == (4, 2)
    assert (mixed.memory.decoders(8), apart.memory.decoders(8)) == (8, 16)
    assert len(apart.cursors(0, 0)) == 16


REFUSED = [
    ({"batching_method": "randomly"}, "must be one of 'random', 'stratified', 'per_stream', 'device_per_stream'"),
    ({"batching_method": None}, "batching_method=None: must be one of"),
    ({"batching_method": ["random"]}, r"batching_method=\['random'\]: must be one of"),
    ({"batching_method": "stratified", "batch_size": 2, "num_canonical_lanes": 2, "choose": (40, 1)},
     "a stream of 1 of the 41 clips of an epoch: that is not one in each 2"),
    ({"batching_method": "per_stream", "drop_last": True, "choose": (40, 3)},
     "leaves out a stream of which an epoch takes 3 clips, fewer than a batch of 4"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=[reason[:30] for _, reason in REFUSED])
def test_what_can_not_be_is_refused_with_the_reason(numbered, arguments, reason):
    arguments = dict(arguments)
    taken = arguments.pop("choose", (40, 40))
    streams = [VideoStream(local=numbered, name=str(number), clips=ClipSpec(4, 2 + number), choose=count)
               for number, count in enumerate(taken)]  # fmt: skip
    with pytest.raises(SpecError, match=reason):
        make_loader(numbered, streams=streams, **arguments)
