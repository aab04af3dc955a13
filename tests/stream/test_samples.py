"""Several clips in a sample, and whole videos: which clips those are, in every order, world and resume."""

from __future__ import annotations

import logging
import shutil
from itertools import chain

import pytest
import torch

from onetake import ClipSpec, VideoDataset, VideoStream
from onetake.core.errors import ResumeError, SpecError
from onetake.decode.build import index_videos
from onetake.decode.store import read_index
from onetake.decode.synthetic import read_number, write_numbered_video
from onetake.stream.takeover import MARKER
from tests.helpers import SPEC, check_going_on, make_loader, record
from tests.stream.test_damage import scratch

ALL = {"clips_per_sample": "all", "max_memory": "1gb", "frame_size": (48, 64)}
SPECS = {
    "frames": SPEC,
    "overlapping": ClipSpec(4, 3, hop=5),
    "seconds": ClipSpec(3, fps="12.5", hop_seconds="0.3"),
    "keyframes": ClipSpec(4, 2, align="keyframe"),
}


def clips_of(batches):
    """{video: [(frames, seconds) of each clip]} of samples of one clip, each picture's number read from it."""
    found = {}
    for batch in batches:
        rows = (batch[name] for name in ("video_id", "video", "frame_index", "pts_seconds", "is_pad"))
        for video, pictures, frames, seconds, pad in zip(*rows, strict=True):
            assert [read_number(picture.numpy()) for picture in pictures] == frames.tolist()
            if not pad:
                found.setdefault(video, []).append((frames.tolist(), seconds.tolist()))
    return {video: sorted(clips) for video, clips in found.items()}


def samples_of(batches):
    """{video: [clips of each sample]}, in the order of their starts."""
    found = {}
    for batch in batches:
        rows = (batch[name] for name in ("video_id", "start_frame", "video", "frame_index", "pts_seconds", "is_pad"))
        for video, start, clips, frames, seconds, pad in zip(*rows, strict=True):
            numbers = [[read_number(picture.numpy()) for picture in clip] for clip in clips]
            assert numbers == frames.tolist()
            assert int(start) == numbers[0][0]
            if not pad:
                found.setdefault(video, []).append(list(zip(frames.tolist(), seconds.tolist(), strict=True)))
    return {video: sorted(samples) for video, samples in found.items()}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_sample_holds_the_next_clips_of_its_video(numbered, spec):
    clips = clips_of(make_loader(numbered, clips=spec))
    for each in (2, 3):
        samples = samples_of(make_loader(numbered, clips=spec, clips_per_sample=each))
        expected = {
            video: [own[at : at + each] for at in range(0, len(own) - each + 1, each)] for video, own in clips.items()
        }
        assert samples == {video: own for video, own in expected.items() if own}
    whole = samples_of(make_loader(numbered, clips=spec, **ALL))
    assert whole == {video: [own] for video, own in clips.items()}


@pytest.mark.parametrize("each", [2, "all"])
def test_layouts(numbered, each):
    about = {**ALL, "clips_per_sample": each, "shuffle": False, "batch_size": 1}
    plain, turned = (next(iter(make_loader(numbered, **about, layout=layout))) for layout in ("TCHW", "CTHW"))
    clips = len(plain["video"][0])
    assert plain["video"][0].shape == (clips, 4, 3, 48, 64)
    assert turned["video"][0].shape == (clips, 3, 4, 48, 64)
    assert torch.equal(turned["video"][0].transpose(1, 2), plain["video"][0])
    assert plain["frame_index"][0].shape == plain["pts_seconds"][0].shape == (clips, 4)


def test_one_clip_has_no_dimension_of_its_own_but_in_a_batch_of_whole_videos(tmp_path):
    write_numbered_video(tmp_path / "a.mp4", 12)
    index_videos(tmp_path, workers=1)
    (batch,) = make_loader(tmp_path, batch_size=1)
    assert batch["video"].shape[:3] == (1, 4, 3)
    (batch,) = make_loader(tmp_path, batch_size=1, clips_per_sample="all", max_memory="1gb")
    assert [video.shape[:3] for video in batch["video"]] == [(1, 4, 3)]
    assert batch["frame_index"][0].tolist() == [[0, 3, 6, 9]]


