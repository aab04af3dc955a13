"""Every private name of streaming and torch that onetake uses or overrides stands in this file.

Read from mosaicml-streaming 0.13.0 (base/dataset.py) and torch 2.7.0. ``tests/contract`` proves that the host
still calls each override.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from time import perf_counter_ns, sleep
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import torch
from numpy.typing import NDArray
from streaming import StreamingDataLoader, StreamingDataset
from streaming.base import dataset as streaming_dataset
from streaming.base.constant import TICK
from streaming.base.dataset import _Iterator, _IterState
from streaming.base.shared import SharedMemory
from streaming.base.shared import prefix as streaming_prefix
from streaming.base.world import World
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from onetake.core.errors import OnetakeError
from onetake.core.values import check_count
from onetake.stream.flag import SharedFlag

__all__ = ["HostDataset", "HostLoader", "World", "launcher_has_store"]

_OF_ONE_PROCESS = ("_cache_filelock", "_executor", "_iterator")
_HOST_LOCK = Lock()
_AGAIN_SECONDS = 0.05  # until a shard that could not be had is asked for again
# Between a collective and a fork. Threads of torch's let go of the collective's tensors, for which they make themselves
# known to Python; a process forked at that moment never gets past the fork (CPython 3.11: _PyEval_ReInitThreads takes
# a lock that it inherited as taken). Without the pause, one in a hundred did not.
_QUIET_SECONDS = 0.05


class _Spanner:
    """The shard of each sample, and its number there, as the host's Spanner tells them. That one makes an array of all
    samples first; this one keeps a number per shard.

    Args:
        shard_sizes: int64 [shards], samples in each.
    """

    def __init__(self, shard_sizes: NDArray[np.int64], span_size: int = 0) -> None:
        self._stops = np.cumsum(shard_sizes)
        self.num_samples = int(self._stops[-1]) if len(shard_sizes) else 0

    def __getitem__(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of a dataset that has {self.num_samples}")
        shard = int(np.searchsorted(self._stops, index, side="right"))
        return shard, int(index) - (int(self._stops[shard - 1]) if shard else 0)


def launcher_has_store() -> bool:
    """Whether ranks meet by a server of torch's launcher, and not of the first rank's."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _close(memory: SharedMemory) -> None:
    """Close shared memory now, where the host does when the process ends; whoever made it deletes it."""
    memory.cleanup()
    atexit.unregister(memory.cleanup)


def _take_prefix(hosts: Callable[..., Any], *arguments: Any) -> Any:
    """The host's ``get_shm_prefix``. To find a free name it opens the shared memory of the datasets that are there, and
    would keep all of it open until the process ends."""
    opened: list[SharedMemory] = []

    def noted(*arguments: Any) -> SharedMemory:
        opened.append(SharedMemory(*arguments))
        return opened[-1]

    own = None
    streaming_prefix.SharedMemory = noted  # type: ignore[assignment, misc]
    try:
        prefix, own = hosts(*arguments)
        return prefix, own
    finally:
        streaming_prefix.SharedMemory = SharedMemory  # type: ignore[misc]
        for memory in opened:
            if memory is not own:
                _close(memory)


@contextmanager
def _in_place_of_the_hosts(name: str) -> Iterator[None]:
    """The host offers no way to give it another spanner, nor to share a cache: it takes the name of a folder that
    another dataset has for an error. While it makes a dataset, ours go by the names of its own.

    Args:
        name: the dataset's own, the same in each of its ranks.
    """
    with _HOST_LOCK:
        hosts = streaming_dataset.Spanner, streaming_dataset.get_shm_prefix

        def get_shm_prefix(streams_local: list[str], *others: Any) -> Any:
            return _take_prefix(hosts[1], [f"{local}#{name}" for local in streams_local], *others)

        streaming_dataset.Spanner, streaming_dataset.get_shm_prefix = _Spanner, get_shm_prefix  # type: ignore
        try:
            yield
        finally:
            streaming_dataset.Spanner, streaming_dataset.get_shm_prefix = hosts  # type: ignore[misc]


class _DeepIterator(_MultiProcessingDataLoaderIter):
    """torch's iterator over workers, whose depth can be changed while it runs.

    The host puts one task whenever a batch arrives, and asserts that the depth was never lowered.
    """

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        self._prefetch_factor = loader.prefetch_factor  # with persistent workers it may be another by now
        super()._reset(loader, first_iter)

    def set_depth(self, prefetch_factor: int) -> None:
        """Batches in flight per worker from now on."""
        self._prefetch_factor = prefetch_factor
        sent = -1
        while sent < self._send_idx:  # until there is no room, or no worker that has anything left
            sent = self._send_idx
            self._try_put_index()

    def _try_put_index(self) -> None:
        # Workers that have reached their end leave tasks behind that never come back. Counted as in flight, they
        # would keep the others from getting any, and end the epoch early.
        in_flight = sum(len(task) == 2 or self._workers_status[task[0]] for task in self._task_info.values())
        depth = self._prefetch_factor
        if in_flight >= depth * self._num_workers:
            return
        self._prefetch_factor = sys.maxsize  # for the host's assertion
        try:
            super()._try_put_index()
        finally:
            self._prefetch_factor = depth


