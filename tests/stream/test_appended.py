"""Videos added to a folder that is in use: old clips stay what they are, and what is open notices."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from onetake.core.errors import IndexFileError, ResumeError
from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from tests.helpers import make_loader, record


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("b.mp4", "d.mkv"):
        write_numbered_video(folder / name, 150, gop=25)
    index_videos(folder, segment_seconds=1, workers=1)
    return folder


def append(folder: Path) -> None:
    """A video before, one between, and one behind those that are there."""
    for name in ("a.mp4", "c.mp4", "e.mp4"):
        write_numbered_video(folder / name, 60, gop=25)
    assert index_videos(folder, segment_seconds=1, workers=1).reused == 2


def clips(folder: Path, **arguments) -> set[tuple[str, int, int]]:
    """Video ID, first frame and pixels of every clip of an epoch."""
    rows = [row for batch in make_loader(folder, **arguments) for row in record(batch)]
    return {(video, start, pixels) for _, video, start, pixels in rows}


@pytest.mark.parametrize("cached", [False, True])
def test_old_clips_stay_what_they_are(folder, tmp_path, cached):
    where = {"remote": folder, "local": tmp_path / "cache"} if cached else {}
    before = clips(folder, **where)
    append(folder)
    after = clips(folder, **where)
    assert before < after
    assert {video for video, _, _ in after - before} == {"a.mp4", "c.mp4", "e.mp4"}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cached", [False, True])
def test_an_open_dataset_notices(folder, tmp_path, cached, workers):
    where = {"remote": folder, "local": tmp_path / "cache", "predownload": 1} if cached else {}
    loader = make_loader(folder, workers, **where)
    running = iter(loader)
    next(running)
    append(folder)
    with pytest.raises(IndexFileError, match="was rebuilt since this run opened it: start again"):
        list(running)


def test_a_run_does_not_go_on_over_other_data(folder):
    loader = make_loader(folder)
    running = iter(loader)
    list(islice(running, 3))
    state = loader.state_dict()
    running.close()
    append(folder)
    with pytest.raises(ResumeError, match="the state does not fit this dataset"):
        make_loader(folder).load_state_dict(state)
