"""Numbered videos read back, through every codec and scaled; drift videos move, and only move, as told."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from onetake.decode.synthetic import (
    Direction,
    read_number,
    write_drift_video,
    write_numbered_video,
)

CODECS = [
    ("libx264", "mp4", "yuv420p"),
    ("libx265", "mp4", "yuv420p"),
    ("libx265", "mkv", "yuv420p10le"),
    ("libvpx-vp9", "webm", "yuv420p"),
    ("libsvtav1", "mp4", "yuv420p"),
    ("mpeg4", "mp4", "yuv420p"),
]


def decode(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize(("codec", "suffix", "pix_fmt"), CODECS)
def test_every_frame_reads_back_at_full_and_half_size(tmp_path: Path, codec: str, suffix: str, pix_fmt: str):
    path = tmp_path / f"video.{suffix}"
    write_numbered_video(path, 60, codec=codec, pix_fmt=pix_fmt, gop=24)
    frames = decode(path)
    assert [read_number(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(60))
    assert [read_number(frame.reformat(64, 48, "rgb24").to_ndarray()) for frame in frames] == list(range(60))
    assert [i for i, frame in enumerate(frames) if frame.key_frame] == [0, 24, 48]


def test_h264_has_b_frames_only_where_asked(tmp_path: Path):
    for bframes, types in ((2, {"I", "P", "B"}), (0, {"I", "P"})):
        write_numbered_video(tmp_path / "video.mp4", 30, bframes=bframes)
        shown = {av.video.frame.PictureType(frame.pict_type).name for frame in decode(tmp_path / "video.mp4")}
        assert shown == types


def test_timestamps_are_those_asked_for(tmp_path: Path):
    stamps = np.cumsum(np.random.default_rng(0).integers(300, 9000, 40)).tolist()
    base = Fraction(1, 90000)
    write_numbered_video(tmp_path / "video.mp4", 40, pts=stamps, time_base=base, first_pts=500, audio=True)
    frames = decode(tmp_path / "video.mp4")
    seconds = [frame.pts * frame.time_base for frame in frames]
    # MP4 keeps the start in its edit list, in milliseconds; what follows is exact.
    assert abs(seconds[0] - (stamps[0] + 500) * base) < Fraction(1, 1000)
    assert [s - seconds[0] for s in seconds] == [(stamp - stamps[0]) * base for stamp in stamps]
    assert [read_number(frame.to_ndarray(format="gray")) for frame in frames] == list(range(40))
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert len(container.streams.audio) == 1


def test_a_wrong_read_is_an_error(tmp_path: Path):
    write_numbered_video(tmp_path / "video.mkv", 3, codec="ffv1")
    one, two = (frame.to_ndarray(format="gray") for frame in decode(tmp_path / "video.mkv")[1:])
    assert read_number(np.stack([one] * 3)) == read_number(np.stack([one] * 3, axis=2)) == 1
    flipped = one.copy()
    flipped[:12, :16] = 255 - flipped[:12, :16]
    for wrong in (flipped, one // 2 + two // 2, one[::-1], np.zeros_like(one), np.full_like(one, 255)):
        with pytest.raises(ValueError, match="check bits|neither dark nor bright"):
            read_number(wrong)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_frames": 0}, "num_frames=0 must be between"),
        ({"num_frames": 3, "width": 48}, "size 48x96 must be even, and at least 64"),
        ({"num_frames": 3, "pts": [0, 1]}, "2 timestamps for num_frames=3"),
        ({"num_frames": 3, "pts": [0, 1, 1]}, "strictly increasing"),
    ],
)
def test_impossible_numbered_videos(tmp_path: Path, keywords: dict, message: str):
    with pytest.raises(ValueError, match=message):
        write_numbered_video(tmp_path / "video.mp4", **keywords)


@pytest.mark.parametrize(
    ("direction", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)]
)
def test_shapes_drift_the_way_they_are_told(tmp_path: Path, direction: Direction, axis: int, sign: int):
    path = tmp_path / "video.mp4"
    write_drift_video(path, direction, seconds=4, seed=3, scene_seconds=(4, 4), speed=(0.015, 0.02))
    pictures = [frame.to_ndarray(format="gray").astype(float) for frame in decode(path)]
    assert len(pictures) == 100
    first, second = (np.abs(picture - np.median(pictures, axis=0)) for picture in pictures[20:24:3])
    error = {(a, s): np.abs(np.roll(first, 6 * s, a) - second).mean() for a in (0, 1) for s in (-1, 1)}
    assert min(error, key=error.__getitem__) == (axis, sign)


def test_drift_videos_repeat_and_differ_by_seed_only_in_looks(tmp_path: Path):
    def write(direction: Direction, seed: int) -> bytes:
        write_drift_video(tmp_path / "video.mp4", direction, seconds=6, seed=seed, scene_seconds=(1, 2))
        return (tmp_path / "video.mp4").read_bytes()

    assert write("left", 1) == write("left", 1)
    assert write("left", 1) != write("left", 2)
    left = next(iter(decode(tmp_path / "video.mp4"))).to_ndarray(format="gray")
    write("up", 2)  # the first frame of a seed looks the same whatever the direction
    up = decode(tmp_path / "video.mp4")
    assert np.abs(left.astype(int) - up[0].to_ndarray(format="gray")).mean() < 4
    assert sum(frame.key_frame for frame in up) >= 3
    with pytest.raises(ValueError, match="direction='north'"):
        write("north", 1)  # type: ignore[arg-type]
