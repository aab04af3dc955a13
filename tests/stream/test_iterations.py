"""Iterations that are given up, or cut off, take nothing from those that follow."""

from __future__ import annotations

import gc
import time
import weakref

import pytest

from onetake.core.errors import CacheError, OnetakeError
from onetake.stream.shared_cache import SharedCache
from tests.helpers import make_loader, record


def in_second_epoch(folder):
    """A loader whose next epoch is the second."""
    loader = make_loader(folder)
    list(loader)
    return loader


def second_is_late(worker: int) -> None:
    if worker == 1:
        time.sleep(120)


def test_workers_killed_at_an_epochs_start_hold_up_no_later_one(numbered):
    """The host's workers meet there, and count who has come in memory that outlives them."""
    loader = make_loader(numbered, 2, {"worker_init_fn": second_is_late, "timeout": 3})
    with pytest.raises(RuntimeError, match="timed out after 3"):
        list(loader)
    dataset = loader.dataset
    again = type(loader)(dataset, 2)
    del loader  # kills its workers
    assert [record(batch) for batch in again] == [record(batch) for batch in in_second_epoch(numbered)]


@pytest.mark.parametrize("said", ["fetched", "failed"])
def test_a_fetch_of_which_nothing_could_be_said_is_made_again(numbered, tmp_path, monkeypatch, said):
    """As when the disk is full, so that the ledger can't be written."""
    wanted = sorted(sample for batch in make_loader(numbered) for sample in record(batch))
    loader = make_loader(numbered, 0, remote=numbered, local=tmp_path)
    stream = loader.dataset.streams[0]
    with monkeypatch.context() as patch:
        if said == "failed":
            patch.setattr(stream, "prepare_shard", broken)
        original = getattr(SharedCache, said)

        def full(self, segment):
            self._ledger._connected().execute("PRAGMA query_only = ON")
            return original(self, segment)

        patch.setattr(SharedCache, said, full)
        with pytest.raises(CacheError, match="can't be used .*readonly"):
            list(loader)
    stream.cache._ledger._connected().execute("PRAGMA query_only = OFF")
    assert sorted(sample for batch in loader for sample in record(batch)) == wanted


def broken(shard):
    raise OnetakeError("broken")


def fail(frames):
    raise ZeroDivisionError


def test_a_dataset_whose_first_sample_fails_goes_when_it_is_let_go(numbered, tmp_path):
    """What fetches ahead would hold it, and go on."""
    loader = make_loader(numbered, 0, remote=numbered, local=tmp_path, transform=fail)
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))
    gone = weakref.ref(loader.dataset)
    del loader
    deadline = time.monotonic() + 60
    while gone() is not None and time.monotonic() < deadline:  # its thread looks up now and then
        gc.collect()
        time.sleep(0.02)
    assert gone() is None


def test_an_iteration_that_is_closed_late_leaves_the_next_ones_decoders_open(numbered):
    undisturbed = in_second_epoch(numbered)
    before = undisturbed.stats()["opens"]
    wanted = [record(batch) for batch in undisturbed]
    opens = undisturbed.stats()["opens"] - before

    loader = make_loader(numbered)
    earlier = iter(loader)
    next(earlier)
    before = loader.stats()["opens"]
    later = iter(loader)
    found = [record(next(later))]
    earlier.close()
    assert found + [record(batch) for batch in later] == wanted
    assert loader.stats()["opens"] - before == opens


@pytest.mark.parametrize("workers, arguments", [(0, {}), (1, {}), (1, {"persistent_workers": True})])
def test_only_the_latest_iteration_of_a_loader_goes_on(numbered, workers, arguments):
    loader = make_loader(numbered, workers, arguments)
    earlier, later = iter(loader), iter(loader)
    next(earlier)
    found = [record(next(later))]
    with pytest.raises(OnetakeError, match="this iteration ended when a later one"):
        next(earlier)
    found += [record(batch) for batch in later]
    assert found == [record(batch) for batch in in_second_epoch(numbered)]
    assert loader.state_dict()["epoch"] == 2
    assert loader.state_dict()["sample_in_epoch"] == 0


def test_iterations_that_were_given_up_leave_their_order(numbered, monkeypatch):
    loader = make_loader(numbered)
    original, made = loader.dataset.epoch_work, []

    def noted(*arguments):
        work = original(*arguments)
        made.append(weakref.ref(work))
        return work

    monkeypatch.setattr(loader.dataset, "epoch_work", noted)
    for _ in range(4):
        next(iter(loader))
    gc.collect()
    assert [work() is not None for work in made] == [False, False, False, True]
