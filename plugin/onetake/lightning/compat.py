"""Every private name of Lightning that onetake uses stands in this file.

Read from lightning 2.6.6 (trainer/connectors/checkpoint_connector.py, loops/). ``tests/contract`` proves that
these are still where they were.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

__all__ = ["accept_sized_loaders", "distributed_environment", "processed_batches", "shift_loaded_progress"]


@contextmanager
def distributed_environment(trainer: pl.Trainer | None) -> Iterator[None]:
    """The variables from which streaming learns its rank, set as the trainer knows them.

    Lightning's own launcher sets neither RANK nor LOCAL_WORLD_SIZE. They are put back, since a LOCAL_RANK that
    stays makes a later Trainer believe that somebody else launches its processes.
    """
    if trainer is None:
        yield
        return
    values = {
        "RANK": trainer.global_rank,
        "WORLD_SIZE": trainer.world_size,
        "LOCAL_RANK": trainer.local_rank,
        "LOCAL_WORLD_SIZE": trainer.world_size // trainer.num_nodes,
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def accept_sized_loaders() -> None:
    """Lightning doubts the length of every iterable dataset; ours is right for any number of workers."""
    warnings.filterwarnings("ignore", r"Your `IterableDataset` has `__len__` defined")


def processed_batches(trainer: pl.Trainer) -> int:
    """Batches of the present epoch that the model was trained on."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)


def shift_loaded_progress(trainer: pl.Trainer, trained_batches: int, epoch_finished: bool) -> None:
    """Mend the batch counters of the checkpoint that is being loaded, before the loops are restored from it.

    Args:
        trainer: the trainer; nothing happens unless it is loading a checkpoint to go on training.
        trained_batches: how many batches of today's size the trained samples of the epoch make up. Lightning counts
            batches, so its own number is wrong once the batch size has changed.
        epoch_finished: the checkpoint stands between two epochs. With ``max_steps``, Lightning would take the
            finished epoch's counters for the next one's, and end that at once.
    """
    checkpoint: dict[str, Any] | None = trainer._checkpoint_connector._loaded_checkpoint
    if not checkpoint or "loops" not in checkpoint:
        return
    progress = checkpoint["loops"]["fit_loop"].get("epoch_loop.batch_progress")
    if progress is None:
        return
    current = progress["current"]
    if epoch_finished:
        if trainer.max_steps != -1 and current["ready"] == current["completed"]:
            current.update(dict.fromkeys(current, 0))
        return
    shift = trained_batches - current["processed"]
    current.update({name: value + shift for name, value in current.items()})
