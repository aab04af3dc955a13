"""Streams with weights: how much an epoch takes of each, in whole segments, and that a resume knows it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.data import default_collate

from onetake import ClipSpec, VideoDataset, VideoStream
from onetake.core.errors import ResumeError, SpecError
from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from tests.helpers import SPEC, make_loader, record


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another folder of videos, of many short segments."""
    folder = tmp_path_factory.mktemp("other")
    for name in ("x.mp4", "y.mp4"):
        write_numbered_video(folder / name, 400, gop=20)
    index_videos(folder, segment_seconds=0.8, workers=1)
    return folder


def streams(numbered, other, first, second):
    return [VideoStream(local=numbered, name="first", **first), VideoStream(local=other, name="second", **second)]


def taken(loader) -> list[int]:
    """How many clips of each stream an epoch gives."""
    names = [video for batch in loader for _, video, *_ in record(batch)]
    of_second = sum(name in ("x.mp4", "y.mp4") for name in names)
    return [len(names) - of_second, of_second]


def clips_in(folder):
    return make_loader(folder).dataset.num_clips


CASES = [
    # weights of both, epoch_size -> clips of each, given that they have n and m
    ({}, {}, None, lambda n, m: [n, m]),
    ({"repeat": 2}, {}, None, lambda n, m: [2 * n, m]),
    ({"repeat": 0.5}, {"choose": 3}, None, lambda n, m: [n // 2, 3]),
    ({"choose": 0}, {}, None, lambda n, m: [0, m]),
    ({"proportion": 0.75}, {"proportion": 0.25}, 80, lambda n, m: [60, 20]),
    ({"proportion": 3}, {"proportion": 1}, "80", lambda n, m: [60, 20]),
    ({"proportion": 1}, {"proportion": 0}, None, lambda n, m: [n + m, 0]),
]


@pytest.mark.parametrize("first, second, epoch_size, expected", CASES, ids=range(len(CASES)))
def test_weights_say_what_an_epoch_takes(numbered, other, first, second, epoch_size, expected):
    more = {} if epoch_size is None else {"epoch_size": epoch_size}
    loader = make_loader(numbered, streams=streams(numbered, other, first, second), **more)
    wanted = expected(clips_in(numbered), clips_in(other))
    for _ in range(2):
        assert taken(loader) == wanted
    assert loader.dataset.num_clips == sum(wanted)
    assert len(loader) == -(-sum(wanted) // 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_repeat_goes_through_everything_as_often(numbered, workers):
    spec = [VideoStream(local=numbered, repeat=2)]
    loader = make_loader(numbered, workers, streams=spec)
    counts = Counter(clip for batch in loader for clip, *_ in record(batch))
    assert set(counts.values()) == {2}
    assert len(counts) == clips_in(numbered)


def test_a_tenth_opens_a_tenth_of_the_segments_and_one(other):
    loader = make_loader(other, streams=[VideoStream(local=other, repeat=0.1)], num_canonical_lanes=1, batch_size=1)
    segments = loader.dataset.num_shards
    assert segments >= 30
    for _ in loader:
        pass
    assert loader.stats()["opens"] <= 0.1 * segments + 1


def test_a_weighted_epoch_is_resumed_in_the_middle(numbered, other):
    def loader():
        return make_loader(numbered, streams=streams(numbered, other, {"repeat": 1.7}, {"repeat": 0.3}))

    whole = loader()
    epochs = [[record(batch) for batch in whole] for _ in range(2)]
    assert epochs[0] != epochs[1]
    stopped = loader()
    batches = iter(stopped)
    for _ in range(9):
        next(batches)
    state = stopped.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert [record(batch) for batch in again] == epochs[0][9:]
    assert [record(batch) for batch in again] == epochs[1]
    other_weights = make_loader(numbered, streams=streams(numbered, other, {"repeat": 1.7}, {"repeat": 0.2}))
    with pytest.raises(ResumeError, match="choose was"):
        other_weights.load_state_dict(state)


def test_every_time_that_a_clip_comes_it_is_augmented_anew(numbered):
    def draw(sample, generator):
        return {**sample, "drawn": torch.rand((), generator=generator)}

    loader = make_loader(
        numbered, streams=[VideoStream(local=numbered, repeat=2)], sample_transform=draw, shuffle=False, batch_size=8
    )
    draws, occurrences = Counter(), {}
    for batch in loader:
        rows = zip(batch["clip_id"].tolist(), batch["occurrence"].tolist(), batch["drawn"].tolist(), strict=True)
        for clip, occurrence, drawn in rows:
            draws[drawn] += 1
            occurrences.setdefault(clip, set()).add(occurrence)
    assert max(draws.values()) == 1
    assert all(times == {0, 1} for times in occurrences.values())


def test_by_video_a_video_that_comes_again_is_drained_at_another_time(numbered):
    loader = make_loader(
        numbered, streams=[VideoStream(local=numbered, repeat=3)], shuffle_by="video", num_canonical_lanes=1
    )
    videos = [video for batch in loader for _, video, *_ in record(batch)]
    drains = [video for number, video in enumerate(videos) if number == 0 or videos[number - 1] != video]
    assert len(drains) > 2 * len(set(videos))


@pytest.mark.parametrize("epoch", range(6))
def test_a_part_of_a_segment_and_then_all_of_it(tmp_path_factory, epoch):
    """A lane's decoder that was opened for the end of a segment must not be asked for its beginning."""
    folder = tmp_path_factory.mktemp("one")
    write_numbered_video(folder / "one.mp4", 120, gop=250, bframes=3)
    index_videos(folder, segment_seconds=60, workers=1)
    loader = make_loader(
        folder, streams=[VideoStream(local=folder, repeat=1.6)], batch_size=1, num_canonical_lanes=1, shuffle_seed=epoch
    )
    plain = {clip: rest for i in range(10) for clip, *rest in record(default_collate([loader.dataset[i]]))}
    seen = [sample for batch in loader for sample in record(batch)]
    assert len(seen) == 16
    assert all(plain[clip] == rest for clip, *rest in seen)


REFUSED = [
    ({"repeat": 2, "choose": 3}, {}, {}, r"VideoStream\(repeat=2, choose=3\): give one of them at most"),
    ({"repeat": -1}, {}, {}, r"VideoStream\(repeat=-1\): must be a number, not below 0"),
    ({"choose": 2.5}, {}, {}, r"VideoStream\(choose=2.5\): must be a whole number of clips"),
    ({"proportion": "much"}, {}, {}, r"VideoStream\(proportion='much'\): must be a number"),
    ({"proportion": 1}, {"repeat": 1}, {}, "do not go together"),
    ({"repeat": 1}, {}, {"epoch_size": 100}, "epoch_size=100 do not go together"),
    ({"choose": 0}, {"choose": 0}, {}, "takes no clip of any stream"),
    ({"repeat": 0.001}, {"repeat": 0.001}, {}, "takes no clip of any stream"),
    ({}, {}, {"epoch_size": 0}, "takes no clip of any stream"),
]


@pytest.mark.parametrize("first, second, arguments, message", REFUSED, ids=range(len(REFUSED)))
def test_weights_that_cannot_be_are_refused(numbered, other, first, second, arguments, message):
    with pytest.raises(SpecError, match=message):
        VideoDataset(streams=streams(numbered, other, first, second), clips=SPEC, batch_size=4, **arguments)


def test_epoch_size_alone_takes_of_each_stream_its_share(numbered, other):
    loader = make_loader(numbered, streams=streams(numbered, other, {}, {}), epoch_size=30)
    one, two = taken(loader)
    n, m = clips_in(numbered), clips_in(other)
    assert one + two == 30
    assert abs(one - 30 * n / (n + m)) <= 1


def test_streams_may_have_clips_of_their_own(numbered, other):
    loader = make_loader(
        numbered,
        streams=[VideoStream(local=numbered), VideoStream(local=other, clips=ClipSpec(4, 5))],
        frame_size=(24, 24),
    )
    steps = {
        (video[0] in "xy", int(frames[1] - frames[0]))
        for batch in loader
        for video, frames in zip(batch["video_id"], batch["frame_index"], strict=True)
    }
    assert steps == {(False, 3), (True, 5)}
