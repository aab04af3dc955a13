"""Where videos and indexes are read from, by byte range."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from onetake.core.errors import SourceError

__all__ = ["Folder", "open_location"]

_CHUNK = 1 << 20


class Folder:
    """A folder of this machine's file system.

    Args:
        root: the folder; need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def size(self, file: str) -> int:
        """Bytes in ``file``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return (self.root / file).stat().st_size

    def copy(self, file: str, start: int, length: int, target: Path) -> None:
        """Write ``length`` bytes of ``file``, from byte ``start`` on, to a new file ``target``."""
        with (self.root / file).open("rb") as source, target.open("wb") as sink:
            source.seek(start)
            left = length
            while left and (chunk := source.read(min(left, _CHUNK))):
                sink.write(chunk)
                left -= len(chunk)


def open_location(location: str) -> Folder:
    """The place that a path or a file:// URL names.

    Raises:
        SourceError: no such folder, or a scheme that cannot be read.
    """
    parts = urlsplit(location)
    if parts.scheme == "file":
        location = unquote(parts.path)
    elif "://" in location:
        raise SourceError(f"{location}: only folders of this machine and file:// URLs can be read so far")
    root = Path(location).expanduser()
    if not root.is_dir():
        raise SourceError(f"the folder {location} {'is a file' if root.exists() else 'does not exist'}: check the path")
    return Folder(root)
