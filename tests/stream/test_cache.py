"""Streaming from a remote folder into a cache: by segment, within its limit, never touching the originals."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from onetake import VideoDataset, VideoStream
from onetake.core.errors import CacheError, DecodeError, IndexFileError, SourceError
from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from onetake.stream.ledger import LEDGER_FOLDER
from onetake.stream.shard import VideoShard
from tests.helpers import SPEC, bytes_in, decode_all, make_loader, record


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of the files there, but for the ledger's."""
    files = (path for path in folder.rglob("*") if path.is_file() and LEDGER_FOLDER not in path.parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def segment_files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.bytes"))


@pytest.fixture
def remote(numbered, tmp_path) -> Path:
    return Path(shutil.copytree(numbered, tmp_path / "remote"))


def test_in_place_writes_and_deletes_nothing(numbered):
    before = listing(numbered)
    loader = make_loader(numbered, 2)
    assert sum(len(record(batch)) for batch in loader) == loader.dataset.num_clips
    assert listing(numbered) == before


def test_segments_are_fetched_once_and_only_their_own_bytes(numbered, tmp_path):
    loader = make_loader(numbered, 2, remote=numbered, local=tmp_path)
    list(loader)
    fetched = listing(tmp_path)
    assert len(segment_files(tmp_path)) == loader.dataset.num_shards
    stream = loader.dataset.streams[0]
    containers = {video.file: video.file_bytes for video in stream.index.videos if video.kind == "container"}
    whole = sum(video.file_bytes for video in stream.index.videos)
    got = sum(path.stat().st_size for path in segment_files(tmp_path))
    assert list(containers) == ["e.ts"]
    assert got < 1.4 * whole  # a segment reaches over its end as far as its last clip needs
    first = stream.index.segment_name(0), segment_files(tmp_path)[0].stat().st_size
    assert first[1] < 0.6 * stream.index.videos[0].file_bytes, first
    list(loader)
    assert listing(tmp_path) == fetched
    assert not list(tmp_path.rglob("packets.bin"))


def test_the_first_batch_fetches_no_more_than_it_needs(numbered, tmp_path):
    loader = make_loader(numbered, 0, remote=numbered, local=tmp_path, predownload=4)
    next(iter(loader))
    assert 4 <= len(segment_files(tmp_path)) <= 4 + 4 + 1


def smallest_limit(numbered, tmp_path, **arguments):
    """A dataset's smallest allowed cache limit, read from the error."""
    with pytest.raises(CacheError, match="is too small: 2 lanes and predownload=1 keep up to 4 segments") as error:
        make_loader(numbered, remote=numbered, local=tmp_path, cache_limit=5000, **arguments)
    return int(str(error.value).split("with the index ")[1].split(" bytes")[0].replace(",", ""))


def test_the_cache_stays_within_its_limit_and_originals_stay(remote, tmp_path):
    (remote / "e.ts").unlink()  # fetched whole, it would rule the limit
    index_videos(remote, segment_seconds=1, workers=1)
    before = listing(remote)
    arguments = {"num_canonical_lanes": 2, "predownload": 1, "batch_size": 2}
    limit = smallest_limit(remote, tmp_path / "probe", **arguments)
    loader = make_loader(remote, 0, remote=remote, local=tmp_path / "cache", cache_limit=limit, **arguments)
    most = 0
    seen = []
    for batch in loader:
        seen += record(batch)
        most = max(most, bytes_in(tmp_path / "cache"))
    assert most <= limit
    assert len(segment_files(tmp_path / "cache")) < loader.dataset.num_shards
    assert sorted(seen) == sorted(r for batch in make_loader(remote, **arguments) for r in record(batch))
    assert listing(remote) == before


def test_a_limit_is_for_the_streams_that_have_a_remote(remote, tmp_path):
    (remote / "e.ts").unlink()
    shutil.copytree(remote, tmp_path / "near", ignore=shutil.ignore_patterns("*.json", "*.parquet", "*.bin"))
    for folder in (remote, tmp_path / "near"):
        index_videos(folder, segment_seconds=1, workers=1)
    before = listing(remote), listing(tmp_path / "near")

    def loader(**arguments):
        far = VideoStream(remote=remote, local=tmp_path / "cache")
        near = VideoStream(local=tmp_path / "near")
        return make_loader(remote, 0, streams=[near, far], num_canonical_lanes=2, batch_size=2, **arguments)

    limit = smallest_limit(remote, tmp_path / "probe", num_canonical_lanes=2, predownload=1, batch_size=2)
    seen, most = [], 0
    for batch in loader(predownload=1, cache_limit=limit):
        seen += record(batch)
        most = max(most, bytes_in(tmp_path / "cache"))
    assert 0 < most <= limit
    assert sorted(seen) == sorted(r for batch in loader() for r in record(batch))
    assert (listing(remote), listing(tmp_path / "near")) == before


@pytest.mark.parametrize("limit", [0, -5, "many", "1"])
def test_impossible_cache_limits(numbered, tmp_path, limit):
    with pytest.raises(CacheError, match="cache_limit="):
        make_loader(numbered, remote=numbered, local=tmp_path, cache_limit=limit)


def test_a_limit_on_videos_in_place_would_delete_the_only_copy(numbered):
    with pytest.raises(CacheError, match="evicting would delete your only copy"):
        make_loader(numbered, cache_limit="1gb")


@pytest.mark.parametrize("local", [".", "cache", ".."], ids=["same", "inside", "around"])
def test_a_cache_among_the_videos_is_refused(remote, local):
    with pytest.raises(CacheError, match="lie within one another"):
        VideoStream(remote=remote, local=remote / local)


def test_a_remote_that_grew_is_noticed(remote, tmp_path):
    local = tmp_path / "cache"
    first = make_loader(remote, remote=remote, local=local)
    clips = first.dataset.num_clips
    list(first)
    del first
    write_numbered_video(remote / "z.mp4", 120)
    index_videos(remote, segment_seconds=3, workers=1)
    grown = make_loader(remote, remote=remote, local=local)
    assert grown.dataset.num_clips > clips
    assert {video for batch in grown for _, video, *_ in record(batch)} >= {"z.mp4"}


def test_an_index_apart_from_the_videos(numbered, tmp_path):
    shutil.copytree(numbered, tmp_path / "videos", ignore=shutil.ignore_patterns("*.json", "*.parquet", "*.bin"))
    index_videos(tmp_path / "videos", tmp_path / "index", segment_seconds=3, workers=1)
    with pytest.raises(IndexFileError, match="no index in .*run `onetake index`"):
        make_loader(tmp_path / "videos")
    expected = sorted(r for batch in make_loader(numbered) for r in record(batch))
    for place in ({"local": tmp_path / "videos"}, {"remote": tmp_path / "videos", "local": tmp_path / "cache"}):
        loader = make_loader(tmp_path, streams=[VideoStream(**place, index=tmp_path / "index")])
        assert sorted(r for batch in loader for r in record(batch)) == expected


def test_train_and_validation_share_a_cache_folder(numbered, tmp_path):
    split = {name: numbered / name for name in ("sub",)}
    index_videos(split["sub"], segment_seconds=3, workers=1)
    try:
        train = make_loader(numbered, remote=numbered, local=tmp_path)
        val = make_loader(numbered, remote=numbered, local=tmp_path, split="sub", shuffle=False)
        for loader in (train, val, train):
            assert sum(len(record(batch)) for batch in loader) == loader.dataset.num_clips
    finally:
        for path in split["sub"].glob("*"):
            if path.suffix in {".json", ".parquet", ".bin"}:
                path.unlink()


def test_a_damaged_segment_in_the_cache_is_fetched_again(numbered, tmp_path):
    loader = make_loader(numbered, remote=numbered, local=tmp_path)
    expected = [record(batch) for batch in loader]
    del loader
    segment_files(tmp_path)[0].with_suffix(".table").unlink()
    again = make_loader(numbered, remote=numbered, local=tmp_path)
    assert [record(batch) for batch in again] == expected


BREAKS = {
    "gone": (lambda path: path.unlink(), "is in the index, but not in"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "it changed; run `onetake index` again"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_video_that_changed_is_named_at_once_in_place(remote, how):
    spoil, message = BREAKS[how]
    spoil(remote / "sub" / "d.mp4")
    with pytest.raises(SourceError, match=f"'sub/d.mp4'.*{message}"):
        make_loader(remote)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", BREAKS)
def test_a_segment_that_cannot_be_fetched_raises_and_nothing_hangs(remote, tmp_path, how, workers):
    """Trap 9: the stock dataset ends the epoch early, or hangs."""
    spoil, _ = BREAKS[how]
    loader = make_loader(remote, workers, remote=remote, local=tmp_path / "cache", predownload=2)
    spoil(remote / "sub" / "d.mp4")
    started = time.monotonic()
    with pytest.raises(SourceError, match="'sub/d.mp4'"):
        list(loader)
    assert time.monotonic() - started < 60


def test_workers_that_live_on_go_on_once_the_video_is_back(remote, tmp_path):
    loader = make_loader(
        remote, 2, {"persistent_workers": True}, remote=remote, local=tmp_path / "cache", predownload=2
    )
    moved = (remote / "sub" / "d.mp4").rename(remote / "sub" / "away")
    for _ in range(20):  # a worker may still be in one iteration when the next begins
        with pytest.raises(SourceError, match="'sub/d.mp4'"):
            list(loader)
    moved.rename(remote / "sub" / "d.mp4")
    assert sum(len(record(batch)) for batch in loader) == loader.dataset.num_clips


def test_the_workers_of_a_loader_that_failed_end_with_it(remote, tmp_path):
    loader = make_loader(remote, 1, {"persistent_workers": True}, remote=remote, local=tmp_path / "cache")
    (remote / "sub" / "d.mp4").unlink()
    others = multiprocessing.active_children()
    with pytest.raises(SourceError, match="'sub/d.mp4'"):
        list(loader)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    gone = weakref.ref(loader)
    del loader  # nothing else holds it, until a garbage collection that may never come
    assert gone() is None
    for worker in workers:
        worker.join(60)
    assert workers
    assert not any(worker.is_alive() for worker in workers)


def test_a_cache_that_cannot_be_written(numbered, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot be written"):
        VideoDataset(remote=numbered, local=tmp_path / "file", clips=SPEC, batch_size=4, num_canonical_lanes=4)


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.helpers import make_loader
loader = make_loader(Path(sys.argv[1]), 2, remote=Path(sys.argv[1]), local=Path(sys.argv[2]))
for batch in loader:
    print("batch", flush=True)
    time.sleep(60)
"""


def test_a_killed_job_leaves_its_cache_to_the_next(numbered, tmp_path):
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(numbered), str(tmp_path), root], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "batch\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    kept = len(segment_files(tmp_path))
    assert kept
    loader = make_loader(numbered, 0, remote=numbered, local=tmp_path)
    assert sum(len(record(batch)) for batch in loader) == loader.dataset.num_clips


def test_a_cut_off_segment_in_the_cache_is_fetched_again(numbered, tmp_path):
    expected = [record(batch) for batch in make_loader(numbered)]
    list(make_loader(numbered, remote=numbered, local=tmp_path))
    path = segment_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-100])
    loader = make_loader(numbered, remote=numbered, local=tmp_path)
    assert [record(batch) for batch in loader] == expected


def test_a_cut_off_segment_is_fetched_again_by_another_thread_at_the_same_moment(numbered, tmp_path, monkeypatch):
    list(make_loader(numbered, remote=numbered, local=tmp_path))
    path = segment_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-100])
    dataset = make_loader(numbered, remote=numbered, local=tmp_path).dataset
    shard = next(number for number, shard in enumerate(dataset.shards) if shard.path == path)
    evict = VideoShard.evict

    def evict_and_fetch(self):
        original = Path.unlink

        def unlink(file, missing_ok=False):
            original(file, missing_ok=missing_ok)
            if file == path:
                dataset.prepare_shard(shard)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            return evict(self)

    first = sum(each.samples for each in dataset.shards[:shard])
    with monkeypatch.context() as patch:
        patch.setattr(VideoShard, "evict", evict_and_fetch)
        assert dataset[first]["valid"]


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_packets_are_named_and_never_shown(remote, workers):
    path = remote / "sub" / "d.mp4"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    path.write_bytes(data)
    frames = decode_all(numbered_original(remote))

    def read_and_compare():
        for batch in make_loader(remote, workers):
            for pixels, video, numbers in zip(batch["video"], batch["video_id"], batch["frame_index"], strict=True):
                for picture, number in zip(pixels, numbers.tolist(), strict=True):
                    same = video != "sub/d.mp4" or np.array_equal(picture.permute(1, 2, 0).numpy(), frames[number])
                    assert same, number

    with pytest.raises(DecodeError, match=r"'sub/d.mp4', frame .*damaged") as error:
        read_and_compare()
    assert error.value.video_id == "sub/d.mp4"


def numbered_original(remote):
    """The undamaged video: made anew, it is the same."""
    path = remote.parent / "original.mp4"
    write_numbered_video(path, 300, gop=250, bframes=3)
    return path
