"""Stopping after any batch and going on: the remaining clips and pixels are those of the uninterrupted epoch."""

from __future__ import annotations

import json
import pickle
from itertools import islice

import pytest

from onetake import VideoLoader
from onetake.core.errors import ResumeError
from onetake.core.state import read_state
from tests.helpers import make_loader, record


@pytest.fixture(scope="module")
def epochs(numbered):
    loader = make_loader(numbered)
    return [[record(batch) for batch in loader] for _ in range(3)]


def stop_after(folder, batches, workers, **dataset):
    loader = make_loader(folder, workers, **dataset)
    running = iter(loader)
    seen = [record(batch) for batch in islice(running, batches)]
    state = loader.state_dict()
    running.close()
    return seen, state


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("share", [0, 0.02, 0.13, 0.5, 0.77, 0.98, 1])
def test_the_rest_of_the_epoch_and_the_next(numbered, epochs, share, workers):
    batches = round(share * len(epochs[0]))
    seen, state = stop_after(numbered, batches, workers)
    assert seen == epochs[0][:batches]
    state = json.loads(json.dumps(state))
    resumed = make_loader(numbered, workers)
    resumed.load_state_dict(state)
    if batches < len(epochs[0]):
        assert [record(batch) for batch in resumed] == epochs[0][batches:]
    assert [record(batch) for batch in resumed] == epochs[1]


def test_every_batch_in_process(numbered, epochs):
    loader = make_loader(numbered)
    states = []
    for _ in loader:
        states.append(loader.state_dict())
    again = make_loader(numbered)
    for batches, state in enumerate(states[:-1], 1):
        again.load_state_dict(state)
        assert record(next(iter(again))) == epochs[0][batches]


@pytest.mark.filterwarnings("ignore:global batch")
def test_other_workers_and_batch_sizes_in_mid_video_twice_in_a_row(numbered, epochs):
    flat = [sample for batch in epochs[0] for sample in batch]
    _, state = stop_after(numbered, 5, 2)
    position = 20
    for workers, batch_size, batches in ((3, 8, 3), (0, 3, 4)):
        loader = make_loader(numbered, workers, batch_size=batch_size)
        loader.load_state_dict(state)
        running = iter(loader)
        for batch in islice(running, batches):
            assert sorted(record(batch)) == sorted(flat[position : position + batch_size])
            position += batch_size
        state = loader.state_dict()
        running.close()
    rest = make_loader(numbered, 1, batch_size=4)
    rest.load_state_dict(state)
    assert sorted(s for batch in rest for s in record(batch)) == sorted(flat[position:])


def test_rolling_back_in_one_process(numbered, epochs):
    loader = make_loader(numbered, 2)
    running = iter(loader)
    next(running)
    early = loader.state_dict()
    running.close()
    for _ in range(2):
        loader.load_state_dict(early)
        assert [record(batch) for batch in loader] == epochs[0][1:]
        assert [record(batch) for batch in loader] == epochs[1]


def test_persistent_workers(numbered, epochs):
    loader = make_loader(numbered, 2, {"persistent_workers": True})
    assert [record(batch) for batch in loader] == epochs[0]
    assert [record(batch) for batch in loader] == epochs[1]
    state = make_loader(numbered).state_dict()
    loader.load_state_dict(state)
    assert [record(batch) for batch in loader] == epochs[0]


def test_the_state_names_video_and_frame_of_every_lane(numbered, epochs):
    _, state = stop_after(numbered, 6, 0)
    epoch, sample, order, cursors = read_state(state)
    assert (epoch, sample) == (0, 24)
    assert order["slots"] * order["phases"] == len(cursors) == 8
    upcoming = [(video, start) for batch in epochs[0][6:8] for _, video, start, _ in batch]
    assert sorted(c for c in cursors if c) == sorted(upcoming)
    assert {"epoch", "sample_in_epoch", "num_canonical_nodes", "shuffle_seed", "initial_physical_nodes"} < state.keys()
    assert pickle.loads(pickle.dumps(state)) == state


def test_a_finished_epoch_is_the_start_of_the_next(numbered, epochs):
    _, state = stop_after(numbered, len(epochs[0]), 0)
    assert (state["epoch"], state["sample_in_epoch"]) == (1, 0)


