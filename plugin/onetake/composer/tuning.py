"""Adaptive prefetching as a Composer callback."""

from __future__ import annotations

from composer.core import Callback, State
from composer.loggers import Logger

from onetake.core.tuner import Bounds
from onetake.stream.tuning import LoaderTuner

__all__ = ["AdaptivePrefetch"]


class AdaptivePrefetch(Callback):
    """Sets ``predownload`` and ``prefetch_factor`` of the training loader while it runs, by the stalls that it sees.

    The clips and their order stay the same. Every change is told with its reason to Python's logging (logger
    "onetake.stream.tuning": changes at level INFO; what only the user can mend, once, at level WARNING). After every
    window the Trainer's loggers get ``data/stall_fraction`` (the share of the
    time that training waited), ``data/predownload``, ``data/prefetch_factor`` and ``data/bottleneck`` (0 none,
    1 download, 2 decode, 3 uneven decode times). On several devices each tunes its own loader, and the first one's
    metrics are logged.

    Args:
        every: steps in a window.
        bounds: how far the settings may go. None: half of the free memory, 80% of the free disk or ``cache_limit``.

    Raises:
        SpecError: at the start of a fit, where the training loader is no VideoLoader.
    """

    def __init__(self, every: int = 20, bounds: Bounds | None = None) -> None:
        self._every = every
        self._bounds = bounds
        self._tuner: LoaderTuner | None = None

    @property
    def changes(self) -> list[tuple[int, str]]:
        """(step of this fit, reason) of every change and advice so far."""
        return self._tuner.changes if self._tuner else []

    def fit_start(self, state: State, logger: Logger) -> None:
        self._tuner = LoaderTuner(state.train_dataloader, self._every, self._bounds)  # type: ignore[arg-type]

    def batch_end(self, state: State, logger: Logger) -> None:
        assert self._tuner is not None
        metrics = self._tuner.step()
        if metrics:
            logger.log_metrics(metrics)
