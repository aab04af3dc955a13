"""Streaming videos, their index, or both, from buckets."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onetake import ClipSpec, VideoDataset, VideoStream
from onetake.cli.main import main
from onetake.core.errors import CacheError, IndexFileError, SourceError, SpecError
from onetake.core.index import UNCHECKED
from onetake.decode.build import index_videos
from onetake.decode.segment import byte_range
from onetake.decode.store import INDEX_FILES, PACKETS_BIN, read_index, read_table
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.open import open_storage
from onetake.stream.classify import FolderLabels
from onetake.stream.fetch import fetch_segment
from onetake.stream.shard import VideoShard
from tests.helpers import make_loader, record
from tests.proxy import proxied


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Two videos in segments of a second, one of kind container; with their index."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "val").mkdir()
    write_numbered_video(folder / "val" / "a.mp4", 100, gop=25)
    write_numbered_video(folder / "b.ts", 50, gop=25)
    assert not index_videos(folder, segment_seconds=1, workers=1).refused
    return folder


@pytest.fixture
def expected(few):
    return delivered(make_loader(few))


def delivered(loader):
    return [record(batch) for batch in loader]


def remote_loader(url, tmp_path, workers=0, **arguments):
    return make_loader(None, workers, remote=url, local=tmp_path / "cache", download_retry=0, **arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bucket_gives_what_the_folder_gives(few, s3, tmp_path, expected, workers):
    assert delivered(remote_loader(s3(few), tmp_path, workers)) == expected


def test_each_segment_is_one_request_and_the_index_is_read_by_range(few, s3, s3_server, tmp_path, monkeypatch):
    url = s3(few)
    with proxied(s3_server) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        loader = remote_loader(url, tmp_path)
        list(loader)
    index = loader.dataset.streams[0].index
    assert {request.method for request in proxy.requests} == {"GET", "HEAD"}
    assert len(proxy.gets("a.mp4")) == 4
    assert [request.range for request in proxy.gets("b.ts")] == [(0, (few / "b.ts").stat().st_size)] * 2
    # Of each its table, and that of the next one, in which its clips end.
    stops = index.table_offset + index.table_length
    with_next = np.where(np.diff(index.video, append=-1) == 0, np.append(stops[1:], 0), stops)
    tables = [request.range for request in proxy.gets(PACKETS_BIN)]
    assert sorted(tables) == list(zip(index.table_offset.tolist(), with_next.tolist(), strict=True))
    assert sum(request.method == "HEAD" for request in proxy.requests) == 1  # which version packets.bin has
    assert not list(tmp_path.rglob(PACKETS_BIN))


def test_the_videos_the_index_and_the_cache_in_three_places(few, s3, tmp_path, monkeypatch, expected):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shutil.copytree(few, tmp_path / "videos", ignore=shutil.ignore_patterns(*INDEX_FILES))
    (tmp_path / "index").mkdir()
    for name in INDEX_FILES:
        shutil.copy(few / name, tmp_path / "index")
    videos, index = s3(tmp_path / "videos"), s3(tmp_path / "index")
    with pytest.raises(IndexFileError, match=f"no index in {videos}: run `onetake index`"):
        remote_loader(videos, tmp_path)
    for number, place in enumerate(
        (
            {"remote": videos, "local": tmp_path / "1", "index": tmp_path / "index"},
            {"remote": videos, "local": tmp_path / "2", "index": index},
            {"remote": tmp_path / "videos", "local": tmp_path / "3", "index": index},
            {"local": tmp_path / "videos", "index": index},
        )
    ):
        assert delivered(make_loader(None, streams=[VideoStream(**place)])) == expected, number


def test_without_a_folder_for_the_cache_it_is_a_temporary_one(few, s3, tmp_path, monkeypatch, expected):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert delivered(make_loader(None, remote=s3(few))) == expected
    assert list((tmp_path / f"onetake-cache-{os.getuid()}").rglob("*.bytes"))


def test_a_split_is_a_subfolder_of_the_bucket(few, s3, tmp_path):
    shutil.copytree(few / "val", tmp_path / "all" / "val")
    index_videos(tmp_path / "all" / "val", segment_seconds=1, workers=1)
    loader = remote_loader(s3(tmp_path / "all"), tmp_path, split="val")
    assert {video for batch in delivered(loader) for _, video, *_ in batch} == {"a.mp4"}


def test_an_index_that_was_rebuilt_is_noticed(few, s3, tmp_path):
    grown = Path(shutil.copytree(few, tmp_path / "grown"))
    write_numbered_video(grown / "z.mp4", 50)
    index_videos(grown, segment_seconds=1, workers=1)
    url = s3(few)
    opened = remote_loader(url, tmp_path, predownload=1)
    storage = open_storage(url)
    for path in (grown / "z.mp4", *(grown / name for name in INDEX_FILES)):
        storage.write(path.name, path)
    with pytest.raises(IndexFileError, match=f"the index in {url} was rebuilt since this run opened it: start again"):
        list(opened)
    del opened
    again = remote_loader(url, tmp_path)  # whatever the cache says
    assert "z.mp4" in {video for batch in delivered(again) for _, video, *_ in batch}


def test_an_index_put_there_again_unchanged_goes_on(few, s3, tmp_path, expected):
    folder = Path(shutil.copytree(few, tmp_path / "index"))
    loader = make_loader(None, remote=few, local=tmp_path / "cache", index=folder, predownload=1)
    batches = iter(loader)
    first = record(next(batches))
    shutil.copy(few / PACKETS_BIN, folder)
    assert [first, *map(record, batches)] == expected


SPOILT = {
    "gone": (lambda storage, few: storage.delete("val/a.mp4"), "'val/a.mp4' is in the index, but not in s3://"),
    "grown": (lambda storage, few: storage.write("val/a.mp4", few / "b.ts"), "'val/a.mp4' in s3://.* it changed"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", SPOILT)
def test_a_video_that_cannot_be_fetched_ends_the_epoch_with_its_name(few, s3, tmp_path, how, workers):
    spoil, message = SPOILT[how]
    url = s3(few)
    loader = remote_loader(url, tmp_path, workers, predownload=1)
    spoil(open_storage(url), few)
    with pytest.raises(SourceError, match=message):
        list(loader)


@pytest.mark.parametrize("flag", [0, UNCHECKED])
def test_packets_without_check_sums_are_only_of_the_version_that_was_indexed(few, s3, tmp_path, flag):
    """Of another file of the same size, wrong pictures would come; check sums tell that there is one."""
    storage = open_storage(s3(few))
    index = read_index(few)
    video = replace(index.videos[1], version=storage.stat("val/a.mp4").version)
    table = read_table(few, index, index.num_segments - 1)
    table = replace(table, flags=table.flags | np.uint8(flag))
    shard = VideoShard(str(tmp_path), 0, 1, 1, False)
    fetch_segment(storage, video, table, shard)
    assert shard.path.stat().st_size == byte_range(table)[1]
    shard.evict()
    data = bytearray(storage.read_all(video.file))
    data[-1] ^= 1
    (tmp_path / "other").write_bytes(data)
    storage.write(video.file, tmp_path / "other")
    if flag:
        with pytest.raises(SourceError, match="'val/a.mp4' in s3://.* is no longer the object that was indexed"):
            fetch_segment(storage, video, table, shard)
        assert [path.name for path in tmp_path.iterdir()] == ["other"]
    else:
        fetch_segment(storage, video, table, shard)


def test_a_server_that_stays_away_ends_the_epoch_after_the_attempts_allowed(few, s3, s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    url = s3(few)
    with proxied(s3_server) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        loader = remote_loader(url, tmp_path)
        proxy.spoil = lambda method, path: "503" if path.endswith(".mp4") else None
        with pytest.raises(SourceError, match=r"video 'val/a.mp4' cannot be read from s3://.*download_retry="):
            list(loader)
        assert len(proxy.gets("a.mp4")) == 1


def test_places_that_cannot_work(few, s3, tmp_path):
    url = s3(few)
    with pytest.raises(SpecError, match="local='s3://.*must be a folder of this machine; give a bucket as remote="):
        VideoStream(local=url)
    with pytest.raises(SourceError, match="ftp:// can't be read"):
        VideoStream(remote="ftp://host/videos", local=tmp_path)
    with pytest.raises(IndexFileError, match="no index in s3://bucket-.*/nowhere"):
        remote_loader(f"{url}/nowhere", tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot be written"):
        VideoDataset(remote=url, local=tmp_path / "file", clips=ClipSpec(2), batch_size=4, num_canonical_lanes=4)


def test_an_index_in_a_bucket_serves_other_doors(few, s3):
    url = s3(few)
    assert FolderLabels(url).classes == ["val"]
    arguments = ["simulate", url, "--ranks", "1", "--num-frames", "4", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["videos"] == 2