@pytest.mark.parametrize("each", [3, "all"])
def test_a_video_is_decoded_once(numbered, each):
    about = {**ALL, "clips_per_sample": each, "num_canonical_lanes": 1, "batch_size": 1}
    loader = make_loader(numbered, **about, shuffle=False)
    pictures = sum(clips.shape[0] * 4 for batch in loader for clips in batch["video"])
    stats = loader.stats()
    index = read_index(numbered)
    assert stats["frames_converted"] == stats["frames_delivered"] == pictures
    assert stats["frames_decoded"] <= 1.5 * int(index.num_frames.sum())
    if each == "all":
        assert stats["opens"] == len(loader.dataset.streams[0].segments) == 6
        assert stats["packets_fed"] <= int(index.num_frames.sum())  # jumps only leave out what no clip needs


@pytest.mark.parametrize("shuffle_by", ["segment", "video"])
def test_a_sample_for_each_frame(numbered, shuffle_by):
    about = {"clips": ClipSpec(num_frames=1), "frame_size": 32, "num_canonical_lanes": 1, "batch_size": 33}
    loader = make_loader(numbered, **about, shuffle_by=shuffle_by, drop_last=True)
    total = int(read_index(numbered).num_frames.sum())
    shown = [frame for batch in loader for frame in zip(batch["video_id"], batch["start_frame"].tolist(), strict=True)]
    stats = loader.stats()
    assert len(shown) == len(set(shown)) == total // 33 * 33
    assert stats["frames_converted"] - len(shown) in range(-33, 34)
    assert stats["frames_decoded"] <= 1.02 * total + 33


@pytest.mark.parametrize("shuffle_by", ["segment", "video"])
@pytest.mark.parametrize("each", [2, "all"])
def test_a_run_goes_on_in_the_middle(numbered, each, shuffle_by):
    about = {**ALL, "clips_per_sample": each, "shuffle_by": shuffle_by, "batch_size": 2, "num_canonical_lanes": 4}
    loader = make_loader(numbered, **about)
    epochs = [[record(batch) for batch in loader] for _ in range(2)]
    assert epochs[0] != epochs[1]
    first, second = (sorted(chain.from_iterable(epoch)) for epoch in epochs)
    assert first == second
    check_going_on(numbered, 2, epochs, 1, **about)


def test_another_number_of_clips_is_another_order(numbered):
    state = make_loader(numbered, clips_per_sample=2).state_dict()
    make_loader(numbered, clips_per_sample=2).load_state_dict(state)
    with pytest.raises(ResumeError, match="clips_per_sample"):
        make_loader(numbered, clips_per_sample=3).load_state_dict(state)


