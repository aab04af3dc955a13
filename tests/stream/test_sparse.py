"""A few clips of each video, clips at keyframes, and clips that move: what an epoch takes, and what that costs."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from onetake import ClipSpec, VideoDataset, VideoLoader, VideoStream
from onetake.core.errors import CacheError, DecodeError, ResumeError, SpecError
from onetake.core.layout import Layout
from onetake.decode.build import index_videos
from onetake.decode.store import read_keyframes
from onetake.decode.synthetic import read_number, write_numbered_video
from onetake.stream.arguments import no_clips
from tests.core.grids import Times, make_index
from tests.helpers import bytes_in, check_going_on, make_loader, record

SPARSE = ClipSpec(4, 3, clips_per_video=3)
JITTER = ClipSpec(4, 3, 20, jitter=True)
ALIGNED = ClipSpec(4, 3, 24, align="keyframe")
RANDOM = {
    "sparse": SPARSE,
    "jitter": JITTER,
    "both": ClipSpec(4, 3, 20, jitter=True, clips_per_video=3),
    "by time": ClipSpec(4, fps=10, hop_seconds=0.7, jitter=True, clips_per_video=4),
    "keyframes": ClipSpec(4, 3, 24, align="keyframe", clips_per_video=2),
}


def epoch_of(loader):
    """(clip, video, frames, number within the segment's order) of an epoch, each picture's number read from it."""
    found = []
    for batch in loader:
        columns = (batch[name] for name in ("clip_id", "video_id", "frame_index", "video", "is_pad"))
        for clip, video_id, frames, pixels, pad in zip(*columns, strict=True):
            assert [read_number(picture.numpy()) for picture in pixels] == frames.tolist(), video_id
            if not pad:
                found.append((int(clip), video_id, tuple(frames.tolist())))
    return found


def by_video(epoch):
    found = defaultdict(set)
    for clip, video_id, _ in epoch:
        found[video_id].add(clip)
    return dict(found)


@pytest.mark.filterwarnings("ignore:global batch")
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_an_epoch_takes_so_many_clips_of_each_video_and_others_in_the_next(numbered, workers):
    every = by_video(epoch_of(make_loader(numbered)))
    loader, again = make_loader(numbered, workers, clips=SPARSE), make_loader(numbered, clips=SPARSE)
    assert (loader.dataset.num_clips, len(every), len(loader)) == (18, 6, 5)
    epochs = [epoch_of(loader) for _ in range(3)]
    assert epochs == [epoch_of(again) for _ in range(3)]
    for epoch in epochs:
        taken = by_video(epoch)
        assert {video: len(clips) for video, clips in taken.items()} == dict.fromkeys(every, 3)
        assert all(clips <= every[video] for video, clips in taken.items())
    assert len({frozenset(clip for clip, *_ in epoch) for epoch in epochs}) == 3
    other_seed = epoch_of(make_loader(numbered, clips=SPARSE, shuffle_seed=18))
    assert by_video(other_seed) != by_video(epochs[0])


def test_all_clips_of_a_video_that_has_no_more(numbered):
    plain = epoch_of(make_loader(numbered))
    assert epoch_of(make_loader(numbered, clips=ClipSpec(4, 3, clips_per_video=1000))) == plain


def test_within_a_segment_clips_keep_their_order(numbered):
    loader = make_loader(numbered, clips=ClipSpec(4, 3, clips_per_video=5), num_canonical_lanes=1, batch_size=1)
    shards = loader.dataset.spanner
    order = [(shards[clip][0], clip) for clip, *_ in epoch_of(loader)]
    runs = [clip for number, clip in enumerate(order) if number == 0 or order[number - 1][0] != clip[0]]
    assert len(runs) == len({shard for shard, _ in order})
    assert all(early[1] < late[1] for early, late in pairwise(order) if early[0] == late[0])


def test_a_video_that_is_added_changes_no_other_ones_draw(numbered, tmp_path):
    shutil.copytree(numbered, tmp_path / "more")
    taken = {}
    for name in ("before", "after"):
        if name == "after":
            write_numbered_video(tmp_path / "more" / "aa.mp4", 150)
            index_videos(tmp_path / "more", segment_seconds=3, workers=1)
        for jitter in (False, True):
            spec = ClipSpec(4, 3, clips_per_video=3, jitter=jitter)
            starts = defaultdict(set)
            for _, video, frames in epoch_of(make_loader(tmp_path / "more", clips=spec)):
                starts[video].add(frames)
            taken[name, jitter] = starts
    for jitter in (False, True):
        assert len(taken["after", jitter].pop("aa.mp4")) == 3
        assert taken["after", jitter] == taken["before", jitter]


@pytest.mark.parametrize("spec", RANDOM.values(), ids=RANDOM)
def test_validation_takes_the_same_in_every_epoch_and_shifts_nothing(numbered, spec):
    loader = make_loader(numbered, clips=spec, shuffle=False, sampling_method="fixed")
    epochs = [epoch_of(loader) for _ in range(2)]
    assert epochs[0] == epochs[1]
    still = ClipSpec(
        **{name: getattr(spec, name) for name in ("num_frames", "stride", "hop", "fps", "hop_seconds", "align")}
    )
    grid = {clip: frames for clip, _, frames in epoch_of(make_loader(numbered, clips=still))}
    assert all(grid[clip] == frames for clip, _, frames in epochs[0])


def test_a_repeat_takes_the_same_clips_again_augmented_anew(numbered):
    def draw(sample, generator):
        return {**sample, "drawn": torch.rand((), generator=generator)}

    streams = [VideoStream(local=numbered, repeat=2)]
    loader = make_loader(numbered, streams=streams, clips=SPARSE, sample_transform=draw)
    times, draws = Counter(), set()
    for batch in loader:
        times.update(batch["clip_id"].tolist())
        draws.update(batch["drawn"].tolist())
    assert set(times.values()) == {2}
    assert len(times) == 18
    assert len(draws) == 36


def test_weights_count_what_an_epoch_can_draw(numbered):
    first, second = VideoStream(local=numbered, name="a", clips=SPARSE), VideoStream(local=numbered, name="b")
    plain = make_loader(numbered).dataset.num_clips
    loader = make_loader(numbered, streams=[first, second])
    assert loader.dataset.num_clips == 18 + plain
    epoch = epoch_of(loader)
    assert sorted(clip for clip, *_ in epoch if clip >= plain) == list(range(plain, 2 * plain))
    assert len({clip for clip, *_ in epoch if clip < plain}) == 18
    half = make_loader(numbered, streams=[VideoStream(local=numbered, repeat=0.5)], clips=SPARSE)
    assert half.dataset.num_clips == len(epoch_of(half)) == 9
    few = make_loader(numbered, streams=[VideoStream(local=numbered, choose=7)], clips=SPARSE)
    assert len({clip for clip, *_ in epoch_of(few)}) == 7


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spec", RANDOM.values(), ids=RANDOM)
def test_a_run_goes_on_exactly(numbered, spec, workers):
    whole = make_loader(numbered, workers, clips=spec)
    epochs = [[record(batch) for batch in whole] for _ in range(2)]
    assert sorted(epochs[0]) != sorted(epochs[1])
    check_going_on(numbered, workers, epochs, 2, clips=spec)


CHANGES = [
    ({"clips": ClipSpec(4, 3, clips_per_video=4)}, "clips was"),
    ({"clips": ClipSpec(4, 3)}, "clips was"),
    ({"sampling_method": "fixed"}, "sampling_method was 'balanced' and is now 'fixed'"),
]


@pytest.mark.parametrize("change, message", CHANGES, ids=range(len(CHANGES)))
def test_another_choice_of_clips_is_refused(numbered, change, message):
    state = make_loader(numbered, clips=SPARSE).dataset.state_at(0, 4)
    with pytest.raises(ResumeError, match=message):
        make_loader(numbered, **{"clips": SPARSE, **change}).load_state_dict(state)


# Jitter


def test_jitter_moves_each_videos_clips_alike_and_by_another_step_in_every_epoch(numbered):
    grid = {clip: frames for clip, _, frames in epoch_of(make_loader(numbered, clips=ClipSpec(4, 3, 20)))}
    loader = make_loader(numbered, clips=JITTER)
    moved = defaultdict(list)
    for _ in range(4):
        shifts = defaultdict(set)
        for clip, video, frames in epoch_of(loader):
            assert np.diff(frames).tolist() == [3, 3, 3]
            shifts[video].add(frames[0] - grid[clip][0])
        for video, steps in shifts.items():
            assert 0 <= min(steps) <= max(steps) < 20
            assert len(steps) <= 2  # the last clip moves only as far as the video goes
            moved[video].append(max(steps))
    assert len(set(map(tuple, moved.values()))) == 6
    assert all(len(set(steps)) > 1 for steps in moved.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_random_access_gives_what_the_present_epoch_does(numbered, workers):
    loader = make_loader(numbered, workers, clips=JITTER)
    for _ in range(2):
        seen = [sample for batch in loader for sample in record(batch)]
    state = loader.dataset.state_at(1, 8)
    resumed = make_loader(numbered, workers, clips=JITTER)
    resumed.load_state_dict(state)
    for dataset in (loader.dataset, resumed.dataset):
        assert [record(default_collate([dataset[clip]])) for clip, *_ in seen[:9]] == [[one] for one in seen[:9]]


def test_transforms_are_drawn_for_the_clips_true_start(numbered):
    loader = make_loader(numbered, clips=JITTER)
    dataset = loader.dataset
    for _ in range(2):
        for batch in loader:
            for clip, start in zip(batch["clip_id"].tolist(), batch["start_frame"].tolist(), strict=True):
                seeds = [dataset.sample_seed(clip, loader.epoch, 0, False, *more) for more in ((), (start,))]
                assert seeds[0] == seeds[1]
                assert seeds[0] != dataset.sample_seed(clip, loader.epoch, 0, False, start + 1)


# In a cache


@pytest.mark.parametrize("spec", RANDOM.values(), ids=RANDOM)
def test_a_cache_within_its_limit_serves_every_epoch(tmp_path, numbered, spec):
    shutil.copytree(numbered, tmp_path / "remote")
    (tmp_path / "remote" / "e.ts").unlink()  # fetched whole, it would rule the limit
    index_videos(tmp_path / "remote", segment_seconds=1, workers=1)
    arguments = {"clips": spec, "num_canonical_lanes": 2, "predownload": 1, "batch_size": 2}
    place = {"remote": tmp_path / "remote", "local": tmp_path / "cache"}
    with pytest.raises(CacheError, match="is too small") as error:
        make_loader(numbered, **place, cache_limit=5000, **arguments)
    limit = int(str(error.value).split("with the index ")[1].split(" bytes")[0].replace(",", ""))
    loader = make_loader(numbered, **place, cache_limit=limit, **arguments)
    largest = max(shard.get_raw_size() for shard in loader.dataset.shards)
    plain = make_loader(tmp_path / "remote", **arguments)
    for _ in range(3):
        seen = []
        for batch in loader:
            seen.append(record(batch))
            # The host counts a segment when it is there, and a second one may be under way meanwhile.
            assert bytes_in(tmp_path / "cache") <= limit + largest
        assert seen == [record(batch) for batch in plain]


def test_an_epoch_fetches_only_segments_that_it_takes_clips_of(numbered, tmp_path):
    index_videos(numbered, tmp_path / "index", segment_seconds=1, workers=1)
    stream = VideoStream(remote=numbered, local=tmp_path / "cache", index=tmp_path / "index")
    loader = make_loader(numbered, streams=[stream], clips=ClipSpec(4, 3, clips_per_video=1))
    list(loader)
    assert len(list((tmp_path / "cache").rglob("*.bytes"))) == 6 < loader.dataset.num_shards


# At keyframes


def test_aligned_clips_start_at_keyframes(numbered):
    loader = make_loader(numbered, clips=ALIGNED)
    epoch = epoch_of(loader)
    index = loader.dataset.streams[0].index
    keyframes = read_keyframes(numbered, index)
    segment = np.repeat(np.arange(index.num_segments), np.diff(keyframes.start))
    expected = set()
    for number, video in enumerate(index.videos):
        keys = keyframes.frame[index.video[segment] == number].tolist()
        cells = {}
        for key in keys:
            cells.setdefault(key // 24, key)
        expected |= {(video.video_id, key) for key in cells.values() if key + 10 <= video.num_frames}
    assert {(video, frames[0]) for _, video, frames in epoch} == expected
    assert sorted(clip for clip, *_ in epoch) == list(range(len(expected)))


@pytest.mark.parametrize("spec", [ClipSpec(8, 1, 20, align="keyframe", clips_per_video=2), ALIGNED], ids=["few", "all"])
def test_no_lead_in_is_decoded_before_a_keyframe(tmp_path, spec):
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        write_numbered_video(tmp_path / name, 200, gop=25, bframes=0)
    index_videos(tmp_path, segment_seconds=60, workers=1)
    loader = make_loader(tmp_path, clips=spec, drop_last=True, num_canonical_lanes=4)
    for _ in loader:
        pass
    stats = loader.stats()
    assert stats["clips_delivered"] == 4 * len(loader) >= 8
    assert stats["frames_decoded"] <= stats["clips_delivered"] * spec.extent
    assert stats["seeks"] <= stats["clips_delivered"]


def test_no_keyframe_from_which_a_clip_fits_is_said(tmp_path):
    write_numbered_video(tmp_path / "a.mp4", 60, gop=250)
    index_videos(tmp_path, workers=1)
    assert make_loader(tmp_path, clips=ClipSpec(4, 3, align="keyframe")).dataset.num_clips == 1
    with pytest.raises(SpecError, match="long enough for a clip: one extends over 61 frames"):
        VideoDataset(local=tmp_path, clips=ClipSpec(61, align="keyframe"))


def test_videos_whose_keyframes_stand_too_late_are_said():
    """As where an edit list hides the first keyframe."""
    index, keyframes = make_index([Times(range(100), keys=[95])])
    error = no_clips(Layout(ClipSpec(4, 3, align="keyframe"), index, keyframes), "video", "videos")
    assert "no video in videos has a keyframe from which a clip fits: one extends over 10 frames" in str(error)
    error = no_clips(Layout(ClipSpec(4, fps=2.5, align="keyframe"), index, keyframes), "video", "videos")
    assert "one extends over 1.2 s, and begins at a keyframe" in str(error)
    assert "leave out align=, or use fewer frames or a higher fps" in str(error)


# What lanes decode


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spec", [ClipSpec(4, 3, clips_per_video=2), ClipSpec(4, 3)], ids=["sparse", "all"])
def test_a_lane_decodes_for_no_clip_that_it_does_not_read(tmp_path, spec, workers):
    """Intra pictures: whatever is decoded beyond the clips' own frames is for someone else."""
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        write_numbered_video(tmp_path / name, 300, gop=1, bframes=0)
    index_videos(tmp_path, segment_seconds=60, workers=1)
    loader = make_loader(tmp_path, workers, clips=spec, num_canonical_lanes=8, drop_last=True)
    for _ in loader:
        pass
    stats = loader.stats()
    frames = stats["clips_delivered"] * 4
    assert stats["frames_converted"] == frames
    assert stats["frames_decoded"] == frames


def test_a_remainder_decodes_for_its_own_clips_alone(tmp_path):
    write_numbered_video(tmp_path / "a.mp4", 300, gop=1, bframes=0)
    index_videos(tmp_path, segment_seconds=60, workers=1)
    streams = [VideoStream(local=tmp_path, choose=7)]
    loader = make_loader(tmp_path, streams=streams, num_canonical_lanes=1, batch_size=1)
    for _ in loader:
        pass
    stats = loader.stats()
    assert (stats["clips_delivered"], stats["frames_converted"], stats["frames_decoded"]) == (7, 28, 28)
    assert stats["opens"] == 1


# What else a stream says


def test_the_stream_that_was_indexed_is_checked(numbered):
    assert make_loader(numbered, streams=[VideoStream(local=numbered, stream_index=0)]).dataset.num_clips
    with pytest.raises(SpecError, match=r"stream_index=2\): of video 'a.mp4'.*run `onetake index --stream-index 2`"):
        make_loader(numbered, streams=[VideoStream(local=numbered, stream_index=2)])
    with pytest.raises(SpecError, match=r"stream_index=-1\): must be a whole number"):
        VideoStream(local=numbered, stream_index=-1)


def test_how_pictures_are_turned_to_rgb_is_said_by_dataset_and_stream(numbered):
    def first(scaling="fast", color_matrix=None):
        streams = [VideoStream(local=numbered, color_matrix=color_matrix)]
        return make_loader(numbered, streams=streams, frame_size=(48, 64), scaling=scaling).dataset[0]["video"]

    plain, exact = first(), first("exact")
    assert not torch.equal(plain, exact)
    assert (plain.float() - exact.float()).abs().mean() < 4
    assert torch.equal(first(color_matrix="bt601"), plain)
    with pytest.raises(SpecError, match="scaling='best'"):
        first("best")
    with pytest.raises(SpecError, match="color_matrix='rgb'"):
        first(color_matrix="rgb")


def test_a_clip_whose_frames_change_in_size_is_refused_by_name(tmp_path):
    small, large = tmp_path / "small.ts", tmp_path / "large.ts"
    write_numbered_video(small, 50, gop=10)
    write_numbered_video(large, 50, gop=10, first_pts=50, width=192, height=160)
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "grows.ts").write_bytes(small.read_bytes() + large.read_bytes())
    index_videos(folder, workers=1)
    dataset = make_loader(folder, clips=ClipSpec(8, 2, 8)).dataset
    assert dataset.num_clips == 11
    assert [tuple(dataset[clip]["video"].shape[2:]) for clip in (4, 7)] == [(96, 128), (160, 192)]
    message = (
        r"'grows.ts', frame 50: is 160 x 192 \(height x width\), and those before it .* 96 x 128; give frame_size="
    )
    with pytest.raises(DecodeError, match=message):
        dataset[5]
    with pytest.raises(DecodeError, match="'grows.ts', frame 50: "):
        list(VideoLoader(dataset))
    scaled = make_loader(folder, clips=ClipSpec(8, 2, 8), frame_size=(48, 64))
    assert sorted(clip for batch in scaled for clip, *_ in record(batch)) == list(range(11))
