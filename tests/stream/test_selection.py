"""Filters and splits: other videos give no clips, and clips stay what they are; states and caches tell them apart."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from onetake import ClipSpec, VideoStream
from onetake.core.errors import ResumeError, SourceError, SpecError
from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from tests.helpers import SPEC, make_loader, record

ROWS = [  # file, frames, label, subset
    ("a.mp4", 80, 0, "train"),
    ("b.mp4", 100, 1, "val"),
    ("c.mp4", 60, "", "train"),
    ("d.mp4", 90, 1, "train"),
    ("e.mp4", 70, 2, "val"),
    ("long.mp4", 130, 0, "train"),
]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Videos with labels, one of them without, in two splits."""
    folder = tmp_path_factory.mktemp("split")
    for name, frames, _, _ in ROWS:
        write_numbered_video(folder / name, frames, gop=10, height=128 if name == "b.mp4" else 96)
    rows = "".join(f"{name},{label},{subset}\n" for name, _, label, subset in ROWS)
    (folder / "videos.csv").write_text("path,label,subset\n" + rows)
    index_videos(folder / "videos.csv", workers=1, segment_seconds=1, split_by="subset")
    return folder


def clips(loader):
    """Clip IDs, with what they are."""
    rows = [row for batch in loader for row in record(batch)]
    assert len(rows) == loader.dataset.num_clips
    found = {clip: rest for clip, *rest in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def everything(split):
    return clips(make_loader(split, frame_size=(48, 64)))


CHOICES = [
    ({"where": [("label", "=", 1)]}, "bd"),
    ({"where": [("label", "not in", [1])]}, "ael"),
    ({"where": [("height", ">", 96)]}, "b"),
    ({"where": [[("label", "=", 2)], [("video_id", "=", "c.mp4")]]}, "ce"),
    ({"exclude": ["a.mp4", "e.mp4"]}, "bcdl"),
    ({"split": "val"}, "be"),
    ({"split": "train", "where": [("num_frames", "<", 100)], "exclude": ["d.mp4"]}, "ac"),
    ({"exclude": []}, "abcdel"),
]


@pytest.mark.parametrize("choice, first_letters", CHOICES, ids=str)
def test_clips_of_the_videos_chosen_and_they_keep_their_numbers(split, everything, choice, first_letters):
    found = clips(make_loader(split, frame_size=(48, 64), **choice))
    assert found == {clip: rest for clip, rest in everything.items() if rest[0][0] in first_letters}


@pytest.mark.parametrize("workers", [0, 2])
def test_from_a_cache_with_workers(split, tmp_path, everything, workers):
    place = {"remote": split, "local": tmp_path, "frame_size": (48, 64)}
    val = clips(make_loader(split, workers, split="val", **place))
    assert val == {clip: rest for clip, rest in everything.items() if rest[0][0] in "be"}
    train = make_loader(split, workers, split="train", **place)  # on the same cache
    assert val.keys().isdisjoint(clips(train))
    assert len(list(tmp_path.glob("*/index.json"))) == 2


def test_training_and_validation_on_one_folder_in_place(split):
    train, val = (make_loader(split, split=name, frame_size=(48, 64)) for name in ("train", "val"))
    found = [set(clips(loader)) for loader in (train, val)]
    assert all(found)
    assert found[0].isdisjoint(found[1])


SPECS = [
    ClipSpec(4, 3, clips_per_video=3),
    ClipSpec(4, 3, jitter=True),
    ClipSpec(4, fps=8, hop_seconds=0.3),
    ClipSpec(2, 3, align="keyframe"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_whatever_the_clips_are(split, spec):
    """What is drawn of a video does not depend on which others there are."""
    whole, some = ([], [])
    for found, choice in ((whole, {}), (some, {"where": [("label", "in", [1, 2])]})):
        loader = make_loader(split, clips=spec, frame_size=(48, 64), **choice)
        for _ in range(2):
            found.append(clips(loader))
    for epoch_of_all, epoch_of_some in zip(whole, some, strict=True):
        assert epoch_of_some == {clip: rest for clip, rest in epoch_of_all.items() if rest[0][0] in "bde"}


LABEL_1 = [("label", "=", 1)]


def test_streams_of_one_index_beside_another(split, numbered):
    """Filtered and not, random and not: global numbers are those of the streams without filters."""

    def streams(**choice):
        return [
            VideoStream(local=split, clips=ClipSpec(4, 3, clips_per_video=2), **choice),
            VideoStream(local=numbered, **({"where": [("codec", "=", "hevc")]} if choice else {})),
            VideoStream(local=split, name="again", **choice),
        ]

    loaders = [
        make_loader(split, streams=streams(**choice), frame_size=(48, 64)) for choice in ({}, {"where": LABEL_1})
    ]
    whole, some = map(clips, loaders)
    starts = np.cumsum([stream.layout.clips_before[-1] for stream in loaders[0].dataset.streams])
    kept = ["b.mp4", "d.mp4"], ["sub/c.mkv"], ["b.mp4", "d.mp4"]
    expected = {
        clip: rest for clip, rest in whole.items() if rest[0] in kept[int(np.searchsorted(starts, clip, side="right"))]
    }
    assert some == expected
    assert {int(np.searchsorted(starts, clip, side="right")) for clip in some} == {0, 1, 2}


def test_an_epoch_can_take_a_part_of_what_is_chosen(split, everything):
    stream = VideoStream(local=split, where=[("label", "=", 1)], repeat=0.5)
    found = clips(make_loader(split, streams=[stream], frame_size=(48, 64)))
    kept = {clip for clip, rest in everything.items() if rest[0][0] in "bd"}
    assert len(found) == len(kept) // 2
    assert found.keys() < kept


def test_the_dataset_says_it_for_streams_that_do_not(split, everything):
    streams = [VideoStream(local=split, where=[("label", "=", 1)], exclude=["b.mp4"])]
    found = clips(make_loader(split, streams=streams, frame_size=(48, 64), where=[("label", "=", 0)]))
    assert {rest[0] for rest in found.values()} == {"d.mp4"}
    found = clips(make_loader(split, streams=[VideoStream(local=split)], frame_size=(48, 64), exclude=["b.mp4"]))
    assert {rest[0][0] for rest in found.values()} == set("acdel")


def test_a_video_that_is_left_out_need_not_be_there(split, tmp_path):
    folder = shutil.copytree(split, tmp_path / "copy")
    (folder / "c.mp4").unlink()
    with pytest.raises(SourceError, match=r"video 'c\.mp4' is in the index, but not in"):
        make_loader(folder)
    assert clips(make_loader(folder, exclude=["c.mp4"], frame_size=(48, 64)))


# Resume.


def test_a_resume_under_another_filter_is_refused_by_name(split):
    where = [("label", ">=", 1)]
    state = make_loader(split, where=where, exclude=["e.mp4"]).state_dict()
    again = make_loader(split, where=where, exclude=["e.mp4"])
    again.load_state_dict(state)
    changes = [
        ({"exclude": ["e.mp4"]}, "where was ['label >= 1'] and is now None"),
        ({"where": [("label", ">", 1)], "exclude": ["b.mp4"]}, "where was ['label >= 1'] and is now ['label > 1']"),
        ({"where": where}, "exclude was ['1 videos ("),
        ({"where": where, "exclude": ["b.mp4"]}, "and is now ['1 videos ("),
        ({"where": where, "exclude": ["e.mp4"], "split": "train"}, "split was None and is now ['train']"),
    ]
    for change, message in changes:
        with pytest.raises(ResumeError, match=re.escape(message)):
            make_loader(split, **change).load_state_dict(state)


def test_resume_in_the_middle(split):
    choice = {"where": [("label", "in", [0, 1])], "frame_size": (48, 64)}
    whole = [record(batch) for batch in make_loader(split, **choice)]
    stopped = make_loader(split, **choice)
    running = iter(stopped)
    got = [record(next(running)) for _ in range(3)]
    resumed = make_loader(split, **choice)
    resumed.load_state_dict(stopped.state_dict())
    assert got + [record(batch) for batch in resumed] == whole


# Mistakes.


MISTAKES = {
    "an unknown column": (
        {"where": [("hight", ">", 1)]},
        "where=: the index of {} has no column 'hight'; did you mean 'height'?",
    ),
    "an unknown video": (
        {"exclude": ["a.mp", "b.mp4"]},
        "exclude=: 1 of 2 are no videos of {}, first of all 'a.mp'; did you",
    ),
    "nothing left": ({"where": [("label", ">", 9)]}, "where='label > 9' leaves none of the 6 videos in {}"),
    "nothing left of a split": (
        {"split": "val", "where": [("label", "=", 0)]},
        "split='val', where='label = 0' leaves none of the 6 videos in {}",
    ),
    "an unknown split": ({"split": "vall"}, "split='vall': the index in {} has no such split; did you mean 'val'?"),
    "one ID": ({"exclude": "a.mp4"}, "VideoStream(exclude='a.mp4'): must be a list of video IDs"),
    "no clips": (
        {"exclude": ["long.mp4"], "clips": ClipSpec(101)},
        "one extends over 101 frames, the longest video has 100",
    ),
}


@pytest.mark.parametrize("choice, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(split, choice, message):
    with pytest.raises(SpecError, match=re.escape(message.format(split))):
        make_loader(split, **choice)


def test_without_splits_in_the_index_a_split_is_a_subfolder(split, numbered, tmp_path):
    with pytest.raises(
        SpecError, match="split='vall': the index in .* has no splits, and its subfolder 'vall' has no index"
    ):
        make_loader(numbered, split="vall")
    shutil.copytree(split, tmp_path / "val")
    index_videos(tmp_path / "val", workers=1)
    assert make_loader(tmp_path, split="val", clips=SPEC).dataset.streams[0].subfolder == "val"
