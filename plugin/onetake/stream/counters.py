"""What a worker counts: decode work, and what its time goes into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from time import perf_counter_ns

from onetake.decode.decoder import Count, Counters

__all__ = ["Count", "Counters", "Spent", "spending"]


class Spent(IntEnum):
    """What a worker's time goes into, in nanoseconds; counted in the places behind those of Count.

    What is left is spent on putting batches together, or idle: the worker is as far ahead as it may be.
    """

    DOWNLOAD = len(Count)  # the bytes of the next clip are not there yet
    DECODE = len(Count) + 1
    TRANSFORM = len(Count) + 2  # transform and sample_transform


@contextmanager
def spending(counters: Counters, what: Spent) -> Iterator[None]:
    """Count the time within as ``what``."""
    started = perf_counter_ns()
    try:
        yield
    finally:
        counters[what] += perf_counter_ns() - started
