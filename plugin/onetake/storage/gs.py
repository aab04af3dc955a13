"""Buckets of Google Cloud Storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from onetake.storage.base import Entry
from onetake.storage.bucket import CHUNK, Body, BucketStorage, Fault, fault_of_status, object_size, widened
from onetake.storage.s3 import S3Storage, make_client

__all__ = ["GoogleHmacStorage", "GoogleStorage", "open_gs"]

_REMEDY = (
    "check the credentials (GCS_KEY and GCS_SECRET, or Application Default Credentials: "
    "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`), and that they may read and list it"
)
_TIMEOUT_SECONDS = 60


class _Client(NamedTuple):
    """Google's client, and the session with which it asks; a body is read from the latter, which streams one."""

    storage: Any
    session: Any


class GoogleStorage(BucketStorage):
    """Objects of a bucket of Google's, with the Application Default Credentials; without any, of a public one.

    ``STORAGE_EMULATOR_HOST`` names another server, which asks for none, as everywhere in Google's client.
    """

    remedy = _REMEDY

    def _connect(self) -> _Client:
        from google.auth import default
        from google.auth.credentials import AnonymousCredentials
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import AuthorizedSession
        from google.cloud.storage import Client

        credentials, project = AnonymousCredentials(), None
        if "STORAGE_EMULATOR_HOST" not in os.environ:
            with suppress(DefaultCredentialsError):
                credentials, project = default(scopes=("https://www.googleapis.com/auth/devstorage.read_write",))
        session = widened(AuthorizedSession(credentials))
        return _Client(Client(project=project, credentials=credentials, _http=session), session)

    def _pages(self, prefix: str) -> Iterator[Entry]:
        fields = "nextPageToken,items(name,size,generation)"
        for blob in self.client.storage.list_blobs(self.bucket, prefix=prefix or None, fields=fields):
            yield Entry(blob.name, blob.size, str(blob.generation))

    def _blob(self, key: str) -> Any:
        return self.client.storage.bucket(self.bucket).blob(key)

    def _head(self, key: str) -> Entry:
        blob = self._blob(key)
        blob.reload()
        return Entry(key, blob.size, str(blob.generation))

    def _get(self, key: str, start: int, length: int, version: str | None) -> Body:
        from google.api_core.exceptions import from_http_response
        from google.cloud.storage.retry import DEFAULT_RETRY

        client = self.client
        parameters = {"alt": "media", **({} if version is None else {"ifGenerationMatch": version})}
        url = f"{client.storage.api_endpoint}/download/storage/v1/b/{self.bucket}/o/{quote(key, safe='')}"
        headers = {
            "Range": f"bytes={start}-{start + length - 1}",
            "Accept-Encoding": "gzip",  # or what is stored compressed would come unpacked, whatever the range
        }

        def ask() -> Any:
            answer = client.session.get(url, params=parameters, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)
            if not answer.ok:
                raise from_http_response(answer)
            return answer

        answer = DEFAULT_RETRY(ask)()
        size = object_size(answer.headers.get("Content-Range"), int(answer.headers.get("Content-Length", 0)), start)
        chunks = answer.raw.stream(CHUNK, decode_content=False)
        return Body(size, answer.headers["X-Goog-Generation"], chunks, answer.close)

    def _put(self, key: str, source: Path) -> None:
        from google.cloud.storage.retry import DEFAULT_RETRY

        # The client repeats only what it knows to be harmless twice, as putting the same bytes there is.
        self._blob(key).upload_from_filename(str(source), retry=DEFAULT_RETRY)

    def _remove(self, key: str) -> None:
        from google.cloud.storage.retry import DEFAULT_RETRY

        self._blob(key).delete(retry=DEFAULT_RETRY)

    def _fault(self, error: Exception) -> tuple[Fault, str] | None:
        from google.api_core import exceptions as google
        from google.auth.exceptions import GoogleAuthError

        if isinstance(error, google.RetryError):
            error = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(error, google.GoogleAPICallError):
            reason = f"{int(error.code)} {type(error).__name__}" if error.code else type(error).__name__
            missing = Fault.NO_BUCKET if "bucket does not exist" in str(error.message) else Fault.MISSING
            return fault_of_status(error.code, missing), reason
        if isinstance(error, GoogleAuthError):
            return Fault.REFUSED, type(error).__name__
        if isinstance(error, OSError | google.GoogleAPIError):
            return Fault.OTHER, type(error).__name__
        return None


class GoogleHmacStorage(S3Storage):
    """Objects of a bucket of Google's, by its S3 interface and a key of the kind HMAC, as streaming uses them."""

    remedy = _REMEDY

    def _connect(self) -> Any:
        return make_client(
            region_name="auto",
            endpoint_url="https://storage.googleapis.com",
            aws_access_key_id=os.environ["GCS_KEY"],
            aws_secret_access_key=os.environ["GCS_SECRET"],
        )


def open_gs(location: str, bucket: str, prefix: str) -> BucketStorage:
    """By ``GCS_KEY`` and ``GCS_SECRET`` where both are set, else by the Application Default Credentials."""
    hmac = "GCS_KEY" in os.environ and "GCS_SECRET" in os.environ
    return (GoogleHmacStorage if hmac else GoogleStorage)(location, bucket, prefix)
