"""One epoch through a chain of worlds, as workers are told to read it: nothing is decoded, so that many can be tried.

Each link of a chain goes on from the state that the last one left, in another world, with another batch size. Whatever
the chain, the clips are those of one process that reads alone.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest

from onetake import ClipSpec, VideoDataset, VideoStream
from onetake.stream.compat import World
from onetake.stream.units import Units

CHAINS = 6  # of each kind of order
LINKS = 3


class AnyWorld(VideoDataset):
    """A dataset that is told who reads it."""

    rank_world = World(1, 1, 1, 0)


class Link(NamedTuple):
    """A world, of so many nodes, ranks per node and workers per rank (0: the rank itself), and its batches."""

    nodes: int
    ranks_per_node: int
    workers: int
    size: int

    @property
    def batch(self) -> int:
        return self.nodes * self.ranks_per_node * self.size


class Read(NamedTuple):
    clip: int
    occurrence: int
    lane: int
    seq: int
    is_pad: bool


def in_world(dataset: AnyWorld, link: Link, rank: int = 0) -> None:
    dataset.rank_world = World(link.nodes, link.ranks_per_node, 1, rank)
    dataset.batch_size = link.size


def delivered(dataset: AnyWorld, link: Link) -> list[list[Read]]:
    """The global batches of what is left of the epoch, by what every worker of every rank is told."""
    in_world(dataset, link)
    epoch, sample = dataset.begin_epoch()
    count = dataset.batches_left(sample)
    batches: list[list[Read]] = [[] for _ in range(count)]
    workers = max(link.workers, 1)
    for rank in range(link.nodes * link.ranks_per_node):
        in_world(dataset, link, rank)
        for worker in range(workers):
            world = World(link.nodes, link.ranks_per_node, workers, rank * workers + worker)
            refs = list(dataset.epoch_work(epoch, sample, world))
            mine = range(worker, count, workers)
            assert len(refs) == len(mine) * link.size  # as many full batches on every rank
            for place, ref in enumerate(refs):
                read = Read(int(ref), ref.occurrence, ref.lane, ref.seq, ref.is_pad)
                batches[mine[place // link.size]].append(read)
    return batches


def two_streams(folder, **second: Any) -> list[VideoStream]:
    return [VideoStream(local=folder, name="a", clips=ClipSpec(4, 3)),
            VideoStream(local=folder, name="b", clips=ClipSpec(4, 2), **second)]  # fmt: skip


ORDERS: dict[str, dict[str, Any]] = {
    "default": {},
    "by video": {"shuffle_by": "video"},
    "unshuffled": {"shuffle": False},
    "one lane": {"num_canonical_lanes": 1},
    "one lane, unshuffled": {"num_canonical_lanes": 1, "shuffle": False},
    "odd lanes": {"num_canonical_lanes": 7},
    "more lanes than clips": {"num_canonical_lanes": 500},
    "drop_last": {"drop_last": True},
    "two streams": {"second": {}},
    "repeats": {"second": {"repeat": 2.5}},
    "a part": {"second": {"choose": 9}, "epoch_size": None},
    "epoch_size": {"epoch_size": 41},
    "few clips": {"epoch_size": 3},
    "random clips": {"clips": ClipSpec(4, 3, clips_per_video=3)},
    "several in a sample": {"clips_per_sample": 3},
    "stratified": {"second": {}, "batching_method": "stratified", "num_canonical_lanes": 16},
    "per_stream": {"second": {}, "batching_method": "per_stream"},
    "per_stream, drop_last": {"second": {"repeat": 1.5}, "batching_method": "per_stream", "drop_last": True},
    "device_per_stream": {"second": {}, "batching_method": "device_per_stream"},
}


@pytest.fixture(scope="module", params=ORDERS)
def dataset(request, numbered):
    arguments = {"frame_size": (16, 16), "batch_size": 4, "num_canonical_lanes": 8, **ORDERS[request.param]}
    if "second" in arguments:
        arguments["streams"] = two_streams(numbered, **arguments.pop("second"))
    else:
        arguments = {"local": numbered, "clips": ClipSpec(4, 3), **arguments}
    return AnyWorld(**arguments)


def links(draw: np.random.Generator) -> list[Link]:
    """Worlds in a row."""
    sides = (1, 4), (1, 4), (0, 5), (1, 5)
    return [Link(*(int(draw.integers(low, high)) for low, high in sides)) for _ in range(LINKS)]


def start(dataset: AnyWorld, link: Link, epoch: int) -> None:
    """At the beginning of an epoch, as a new run in that world."""
    in_world(dataset, link)
    dataset._point[:2] = dataset._point.new_tensor([epoch, 0])
    dataset._units = Units()
    dataset._iterated = False
    dataset._order = None


def go_on(dataset: AnyWorld, state: dict[str, Any], link: Link) -> None:
    in_world(dataset, link)
    dataset._order = None  # as another process
    dataset.load_state_dict(json.loads(json.dumps(state)))


def expected(dataset: AnyWorld, epoch: int) -> Counter[tuple[int, int]]:
    """(clip, occurrence) of all that the epoch takes."""
    runs, ids = dataset._draw_runs(epoch)
    ordinals = [np.arange(first, first + count) for first, count in zip(runs.first_clip, runs.num_clips, strict=True)]
    clips = np.concatenate(ordinals)
    clips = clips if ids is None else ids(clips)
    return Counter(zip(clips.tolist(), np.repeat(runs.occurrence, runs.num_clips).tolist(), strict=True))


@pytest.mark.parametrize("seed", range(CHAINS))
def test_a_chain_of_worlds_reads_what_one_process_would(dataset, seed):
    draw = np.random.default_rng(seed)
    chain, epoch = links(draw), int(draw.integers(0, 3))
    start(dataset, chain[0], epoch)
    given: list[Read] = []
    lanes: dict[Any, list[int]] = defaultdict(list)
    for number, link in enumerate(chain):
        batches = delivered(dataset, link)
        at = int(dataset._point[1])
        state = dataset.state_at(epoch, at)
        if state["epoch"] == epoch and dataset.batching_method != "device_per_stream":
            one = Link(1, 1, 0, link.batch)
            go_on(dataset, state, one)
            alone = delivered(dataset, one)
            assert [sorted(batch) for batch in batches] == [sorted(batch) for batch in alone]
        stop = len(batches) if number == LINKS - 1 else int(draw.integers(0, len(batches) + 1))
        for read in (read for batch in batches[:stop] for read in batch if not read.is_pad):
            given.append(read)
            # Lanes of streams that are apart begin anew where the size of their batches changes.
            lanes[read.lane, dataset.streams_apart and number].append(read.seq)
        in_world(dataset, link)
        state = dataset.state_at(epoch, at + stop * link.batch)
        if stop == len(batches):
            assert (state["epoch"], state["sample_in_epoch"]) == (epoch + 1, 0)
            break
        go_on(dataset, state, chain[number + 1])
    real = Counter((read.clip, read.occurrence) for read in given)
    wanted = expected(dataset, epoch)
    assert not real - wanted
    if not dataset.drop_last:
        assert real == wanted
    for seq in lanes.values():
        assert seq == list(range(seq[0], seq[0] + len(seq)))  # front to back, and nothing left out
