"""index_videos of a bucket, through a real S3 server: what is read, kept, written and refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onetake.core.errors import SourceError, SpecError
from onetake.core.index import UNCHECKED
from onetake.decode import index_video
from onetake.decode.build import IndexReport, index_videos
from onetake.decode.store import INDEX_FILES, read_table
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.open import open_storage
from onetake.storage.s3 import S3Storage
from tests.servers import local_ray

LARGE = 3 << 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of videos, one of over 3 MB among them; never written to."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    write_numbered_video(folder / "long.mp4", 1000, gop=20, width=320, height=240)
    write_numbered_video(folder / "sub" / "b.mkv", 60, gop=30)
    write_numbered_video(folder / "c.ts", 50, gop=25)
    with (folder / "long.mp4").open("ab") as file:
        file.write(LARGE.to_bytes(4, "big") + b"free" + bytes(LARGE - 8))  # room that a camera kept for itself
    (folder / "sub" / "text.mp4").write_text("no video")
    (folder / "notes.txt").write_text("no video either")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onetake"


def recording(name: str, method: Callable[..., Any], calls: list[tuple[str, int]]) -> Callable[..., Any]:
    def record(self: S3Storage, key: str, *rest: Any) -> Any:
        calls.append((f"{self.bucket}/{key}", rest[1] if name == "_get" else 0))
        return method(self, key, *rest)

    return record


@pytest.fixture
def requests(monkeypatch) -> dict[str, list[tuple[str, int]]]:
    """(key, bytes asked for) of what this process gets from buckets, and the keys of what it puts and removes."""
    seen: dict[str, list[tuple[str, int]]] = {"_get": [], "_put": [], "_remove": []}
    for name in seen:
        monkeypatch.setattr(S3Storage, name, recording(name, getattr(S3Storage, name), seen[name]))
    return seen


def index(source: Any, out: Any, **arguments: Any) -> IndexReport:
    return index_videos(source, out, **{"segment_seconds": 1, "workers": 1, **arguments})


def content(location: Any) -> dict[str, bytes]:
    storage = open_storage(str(location))
    return {name: storage.read_all(name) for name in INDEX_FILES}


def test_headers_and_few_packets_are_read_of_an_mp4_all_of_others(videos, s3, tmp_path, requests):
    source = s3(videos)
    report = index(source, tmp_path / "index")
    assert [(refusal.file, refusal.reason.split(" (")[0]) for refusal in report.refused] == [
        ("sub/text.mp4", "not a readable video file")
    ]
    got: dict[str, list[int]] = {}
    for key, length in requests["_get"]:
        got.setdefault(key.partition("/")[2], []).append(length)
    sizes = {video.file: video.file_bytes for video in report.index.videos}
    assert got.pop("sub/text.mp4") == [8]
    assert got.pop("sub/b.mkv") == [sizes["sub/b.mkv"]]
    assert got.pop("c.ts") == [sizes["c.ts"]]
    ((file, lengths),) = got.items()
    assert file == "long.mp4"
    assert sum(lengths) < 500_000
    assert len(lengths) < 20
    assert report.bytes_read == sum(lengths) + sizes["sub/b.mkv"] + sizes["c.ts"]
    assert not requests["_put"]
    assert not requests["_remove"]


def test_frames_and_places_are_those_of_the_same_files_in_a_folder(videos, s3, tmp_path):
    found = index(s3(videos), tmp_path / "remote").index
    truth = index(videos, tmp_path / "local").index
    assert [replace(video, version="") for video in found.videos] == [
        replace(video, version="") for video in truth.videos
    ]
    unread = 0
    for segment in range(truth.num_segments):
        table, whole = (read_table(tmp_path / name, of, segment) for name, of in (("remote", found), ("local", truth)))
        for column in ("offset", "size", "pts", "frame"):
            assert np.array_equal(getattr(table, column), getattr(whole, column))
        assert np.array_equal(table.flags & ~np.uint8(UNCHECKED), whole.flags)
        unread += np.count_nonzero(table.flags & UNCHECKED)
    assert 500 < unread < 1000  # of long.mp4's packets


def test_an_index_goes_into_another_bucket_and_is_reused_from_there(videos, s3, cache, requests):
    source, out = s3(videos), s3() + "/deep/index"
    first = index(source, out)
    assert first.out == out
    assert {key.partition("/")[0] for calls in ("_put", "_remove") for key, _ in requests[calls]} == {out.split("/")[2]}
    put = [Path(key).name for key, _ in requests["_put"]]
    assert put[-len(INDEX_FILES) :] == list(INDEX_FILES)
    before = content(out)
    requests["_get"].clear()
    again = index(source, out)
    assert (again.reused, again.bytes_read, again.index.generation) == (3, 0, first.index.generation)
    assert {key.partition("/")[0] for key, _ in requests["_get"]} == {out.split("/")[2], source.split("/")[2]}
    assert {key for key, _ in requests["_get"] if key.startswith(source.split("/")[2])} == {
        f"{source.split('/')[2]}/sub/text.mp4"
    }
    assert content(out) == before
    assert not list(cache.iterdir())


def test_added_and_replaced_objects_are_read_and_the_others_reused(videos, s3, s3_client, tmp_path, cache):
    source, out = s3(videos), s3()
    first = index(source, out)
    write_numbered_video(tmp_path / "new.mp4", 30)
    bucket = source.removeprefix("s3://")
    for key in ("added.mp4", "c.ts"):
        s3_client.put_object(Bucket=bucket, Key=key, Body=(tmp_path / "new.mp4").read_bytes())
    second = index(source, out)
    assert second.reused == 2
    assert second.index.generation != first.index.generation
    assert {video.file: video.num_frames for video in second.index.videos} == {
        "added.mp4": 30, "c.ts": 30, "long.mp4": 1000, "sub/b.mkv": 60,
    }  # fmt: skip


def test_several_processes_give_the_same_index(videos, s3, tmp_path):
    source = s3(videos)
    index(source, tmp_path / "one")
    index(source, tmp_path / "three", workers=3)
    assert content(tmp_path / "one") == content(tmp_path / "three")


def test_ray_gives_the_same_index(videos, s3, tmp_path, monkeypatch):
    source = s3(videos)
    with local_ray():
        report = index(source, tmp_path / "ray", engine="ray", workers=2)
        monkeypatch.chdir(videos.parent)  # where its workers are not
        in_place = index(videos.name, tmp_path / "in_place", engine="ray", workers=2)
    assert len(in_place.index.videos) == 3
    assert [refusal.file for refusal in report.refused] == ["sub/text.mp4"]
    index(source, tmp_path / "one")
    assert content(tmp_path / "one") == content(tmp_path / "ray")


def test_an_object_that_is_replaced_meanwhile_is_refused(videos, s3, s3_client, tmp_path, monkeypatch):
    source = s3(videos)
    original = index_video.check_by_headers

    def replaced(copy, *rest):
        s3_client.put_object(Bucket=source.removeprefix("s3://"), Key="long.mp4", Body=bytes(LARGE))
        return original(copy, *rest)

    monkeypatch.setattr(index_video, "check_by_headers", replaced)
    report = index(source, tmp_path)
    reasons = {refusal.file: refusal.reason for refusal in report.refused}
    assert "long.mp4 was replaced since it was last looked at: start again" in reasons["long.mp4"]


def test_copies_that_have_no_room_wait_for_the_others_to_go(videos, s3, tmp_path, monkeypatch):
    source = s3(videos)
    free = iter([0, 0, 1 << 40, 0, 1 << 40])  # c.ts, sub/b.mkv, sub/text.mp4; then, by itself, each of the first two
    monkeypatch.setattr(index_video.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    report = index(source, tmp_path)
    reasons = {refusal.file: refusal.reason for refusal in report.refused}
    assert set(reasons) == {"c.ts", "sub/text.mp4"}
    assert re.match(r"there is no room for its \d+ bytes in .*, where it is read: make room", reasons["c.ts"])
    assert not list(free)


def test_a_bucket_needs_a_place_for_its_index(s3):
    with pytest.raises(SpecError, match=r"s3://bucket-\d+ is in a bucket: name a folder or a URL for .*--out"):
        index_videos(s3())


def test_places_that_cannot_be_written_are_said_before_the_work(videos, s3, requests):
    with pytest.raises(SourceError, match="s3://no-such-bucket/index.*: there is no bucket 'no-such-bucket'"):
        index(s3(videos), "s3://no-such-bucket/index")
    assert not requests["_get"]


def test_another_programs_index_in_a_bucket_is_not_overwritten(videos, s3, s3_client):
    out = s3()
    s3_client.put_object(Bucket=out.removeprefix("s3://"), Key="index.json", Body=b'{"version": 2, "shards": []}')
    with pytest.raises(SourceError, match=r"index\.json belongs to another program: name another folder with --out"):
        index(s3(videos), out)