CHANGES = [
    ({"shuffle_seed": 3}, "shuffle_seed was 17 and is now 3"),
    ({"shuffle": False}, "shuffle was True and is now False"),
    ({"shuffle_by": "video"}, "shuffle_by was 'segment' and is now 'video'"),
]


@pytest.mark.parametrize("change, message", CHANGES, ids=[next(iter(c)) for c, _ in CHANGES])
def test_another_order_is_refused_in_words_or_continued_on_demand(numbered, change, message):
    _, state = stop_after(numbered, 3, 0)
    with pytest.raises(ResumeError, match=message):
        make_loader(numbered, **change).load_state_dict(state)
    lenient = make_loader(numbered, resume="continue", **change)
    with pytest.warns(UserWarning, match=message):
        lenient.load_state_dict(state)
    fresh = make_loader(numbered, **change)
    assert [record(batch) for batch in lenient] == [record(batch) for batch in fresh][3:]


def test_a_refused_state_leaves_the_loader_as_it_was(numbered, epochs):
    _, state = stop_after(numbered, 3, 0, shuffle_seed=3)
    loader = make_loader(numbered)
    with pytest.raises(ResumeError):
        loader.load_state_dict(state)
    assert [record(batch) for batch in loader] == epochs[0]


BROKEN = [
    ({}, "not saved by onetake"),
    ({"epoch": 1, "sample_in_epoch": 5}, "not saved by onetake"),
    ({"epoch": 0, "sample_in_epoch": 0, "onetake": {"version": 99}}, "version 99"),
]


@pytest.mark.parametrize("state, message", BROKEN, ids=["empty", "of streaming", "newer"])
def test_foreign_states_are_refused(numbered, state, message):
    with pytest.raises(ResumeError, match=message):
        make_loader(numbered).load_state_dict(state)


def test_cursors_that_lie_are_refused(numbered):
    _, state = stop_after(numbered, 3, 0)
    state["onetake"]["cursors"]["lanes"][2][1] += 1
    with pytest.raises(ResumeError, match="frames at which lanes go on"):
        make_loader(numbered).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:global batch")
def test_an_odd_end_of_an_epoch_is_the_start_of_the_next(numbered):
    """A run that goes on at a sample that no batch starts at ends its epoch past the last clip."""
    _, state = stop_after(numbered, 3, 0, batch_size=3)
    loader = make_loader(numbered, batch_size=8)
    loader.load_state_dict(state)
    for _ in loader:
        pass
    state = loader.state_dict()
    assert (state["epoch"], state["sample_in_epoch"]) == (1, 0)


def test_an_older_iteration_does_not_end_a_later_one(numbered, epochs):
    loader = make_loader(numbered)
    first = iter(loader)
    next(first)
    second = iter(loader)
    seen = [record(next(second))]
    first.close()
    del first
    assert seen + [record(batch) for batch in second] == epochs[1]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_looking_at_a_clip_and_iterating_before_workers_start(numbered, tmp_path, epochs, context):
    dataset = make_loader(numbered, remote=numbered, local=tmp_path).dataset
    assert dataset[0]["clip_id"] == 0
    assert sum(1 for _ in dataset) == len(dataset)
    loader = VideoLoader(dataset, 2, multiprocessing_context=context)
    assert [record(batch) for batch in loader] == epochs[1]


@pytest.mark.parametrize("batches, epoch", [(1, 0), (2, 1)])
def test_an_epoch_that_failed_in_its_first_step_is_not_over(numbered, batches, epoch):
    """Composer asks for a state of no trained samples at an epoch's end, and after a first step that failed."""
    loader = make_loader(numbered)
    running = iter(loader)
    for _ in range(batches):
        next(running)
    running.close()
    state = loader.dataset.state_dict(0, True)
    assert (state["epoch"], state["sample_in_epoch"]) == (epoch, 0)


def test_an_epoch_whose_only_batch_was_given_is_over(numbered):
    """Composer stops at the number of batches, and never asks for the end."""
    loader = make_loader(numbered)
    loader.load_state_dict(loader.dataset.state_at(0, (len(loader) - 1) * 4))
    running = iter(loader)
    next(running)
    running.close()
    state = loader.dataset.state_dict(0, True)
    assert (state["epoch"], state["sample_in_epoch"]) == (1, 0)
