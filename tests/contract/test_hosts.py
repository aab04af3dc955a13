"""The hosts still call what onetake overrides, and private names are still where they were."""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import streaming
import torch
from streaming.base import dataset as streaming_dataset
from streaming.base.shared import prefix
from streaming.base.spanner import Spanner

from onetake.lightning import compat as lightning_compat
from onetake.stream.compat import HostDataset, HostLoader, _DeepIterator, _Spanner
from onetake.stream.ordered import OrderedDataset
from onetake.stream.stream import VideoStream
from tests.helpers import make_loader

OVERRIDES = [
    (HostDataset, "_resume_incr_epoch"),
    (HostDataset, "_get_work"),
    (HostDataset, "_prepare_thread"),
    (HostDataset, "_ready_thread"),
    (HostDataset, "_each_sample_id"),
    (HostLoader, "_get_batch_size"),
    (HostLoader, "_get_iterator"),
    (VideoStream, "apply_default"),
    (VideoStream, "get_shards"),
    (VideoStream, "get_index_size"),
    (VideoStream, "set_up_local"),
]


@pytest.mark.parametrize("owner, name", OVERRIDES, ids=[f"{o.__name__}.{n}" for o, n in OVERRIDES])
def test_every_override_is_called_by_the_host(numbered, tmp_path, monkeypatch, owner, name):
    original = getattr(owner, name)
    called = []

    def spy(*args, **kwargs):
        frame = inspect.currentframe().f_back
        called.append(frame.f_globals["__name__"].partition(".")[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, spy)
    loader = make_loader(numbered, remote=numbered, local=tmp_path, cache_limit="1gb")
    for _ in loader:
        pass
    assert {"streaming", "concurrent", "torch"} & set(called), set(called)  # threads start in concurrent.futures


PER_SAMPLE = [
    # what makes arrays of all samples, or of an epoch's
    (Spanner, "__init__"),
    (streaming_dataset, "generate_work"),
    (streaming.StreamingDataset, "resample_streams"),
    (streaming.StreamingDataset, "_share_work"),
    (streaming.StreamingDataset, "_attach_work"),
]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_host_makes_no_array_of_all_samples(numbered, monkeypatch, workers):
    def refuse(*_, **__):
        raise AssertionError("an array as long as the dataset was made")

    stock = streaming_dataset.Spanner
    for owner, name in PER_SAMPLE:
        monkeypatch.setattr(owner, name, refuse)
    loader = make_loader(numbered, workers)
    shown = [clip for batch in loader for clip in batch["clip_id"].tolist()]
    assert sorted(set(shown)) == list(range(loader.dataset.num_clips))
    assert type(loader.dataset.spanner) is _Spanner
    assert streaming_dataset.Spanner is stock  # other datasets keep theirs


def test_workers_are_forked_with_the_order_of_their_rank(numbered, monkeypatch):
    """Else each of them would draw and shuffle the whole epoch."""
    make, here = OrderedDataset._make_order, os.getpid()

    def only_here(*arguments):
        assert os.getpid() == here
        return make(*arguments)

    monkeypatch.setattr(OrderedDataset, "_make_order", only_here)
    loader = make_loader(numbered, 2)
    for _ in range(2):
        assert sum(len(batch["clip_id"]) for batch in loader) >= loader.dataset.num_clips


def test_the_host_makes_its_spanner_where_ours_takes_its_place():
    assert inspect.getsource(streaming.StreamingDataset.__init__).count("self.spanner = Spanner(") == 1
    for user in ("_prepare_thread", "_ready_thread"):
        assert "shard_id, _ = self.spanner[sample_id]" in inspect.getsource(getattr(streaming.StreamingDataset, user))


def test_the_hosts_workers_meet_where_ours_may_not():
    source = inspect.getsource(streaming.StreamingDataset._resume_incr_epoch)
    assert source.count("self._resume(self._parallel_worker_world") == 1
    assert source.count("self._shared_barrier(") == 1
    assert inspect.getsource(streaming.StreamingDataset.__iter__).count("self._resume_incr_epoch()") == 1


def test_the_host_refuses_to_share_a_folder_by_a_name_that_ours_changes():
    assert "Reused local directory" in inspect.getsource(prefix)
    assert inspect.getsource(streaming.StreamingDataset.__init__).count("get_shm_prefix(") == 1
    assert list(inspect.signature(prefix.get_shm_prefix).parameters)[:2] == ["streams_local", "streams_remote"]


@pytest.mark.parametrize("iterated", [False, True])
def test_a_dataset_that_is_gone_leaves_nothing_open(numbered, iterated):
    """The host keeps the shared memory of each dataset, and in each of that of all others, until the process ends."""

    def open_files() -> list[str]:
        gc.collect()
        for worker in multiprocessing.active_children():  # torch waits 5 s for them, and then kills those that are late
            worker.join(60)
        names = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
        return sorted(os.readlink(name) for name in names if name.is_symlink())

    others = [make_loader(numbered, 0) for _ in range(3)]
    if iterated:  # only then the host marks its names as taken by a file, and looks no further
        assert all(list(loader) for loader in others)
    before = open_files()
    assert sum("/dev/shm/" in name for name in before) >= 3 * 6
    for workers in (0, 2):
        loader = make_loader(numbered, workers)
        assert len(open_files()) > len(before)
        assert list(loader)
        del loader
        assert open_files() == before


@pytest.mark.parametrize("sizes", [[3], [3, 1, 4, 1, 5], [0, 2, 0, 0, 3, 0], [1200, 900, 3000]])
def test_our_spanner_tells_what_the_hosts_does(sizes):
    ours, hosts = _Spanner(np.array(sizes)), Spanner(np.array(sizes))
    assert [ours[i] for i in range(sum(sizes))] == [hosts[i] for i in range(sum(sizes))]
    for index in (-1, sum(sizes)):
        for spanner in (ours, hosts):
            with pytest.raises(IndexError, match=str(index)):
                spanner[index]


def test_our_spanner_takes_as_much_as_there_are_shards():
    spanner = _Spanner(np.full(1000, 10**12))
    assert spanner[10**15 - 1] == (999, 10**12 - 1)


@pytest.mark.parametrize("joined", [False, True])
def test_workers_are_forked_a_moment_after_a_collective(numbered, monkeypatch, joined):
    """The threads of torch's that end one must not be at it while a process is forked, or that one hangs."""
    if joined:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    here, fork, done = os.getpid(), os.fork, []

    def spy_fork():
        done.append("fork")
        return fork()

    def spy_sleep(seconds):
        if os.getpid() == here:
            done.append("pause")
        time.sleep(seconds)

    loader = make_loader(numbered, 2)
    monkeypatch.setattr(os, "fork", spy_fork)
    monkeypatch.setattr("onetake.stream.compat.sleep", spy_sleep)
    assert list(loader)
    assert done == ["pause"] * joined + ["fork"] * 2


@pytest.mark.parametrize("name", ["_reset", "_try_put_index"])
def test_every_override_of_the_iterator_over_workers_is_called_by_torch(numbered, monkeypatch, name):
    original = getattr(_DeepIterator, name)
    called = []

    def spy(*args, **kwargs):
        called.append(inspect.currentframe().f_back.f_globals["__name__"].partition(".")[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(_DeepIterator, name, spy)
    for _ in make_loader(numbered, 2):
        pass
    assert "torch" in called


def test_torch_copies_the_depth_once_and_asserts_that_it_never_falls():
    """Why _DeepIterator is needed: the loader's attribute alone does nothing, and the iterator's can't be lowered."""
    source = inspect.getsource(_DeepIterator.__mro__[1])
    assert source.count("loader.prefetch_factor") == 1
    assert "assert self._tasks_outstanding < max_tasks" in source
    for name in ("_task_info", "_workers_status", "_send_idx", "_num_workers"):
        assert f"self.{name}" in source


def test_the_hosts_own_cache_is_out_of_use(numbered, tmp_path, monkeypatch):
    """It evicts what is being read, and knows of one dataset alone; see HostDataset."""

    def refuse(*_, **__):
        raise AssertionError("the host fetched or evicted")

    for name in ("prepare_shard", "evict_shard", "evict_coldest_shard", "_evict_shard", "_evict_coldest_shard"):
        assert callable(getattr(streaming.StreamingDataset, name))
        monkeypatch.setattr(streaming.StreamingDataset, name, refuse)
    loader = make_loader(numbered, remote=numbered, local=tmp_path, cache_limit="1gb")
    assert sum(len(batch["clip_id"]) for batch in loader) >= loader.dataset.num_clips
    assert set(loader.dataset._shard_states.numpy()) == {streaming_dataset._ShardState.REMOTE}


def test_the_hosts_threads_are_what_ours_take_the_place_of():
    """Both run over an iterator's indices, and say when they end, for which ``_Iterator.exit`` waits."""
    assert streaming_dataset._Iterator._num_threads_to_exit == 2
    for thread in ("_prepare_thread", "_ready_thread"):
        body = inspect.getsource(getattr(streaming.StreamingDataset, thread))
        assert body.rstrip().endswith("it.on_exit()")
        assert f"self.{thread}, it" in inspect.getsource(streaming.StreamingDataset.__iter__)
    body = inspect.getsource(streaming.StreamingDataset._each_sample_id)
    assert "if it.ready_index <= it.yield_index" in body
    assert body.index("yield sample_id") < body.index("it.yield_index += 1")


def test_the_events_the_host_sets_are_ours():
    source = inspect.getsource(streaming.StreamingDataset)
    assert "if not hasattr(self, '_event')" in source
    assert source.count("self._event.is_set()") >= 5


def test_a_failed_stock_download_would_have_hung():
    """Why ``_prepare_thread`` is wrapped: the host reports a thread's end only when it did not fail."""
    body = inspect.getsource(streaming.StreamingDataset._prepare_thread)
    assert body.rstrip().endswith("it.on_exit()")
    assert "finally" not in body


def test_streams_registry_knows_our_stream():
    from streaming.base.stream import streams_registry

    assert streams_registry.get("video") is VideoStream


def test_lightnings_progress_stands_where_it_is_read_and_mended(numbered, tmp_path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, max_epochs=1)
    assert lightning_compat.processed_batches(trainer) == 0
    assert trainer._checkpoint_connector._loaded_checkpoint in (None, {})
    state = trainer.fit_loop.state_dict()
    assert set(state["epoch_loop.batch_progress"]["current"]) == {"ready", "completed", "started", "processed"}


def test_torch_hands_iterable_batches_round_robin():
    class Numbers(torch.utils.data.IterableDataset):
        def __iter__(self):
            worker = torch.utils.data.get_worker_info()
            yield from range(worker.id * 100, worker.id * 100 + 3 + worker.id)

    loader = torch.utils.data.DataLoader(Numbers(), batch_size=1, num_workers=2)
    assert [int(batch) for batch in loader] == [0, 100, 1, 101, 2, 102, 103]
