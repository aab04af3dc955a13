"""Clips by time: the frame on screen at each target, for any frame rate, the same as by frames for a constant one."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

import av
import numpy as np
import pytest

from onetake import ClipSpec, VideoDataset, VideoStream
from onetake.core.errors import SpecError
from onetake.decode.build import index_videos
from onetake.decode.segment import byte_range, run_table
from onetake.decode.store import read_table
from onetake.decode.synthetic import read_number, write_numbered_video
from tests.helpers import check_going_on, make_loader, record

NTSC = Fraction(30000, 1001)
MILLISECOND = Fraction(1, 1000)
FILES = {
    # name: frames a second, how it is encoded
    "24.mp4": (Fraction(24), {}),
    "25.mp4": (Fraction(25), {"first_pts": 1000}),
    "29.97.mp4": (NTSC, {}),
    "30.mp4": (Fraction(30), {}),
    "60.mp4": (Fraction(60), {}),
    "24.mkv": (Fraction(24), {}),
    "29.97.mkv": (NTSC, {"codec": "libx265"}),
    "30.mkv": (Fraction(30), {"bframes": 0}),
    "25.ts": (Fraction(25), {}),
    "29.97.ts": (NTSC, {}),
    "25.avi": (Fraction(25), {"codec": "mpeg4", "bframes": 0}),
    "29.97.avi": (NTSC, {"codec": "mpeg4", "bframes": 0}),
}
GRIDS = [(4, 3, 12), (3, 2, 5), (5, 1, 40)]  # frames, stride, hop


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A folder for each file of FILES."""
    root = tmp_path_factory.mktemp("constant")
    for name, (rate, how) in FILES.items():
        (root / name).mkdir()
        write_numbered_video(root / name / name, 130, fps=rate, gop=24, **how)
        assert not index_videos(root / name, segment_seconds=1.5, workers=1).refused
    return root


def uneven_times(count, seed):
    """Milliseconds at which frames are shown: bursts, and stills of up to a second."""
    steps = np.random.default_rng(seed).choice(
        [11, 17, 33, 40, 41, 90, 1000], count - 1, p=[0.1] * 3 + [0.2] * 3 + [0.1]
    )
    return np.cumsum([0, *steps]).tolist()


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Videos whose frames last as they like, and one of a constant rate."""
    folder = tmp_path_factory.mktemp("uneven")
    write_numbered_video(folder / "a.mp4", 150, gop=20, pts=uneven_times(150, 1), time_base=MILLISECOND)
    write_numbered_video(folder / "b.mkv", 130, gop=30, pts=uneven_times(130, 2), time_base=MILLISECOND, bframes=3)
    write_numbered_video(folder / "c.mp4", 120, gop=25)
    write_numbered_video(folder / "still.mp4", 2, pts=[0, 4000], time_base=MILLISECOND)
    report = index_videos(folder, segment_seconds=4, workers=1)
    assert not report.refused
    assert sum(video.frame_ticks == 0 for video in report.index.videos) == 2
    return folder


def delivered(loader):
    """{(video, start frame, clip ID): (frames, seconds)} of an epoch, each picture's number read from it."""
    found = {}
    for batch in loader:
        rows = zip(
            *(batch[name] for name in ("video_id", "start_frame", "clip_id", "video", "frame_index")), strict=True
        )
        for (video_id, start, clip, pixels, frames), seconds in zip(rows, batch["pts_seconds"], strict=True):
            assert [read_number(picture.numpy()) for picture in pixels] == frames.tolist()
            assert int(start) == int(frames[0])
            found[video_id, int(start), int(clip)] = frames.tolist(), seconds.tolist()
    return found


@pytest.mark.parametrize("name", FILES)
def test_by_seconds_and_by_frames_is_the_same_where_the_rate_is_constant(constant, name):
    rate = FILES[name][0]
    for num_frames, stride, hop in GRIDS:
        frames = delivered(make_loader(constant / name, clips=ClipSpec(num_frames, stride, hop)))
        spec = ClipSpec(num_frames, fps=rate / stride, hop_seconds=hop / rate)
        assert delivered(make_loader(constant / name, clips=spec)) == frames
        assert len(frames) == ClipSpec(num_frames, stride, hop).num_clips(130)


