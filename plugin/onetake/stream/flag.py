"""How one process of a rank tells the others to stop, and why."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from onetake.core.errors import OnetakeError

__all__ = ["SharedFlag"]

_MAX_ERROR_BYTES = 4096


class SharedFlag:
    """A flag that all processes sharing it see, with a number and an error that say why: stands in for
    threading.Event."""

    def __init__(self) -> None:
        self._value = torch.full((1,), -1, dtype=torch.int64).share_memory_()
        self._error = torch.zeros(_MAX_ERROR_BYTES, dtype=torch.uint8).share_memory_()

    def set(self, value: int = 0, error: BaseException | None = None) -> None:
        """Raise the flag, unless it is up. An error goes along if it is one of ours, and short enough."""
        if self.is_set():
            return
        data = pickle.dumps(error) if isinstance(error, OnetakeError) else b""
        length = len(data) if len(data) <= _MAX_ERROR_BYTES else 0
        self._error.numpy()[:] = 0
        self._error.numpy()[:length] = np.frombuffer(data[:length], np.uint8)
        self._value[0] = value

    def clear(self) -> None:
        """Take the flag down."""
        self._value[0] = -1

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return int(self._value[0]) >= 0

    @property
    def value(self) -> int:
        """What the flag was set with; -1 while it is down."""
        return int(self._value[0])

    @property
    def error(self) -> Exception | None:
        """The error that the flag was set with, if it could go along."""
        data = self._error.numpy().tobytes()
        return pickle.loads(data) if data[0] else None
