"""Which storage a location names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from onetake.core.errors import SourceError
from onetake.storage.base import Storage
from onetake.storage.local import LocalStorage

__all__ = ["open_storage"]


def open_storage(location: str) -> Storage:
    """The place that a path or a URL names. Nothing is asked of it yet.

    Raises:
        SourceError: a scheme that cannot be read.
    """
    parts = urlsplit(location)
    if parts.scheme == "file":
        location = unquote(parts.path)
    elif "://" in location:
        raise SourceError(f"{location}: only folders of this machine and file:// URLs can be read so far")
    return LocalStorage(Path(location).expanduser())
