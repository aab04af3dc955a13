"""The control law of prefetching: from what was observed in a window of steps to the next settings, with a reason.

    stalls     workers                            bottleneck   what is done
    ------     -------                            ----------   ------------
    up to 1%   any                                none         after CALM_WINDOWS of them, memory is given back
    up to 5%   any                                none         nothing
    more       wait for downloads                 download     predownload is doubled, as long as that helps
    more       decode all the time (BUSY_SHARE)   decode       nothing helps: after STEADY_WINDOWS of them it is said,
                                                               once, how many workers would
    more       neither: some clips take longer    uneven       prefetch_factor is raised by half

A setting that was lowered and then stalled is not lowered to there again. Pure: numbers in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

__all__ = ["BOTTLENECKS", "PREDOWNLOAD_BATCHES", "Bounds", "Decision", "History", "Observation", "Settings", "tune"]

PREDOWNLOAD_BATCHES = 8  # per worker, before anything is tuned
BOTTLENECKS = ("none", "download", "decode", "uneven")  # their places are the numbers that are logged
CALM_FRACTION = 0.01
STALL_FRACTION = 0.05
CALM_WINDOWS = 20
STEADY_WINDOWS = 3
BUSY_SHARE = 0.85  # of the workers' time, from which on they are never ahead
FUTILE_RAISES = 5  # of predownload in a row that do not help, from which on it is left as it is
HELPS = 0.9  # of the least stalls so far, or less, is an improvement
DOWNLOAD_SHARE = 0.2  # of the time that workers were not idle
MAX_WORKERS_NAMED = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set while a loader runs.

    Attributes:
        predownload: samples per worker whose segments are fetched ahead.
        prefetch_factor: batches in flight per worker; None without workers.
    """

    predownload: int
    prefetch_factor: int | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far the settings may go; see Settings for the units.

    Attributes:
        max_predownload, max_prefetch_factor: by the budgets of disk and memory.
        min_predownload, min_prefetch_factor: how much is given back at most when nothing stalls.
        downloads: whether anything is downloaded; not so where videos are read in place.
    """

    max_predownload: int
    max_prefetch_factor: int
    min_predownload: int = 1
    min_prefetch_factor: int = 1
    downloads: bool = True


@dataclass(frozen=True, slots=True)
class Observation:
    """What happened in a window of steps, pauses such as validations left out.

    Attributes:
        seconds: how long the steps took, stalls included.
        stall_seconds: how long of it training waited for batches.
        download_seconds: how long the workers, added up, waited for bytes.
        decode_seconds: how long they decoded.
        transform_seconds: how long they ran the user's transforms.
        num_workers: how many they are; 0: the training process does it all itself.
    """

    seconds: float
    stall_seconds: float
    download_seconds: float
    decode_seconds: float
    transform_seconds: float
    num_workers: int

    @property
    def stall_fraction(self) -> float:
        """The share of the time that training waited, 0 to 1."""
        return min(self.stall_seconds / self.seconds, 1.0) if self.seconds > 0 else 0.0

    @property
    def busy_seconds(self) -> float:
        """How long the workers worked."""
        return self.decode_seconds + self.transform_seconds

    @property
    def bottleneck(self) -> str:
        """One of BOTTLENECKS: why training waited."""
        if self.stall_fraction <= STALL_FRACTION:
            return "none"
        waited = self.download_seconds
        if waited >= self.stall_seconds / 2 and waited >= DOWNLOAD_SHARE * (waited + self.busy_seconds):
            return "download"
        if not self.num_workers or self.busy_seconds >= BUSY_SHARE * self.seconds * self.num_workers:
            return "decode"
        return "uneven"


@dataclass(frozen=True, slots=True)
class History:
    """What the law remembers from window to window; starts empty.

    Attributes:
        calm_windows: windows without stalls, up to the last one.
        decode_windows: windows with the bottleneck "decode", up to the last one.
        least_stall: the least stall fraction since downloads are the bottleneck.
        futile_raises: raises of predownload in a row that did not lower it.
        lowered: the settings that memory was last given back from.
        floor: how far they may be lowered, since less has stalled.
        told: what was said once and is not said again.
    """

    calm_windows: int = 0
    decode_windows: int = 0
    least_stall: float = 2.0
    futile_raises: int = 0
    lowered: Settings | None = None
    floor: Settings | None = None
    told: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        settings: from now on.
        bottleneck: one of BOTTLENECKS.
        reason: a sentence to tell the user; None: there is nothing new to tell.
        history: for the next window.
    """

    settings: Settings
    bottleneck: str
    reason: str | None
    history: History


