"""Buckets that speak S3: Amazon's own, MinIO, R2, Ceph and others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onetake.core.errors import SourceError
from onetake.storage.base import Entry
from onetake.storage.bucket import ATTEMPTS, CHUNK, CONNECTIONS, Body, BucketStorage, Fault, object_size

__all__ = ["S3Storage", "make_client"]

_FAULTS = {
    "404": Fault.MISSING,
    "NoSuchKey": Fault.MISSING,
    "NotFound": Fault.MISSING,
    "NoSuchBucket": Fault.NO_BUCKET,
    "412": Fault.CHANGED,
    "PreconditionFailed": Fault.CHANGED,
    "416": Fault.BEYOND_END,
    "InvalidRange": Fault.BEYOND_END,
    "400": Fault.REFUSED,  # what asking for an object's header is answered, as it can't say more, to an expired token
    "401": Fault.REFUSED,
    "403": Fault.REFUSED,
    "AccessDenied": Fault.REFUSED,
    "AllAccessDisabled": Fault.REFUSED,
    "AuthorizationHeaderMalformed": Fault.REFUSED,
    "ExpiredToken": Fault.REFUSED,
    "Forbidden": Fault.REFUSED,
    "InvalidAccessKeyId": Fault.REFUSED,
    "InvalidToken": Fault.REFUSED,
    "SignatureDoesNotMatch": Fault.REFUSED,
}


class S3Storage(BucketStorage):
    """Objects of an S3 bucket.

    Credentials and settings are found as boto3 finds them (environment, profile, role of the machine), without any
    the bucket is read as a public one; and as streaming does: ``S3_ENDPOINT_URL`` names another server than Amazon's,
    ``MOSAICML_STREAMING_AWS_REQUESTER_PAYS`` the buckets (by commas) of which the reader pays, ``S3_CANNED_ACL`` the
    rights of what is written. ``AWS_MAX_ATTEMPTS`` sets how often a request is tried.
    """

    remedy = (
        "check the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), that they may read and "
        "list it, and, if its readers pay, that MOSAICML_STREAMING_AWS_REQUESTER_PAYS names the bucket"
    )

    def _connect(self) -> Any:
        try:
            return make_client(endpoint_url=os.environ.get("S3_ENDPOINT_URL") or None)
        except ValueError:
            raise SourceError(
                f"{self.location}: the endpoint (S3_ENDPOINT_URL) must be a URL, such as https://minio.example.com"
            ) from None

    @property
    def _whose(self) -> dict[str, str]:
        paying = os.environ.get("MOSAICML_STREAMING_AWS_REQUESTER_PAYS", "").split(",")
        payer = {"RequestPayer": "requester"} if self.bucket in map(str.strip, paying) else {}
        return {"Bucket": self.bucket, **payer}

    def _pages(self, prefix: str) -> Iterator[Entry]:
        for page in self.client.get_paginator("list_objects_v2").paginate(**self._whose, Prefix=prefix):
            for found in page.get("Contents", ()):
                yield Entry(found["Key"], found["Size"], found["ETag"].strip('"'))

    def _head(self, key: str) -> Entry:
        found = self.client.head_object(**self._whose, Key=key)
        return Entry(key, found["ContentLength"], found["ETag"].strip('"'))

    def _get(self, key: str, start: int, length: int, version: str | None) -> Body:
        pinned = {} if version is None else {"IfMatch": f'"{version}"'}
        answer = self.client.get_object(**self._whose, **pinned, Key=key, Range=f"bytes={start}-{start + length - 1}")
        size = object_size(answer.get("ContentRange"), answer["ContentLength"], start)
        body = answer["Body"]
        return Body(size, answer["ETag"].strip('"'), body.iter_chunks(CHUNK), body.close)

    def _put(self, key: str, source: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        acl = os.environ.get("S3_CANNED_ACL")
        options = {**self._whose, **({"ACL": acl} if acl else {})}
        with source.open("rb") as file:
            self.client.upload_fileobj(
                file,
                options.pop("Bucket"),
                key,
                ExtraArgs=options,
                Config=TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, use_threads=False),
            )

    def _remove(self, key: str) -> None:
        self.client.delete_object(**self._whose, Key=key)

    def _fault(self, error: Exception) -> tuple[Fault, str] | None:
        from botocore import exceptions as botocore

        credentials = (
            botocore.NoCredentialsError,
            botocore.PartialCredentialsError,
            botocore.CredentialRetrievalError,
            botocore.ProfileNotFound,
            botocore.SSOError,
        )
        if isinstance(error, botocore.ClientError):
            said = error.response.get("Error", {})
            code, message = str(said.get("Code", "")), str(said.get("Message", ""))
            return _FAULTS.get(code, Fault.OTHER), f"{code}: {message}" if message and not code.isdigit() else code
        if isinstance(error, credentials):
            return Fault.REFUSED, str(error)
        if isinstance(error, botocore.BotoCoreError):
            return Fault.OTHER, type(error).__name__
        return None


def make_client(**options: Any) -> Any:
    """A client of boto3's for S3; without credentials anywhere, one for public buckets.

    Args:
        **options: what ``Session.client`` takes.
    """
    import botocore.session
    from boto3.session import Session
    from botocore import UNSIGNED
    from botocore.config import Config

    session = botocore.session.get_session()
    known = "aws_access_key_id" in options or session.get_credentials() is not None
    config = Config(
        signature_version=None if known else UNSIGNED,
        # Not mode "standard": there all threads of a client draw retries on one quota, which is used up as soon as a
        # server is away for a second.
        retries={
            "mode": os.environ.get("AWS_RETRY_MODE", "legacy"),
            "total_max_attempts": session.get_config_variable("max_attempts") or ATTEMPTS,
        },
        max_pool_connections=CONNECTIONS,
        # Servers other than Amazon's don't know the check sums that newer clients add to every request.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session(botocore_session=session).client("s3", config=config, **options)
