"""The loader: a torch DataLoader that knows its position, its waits and what its workers decoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from torch.utils.data import default_collate

from onetake.core.errors import SpecError
from onetake.decode.decoder import Count
from onetake.stream.compat import HostLoader
from onetake.stream.dataset import VideoDataset
from onetake.stream.work import WorkerFailure

__all__ = ["VideoLoader"]


class _Collate:
    """A collate function that lets a worker's failure through."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self._collate_fn = collate_fn

    def __call__(self, samples: list[Any]) -> Any:
        failure = next((sample for sample in samples if isinstance(sample, WorkerFailure)), None)
        return failure or self._collate_fn(samples)


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

    def __init__(self, dataset: VideoDataset, num_workers: int = 0, **kwargs: Any) -> None:
        if not isinstance(dataset, VideoDataset):
            raise SpecError(f"VideoLoader needs a VideoDataset, not a {type(dataset).__name__}")
        for name in ("batch_size", "drop_last", "shuffle", "sampler", "batch_sampler"):
            if name in kwargs:
                raise SpecError(
                    f"VideoLoader({name}=): say it to the VideoDataset, which orders the samples (Lightning says it "
                    "for overfit_batches=: use limit_train_batches= with shuffle=False)"
                )
        collate = _Collate(kwargs.pop("collate_fn", None) or default_collate)
        super().__init__(dataset, batch_size=dataset.batch_size, num_workers=num_workers, collate_fn=collate, **kwargs)
        self._worker_counters = dataset.share_counters(num_workers)
        self._wait_seconds = 0.0
        self._longest_wait = 0.0
        self._batches_delivered = 0
        self._epoch, self._first_sample = 0, 0
        self._batches_in_epoch = 0
        self._started = self._advised = False

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.dataset.num_batches

    def __iter__(self) -> Iterator[Any]:
        self._epoch, self._first_sample = self.dataset.begin_epoch()
        self._batches_in_epoch = 0
        advice = self.dataset.lanes_advice(self.num_workers)
        if advice and not self._advised and self.dataset.rank_world.is_leader:
            warnings.warn(advice, stacklevel=2)
            self._advised = True
        self._started = True
        batches = super().__iter__()
        while True:
            asked = perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if isinstance(batch, WorkerFailure):
                raise batch.error
            waited = perf_counter() - asked
            self._wait_seconds += waited
            self._longest_wait = max(self._longest_wait, waited)
            self._batches_delivered += 1
            self._batches_in_epoch += 1
            yield batch

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
        """Sums since the loader was made, over its workers: ``wait_seconds`` (the time spent in ``next``),
        ``longest_wait_seconds``, ``batches``, and a counter for each of ``decode.decoder.Count`` in lower case:
        opens, seeks, packets_fed, frames_decoded, frames_converted, frames_delivered, clips_delivered,
        bytes_read. Workers decode ahead, so their counters may be some batches in front."""
        totals = self._worker_counters.sum(0).tolist()
        return {
            "wait_seconds": self._wait_seconds,
            "longest_wait_seconds": self._longest_wait,
            "batches": self._batches_delivered,
            **{count.name.lower(): totals[count] for count in Count},
        }
