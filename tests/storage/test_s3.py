"""S3, against moto's server in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle

import pytest

from onetake.core.errors import FileChangedError, SourceError
from onetake.storage.open import open_storage
from onetake.storage.s3 import S3Storage


@pytest.fixture
def bucket(s3) -> S3Storage:
    return open_storage(s3())


@pytest.fixture
def put(bucket, s3_client):
    def put(key: str, data: bytes = b"x") -> None:
        s3_client.put_object(Bucket=bucket.bucket, Key=key, Body=data)

    return put


def test_settings_are_those_of_streaming(bucket, put, monkeypatch):
    """``S3_ENDPOINT_URL`` reaches the server (as every test here shows); the reader pays where the list says so."""
    put("a")
    asked = []
    bucket.client.meta.events.register("before-send.s3", lambda request, **_: asked.append(dict(request.headers)))
    bucket.stat("a"), bucket.read("a", 0, 1), list(bucket.list())
    assert [headers.get("x-amz-request-payer") for headers in asked] == [None] * 3
    asked.clear()
    monkeypatch.setenv("MOSAICML_STREAMING_AWS_REQUESTER_PAYS", f"other, {bucket.bucket}")
    bucket.stat("a"), bucket.read("a", 0, 1), list(bucket.list())
    assert [headers.get("x-amz-request-payer") for headers in asked] == [b"requester"] * 3


def test_without_credentials_a_bucket_is_read_as_a_public_one(bucket, put, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"public")
    put("private")
    monkeypatch.setenv("S3_CANNED_ACL", "public-read")
    bucket.write("a", tmp_path / "a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    public = open_storage(bucket.location)
    assert public.read_all("a") == b"public"
    with pytest.raises(SourceError, match=r"private may not be accessed \(403\): check the credentials \(AWS_PROFILE"):
        public.read_all("private")


def test_a_large_file_is_put_in_parts(bucket, tmp_path, monkeypatch):
    import boto3.s3.transfer

    whole = boto3.s3.transfer.TransferConfig
    small = {"multipart_threshold": 5 << 20, "multipart_chunksize": 5 << 20}
    monkeypatch.setattr(boto3.s3.transfer, "TransferConfig", lambda **options: whole(**{**options, **small}))
    data = os.urandom(11 << 20)
    (tmp_path / "large").write_bytes(data)
    bucket.write("large", tmp_path / "large")
    assert bucket.read_all("large") == data
    assert bucket.stat("large").version.endswith("-3")  # as many parts
    assert bucket.stat("large") == next(bucket.list())


def _read_in_child(storage, answers):
    answers.put((storage.read("a", 1, 2), os.getpid() in storage._clients))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_has_a_client_of_its_own(bucket, put, method):
    put("a", b"abcd")
    assert bucket.read("a", 0, 4) == b"abcd"
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(bucket, answers), daemon=True)
    child.start()
    try:
        assert answers.get() == (b"bc", True)
        child.join(30)
    finally:
        child.kill()
    assert bucket.read("a", 0, 4) == b"abcd"


def test_pickling_leaves_the_client_behind(bucket, put):
    put("a", b"abcd")
    bucket.client  # noqa: B018
    assert pickle.loads(pickle.dumps(bucket)).read_all("a") == b"abcd"


def test_a_bucket_that_is_not_there(s3):
    s3()
    missing = open_storage("s3://no-such-bucket/videos")
    for ask in (missing.check, lambda: list(missing.list()), lambda: missing.read("a", 0, 1)):
        with pytest.raises(SourceError, match="s3://no-such-bucket/videos: there is no bucket 'no-such-bucket'"):
            ask()


def test_a_server_that_is_not_there(s3, monkeypatch):
    s3()
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OSError, match=r"EndpointConnectionError.*s3://bucket/a"):
        open_storage("s3://bucket").stat("a")


def test_an_endpoint_that_is_no_url(s3, monkeypatch):
    s3()
    monkeypatch.setenv("S3_ENDPOINT_URL", "nonsense")
    with pytest.raises(SourceError, match=r"s3://bucket: .*S3_ENDPOINT_URL.*must be a URL, such as http"):
        open_storage("s3://bucket").stat("a")


def test_a_profile_that_is_not_there(s3, monkeypatch):
    s3()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SourceError, match=r"s3://bucket/a may not be accessed \(.*nobody.*AWS_PROFILE"):
        open_storage("s3://bucket").stat("a")


def test_an_object_replaced_between_two_requests(bucket, put):
    put("a", b"first")
    version = bucket.stat("a").version
    put("a", b"other")
    assert bucket.stat("a").version != version
    with pytest.raises(FileChangedError, match="a was replaced since it was last looked at"):
        bucket.read("a", 0, 2, version)
