"""Which storage a location names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from onetake.core.errors import SourceError
from onetake.storage.azure import open_azure
from onetake.storage.base import Storage
from onetake.storage.gs import open_gs
from onetake.storage.local import LocalStorage
from onetake.storage.s3 import S3Storage

__all__ = ["is_url", "open_storage"]

_BUCKETS = {"s3": S3Storage, "gs": open_gs, "az": open_azure, "azure": open_azure}


def is_url(location: str) -> bool:
    """Whether it is the URL of a bucket, and no path."""
    return "://" in location and urlsplit(location).scheme != "file"


def open_storage(location: str) -> Storage:
    """The place that a path or a URL names: s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH (or as streaming
    writes it, azure://ACCOUNT.blob.core.windows.net/CONTAINER/PATH), file:///PATH. Nothing is asked of it yet.

    Raises:
        SourceError: a scheme that cannot be read, or a URL without a bucket.
    """
    if not is_url(location):
        parts = urlsplit(location)
        return LocalStorage(Path(unquote(parts.path) if parts.scheme == "file" else location).expanduser())
    scheme, _, rest = location.partition("://")
    if scheme not in _BUCKETS:
        known = ", ".join(f"{name}://" for name in (*_BUCKETS, "file"))
        raise SourceError(f"{location}: {scheme}:// can't be read; use a path, or a URL that begins with {known}")
    bucket, _, path = rest.partition("/")
    return _BUCKETS[scheme](location, bucket, path)
