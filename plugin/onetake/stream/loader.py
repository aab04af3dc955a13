"""The loader: a torch DataLoader that knows its position, its waits and what its workers decoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import default_collate

from onetake.core.errors import OnetakeError, SpecError
from onetake.core.values import check_callables, check_count
from onetake.stream.collate import RAGGED, Collate
from onetake.stream.compat import HostLoader
from onetake.stream.counters import Count, Spent
from onetake.stream.dataset import VideoDataset
from onetake.stream.stalls import StallClock
from onetake.stream.work import WorkerFailure

__all__ = ["VideoLoader"]


class _LettingThrough:
    """A collate function that lets a worker's failure through, and its own."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self._collate_fn = collate_fn

    def __call__(self, samples: list[Any]) -> Any:
        failure = next((sample for sample in samples if isinstance(sample, WorkerFailure)), None)
        try:
            return failure or self._collate_fn(samples)
        except OnetakeError as error:
            return WorkerFailure(error)  # torch would turn it into its own text


class VideoLoader(HostLoader):
    """Batches of a VideoDataset; the batch size is the dataset's.

    Every iteration is an epoch, or what is left of the one that ``load_state_dict`` goes on in.

    Args:
        dataset: the dataset. One loader per dataset.
        num_workers: processes that decode; 0 decodes in this one.
        **kwargs: further arguments of torch.utils.data.DataLoader, such as ``collate_fn``, ``pin_memory``,
            ``prefetch_factor``, ``multiprocessing_context`` ("fork", "spawn"), ``persistent_workers``.

    Raises:
        SpecError: the dataset is no VideoDataset, or an argument is the dataset's to say.
    """

    dataset: VideoDataset
    lists: frozenset[str]  # what of a batch is a list of the samples' own values
    _prefetch_factor: int | None

    def __init__(self, dataset: VideoDataset, num_workers: int = 0, **kwargs: Any) -> None:
        if not isinstance(dataset, VideoDataset):
            raise SpecError(f"VideoLoader(dataset={dataset!r}): must be a VideoDataset")
        check_count("num_workers", num_workers, 0)
        for name in ("batch_size", "drop_last", "shuffle", "sampler", "batch_sampler"):
            if name in kwargs:
                raise SpecError(
                    f"VideoLoader({name}=): say it to the VideoDataset, which orders the samples (Lightning says it "
                    "for overfit_batches=: use limit_train_batches= with shuffle=False)"
                )
        if not kwargs.get("in_order", True):
            raise SpecError("VideoLoader(in_order=False): a run could not be resumed; leave it out")
        given = kwargs.pop("collate_fn", None)
        self.collates_by_default = given in (None, default_collate)
        check_callables(collate_fn=given)
        ours = Collate(RAGGED if dataset.form.is_ragged else frozenset(), dataset.metadata.listed)
        self.lists = ours.ragged | ours.plain if given is None else frozenset()
        collate = _LettingThrough(given or ours)
        try:
            super().__init__(
                dataset, batch_size=dataset.batch_size, num_workers=num_workers, collate_fn=collate, **kwargs
            )
        except (TypeError, ValueError) as error:
            words = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
            raise SpecError(f"VideoLoader({words}): not what torch's DataLoader takes: {error}") from error
        self._worker_counters = dataset.share_counters(num_workers)
        self.clock = StallClock()
        self.batch_bytes = 0  # of the tensors of a batch
        self._iterations = 0
        self._batches_delivered = 0
        self._epoch, self._first_sample = 0, 0
        self._batches_in_epoch = 0
        self._started = self._advised = False

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.dataset.num_batches

    def __iter__(self) -> Iterator[Any]:
        self.dataset.check_memory(self.num_workers, self.num_workers * (self.prefetch_factor or 0) + 1)
        self._epoch, self._first_sample = self.dataset.begin_epoch()
        self._batches_in_epoch = 0
        advice = self.dataset.lanes_advice(self.num_workers)
        if advice and not self._advised and self.dataset.node_world.is_leader:
            warnings.warn(advice, stacklevel=2)
            self._advised = True
        self._started = True
        self._iterations += 1
        iteration = self._iterations
        self.clock.begin()
        exhausted = False
        try:
            yield from self._timed(super().__iter__(), iteration)
            exhausted = True
        finally:
            # Composer does not ask beyond the last batch. Left after one of several, that one may have failed.
            last = self._batches_in_epoch == self.dataset.batches_left(self._first_sample)
            if iteration == self._iterations and (exhausted or last or self._batches_in_epoch > 1):
                self.dataset.end_epoch()

    def _timed(self, batches: Iterator[Any], iteration: int) -> Iterator[Any]:
        while True:
            if iteration != self._iterations:  # it would take the other's batches, or count its own for it
                raise OnetakeError("this iteration ended when a later one over the same loader began")
            self.clock.asked()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if isinstance(batch, WorkerFailure):
                try:
                    raise batch.error
                finally:
                    del batch, batches  # they hold the error, and its traceback this frame: a cycle keeps workers alive
            self.clock.got()
            if not self._batches_in_epoch:
                self.batch_bytes = _num_bytes(batch)
            self._batches_delivered += 1
            self._batches_in_epoch += 1
            yield batch

    @property
    def prefetch_factor(self) -> int | None:
        """Batches in flight per worker; None without workers. May be set while it is iterated: the order stays,
        and no batch is lost."""
        return self._prefetch_factor

    @prefetch_factor.setter
    def prefetch_factor(self, value: int | None) -> None:
        if "_worker_counters" in self.__dict__:  # else the host's constructor sets it
            if not self.num_workers:
                raise SpecError(f"prefetch_factor={value!r}: there are no workers to prefetch with; give num_workers=")
            check_count("prefetch_factor", value)
            assert value is not None
            self.deepen(value)
        self._prefetch_factor = value

    @property
    def started(self) -> bool:
        """Whether it was iterated since it was made or given a state."""
        return self._started

    @property
    def epoch(self) -> int:
        """The epoch of the present, or else the last, iteration."""
        return self._epoch

    @property
    def first_sample(self) -> int:
        """Sample of the epoch, over all ranks, at which the present iteration started."""
        return self._first_sample

    def state_dict(self, trained_batches: int | None = None) -> dict[str, Any]:
        """The state from which training goes on exactly.

        Args:
            trained_batches: batches of this iteration that the model was trained on. None: all that were
                handed out, which is right between two steps of a plain loop.
        """
        if not self._started:
            return self.dataset.state_dict(0, False)
        batches = self._batches_in_epoch if trained_batches is None else trained_batches
        samples = batches * self.dataset.global_batch_size
        return self.dataset.state_at(self._epoch, self._first_sample + samples)

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Go on from ``obj`` at the next iteration; see VideoDataset.load_state_dict."""
        self.dataset.load_state_dict(obj)
        self._started = False

    def stats(self) -> dict[str, float]:
        """Sums since the loader was made.

        Of the training loop: ``batches``, and ``wait_seconds``, the time spent in ``next`` (on a GPU, only while that
        was idle); ``longest_wait_seconds``; ``first_wait_seconds``, what of it was waited for the first batch of an
        iteration, while workers start.

        Of the workers, which may be some batches in front: ``download_seconds`` (waited for bytes),
        ``decode_seconds``, ``transform_seconds``, and a counter for each of ``decode.decoder.Count`` in lower case:
        opens, seeks, packets_fed, frames_decoded, frames_converted, frames_delivered, clips_delivered, bytes_read.
        """
        totals = self._worker_counters.sum(0).tolist()
        self.clock.settle()
        return {
            "wait_seconds": self.clock.stall_seconds,
            "longest_wait_seconds": self.clock.longest_seconds,
            "first_wait_seconds": self.clock.first_seconds,
            "batches": self._batches_delivered,
            **{f"{spent.name.lower()}_seconds": totals[spent] / 1e9 for spent in Spent},
            **{count.name.lower(): totals[count] for count in Count},
        }


def _num_bytes(batch: Any) -> int:
    """What the tensors of a batch weigh, however they are nested."""
    if isinstance(batch, torch.Tensor):
        return batch.nbytes
    if isinstance(batch, Mapping):
        return sum(map(_num_bytes, batch.values()))
    return sum(map(_num_bytes, batch)) if isinstance(batch, (list, tuple)) else 0