class HostLoader(StreamingDataLoader):
    """StreamingDataLoader that takes batches of any form, whose constructor may fail, and whose ``prefetch_factor``
    can be set while it is iterated."""

    _iterator = None  # the host's destructor looks for it
    _running: ReferenceType[_DeepIterator] | None = None

    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return super()._get_iterator()
        self.check_worker_number_rationality()  # as the host does
        if torch.distributed.is_initialized():
            sleep(_QUIET_SECONDS)
        iterator = _DeepIterator(self)
        self._running = ref(iterator)
        return iterator

    def deepen(self, prefetch_factor: int) -> None:
        """Batches in flight per worker in the running iteration, if there is one."""
        iterator = self._running and self._running()
        if iterator is not None:
            iterator.set_depth(prefetch_factor)

    def _get_batch_size(self, batch: Any) -> int:
        return 0  # the host counts samples by the length of a batch's first value; we count batches


class HostDataset(StreamingDataset):
    """StreamingDataset with its seams made public: subclasses override the methods without underscore.

    Mended on the way, since a download that failed ended the epoch early or hung: a failure in any worker stops
    all workers of the rank, and is raised.

    The host's cache (its limit, its states of shards, its eviction) is not used: it knows of one dataset alone, and not
    of what is being read. So what is prepared is ready.
    """

    def __init__(self, *, name: str, batch_size: int, predownload: int, **kwargs: Any) -> None:
        self._event = SharedFlag()  # type: ignore[assignment]  # else created per process by __iter__
        self._failure: Exception | None = None
        self._owner_pid: int | None = os.getpid()
        self._iterating_pid: int | None = None
        with _in_place_of_the_hosts(name):  # the host warns of less than a batch ahead, which is the user's to choose
            super().__init__(batch_size=batch_size, predownload=max(predownload, batch_size), **kwargs)
        self.predownload = predownload

    # What subclasses say.

    @property
    def is_driven(self) -> bool:
        """Whether something outside the workers settles what ``resume_point`` says."""
        raise NotImplementedError

    def resume_point(self, presumed_epoch: int) -> tuple[int, int]:
        """(epoch, sample in it) at which this iteration starts; called in every worker."""
        raise NotImplementedError

    def epoch_work(self, epoch: int, sample_in_epoch: int, world: World) -> Sequence[int]:
        """The sample IDs that this worker delivers; may be computed as they are read, by several threads."""
        raise NotImplementedError

    def failure(self, shard_id: int) -> Exception:
        """The error to raise where another worker failed to fetch shard ``shard_id``."""
        raise NotImplementedError

    def bring_shard(self, shard_id: int, urgent: bool) -> bool:
        """Have a shard at hand until ``let_shard_go``; False if it has to wait, which an urgent one does itself.

        Called for every sample that is prepared."""
        raise NotImplementedError

    def let_shard_go(self, shard_id: int) -> None:
        """Called for every sample that was brought a shard, once it is read."""
        raise NotImplementedError

    def waited_for_shard(self, nanoseconds: int) -> None:
        """Told in a worker, for every sample, how long its shard was not there yet."""

    # What they may use.

    @property
    def predownload(self) -> int:
        """Samples per worker whose shards are fetched ahead; 0: each when its sample is next. May be set while workers
        run."""
        return int(self._predownload[0])

    @predownload.setter
    def predownload(self, value: int) -> None:
        if "_predownload" not in self.__dict__:
            self._predownload = torch.zeros(1, dtype=torch.int64).share_memory_()
        check_count("predownload", value, 0)
        self._predownload[0] = value

    @property
    def rank_world(self) -> World:
        """The world seen by the sample order, from outside any worker."""
        return self._parallel_rank_world

    @property
    def node_world(self) -> World:
        """The world by processes, from outside any worker."""
        return self._unique_rank_world

    @property
    def has_failed(self) -> bool:
        """Whether a worker of this rank has failed, and the others are to stop."""
        return self._event.is_set()

    def clear_failure(self) -> None:
        """Forget a failure of an earlier iteration. Workers that are late, and still in it, don't."""
        self._event.begin()  # type: ignore[attr-defined]
        self._join_iteration()

    def release(self) -> None:
        """Give back the shared memory; the dataset cannot be used after. Done when it is garbage collected.

        The host keeps it until the process ends, and each new dataset opens that of all before it: after some
        hundreds, no file can be opened any more.
        """
        if getattr(self, "_owner_pid", None) != os.getpid() or not hasattr(self, "_shard_access_times"):
            return
        self._owner_pid = None
        if self._unique_rank_world.is_local_leader:
            for path in (self._cache_filelock_path, self._shared_barrier.filelock_path):
                Path(path).unlink(missing_ok=True)  # the host takes a name with a lock file for in use, for ever
        for memory in (
            self._shared_barrier._arr.shm,
            self._next_epoch.arr.shm,
            self._cache_usage.arr.shm,
            self._shard_states.shm,
            self._shard_access_times.shm,
            self._locals_shm,  # last: from then on another job may have the name
        ):
            with suppress(BufferError):  # a thread of an abandoned iteration looks at it still
                _close(memory)

    def __del__(self) -> None:
        with suppress(Exception):  # modules may be gone when the process ends
            self.release()

    # Overrides.

    def _resume(self, world: World, epoch: int) -> tuple[int, int]:
        return self.resume_point(epoch)

    def _resume_incr_epoch(self) -> tuple[int, int]:
        # The host has all workers of the node meet here, to agree on the epoch. A worker that is killed between its
        # coming and its going would leave the next ones waiting for ever; those of a single rank have nothing to agree.
        if self.is_driven and self.node_world.ranks_per_node == 1:
            return self.resume_point(0)
        return super()._resume_incr_epoch()

    def _get_work(self, epoch: int, sample_in_epoch: int) -> Any:
        return self.epoch_work(epoch, sample_in_epoch, self._parallel_worker_world)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        self.bring_now(shard_id)
        self.let_shard_go(shard_id)

    def bring_now(self, shard_id: int) -> None:
        """Have a shard at hand until ``let_shard_go``, or raise why another worker of the rank has failed."""
        if not self._bring(shard_id, True):
            raise self._reason()

    def _reason(self) -> Exception:
        return self._failure or self._event.error or self.failure(self._event.value)  # type: ignore[attr-defined]

    def _bring(self, shard_id: int, urgent: bool) -> bool:
        try:
            return self.bring_shard(shard_id, urgent)
        except BaseException as error:
            self._event.set(int(shard_id), error)  # type: ignore[call-arg]
            raise

    def _prepare_thread(self, it: _Iterator) -> None:
        try:
            while not it.should_exit() and it.prepare_index < it.total and not self._event.is_set():
                ahead = it.prepare_index - it.yield_index
                if ahead > self.predownload:
                    sleep(TICK)
                    continue
                shard_id, _ = self.spanner[it.sample_ids[it.prepare_index]]
                # Not waiting for it here: it becomes urgent as soon as its sample is asked for.
                if not self._bring(shard_id, urgent=ahead <= 0):
                    sleep(_AGAIN_SECONDS)
                    continue
                it.prepare_index += 1
                it.ready_index = it.prepare_index
        except Exception as error:
            self._failure = error
            self._event.set()
        it.on_exit()  # also after a failure: _Iterator.exit() waits for this thread

    def _ready_thread(self, it: _Iterator) -> None:
        it.on_exit()

    def _each_sample_id(self, it: _Iterator) -> Iterator[int]:
        sample_ids = super()._each_sample_id(it)
        while True:
            asked = perf_counter_ns()
            sample_id = next(sample_ids, None)
            if sample_id is None:
                return
            self.waited_for_shard(perf_counter_ns() - asked)
            yield sample_id
            self.let_shard_go(self.spanner[sample_id][0])

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process alone: locks, threads and a running iteration."""
        if hasattr(self._shared_barrier, "lock"):
            del self._shared_barrier.lock  # the host makes it anew where it is missing
        return {name: value for name, value in self.__dict__.items() if name not in _OF_ONE_PROCESS}

    def _drop_inherited(self) -> None:
        """A fork must not use the locks and threads of the process that it came from."""
        if self._iterating_pid not in (None, os.getpid()):
            if hasattr(self._shared_barrier, "lock"):
                del self._shared_barrier.lock
            for name in _OF_ONE_PROCESS:
                self.__dict__.pop(name, None)
        self._iterating_pid = os.getpid()

    def _join_iteration(self) -> None:
        """Have this process in the latest iteration, and no thread of it in an earlier one."""
        self._drop_inherited()
        if "_iterator" in self.__dict__:
            self._iterator.exit()  # as the host does, but before it could take this iteration's flag for its own
            self._iterator.sample_ids = ()
        self._event.join()  # type: ignore[attr-defined]
        self._failure = None

    def __iter__(self) -> Iterator[Any]:
        self._join_iteration()
        before, mine = self.__dict__.get("_iterator"), None
        try:
            for sample in super().__iter__():
                if mine is None:
                    mine = self._iterator
                yield sample
                if self._iterator is not mine:
                    raise OnetakeError("this iteration ended when a later one over the same dataset began")
            if mine is not None:
                mine.sample_ids = ()  # the host never lets go of an iterator
            if self._event.is_set():
                raise self._reason()
        except RuntimeError as error:
            if isinstance(error, OnetakeError) or not self._event.is_set():
                raise
            raise self._reason() from None
        finally:
            if mine is None and self.__dict__.get("_iterator") is not before:
                mine = self._iterator  # it has ended before its first sample
            # As its non_blocking_exit does, but without the lock: the garbage collector may close this iteration in the
            # thread that holds it.
            if mine is not None and mine._state == _IterState.ITERATING:
                mine._state = _IterState.EXITING
