"""A cache belongs to one machine: locks and counts don't reach beyond it.

Machines that share a folder notice each other by a file that each of them touches for as long as it uses the folder.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from onetake.core.errors import CacheError

__all__ = ["NodeMark"]

_TOUCH_SECONDS = 2.0
_WATCH_SECONDS = 8.0  # after which a machine that has not touched its file is gone
_LONG_AGO_SECONDS = 60.0


def node_id() -> str:
    """Another text for each machine, and after each of its restarts; the same in all of its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


class NodeMark:
    """Marks a folder as used by this machine, until ``end`` or the process's own end.

    Args:
        folder: where machines leave their marks.

    Raises:
        CacheError: another machine uses it.
        OSError: it can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._ended = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / node_id()
        self._path.write_text(socket.gethostname())
        threading.Thread(target=_keep_touching, args=(self._path, self._ended), daemon=True).start()
        try:
            for other in folder.iterdir():
                if other != self._path and _is_touched(other, _touched_at(self._path)):
                    raise CacheError(
                        f"the cache {folder.parent.parent} is in use by another machine ({other.read_text()!r}): one "
                        "would delete what the other reads. Give a local= on a disk of this machine, or a folder for "
                        "each machine"
                    )
        except BaseException:
            self.end()
            self._path.unlink(missing_ok=True)
            raise

    def end(self) -> None:
        """Mark it no longer. The mark stays: other processes of this machine may go on."""
        self._ended.set()

    def __del__(self) -> None:
        self.end()


def _keep_touching(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_TOUCH_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _touched_at(path: Path) -> float:
    """By the clock of the folder's own server, so that clocks need not agree."""
    with path.open("rb") as file:  # opened, so that a network file system asks its server
        return os.fstat(file.fileno()).st_mtime


def _is_touched(other: Path, now: float) -> bool:
    """Whether a machine is there, seen by its mark; that of one that is gone is deleted."""
    with suppress(FileNotFoundError):
        before = _touched_at(other)
        deadline = time.monotonic() + (_WATCH_SECONDS if now - before < _LONG_AGO_SECONDS else 0)
        while time.monotonic() < deadline:
            time.sleep(_TOUCH_SECONDS / 4)
            if _touched_at(other) != before:
                return True
        other.unlink()
    return False
