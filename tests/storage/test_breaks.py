"""Answers that fail or break off: by a proxy before moto's server, that spoils them as it is told."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onetake.core.errors import FileChangedError
from onetake.storage import bucket as bucket_module
from onetake.storage.open import open_storage
from onetake.storage.s3 import S3Storage
from tests.proxy import BREAKS, Proxy, proxied

DATA = os.urandom(3 << 20)


@pytest.fixture
def proxy(s3, s3_server, monkeypatch) -> Proxy:
    with proxied(s3_server) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        monkeypatch.setattr(bucket_module.time, "sleep", lambda seconds: None)
        yield proxy


@pytest.fixture
def bucket(s3, proxy, tmp_path) -> S3Storage:
    storage = open_storage(s3())
    (tmp_path / "data").write_bytes(DATA)
    storage.write("a", tmp_path / "data")
    return storage


def first(*hows):
    """Spoil the first answers so, and leave the others."""
    left = list(hows)
    return lambda method, path: left.pop(0) if left and method == "GET" else None


@pytest.mark.parametrize("how", BREAKS)
def test_a_range_survives_an_answer_that_is_spoilt(bucket, proxy, tmp_path, how):
    proxy.spoil = first(how)
    entry = bucket.copy("a", 1000, 2 << 20, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA[1000 : 1000 + (2 << 20)]
    assert entry == bucket.stat("a")
    assert [request.how for request in proxy.gets()] == [how, "206"]


def test_what_broke_off_is_read_on_where_it_ended(bucket, proxy):
    proxy.spoil = first("truncate", "truncate", "truncate")
    assert bucket.read("a", 100, 1 << 20) == DATA[100 : 100 + (1 << 20)]
    stop = 100 + (1 << 20)
    assert [request.range for request in proxy.gets()] == [
        (100, stop), (100 + (1 << 19), stop), (100 + (3 << 18), stop), (100 + (7 << 17), stop)
    ]  # fmt: skip
    assert sum(request.sent for request in proxy.gets()) == 1 << 20


def test_a_file_replaced_while_it_is_read_is_an_error_and_no_mixture(bucket, proxy, tmp_path):
    (tmp_path / "data").write_bytes(DATA[::-1])

    proxy.spoil = first("truncate")
    chunks = bucket._chunks("a", 0, len(DATA), None)
    assert next(chunks) == DATA[: 1 << 20]
    bucket.write("a", tmp_path / "data")
    with pytest.raises(FileChangedError, match="a was replaced"):
        list(chunks)


def test_a_body_that_never_ends_well_is_given_up(bucket, proxy):
    proxy.spoil = lambda method, path: "truncate" if method == "GET" else None
    with pytest.raises(OSError, match="broke off 11 times") as error:
        bucket.read("a", 0, 1 << 20)
    assert error.value.filename == f"{bucket.location}/a"


def test_many_threads_survive_a_server_that_is_away(bucket, proxy, monkeypatch):
    """botocore's mode "standard" gives up all attempts of all threads after a hundred."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "121")  # whichever threads meet the spoilt answers, here without a wait
    bucket = open_storage(bucket.location)
    proxy.spoil = first(*["503"] * 120)
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda start: bucket.read("a", start, 10), range(150)))
    assert found == [DATA[start : start + 10] for start in range(150)]


def test_a_disk_that_is_full_is_no_break(bucket, proxy):
    with pytest.raises(OSError, match="No space left"):
        bucket.copy("a", 0, 1 << 20, Path("/dev/full"))
    assert len(proxy.gets()) == 1


def test_lists_and_writes_survive_too(bucket, proxy, tmp_path):
    for how in ("503", "500", "reset"):
        left = [how, how]
        proxy.spoil = lambda method, path, left=left: left.pop() if left else None
        (tmp_path / "small").write_bytes(how.encode())
        bucket.write(how, tmp_path / "small")
        assert bucket.read_all(how) == how.encode()
        left[:] = [how]
        assert how in [entry.file for entry in bucket.list()]
