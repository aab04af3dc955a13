"""Containers of Azure Blob Storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onetake.core.errors import SourceError
from onetake.storage.base import Entry
from onetake.storage.bucket import ATTEMPTS, Body, BucketStorage, Fault, fault_of_status, object_size, widened

__all__ = ["AzureStorage", "open_azure"]

_AT_ONCE = 32 << 20  # bytes of a request; the client holds them in memory


class AzureStorage(BucketStorage):
    """Blobs of a container.

    ``AZURE_ACCOUNT_NAME`` names the account and ``AZURE_ACCOUNT_ACCESS_KEY`` holds its key, as for streaming; or
    ``AZURE_STORAGE_CONNECTION_STRING`` says both, as for Azure's own tools. Without a key, the machine's or the
    user's identity is used. Ranges of more than 32 MiB take a request for each 32 MiB.

    Args:
        account: the account, if the environment doesn't name one.
    """

    remedy = (
        "check the credentials (AZURE_ACCOUNT_NAME and AZURE_ACCOUNT_ACCESS_KEY, or AZURE_STORAGE_CONNECTION_STRING, "
        "or `az login`), and that they may read and list it"
    )

    def __init__(self, location: str, bucket: str, prefix: str, account: str | None = None) -> None:
        super().__init__(location, bucket, prefix)
        self._account = account

    def _connect(self) -> Any:
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import ContainerClient, ExponentialRetry
        from requests import Session

        options = {
            "transport": RequestsTransport(session=widened(Session()), session_owner=False),
            "max_single_get_size": _AT_ONCE,
            "max_chunk_get_size": _AT_ONCE,
            "retry_policy": ExponentialRetry(
                initial_backoff=1,
                increment_base=2,
                retry_total=ATTEMPTS,
                random_jitter_range=1,
                retry_connect=ATTEMPTS,
                retry_read=ATTEMPTS,
                retry_status=ATTEMPTS,
            ),
        }
        account = os.environ.get("AZURE_ACCOUNT_NAME") or self._account
        key = os.environ.get("AZURE_ACCOUNT_ACCESS_KEY")
        connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        if not key and connection:
            return ContainerClient.from_connection_string(connection, self.bucket, **options)
        if not account:
            raise SourceError(
                f"{self.location}: the account is not known; set AZURE_ACCOUNT_NAME, or write "
                "azure://ACCOUNT.blob.core.windows.net/CONTAINER/PATH"
            )
        if not key:
            from azure.identity import DefaultAzureCredential
        return ContainerClient(
            f"https://{account}.blob.core.windows.net",
            self.bucket,
            credential=key or DefaultAzureCredential(),
            **options,
        )

    def _pages(self, prefix: str) -> Iterator[Entry]:
        for blob in self.client.list_blobs(name_starts_with=prefix or None):
            yield Entry(blob.name, blob.size, blob.etag.strip('"'))

    def _head(self, key: str) -> Entry:
        found = self.client.get_blob_client(key).get_blob_properties()
        return Entry(key, found.size, found.etag.strip('"'))  # with quotes, which a list has not

    def _get(self, key: str, start: int, length: int, version: str | None) -> Body:
        from azure.core import MatchConditions

        pinned = {"etag": f'"{version}"', "match_condition": MatchConditions.IfNotModified} if version else {}
        answer = self.client.download_blob(
            key, offset=start, length=length, max_concurrency=1, decompress=False, **pinned
        )
        found = answer.properties
        size = object_size(found.content_range, found.size, start)
        return Body(size, found.etag.strip('"'), answer.chunks(), lambda: None)

    def _put(self, key: str, source: Path) -> None:
        with source.open("rb") as file:
            self.client.upload_blob(key, file, overwrite=True)

    def _remove(self, key: str) -> None:
        self.client.delete_blob(key)

    def _fault(self, error: Exception) -> tuple[Fault, str] | None:
        from azure.core import exceptions as azure

        if isinstance(error, azure.ClientAuthenticationError):
            return Fault.REFUSED, _code(error)
        if isinstance(error, azure.HttpResponseError):
            missing = Fault.NO_BUCKET if _code(error) == "ContainerNotFound" else Fault.MISSING
            return fault_of_status(error.status_code, missing), _code(error)
        if isinstance(error, azure.AzureError):
            return Fault.OTHER, type(error).__name__
        return None


def _code(error: Any) -> str:
    """The service's name for an error. Not its text, which can say what was signed."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or f"{error.status_code or ''} {type(error).__name__}".strip())


def open_azure(location: str, host: str, path: str) -> AzureStorage:
    """``az://CONTAINER/PATH``; or ``azure://ACCOUNT.blob.core.windows.net/CONTAINER/PATH``, as streaming writes it."""
    if location.startswith("azure:"):
        container, _, prefix = path.partition("/")
        return AzureStorage(location, container, prefix, host.partition(".")[0])
    return AzureStorage(location, host, path)