def tune(settings: Settings, seen: Observation, bounds: Bounds, history: History | None = None) -> Decision:
    """Decide what the settings are to be after a window of steps."""
    history = history or History()
    bottleneck = seen.bottleneck
    if bottleneck == "none":
        return _calm(settings, seen, bounds, history)
    floor = history.lowered or history.floor  # what was given back last was needed
    decode_windows = history.decode_windows
    history = replace(history, calm_windows=0, decode_windows=0, lowered=None, floor=floor)
    share = f"training waited {seen.stall_fraction:.0%} of the time"
    if bottleneck == "download":
        helped = seen.stall_fraction < HELPS * history.least_stall
        least = min(seen.stall_fraction, history.least_stall)
        history = replace(history, least_stall=least, futile_raises=0 if helped else history.futile_raises + 1)
        wanted = min(max(2 * settings.predownload, 1), max(bounds.max_predownload, settings.predownload))
        if wanted > settings.predownload and history.futile_raises < FUTILE_RAISES:
            reason = f"{share}, workers for downloads: predownload {settings.predownload} -> {wanted}"
            return Decision(replace(settings, predownload=wanted), bottleneck, reason, history)
        reason = (
            f"{share}, workers for downloads, and a predownload above {settings.predownload} does not help or does not "
            "fit the cache: the remote is slower than training; more workers download side by side, or raise "
            "cache_limit="
        )
        return _once(settings, bottleneck, reason, history)
    if bottleneck == "decode":
        history = replace(history, decode_windows=decode_windows + 1)
        if history.decode_windows < STEADY_WINDOWS:
            return Decision(settings, bottleneck, None, history)
        return _once(settings, bottleneck, f"{share}, {_decode_bound(seen)}", history)
    now = settings.prefetch_factor or 1
    wanted = min(ceil(1.5 * now), max(bounds.max_prefetch_factor, now))
    if wanted > now:
        reason = f"{share}, for clips that take longer than others: prefetch_factor {now} -> {wanted}"
        return Decision(replace(settings, prefetch_factor=wanted), bottleneck, reason, history)
    reason = (
        f"{share}, for clips that take longer than others, and prefetch_factor={now} can't be raised within the "
        "memory: use more workers, or a smaller batch"
    )
    return _once(settings, bottleneck, reason, history)


def _once(settings: Settings, bottleneck: str, reason: str, history: History) -> Decision:
    """Nothing to be done: say so the first time."""
    known = bottleneck in history.told
    history = replace(history, told=history.told | {bottleneck})
    return Decision(settings, bottleneck, None if known else reason, history)


def _decode_bound(seen: Observation) -> str:
    what = "transforms" if seen.transform_seconds > seen.decode_seconds else "decoding"
    if not seen.num_workers:
        return f"for {what} in the training process itself: give num_workers="
    # So that the workers' work fits into the time that is not waited.
    needed = ceil(seen.busy_seconds / max(seen.seconds - seen.stall_seconds, 1e-9))
    if needed > MAX_WORKERS_NAMED:
        more = "far more workers"
    else:
        more = f"about num_workers={max(needed, seen.num_workers + 1)}"
    return (
        f"and its {seen.num_workers} workers were busy with {what} all the time; prefetching can't help: it takes "
        f"{more}, a smaller frame_size or a larger stride"
    )


def _calm(settings: Settings, seen: Observation, bounds: Bounds, history: History) -> Decision:
    history = replace(history, decode_windows=0, least_stall=2.0, futile_raises=0)
    if seen.stall_fraction > CALM_FRACTION:
        return Decision(settings, "none", None, replace(history, calm_windows=0))
    if history.calm_windows + 1 < CALM_WINDOWS:
        return Decision(settings, "none", None, replace(history, calm_windows=history.calm_windows + 1))
    floor = history.floor or Settings(bounds.min_predownload, bounds.min_prefetch_factor)
    less = settings
    if bounds.downloads:
        less = replace(less, predownload=_lower(settings.predownload, settings.predownload // 2, floor.predownload))
    if settings.prefetch_factor:
        depth = settings.prefetch_factor
        less = replace(less, prefetch_factor=_lower(depth, depth - 1, floor.prefetch_factor or 1))
    if less == settings:
        return Decision(settings, "none", None, replace(history, calm_windows=0, lowered=None))
    changes = [
        f"{name} {before} -> {after}"
        for name, before, after in (
            ("predownload", settings.predownload, less.predownload),
            ("prefetch_factor", settings.prefetch_factor, less.prefetch_factor),
        )
        if before != after
    ]
    reason = f"no stalls in {CALM_WINDOWS} windows, so memory is given back: {', '.join(changes)}"
    return Decision(less, "none", reason, replace(history, calm_windows=0, lowered=settings))


def _lower(value: int, wanted: int, floor: int) -> int:
    """``wanted``, but not below ``floor`` and not above ``value``."""
    return min(max(wanted, floor), value)