def test_jitter_moves_the_clips_of_a_sample_alike(numbered):
    spec = ClipSpec(3, 2, hop=9, jitter=True)
    clips = clips_of(make_loader(numbered, clips=spec))
    samples = samples_of(make_loader(numbered, clips=spec, clips_per_sample=2))
    assert clips["a.mp4"][0][0][0] > 0
    for video, own in samples.items():
        assert list(chain.from_iterable(own)) == clips[video][: len(clips[video]) // 2 * 2]


def test_an_epoch_takes_so_many_samples_of_each_video(numbered):
    spec = ClipSpec(4, 3, clips_per_video=2)
    samples = samples_of(make_loader(numbered, clips=spec, clips_per_sample=3))
    assert [len(own) for own in samples.values()] == [2] * 6
    assert all(len(sample) == 3 for own in samples.values() for sample in own)


def test_transforms_get_the_frames_of_all_clips_and_are_seeded_by_the_sample(numbered):
    def transform(video):
        assert video.shape[:3] == (2, 4, 3)
        return video.float().mean((1, 2, 3, 4)) + torch.rand(2)

    def tagged(sample, generator):
        return {**sample, "draw": torch.rand(1, generator=generator)}

    about = {"clips_per_sample": 2, "transform": transform, "sample_transform": tagged, "shuffle": False}
    once, twice = (list(make_loader(numbered, workers, **about)) for workers in (0, 2))
    for first, second in zip(once, twice, strict=True):
        assert torch.equal(first["video"], second["video"])
        assert torch.equal(first["draw"], second["draw"])


def test_segments_are_fetched_as_far_as_the_last_clip_needs(numbered, tmp_path):
    remote = {"streams": [VideoStream(remote=numbered, local=tmp_path / "cache")]}
    for each in (5, "all"):
        about = {**ALL, "clips_per_sample": each}
        assert samples_of(make_loader(numbered, **about, **remote)) == samples_of(make_loader(numbered, **about))
    assert len(list((tmp_path / "cache").glob(f"*/{MARKER}"))) == 2


@pytest.fixture
def damaged(numbered, tmp_path):
    shutil.copytree(numbered, tmp_path / "videos")
    scratch(tmp_path / "videos", "f.mp4", 45, 50)
    return tmp_path / "videos"


def test_a_damaged_clip_costs_its_sample(damaged):
    about = {"on_error": "substitute", "max_bad_fraction": 0.5, "shuffle": False}
    batches = list(make_loader(damaged, clips_per_sample=3, **about))
    samples_of(batches)  # the pictures are those of the frames that the sample names
    rows = [(v, ok) for batch in batches for v, ok in zip(batch["video_id"], batch["valid"].tolist(), strict=True)]
    assert [video for video, ok in rows if not ok] == ["f.mp4"]  # frames 40 to 59, of the sample of frames 36 to 71
    batches = list(make_loader(damaged, **ALL, **about))
    bad = [clips for batch in batches for clips, ok in zip(batch["video"], batch["valid"], strict=True) if not ok]
    assert [int(clips.max()) for clips in bad] == [0]


# What is said


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "some", "2"])
def test_wrong_numbers_are_refused(numbered, value):
    with pytest.raises(SpecError, match=r"clips_per_sample=.*whole number, at least 1"):
        make_loader(numbered, clips_per_sample=value)


def test_videos_with_too_few_clips_are_said(numbered, caplog):
    with caplog.at_level(logging.WARNING):
        assert make_loader(numbered, clips_per_sample=14).dataset.num_clips == 5
    assert "have fewer than the 14 clips of a sample and give none" in caplog.text
    with pytest.raises(SpecError, match="has the 26 clips of a sample, the longest has 25: lower clips_per_sample="):
        make_loader(numbered, clips_per_sample=26)


def test_whole_videos_need_a_bound_and_are_refused_beyond_it(numbered):
    with pytest.raises(SpecError, match="say how much memory they may take"):
        VideoDataset(local=numbered, clips=SPEC, clips_per_sample="all")
    with pytest.raises(SpecError, match=r"video 'sub/d.mp4' holds 25 clips, 921,600 bytes.*such samples"):
        make_loader(numbered, **ALL | {"max_memory": 5_000_000})
    fitting = make_loader(numbered, **ALL | {"max_memory": 12_000_000})
    assert len(list(fitting)) == 2
    hungry = make_loader(numbered, 2, **ALL | {"max_memory": 12_000_000})
    with pytest.raises(SpecError, match="lower batch_size=, num_workers=, prefetch_factor= or frame_size="):
        iter(hungry).__next__()


def test_as_many_clips_as_are_said_to_fit_take_no_more(numbered):
    try:
        make_loader(numbered, **ALL | {"max_memory": 5_000_000, "batch_size": 8})
    except SpecError as error:
        fits = int(str(error).rpartition("clips_per_sample= up to ")[2])
    assert 1 <= fits < 25
    make_loader(numbered, clips_per_sample=fits, frame_size=(48, 64), batch_size=8)


def test_what_lanes_hold_grows_with_the_clips_of_a_sample(numbered):
    limit = {"max_memory": "100gb", "frame_size": (48, 64)}
    one, three = (make_loader(numbered, clips_per_sample=each, **limit).dataset.memory for each in (1, 3))
    assert three.segment_bytes.max() - one.segment_bytes.max() == 2 * 4 * 3 * 48 * 64
