"""The sizes of the units of an epoch whose batches are of one stream each (see ``core.batching``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from onetake.core.errors import ResumeError

__all__ = ["Units"]

Sizes = list[tuple[int, int]]  # (size, first sample) of units, one size after another

_MOST_SIZES = 64


class Units:
    """The sizes of one epoch's units. Workers of any start method see them, also when they change."""

    def __init__(self) -> None:
        self._rows = torch.full((1 + _MOST_SIZES, 2), -1, dtype=torch.int64).share_memory_()  # (epoch, count); sizes

    def of(self, epoch: int, size: int) -> Sizes:
        """An epoch's; ``size`` throughout, if nothing else is known of it."""
        (of_epoch, count), *rows = self._rows.tolist()
        return [(unit, first) for unit, first in rows[:count]] if of_epoch == epoch else [(size, 0)]

    def keep(self, epoch: int, sizes: Sequence[tuple[int, int]]) -> None:
        """Know an epoch's, and no other's any more.

        Raises:
            ResumeError: there are too many.
        """
        if len(sizes) > _MOST_SIZES:
            raise ResumeError(
                f"the batch size changed {len(sizes) - 1} times in epoch {epoch}, where batches are of one stream: "
                f"until it ends, go on with one that gives {sizes[-2][0]} samples of one stream at a time"
            )
        self._rows[: 1 + len(sizes)] = torch.tensor([(epoch, len(sizes)), *sizes])

    def change(self, epoch: int, sample: int, size: int) -> None:
        """Let an epoch's units be of ``size`` from a sample on."""
        sizes = [(unit, first) for unit, first in self.of(epoch, size) if first < sample]
        if not sizes or sizes[-1][0] != size:
            sizes.append((size, sample if sizes else 0))
        self.keep(epoch, sizes)
