"""Who is alive: a process holds a lock on a file of its own, which the system takes from it when it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from secrets import token_hex

__all__ = ["Owner", "is_alive"]

_open_descriptors: set[int] = set()


class Owner:
    """This process, as others see it. Its children don't inherit the name, and a kill ends it.

    Args:
        folder: where the lock files are.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"{os.getpid()}-{token_hex(4)}"
        self._pid = os.getpid()
        # Not filelock's: a forked child that drops one of these unlocks it for its parent, too.
        self._descriptor = os.open(folder / self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _open_descriptors.add(self._descriptor)

    def end(self) -> None:
        """Let go of the name, as the end of the process would."""
        if self._pid == os.getpid() and self._descriptor in _open_descriptors:
            _open_descriptors.discard(self._descriptor)
            os.close(self._descriptor)


def is_alive(folder: Path, name: str) -> bool:
    """Whether the process of that name still runs."""
    try:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: several may ask at once
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _close_inherited() -> None:
    # A lock lasts until the last copy of its descriptor is closed: a child must not outlive its parent's name.
    while _open_descriptors:
        os.close(_open_descriptors.pop())


os.register_at_fork(after_in_child=_close_inherited)
