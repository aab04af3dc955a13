"""The tuner applied to a running loader: observes it, decides by ``core.tuner``, sets what was decided."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from onetake.core.errors import SpecError
from onetake.core.tuner import BOTTLENECKS, Bounds, Decision, History, Observation, Settings, tune
from onetake.core.values import check_count
from onetake.stream.loader import VideoLoader
from onetake.stream.stalls import MAX_STEPS

__all__ = ["LoaderTuner", "TunesPrefetch"]

logger = logging.getLogger(__name__)

MAX_PREFETCH_FACTOR = 64
_SHARED_MEMORY = Path("/dev/shm")  # through which workers hand over batches
_MEMORY_SHARE = 0.5  # of what is free


class LoaderTuner:
    """Tunes ``predownload`` and ``prefetch_factor`` of one loader; every rank tunes its own.

    Args:
        loader: the training loader.
        every: steps in a window.
        bounds: how far the settings may go. None: as the machine has memory and disk (see ``bounds``).

    Attributes:
        changes: (step, reason) of every change and advice so far.

    Raises:
        SpecError: ``loader`` is no VideoLoader, or ``every`` is below 1 or above 1000.
    """

    def __init__(self, loader: VideoLoader, every: int = 20, bounds: Bounds | None = None) -> None:
        if not isinstance(loader, VideoLoader):
            raise SpecError(
                f"AdaptivePrefetch tunes a VideoLoader, and training reads a {type(loader).__name__}: give the Trainer "
                "a VideoDataModule, a video_data_spec, or a VideoLoader"
            )
        check_count("every", every)
        if every > MAX_STEPS:
            raise SpecError(f"every={every}: must be at most {MAX_STEPS}")
        self.changes: list[tuple[int, str]] = []
        self._loader = loader
        self._every = every
        self._given_bounds = bounds
        self._segment_bytes = max(
            (shard.get_raw_size() for shard in loader.dataset.shards if not shard.in_place), default=0
        )
        self._max_depth: int | None = None
        self._history = History()
        self._stats = loader.stats()
        self._steps, self._window_stop = 0, every
        loader.clock.steps.clear()

    @property
    def bounds(self) -> Bounds:
        """How far the settings may go on this machine, once the loader has given a batch.

        Batches in flight may take half of the shared memory that was free at first (or of the memory, where that is
        less), and segments fetched ahead the cache's limit; every rank of the node its part.
        """
        loader, dataset = self._loader, self._loader.dataset
        world, workers = dataset.node_world, max(loader.num_workers, 1)
        if self._max_depth is None:  # once: later, what is in flight may be taken for free
            free = psutil.virtual_memory().available
            if _SHARED_MEMORY.exists():
                free = min(free, shutil.disk_usage(_SHARED_MEMORY).free)
            more = int(_MEMORY_SHARE * free / world.ranks_per_node / max(loader.batch_bytes * workers, 1))
            self._max_depth = min((loader.prefetch_factor or 0) + more, MAX_PREFETCH_FACTOR)
        depth = self._max_depth
        if not self._segment_bytes:
            return Bounds(dataset.predownload, depth, dataset.predownload, downloads=False)
        ahead = max(dataset.cache_limit / self._segment_bytes - dataset.num_lanes / world.num_nodes, 0.0)
        clips_per_segment = dataset.num_samples / dataset.num_shards
        return Bounds(
            max_predownload=int(ahead / (world.ranks_per_node * workers) * clips_per_segment),
            max_prefetch_factor=depth,
            min_predownload=int(dataset.batch_size or 1),
        )

    @property
    def settings(self) -> Settings:
        """As they are."""
        return Settings(self._loader.dataset.predownload, self._loader.prefetch_factor)

    def step(self) -> dict[str, float] | None:
        """Call once for each batch that was trained on.

        Returns:
            At the end of a window, what to log: ``data/stall_fraction`` (0 to 1), ``data/predownload`` (samples),
            ``data/prefetch_factor`` (batches; 0 without workers), ``data/bottleneck`` (its place in
            core.tuner.BOTTLENECKS: 0 none, 1 download, 2 decode, 3 uneven). None otherwise.
        """
        self._steps += 1
        if self._steps < self._window_stop:
            return None
        seen = self._observe()
        if seen is None:
            return None  # a GPU that is far behind: what it waited for is not known yet
        self._window_stop = self._steps + self._every
        decision = tune(self.settings, seen, self._given_bounds or self.bounds, self._history)
        self._apply(decision)
        return {
            "data/stall_fraction": seen.stall_fraction,
            "data/predownload": float(decision.settings.predownload),
            "data/prefetch_factor": float(decision.settings.prefetch_factor or 0),
            "data/bottleneck": float(BOTTLENECKS.index(decision.bottleneck)),
        }

    def _observe(self) -> Observation | None:
        stats = self._loader.stats()
        steps = list(self._loader.clock.steps)
        if not steps:
            return None
        self._loader.clock.steps.clear()
        before, self._stats = self._stats, stats
        # The median, since the gap between two batches may hold a validation or a checkpoint.
        busy = median(step.busy_seconds for step in steps) * len(steps)
        stall = sum(step.stall_seconds for step in steps)
        names = ("download_seconds", "decode_seconds", "transform_seconds")
        spent = {name: stats[name] - before[name] for name in names}
        if not self._segment_bytes:
            spent["download_seconds"] = 0.0  # in place, it was the host's threads that were waited for
        return Observation(busy + stall, stall, **spent, num_workers=self._loader.num_workers)

    def _apply(self, decision: Decision) -> None:
        before, after = self.settings, decision.settings
        if after.predownload != before.predownload:
            self._loader.dataset.predownload = after.predownload
        if after.prefetch_factor != before.prefetch_factor:
            self._loader.prefetch_factor = after.prefetch_factor
        self._history = decision.history
        if decision.reason:
            self.changes.append((self._steps, decision.reason))
            if self._loader.dataset.rank_world.is_leader:
                # What only the user can mend is shown by default.
                level = logging.WARNING if after == before else logging.INFO
                logger.log(level, "step %d: %s", self._steps, decision.reason)


class TunesPrefetch:
    """What the AdaptivePrefetch callbacks of both frameworks share.

    A callback sets ``predownload`` and ``prefetch_factor`` of the training loader while it runs, by the stalls that it
    sees. The clips and their order stay the same. Every change is told with its reason to Python's logging (logger
    "onetake.stream.tuning": changes at level INFO; what only the user can mend, once, at level WARNING). After every
    window the Trainer's loggers get ``data/stall_fraction`` (the share of the time that training waited),
    ``data/predownload``, ``data/prefetch_factor`` and ``data/bottleneck`` (0 none, 1 download, 2 decode, 3 uneven
    decode times). On several devices each tunes its own loader, and the first one's metrics are logged.

    Args:
        every: steps in a window.
        bounds: how far the settings may go. None: half of the free memory, and the cache's limit.

    Raises:
        SpecError: at the start of training, where the training loader is no VideoLoader.
    """

    def __init__(self, every: int = 20, bounds: Bounds | None = None) -> None:
        self._every = every
        self._bounds = bounds
        self._tuner: LoaderTuner | None = None

    @property
    def changes(self) -> list[tuple[int, str]]:
        """(step of this fit, reason) of every change and advice so far."""
        return self._tuner.changes if self._tuner else []

    def begin_tuning(self, loader: Any) -> None:
        """Training starts on ``loader``."""
        self._tuner = LoaderTuner(loader, self._every, self._bounds)

    def tune_after_step(self) -> dict[str, float] | None:
        """A batch was trained on: what to log, at the end of a window."""
        assert self._tuner is not None
        return self._tuner.step()