def by_looking(path, spec):
    """(frames, seconds) of every clip of a file, by the definition alone; its times as PyAV gives them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = stream.time_base
        pts = [frame.pts for frame in container.decode(stream)]
    steps = np.diff(pts)
    length = pts[-1] - pts[0] + int(np.median(steps))
    tolerance = int((len(set(steps.tolist())) > 1 or len(pts) < 64) and length >= 8 * len(pts))
    number, found = 0, []
    while True:
        targets = [(number * spec.hop_time + k * spec.frame_time) / tick for k in range(spec.num_frames)]
        if not targets[-1] + 2 * tolerance < length:
            return found
        frames = [bisect_right(pts, pts[0] + target + tolerance) - 1 for target in targets]
        found.append((frames, pytest.approx([float(pts[frame] * tick) for frame in frames])))
        number += 1


SPECS = [
    ClipSpec(4, fps=8),
    ClipSpec(3, fps=NTSC),
    ClipSpec(2, fps="1/2", hop_seconds=0.7),
    ClipSpec(6, fps=60, hop_seconds="1/3"),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["in place", "cached"])
@pytest.mark.parametrize("spec", SPECS, ids=[str(spec.to_dict()) for spec in SPECS])
def test_every_frame_is_the_one_on_screen(uneven, tmp_path, spec, where, workers):
    place = {} if where == "in place" else {"remote": uneven, "local": tmp_path}
    loader = make_loader(uneven, workers, clips=spec, **place)
    found = delivered(loader)
    assert sorted(clip for *_, clip in found) == list(range(loader.dataset.num_clips))
    for path in uneven.glob("*.m??"):
        own = [found[key] for key in sorted(found, key=lambda key: key[2]) if key[0] == path.name]
        assert own == by_looking(path, spec)
    repeated = sum(len(frames) - len(set(frames)) for frames, _ in found.values())
    pads = -len(found) % 4
    assert loader.stats()["frames_delivered"] == (len(found) + pads) * spec.num_frames
    assert (repeated > 0) == (loader.stats()["frames_repeated"] > 0)
    assert spec != SPECS[3] or repeated > 50


@pytest.mark.parametrize("jitter", [False, True])
def test_a_cached_segment_reaches_as_far_as_its_clips_need_and_no_further(uneven, tmp_path, jitter):
    loader = make_loader(
        uneven, clips=ClipSpec(4, fps=8, hop_seconds=0.9, jitter=jitter), remote=uneven, local=tmp_path
    )
    list(loader)
    (stream,) = loader.dataset.streams
    index, layout = stream.index, stream.layout
    for shard in loader.dataset.shards:
        segment = shard.segment
        draw = 2**64 - 1 if jitter else 0
        last = layout.frames(
            segment, shard.samples - 1, layout.shift(segment, draw), lambda s=segment: stream.timeline(s)
        )[-1]
        exact = run_table(index, segment, last + 1, lambda s: read_table(uneven, index, s))
        assert shard.path.stat().st_size == byte_range(exact)[1]
        assert shard.bytes_on_disk() <= shard.get_raw_size()


def test_the_layout_reads_no_packet_table(uneven, monkeypatch):
    def refuse(*_):
        raise AssertionError("a packet table was read")

    monkeypatch.setattr("onetake.decode.index_source.IndexSource.read_table", refuse)
    dataset = make_loader(uneven, clips=ClipSpec(4, fps=8)).dataset
    assert dataset.num_clips > 40
    dataset.epoch_order(3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("jitter", [False, True])
def test_a_run_goes_on_exactly_and_its_state_names_the_frames(uneven, jitter, workers):
    spec = ClipSpec(4, fps=8, hop_seconds=0.5, jitter=jitter)
    whole = make_loader(uneven, workers, clips=spec)
    epochs = [[record(batch) for batch in whole] for _ in range(2)]
    check_going_on(uneven, workers, epochs, 6, clips=spec)


def test_clips_as_before_have_the_state_of_before(numbered):
    order = make_loader(numbered).dataset.state_at(0, 0)["onetake"]["order"]
    assert order["clips"] == [{"num_frames": 4, "stride": 3, "hop": 12}]
    assert " ".join(order) == (
        "generations clips num_clips choose shuffle shuffle_by shuffle_seed batching_method slots phases"
    )


REFUSED = [
    (ClipSpec(4, fps=0.01), "is long enough for a clip: one extends over 300 s, the longest video has .* s; use fewer"),
    (ClipSpec(4, fps=0.01, align="keyframe"), "is long enough for a clip: one extends over 300 s"),
]


@pytest.mark.parametrize("spec, message", REFUSED, ids=["grid", "keyframes"])
def test_videos_too_short_are_said_in_seconds(uneven, spec, message):
    with pytest.raises(SpecError, match=message):
        VideoDataset(local=uneven, clips=spec, batch_size=4)


def test_how_many_videos_are_too_short_is_said(uneven, caplog):
    dataset = make_loader(uneven, clips=ClipSpec(4, fps=0.5)).dataset
    assert dataset.streams[0].num_short_videos == 1
    assert "1 of the 4 videos" in caplog.text
    assert "shorter than a clip (6 s) and give none" in caplog.text


def test_streams_by_time_and_by_frames_go_together(uneven):
    streams = [
        VideoStream(local=uneven, name="time", clips=ClipSpec(4, fps=8)),
        VideoStream(local=uneven, name="frames", clips=ClipSpec(4, 2)),
    ]
    loader = make_loader(uneven, streams=streams)
    own = [make_loader(uneven, clips=stream.clips).dataset.num_clips for stream in streams]
    assert len(delivered(loader)) == loader.dataset.num_clips == sum(own)
