"""Adaptive prefetching as a Composer callback."""

from __future__ import annotations

from composer.core import Callback, State
from composer.loggers import Logger

from onetake.stream.tuning import TunesPrefetch

__all__ = ["AdaptivePrefetch"]


class AdaptivePrefetch(TunesPrefetch, Callback):
    """Composer's hooks of ``stream.tuning.TunesPrefetch``, which says what it does, logs, takes and raises."""

    def fit_start(self, state: State, logger: Logger) -> None:
        self.begin_tuning(state.train_dataloader)

    def batch_end(self, state: State, logger: Logger) -> None:
        metrics = self.tune_after_step()
        if metrics:
            logger.log_metrics(metrics)
