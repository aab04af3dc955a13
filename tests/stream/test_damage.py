"""Damaged videos: an error that says where, or other clips in the place of bad ones; nothing lost, nothing hangs."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from onetake import ClipSpec, VideoDataset
from onetake.core.errors import DamageError, DecodeError, SpecError
from onetake.decode.build import index_videos
from onetake.decode.store import read_index, read_table
from onetake.decode.synthetic import read_number, write_numbered_video
from onetake.stream.damage import nearest_first
from tests.helpers import make_loader

SPEC = ClipSpec(num_frames=4, stride=2)  # 8 frames from clip to clip
FRAMES = {"a.mp4": 200, "b.mp4": 200, "c.mkv": 160}
ALLOWED = {"clips": SPEC, "on_error": "substitute", "max_bad_fraction": 0.5}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_numbered_video(folder / "a.mp4", 200, gop=40)
    write_numbered_video(folder / "b.mp4", 200, gop=40, bframes=0)
    write_numbered_video(folder / "c.mkv", 160, gop=40, codec="libx265")
    index_videos(folder, segment_seconds=3, workers=1)
    return folder


def scratch(folder: Path, name: str, first: int, stop: int) -> None:
    """Overwrite the packets of frames ``first`` to ``stop`` after the folder was indexed."""
    index = read_index(folder)
    number = [video.video_id for video in index.videos].index(name)
    with (folder / name).open("r+b") as file:
        for segment in np.flatnonzero(index.video == number).tolist():
            table = read_table(folder, index, segment)
            for row in np.flatnonzero((table.frame >= first) & (table.frame < stop)).tolist():
                file.seek(int(table.offset[row]) + 4)
                file.write(b"\xff" * max(int(table.size[row]) - 4, 0))


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """Of a.mp4, the GOP of frames 80 to 119 is damaged from frame 90 on; of b.mp4, everything."""
    shutil.copytree(sound, tmp_path / "videos")
    scratch(tmp_path / "videos", "a.mp4", 90, 96)
    return tmp_path / "videos"


def destroyed(folder: Path) -> Path:
    scratch(folder, "b.mp4", 0, 200)
    return folder


def samples(loader) -> list[dict]:
    """Every sample that a loader gives, pads left out."""
    found = []
    for batch in loader:
        for number, pad in enumerate(batch["is_pad"].tolist()):
            if not pad:
                found.append({name: values[number] for name, values in batch.items()})
    return found


def lost(sample) -> bool:
    return not bool(sample["valid"])


def test_the_nearest_comes_first():
    assert list(nearest_first(5, 3, 10)) == [4, 6, 3, 7, 8, 9]
    assert list(nearest_first(3, 3, 5)) == [4]
    assert list(nearest_first(3, 3, 4)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_it_is_an_error_that_says_where(folder, workers):
    loader = make_loader(folder, workers, clips=SPEC, shuffle=False)
    with pytest.raises(DecodeError, match="the file is damaged here, or changed") as caught:
        list(loader)
    assert caught.value.video_id == "a.mp4"
    assert 80 <= caught.value.frame < 120
    index = read_index(folder)
    tables = [read_table(folder, index, segment) for segment in np.flatnonzero(index.video == 0)]
    assert caught.value.byte_offset in {int(table.offset[row]) for table in tables for row in range(len(table))}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_stretch_costs_its_gop_and_its_clips_are_replaced(folder, workers):
    loader = make_loader(folder, workers, **ALLOWED)
    found = samples(loader)
    assert sorted(int(sample["clip_id"]) for sample in found) == list(range(loader.dataset.num_clips))
    bad = [sample for sample in found if lost(sample)]
    assert {sample["video_id"] for sample in bad} == {"a.mp4"}
    starts = {int(sample["clip_id"]) * 8 for sample in bad}  # of a.mp4, the first video
    assert starts
    assert starts <= {start for start in range(0, 200, 8) if start + 7 > 80 and start < 120}
    for sample in found:
        shown = [read_number(picture.numpy()) for picture in sample["video"]]
        assert shown == sample["frame_index"].tolist()  # it says what it holds
        assert shown[0] == int(sample["start_frame"])
        if not lost(sample):
            assert "abc".index(sample["video_id"][0]) * 25 * 8 + shown[0] == int(sample["clip_id"]) * 8
    for sample in bad:  # the nearest sound one
        distance = abs(int(sample["start_frame"]) - int(sample["clip_id"]) * 8)
        nearer = [start for start in range(0, 193, 8) if abs(start - int(sample["clip_id"]) * 8) < distance]
        assert set(nearer) <= starts
    assert loader.stats()["clips_substituted"] == len(bad)


def test_the_same_take_their_place_with_any_workers_and_after_a_resume(folder):
    runs = []
    for workers, cut in [(0, None), (2, None), (1, 5)]:
        loader = make_loader(folder, workers, **ALLOWED)
        found = []
        if cut:
            for _, batch in zip(range(cut), loader, strict=False):
                found += batch["video"]
            state = loader.state_dict()
            loader = make_loader(folder, workers, **ALLOWED)
            loader.load_state_dict(state)
        for batch in loader:
            found += batch["video"]
        runs.append(torch.stack(found))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_a_video_without_a_sound_clip_gives_zeros(folder):
    found = samples(make_loader(destroyed(folder), 0, **{**ALLOWED, "frame_size": (32, 48)}))
    gone = [sample for sample in found if sample["video_id"] == "b.mp4"]
    assert len(gone) == 25
    for sample in gone:
        assert lost(sample)
        assert sample["video"].shape == (4, 3, 32, 48)
        assert not sample["video"].any()
        assert sample["frame_index"].tolist() == list(
            range(int(sample["start_frame"]), int(sample["start_frame"]) + 8, 2)
        )
    assert sorted(int(sample["start_frame"]) for sample in gone) == list(range(0, 200, 8))


@pytest.mark.parametrize("frame_size, shape", [(None, (96, 128)), (48, (48, 64))])
def test_zeros_have_the_size_that_the_video_would_have(folder, frame_size, shape):
    dataset = make_loader(destroyed(folder), 0, **{**ALLOWED, "frame_size": frame_size}).dataset
    assert dataset[30]["video"].shape == (4, 3, *shape)
    assert dataset[30]["valid"] is False
    assert dataset[0]["video"].shape == (4, 3, *shape)


def test_each_video_is_told_once(folder, caplog):
    loader = make_loader(destroyed(folder), 0, **ALLOWED)
    with caplog.at_level(logging.WARNING, logger="onetake"):
        for _ in range(2):
            list(loader)
    told = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(told) == 2
    assert sorted(text.split("'")[1] for text in told) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_much_damage_stops_the_run(folder, workers):
    loader = make_loader(destroyed(folder), workers, **{**ALLOWED, "max_bad_fraction": 0.2})
    with pytest.raises(
        DamageError, match=r"clips did not decode, more than max_bad_fraction=0\.2 allows; the last: video"
    ) as caught:
        list(loader)
    assert "onetake index --verify" in str(caught.value)


def test_a_share_is_one_of_many(folder):
    """The first clip being bad is not all clips being bad."""
    loader = make_loader(folder, 0, **{**ALLOWED, "max_bad_fraction": 0.2})
    assert sum(lost(sample) for sample in samples(loader)) > 0.2  # of 70


def test_damage_does_not_decode_more_than_a_sound_video_and_a_little(sound, folder):
    fed = []
    for place in (sound, folder):
        loader = make_loader(place, 0, **ALLOWED, shuffle=False, num_canonical_lanes=1)
        list(loader)
        fed.append(loader.stats()["packets_fed"])
    assert fed[1] <= fed[0] + 2 * 40  # the neighbours of the bad stretch are read again, once


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"on_error": "ignore"}, "on_error='ignore': must be one of 'raise', 'substitute'"),
        ({"on_error": "substitute", "max_bad_fraction": 2}, "max_bad_fraction=2: must be a number from 0 to 1"),
        ({"max_bad_fraction": "1%"}, "max_bad_fraction='1%': must be a number from 0 to 1"),
    ],
)
def test_options(sound, arguments, message):
    with pytest.raises(SpecError, match=message):
        VideoDataset(local=sound, clips=SPEC, **arguments)
