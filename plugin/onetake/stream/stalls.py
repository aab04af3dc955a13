"""How long the training loop waits for batches; on a GPU, only while that has nothing to do."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any, NamedTuple

import torch

__all__ = ["MAX_STEPS", "StallClock", "Step"]

MAX_STEPS = 1000  # kept for whoever looks at them


class Step(NamedTuple):
    """One batch handed out.

    Attributes:
        busy_seconds: from the handing out of the batch before to the asking for this one.
        stall_seconds: waited for this one.
    """

    busy_seconds: float
    stall_seconds: float


class StallClock:
    """Times the waits of one loader. Not thread-safe.

    Where a GPU is in use, the host runs ahead of it, and waits without harm while queued kernels keep it busy: what
    counts is the time between two events recorded at the start and at the end of the wait, which is how long the
    GPU stood idle in between. It is known only once the GPU has come that far.

    Args:
        cuda: stands in for torch.cuda in tests.

    Attributes:
        stall_seconds: sum over all batches.
        longest_seconds: the longest of them.
        first_seconds: what of the sum was waited for the first batches of iterations, while workers start.
        steps: the latest batches, but for first ones, until somebody takes them.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self.stall_seconds = 0.0
        self.longest_seconds = 0.0
        self.first_seconds = 0.0
        self.steps: deque[Step] = deque(maxlen=MAX_STEPS)
        self._cuda = cuda
        self._handed_out: float | None = None
        self._unsettled: deque[tuple[Any, Any, float | None, float]] = deque()

    def begin(self) -> None:
        """A new iteration starts."""
        self._handed_out = None

    def asked(self) -> None:
        """The training loop asks for a batch."""
        self._event = self._record()
        self._asked = perf_counter()

    def got(self) -> None:
        """It gets the batch."""
        now = perf_counter()
        busy = None if self._handed_out is None else self._asked - self._handed_out
        self._handed_out = now
        self._unsettled.append((self._event, self._event and self._record(), busy, now - self._asked))
        self.settle()

    def settle(self) -> None:
        """Take in what the GPU has got to by now."""
        while self._unsettled and (self._unsettled[0][1] is None or self._unsettled[0][1].query()):
            start, end, busy, waited = self._unsettled.popleft()
            stall = waited if end is None else min(start.elapsed_time(end) / 1000, waited)
            self.stall_seconds += stall
            self.longest_seconds = max(self.longest_seconds, stall)
            if busy is None:
                self.first_seconds += stall
            else:
                self.steps.append(Step(busy + waited - stall, stall))

    def _record(self) -> Any:
        if not self._cuda.is_initialized():
            return None
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event
