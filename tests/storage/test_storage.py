"""What every storage does alike: a folder, and buckets of each kind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onetake.core.errors import FileChangedError, SourceError
from onetake.storage.azure import AzureStorage
from onetake.storage.base import Storage
from onetake.storage.gs import GoogleHmacStorage, GoogleStorage
from onetake.storage.local import LocalStorage
from onetake.storage.open import open_storage
from onetake.storage.s3 import S3Storage
from tests.proxy import proxied
from tests.servers import served
from tests.storage.fakes import BUCKET, AzureHandler, GoogleHandler, new_service

KEY = "c2VjcmV0LWtleQ=="
KINDS = ["folder", "s3", "gs", "az"]
BUCKETS = KINDS[1:]


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """The URL of an empty place of the kind named, and (for the fakes) the handler that serves it, and where."""
    kind = request.param
    for name in ("GCS_KEY", "GCS_SECRET", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    if kind == "folder":
        yield str(tmp_path / "place"), None, None
    elif kind == "s3":
        yield request.getfixturevalue("s3")(), None, None
    else:
        handler = new_service(GoogleHandler if kind == "gs" else AzureHandler)
        with served(handler) as url:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
            monkeypatch.setenv(
                "AZURE_STORAGE_CONNECTION_STRING",
                f"DefaultEndpointsProtocol=http;AccountName=me;AccountKey={KEY};BlobEndpoint={url}/me;",
            )
            yield f"{kind}://{BUCKET}", handler, url


@pytest.fixture
def storage(place) -> Storage:
    return open_storage(place[0])


@pytest.fixture
def put(storage, tmp_path):
    def put(file: str, data: bytes) -> None:
        path = tmp_path / "upload"
        path.write_bytes(data)
        storage.write(file, path)

    return put


every = pytest.mark.parametrize("place", KINDS, indirect=True)
every_bucket = pytest.mark.parametrize("place", BUCKETS, indirect=True)


@every
def test_files_come_back_as_they_were_put(storage, put, tmp_path):
    put("a.mp4", b"0123456789")
    put("sub/ü b#?%.mp4", b"other")
    assert [(entry.file, entry.size) for entry in storage.list()] == [("a.mp4", 10), ("sub/ü b#?%.mp4", 5)]
    assert storage.read("a.mp4", 3, 4) == b"3456"
    assert storage.read("a.mp4", 8, 100) == b"89"
    assert storage.read("a.mp4", 10, 5) == storage.read("a.mp4", 2, 0) == b""
    assert storage.read_all("sub/ü b#?%.mp4") == b"other"
    assert storage.copy("a.mp4", 2, 5, tmp_path / "copy") == storage.stat("a.mp4")
    assert (tmp_path / "copy").read_bytes() == b"23456"
    assert storage.copy("a.mp4", 50, 5, tmp_path / "copy").size == 10
    assert (tmp_path / "copy").read_bytes() == b""
    put("a.mp4", b"replaced")
    assert storage.read_all("a.mp4") == b"replaced"
    put("empty", b"")
    assert storage.read_all("empty") == b""
    storage.check()


@every
def test_list_and_stat_agree(storage, put):
    for number in range(5):  # more than a page of any server
        put(f"{number}.mp4", bytes(number + 1))
    found = list(storage.list())
    assert [entry.file for entry in found] == [f"{number}.mp4" for number in range(5)]
    assert found == [storage.stat(entry.file) for entry in found]


@every
def test_a_version_pins_what_is_read(storage, put, tmp_path):
    put("a.mp4", b"first")
    version = storage.stat("a.mp4").version
    assert storage.read("a.mp4", 1, 2, version) == b"ir"
    storage.copy("a.mp4", 0, 5, tmp_path / "copy", version)
    time.sleep(0.02)  # for the clocks of coarse file systems
    put("a.mp4", b"other")
    assert storage.stat("a.mp4").version != version
    for read in (
        lambda: storage.read("a.mp4", 1, 2, version),
        lambda: storage.copy("a.mp4", 0, 5, tmp_path / "copy", version),
    ):
        with pytest.raises(FileChangedError, match="a.mp4 was (replaced|changed) since it was last looked at"):
            read()


@every
def test_a_file_that_is_not_there(storage, put, tmp_path):
    put("a.mp4", b"first")
    for ask in (
        lambda: storage.stat("b.mp4"),
        lambda: storage.read("b.mp4", 0, 5),
        lambda: storage.copy("b.mp4", 0, 5, tmp_path / "copy"),
        lambda: storage.read_all("b.mp4"),
    ):
        with pytest.raises(FileNotFoundError, match=re.escape("b.mp4")) as error:
            ask()
        assert error.value.strerror == "No such file or directory"
    storage.delete("a.mp4")
    storage.delete("a.mp4")
    with pytest.raises(FileNotFoundError):
        storage.stat("a.mp4")


@every
def test_a_place_that_is_not_there(place):
    storage = open_storage(f"{place[0]}/nowhere")
    for ask in (storage.check, lambda: list(storage.list())):
        with pytest.raises(SourceError, match="nowhere.*check the"):
            ask()


@every_bucket
def test_a_prefix_ends_at_a_slash(place, put):
    for file in ("a/1", "ab/2", "a/sub/3", "a", "a/"):
        put(file, b"x")
    for location in (f"{place[0]}/a", f"{place[0]}/a/"):
        storage = open_storage(location)
        assert [entry.file for entry in storage.list()] == ["1", "sub/3"]
        assert storage.read_all("1") == b"x"


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_bucket_that_is_not_there(place):
    scheme = place[0].partition(":")[0]
    for ask in (lambda storage: storage.check(), lambda storage: storage.read("a", 0, 1)):
        with pytest.raises(SourceError, match="other/a: there is no bucket 'other': check the URL"):
            ask(open_storage(f"{scheme}://other/a"))


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_refused_credentials_are_named_and_no_secret_is(place, storage, put):
    put("a.mp4", b"first")
    place[1].refusing = True
    remedy = "GCS_KEY" if place[0].startswith("gs") else "AZURE_ACCOUNT_NAME"
    asks = (
        storage.check,
        lambda: list(storage.list()),
        lambda: storage.stat("a.mp4"),
        lambda: storage.read("a.mp4", 0, 1),
        lambda: put("b.mp4", b""),
    )
    for ask in asks:
        with pytest.raises(SourceError, match=f"{re.escape(place[0])}.* may not be accessed .*{remedy}") as error:
            ask()
        assert "token" not in str(error.value)
        assert "signed" not in str(error.value)
        assert KEY not in str(error.value)
        assert error.value.__cause__ is None


LOCATIONS = {
    "s3://b/a/c": (S3Storage, "b", "a/c/"),
    "s3://b": (S3Storage, "b", ""),
    "s3://b/": (S3Storage, "b", ""),
    "gs://b/a?#%20": (GoogleStorage, "b", "a?#%20/"),
    "az://c/a": (AzureStorage, "c", "a/"),
    "azure://me.blob.core.windows.net/c/a/b": (AzureStorage, "c", "a/b/"),
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_urls(location, monkeypatch):
    monkeypatch.delenv("GCS_KEY", raising=False)
    kind, bucket, prefix = LOCATIONS[location]
    storage = open_storage(location)
    assert (type(storage), storage.bucket, storage._prefix, storage.root) == (kind, bucket, prefix, None)
    assert storage.location == location


def test_paths(tmp_path):
    for location in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        assert open_storage(location).root == tmp_path / "a b"
    assert open_storage("~/videos").root == Path.home() / "videos"


@pytest.mark.parametrize("location, message", [
    ("ftp://host/a", "ftp:// can't be read; use a path, or a URL that begins with s3://, gs://, az://, azure://, file"),
    ("s3:///a", "s3:///a: the URL names no bucket; write s3://BUCKET/PATH"),
    ("azure://me.blob.core.windows.net", "the URL names no bucket"),
])  # fmt: skip
def test_urls_that_name_no_place(location, message):
    with pytest.raises(SourceError, match=message):
        open_storage(location)


def test_keys_of_kind_hmac_reach_google_by_its_s3_interface(monkeypatch):
    monkeypatch.setenv("GCS_KEY", "GOOG1KEY")
    monkeypatch.setenv("GCS_SECRET", "secret")
    storage = open_storage("gs://b/a")
    assert type(storage) is GoogleHmacStorage
    assert storage.client.meta.endpoint_url == "https://storage.googleapis.com"
    url = storage.client.generate_presigned_url("get_object", {"Bucket": "b", "Key": "a/1"})
    assert "GOOG1KEY" in url


def test_azures_account_is_named_by_the_environment_or_the_url(monkeypatch):
    for name in ("AZURE_ACCOUNT_NAME", "AZURE_ACCOUNT_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SourceError, match="az://c/a: the account is not known; set AZURE_ACCOUNT_NAME"):
        open_storage("az://c/a").stat("x")
    monkeypatch.setenv("AZURE_ACCOUNT_ACCESS_KEY", KEY)
    theirs = open_storage("azure://them.blob.core.windows.net/c/a")
    assert theirs.client.url == "https://them.blob.core.windows.net/c"
    monkeypatch.setenv("AZURE_ACCOUNT_NAME", "me")
    assert open_storage("az://c/a").client.url == "https://me.blob.core.windows.net/c"


def test_a_folder_keeps_its_old_file_when_writing_fails(tmp_path):
    storage = LocalStorage(tmp_path / "place")
    (tmp_path / "new").write_bytes(b"old")
    storage.write("a", tmp_path / "new")
    with pytest.raises(FileNotFoundError):
        storage.write("a", tmp_path / "missing")
    assert storage.read_all("a") == b"old"
    assert [entry.file for entry in storage.list()] == ["a"]


@pytest.mark.parametrize("how", ["503", "reset", "truncate"])
@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_an_answer_that_is_spoilt_is_asked_for_again(place, put, monkeypatch, how):
    """Of S3, ``test_breaks`` shows this and more."""
    data = bytes(range(256)) * 1000
    put("a.mp4", data)
    with proxied(place[2]) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"].replace(place[2], proxy.url)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        hows = [how]
        proxy.spoil = lambda method, path: hows.pop() if hows else None
        assert open_storage(place[0]).read("a.mp4", 1000, 200_000) == data[1000:201_000]
    assert [request.how for request in proxy.requests] == [how, "206"]


def test_no_cloud_is_imported_before_it_is_asked():
    code = """
import sys
from onetake.storage.open import open_storage
for scheme in ("s3", "gs", "az"):
    open_storage(f"{scheme}://bucket/path")
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not {"boto3", "botocore", "requests", "google.cloud.storage", "azure.storage.blob"} & {*done.stdout.split()}
