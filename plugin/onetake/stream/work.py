"""One worker's share of an epoch, computed as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

from onetake.core.batching import DealtOrder
from onetake.core.order import Batch, EpochOrder, worker_batches
from onetake.stream.compat import World

__all__ = ["ClipRef", "WorkerClips", "WorkerFailure"]


class ClipRef(int):
    """A sample ID that knows its lane, so that it survives streaming's threads as the integer they expect.

    Attributes:
        lane: the lane that reads it; None for random access.
        seq: its place in the epoch's sequence; -1 for random access.
        occurrence: how often the epoch draws the clip before this time.
        is_pad: whether it is a repeat that fills the last batch.
    """

    lane: int | None
    seq: int
    occurrence: int
    is_pad: bool

    def __new__(
        cls, clip_id: int, lane: int | None = None, seq: int = -1, occurrence: int = 0, is_pad: bool = False
    ) -> ClipRef:
        ref = super().__new__(cls, clip_id)
        ref.lane, ref.seq, ref.occurrence, ref.is_pad = lane, seq, occurrence, is_pad
        return ref


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """Travels from a worker in place of a sample, and then of its batch: what to raise in the main process."""

    error: Exception


class WorkerClips(Sequence[ClipRef]):
    """The clips that one worker delivers in an epoch, or what is left of it, in order. Thread-safe.

    Args:
        order: the epoch; of its lanes, those that this worker reads.
        first_sample: where in the epoch to start, counted over all ranks.
        batch_size: samples per batch and rank.
        drop_last: leave out an incomplete last batch.
        world: this worker's place.
    """

    def __init__(
        self, order: EpochOrder | DealtOrder, first_sample: int, batch_size: int, drop_last: bool, world: World
    ) -> None:
        self._order = order
        self._first = first_sample
        self._batch_size = batch_size
        self._global_batch = batch_size * world.num_ranks
        self._rank, self._num_ranks = world.rank, world.num_ranks
        total = order.num_batches(first_sample, self._global_batch, drop_last)
        self._batches = worker_batches(total, world.worker_of_rank, world.workers_per_rank)
        # Three threads of the host walk over the same batches, a predownload apart.
        self._share = lru_cache(maxsize=256)(self._compute_share)

    def _compute_share(self, batch: int) -> Batch:
        return self._order.batch(self._first, batch, self._global_batch, self._rank, self._num_ranks)

    def __len__(self) -> int:
        return len(self._batches) * self._batch_size

    @overload
    def __getitem__(self, at: int) -> ClipRef: ...
    @overload
    def __getitem__(self, at: slice) -> list[ClipRef]: ...
    def __getitem__(self, at: int | slice) -> ClipRef | list[ClipRef]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        batch, place = divmod(at, self._batch_size)
        share = self._share(self._batches[batch])
        return ClipRef(
            int(share.clip_id[place]),
            int(share.lane[place]),
            int(share.seq[place]),
            int(share.occurrence[place]),
            bool(share.is_pad[place]),
        )
