"""An index whose making is killed, and made again: byte for byte that of an undisturbed run, and nothing left over."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from onetake.core.errors import SourceError
from onetake.decode import build
from onetake.decode.build import index_videos
from onetake.decode.store import INDEX_FILES
from onetake.decode.synthetic import write_numbered_video
from onetake.decode.work import WORK
from onetake.storage.open import open_storage
from tests.killing import kill_onetake

KEPT = ("onetake.decode.work", "Work", "keep", 3)
WRITTEN = ("onetake.decode.index_writer", "", "_write_parquet", 1)
PUT = ("onetake.storage.s3", "S3Storage", "_put", 3)  # the probe, videos.parquet, segments.parquet


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Nine videos; never written to."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(9):
        write_numbered_video(folder / f"{number}.{('mp4', 'mkv', 'ts')[number % 3]}", 30 + number, gop=10)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onetake"


def content(location: object) -> dict[str, bytes]:
    storage = open_storage(str(location))
    return {name: storage.read_all(name) for name in INDEX_FILES}


@pytest.mark.parametrize("where, workers, reused", [(KEPT, 1, 3), (KEPT, 2, 3), (WRITTEN, 2, 9)])
def test_a_killed_run_over_a_folder_is_gone_on_with(videos, tmp_path, where, workers, reused):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("a user's")
    kill_onetake(tmp_path, where, "index", videos, "--out", out, "--workers", workers)
    assert len(list((out / WORK).glob("*.json"))) == reused
    assert not (out / "index.json").exists()
    report = index_videos(videos, out, workers=1)
    assert report.reused == reused
    index_videos(videos, tmp_path / "undisturbed", workers=1)
    assert content(out) == content(tmp_path / "undisturbed")
    assert {path.name for path in out.iterdir()} == {*INDEX_FILES, "mine.txt"}


@pytest.mark.parametrize("where, workers, reused", [(KEPT, 2, 3), (PUT, 1, 9)])
def test_a_killed_run_over_a_bucket_is_gone_on_with(videos, s3, tmp_path, cache, where, workers, reused):
    source, out = s3(videos), s3()
    index_videos(videos, tmp_path / "old", workers=1)  # an index that is there, of another generation
    for name, data in content(tmp_path / "old").items():
        (tmp_path / name).write_bytes(data)
        open_storage(out).write(name, tmp_path / name)
    kill_onetake(tmp_path, where, "index", source, "--out", out, "--workers", workers)
    (work,) = cache.iterdir()
    assert len(list(work.glob("*.json"))) == reused
    report = index_videos(source, out, workers=1)
    assert report.reused == reused
    index_videos(source, tmp_path / "undisturbed", workers=1)
    assert content(out) == content(tmp_path / "undisturbed")
    assert not list(cache.iterdir())


def test_what_was_kept_of_files_that_changed_is_not_used(videos, tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        write_numbered_video(folder / f"{number}.mp4", 30, gop=10)
    kill_onetake(tmp_path, KEPT, "index", folder, "--workers", 1)
    kept = sorted((folder / WORK).glob("*.json"))
    assert len(kept) == 3
    write_numbered_video(folder / "0.mp4", 40, gop=10)
    for path in kept:
        if json.loads(path.read_text())["video"]["file"] == "1.mp4":
            path.write_text(path.read_text().replace("128", "-128"))  # no width
    report = index_videos(folder, workers=1)
    assert report.reused == 1
    assert [video.num_frames for video in report.index.videos] == [40, 30, 30]
    kill_onetake(tmp_path, KEPT, "index", folder, "--out", tmp_path / "out", "--workers", 1)
    assert index_videos(folder, tmp_path / "out", segment_seconds=1, workers=1).reused == 0


def test_work_survives_an_error_and_an_interrupt_but_not_what_holds_nothing(videos, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_index", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index_videos(videos, tmp_path / "out", workers=1)
        patch.setattr(build, "run_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index_videos(videos, tmp_path / "other", workers=1)
    assert not list((tmp_path / "other").iterdir())
    assert index_videos(videos, tmp_path / "out", workers=1).reused == 9


def test_two_runs_do_not_write_the_same_index(videos, tmp_path):
    (tmp_path / WORK).mkdir()
    with (tmp_path / WORK / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SourceError, match="another `onetake index` is at work on .*: wait for it, or name another"):
            index_videos(videos, tmp_path, workers=1)
    assert index_videos(videos, tmp_path, workers=1).reused == 0


def test_what_cannot_be_looked_at_is_refused_by_name(videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    os.link(videos / "0.mp4", folder / "0.mp4")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    here = os.open(folder, os.O_RDONLY)
    for _ in range(20):  # deeper than any path may be
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    report = index_videos(folder, tmp_path / "out", workers=1)
    assert [video.file for video in report.index.videos] == ["0.mp4"]
    reasons = {refusal.file[:20]: refusal.reason for refusal in report.refused}
    assert reasons == {
        "dangling.mp4": "cannot be read (No such file or directory)",
        "loop.mp4": "cannot be read (Too many levels of symbolic links)",
        "d" * 20: "cannot be read (File name too long)",
    }
