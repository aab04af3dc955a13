"""Adaptive prefetching as a Lightning callback."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from onetake.stream.tuning import TunesPrefetch

__all__ = ["AdaptivePrefetch"]


class AdaptivePrefetch(TunesPrefetch, pl.Callback):
    """Lightning's hooks of ``stream.tuning.TunesPrefetch``, which says what it does, logs, takes and raises."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin_tuning(trainer.train_dataloader)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        metrics = self.tune_after_step()
        if metrics:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
