"""The hosts still call what onetake overrides, and private names are still where they were."""

from __future__ import annotations

import inspect

import lightning.pytorch as pl
import pytest
import streaming
import torch
from streaming.base import dataset as streaming_dataset
from streaming.base.shared import prefix

from onetake.lightning import compat as lightning_compat
from onetake.stream.compat import HostDataset, HostLoader, _DeepIterator
from onetake.stream.shard import VideoShard
from onetake.stream.stream import VideoStream
from tests.helpers import make_loader

OVERRIDES = [
    (HostDataset, "_resume"),
    (HostDataset, "_get_work"),
    (HostDataset, "prepare_shard"),
    (HostDataset, "_prepare_thread"),
    (HostDataset, "_ready_thread"),
    (HostDataset, "_each_sample_id"),
    (HostLoader, "_get_batch_size"),
    (HostLoader, "_get_iterator"),
    (VideoStream, "apply_default"),
    (VideoStream, "get_shards"),
    (VideoStream, "get_index_size"),
    (VideoStream, "prepare_shard"),
    (VideoShard, "set_up_local"),
    (VideoShard, "get_raw_size"),
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


def test_the_host_reads_predownload_at_every_turn():
    for thread in (streaming.StreamingDataset._prepare_thread, streaming.StreamingDataset._ready_thread):
        body = inspect.getsource(thread)
        assert body.index("while True") < body.index("if self.predownload < samples_ahead")


def test_eviction_goes_through_our_shard(numbered, tmp_path):
    loader = make_loader(numbered, remote=numbered, local=tmp_path)
    list(loader)
    usage = loader.dataset.cache_usage
    loader.dataset.evict_coldest_shard()
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert loader.dataset.cache_usage == on_disk < usage


def test_the_events_the_host_sets_are_ours():
    source = inspect.getsource(streaming.StreamingDataset)
    assert "if not hasattr(self, '_event')" in source
    assert source.count("self._event.is_set()") >= 5
    assert "Reused local directory" in inspect.getsource(prefix)
    assert streaming_dataset._ShardState.PREPARING.name == "PREPARING"


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
