"""What encoders must not change: how urgently the machine runs this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["usual_priority"]

_THREADS = Path("/proc/self/task")  # Linux


@contextmanager
def usual_priority() -> Iterator[None]:
    """Undo, at the end, what libsvtav1 does where it runs as root (as in most containers): it makes the process that
    encodes a real-time one, and so all that this starts later, which keep each other and the machine from running.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in _THREADS.glob("*"):
            with suppress(ProcessLookupError, PermissionError):  # it ended meanwhile
                if os.sched_getscheduler(int(thread.name)) != policy:
                    os.sched_setscheduler(int(thread.name), policy, parameters)
