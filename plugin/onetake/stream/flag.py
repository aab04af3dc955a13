"""How one process of a rank tells the others to stop, and why."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from onetake.core.errors import OnetakeError

__all__ = ["SharedFlag"]

_MAX_ERROR_BYTES = 4096


class SharedFlag:
    """Says to all processes of a rank that an iteration is to stop, with a number and an error that say why: stands in
    for threading.Event.

    A process that is late, and still in an earlier iteration, sees that one's flag until it has stopped, and can raise
    no other.
    """

    def __init__(self) -> None:
        self._iteration = torch.zeros(1, dtype=torch.int64).share_memory_()  # the latest
        self._raised = torch.full((2,), -1, dtype=torch.int64).share_memory_()  # in which iteration, with which number
        self._error = torch.zeros(_MAX_ERROR_BYTES, dtype=torch.uint8).share_memory_()
        self._own = 0  # the iteration that this process is in

    def begin(self) -> None:
        """Have a new iteration, whose flag is down. Other processes join it when they come to it."""
        self._iteration += 1

    def join(self) -> None:
        """Be in the latest iteration from now on."""
        self._own = int(self._iteration[0])

    def set(self, value: int = 0, error: BaseException | None = None) -> None:
        """Raise the flag, unless it is up. An error goes along if it is one of ours, and short enough."""
        if self.is_set():
            return
        data = pickle.dumps(error) if isinstance(error, OnetakeError) else b""
        length = len(data) if len(data) <= _MAX_ERROR_BYTES else 0
        self._error.numpy()[:] = 0
        self._error.numpy()[:length] = np.frombuffer(data[:length], np.uint8)
        self._raised[1] = value
        self._raised[0] = self._own

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return int(self._raised[0]) >= self._own

    @property
    def value(self) -> int:
        """What the flag was set with."""
        return int(self._raised[1])

    @property
    def error(self) -> Exception | None:
        """The error that the flag was set with, if it could go along."""
        data = self._error.numpy().tobytes()
        return pickle.loads(data) if data[0] else None
