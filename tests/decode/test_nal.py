"""The count of pictures that must be decoded, against streams whose structure is known, and against FFmpeg."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from tests.nal import Picture, closure, intervals, nal_units, pictures
from tests.zoo_make import Take, write

FIXED = "b-adapt=0:scenecut=0:weightp=0:rc-lookahead=10"
# In presentation order, keyframes every 9 frames: I b b P b b P b P | I ...
PLAIN = Take(frames=18, gop=9, bframes=2, params=f"{FIXED}:b-pyramid=none")
PYRAMID = Take(frames=18, gop=9, bframes=3, params=f"{FIXED}:b-pyramid=strict")
OPEN = Take(frames=24, gop=8, bframes=2, params=f"{FIXED}:b-pyramid=none:open-gop=1")
HEVC = Take("libx265", frames=18, gop=9, bframes=2, params="b-adapt=0:b-pyramid=0:open-gop=0")
OPEN_HEVC = Take("libx265", frames=24, gop=8, bframes=2, params="b-adapt=0:b-pyramid=0:open-gop=1")


def coded(folder: Path, take: Take, suffix: str = ".mp4") -> list[Picture]:
    write(folder / f"video{suffix}", take)
    return pictures(folder / f"video{suffix}")


def order(coded: list[Picture]) -> str:
    """Frames in decode order; those that no other refers to in brackets, keyframes behind a bar."""
    words = (f"{picture.frame}" if picture.is_reference else f"({picture.frame})" for picture in coded)
    return " ".join(f"| {word}" if picture.is_keyframe else word for picture, word in zip(coded, words, strict=True))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize(
    ("take", "expected"),
    [
        (PLAIN, "| 0 3 (1) (2) 6 (4) (5) 8 (7) | 9 12 (10) (11) 15 (13) (14) 17 (16)"),
        (PYRAMID, "| 0 4 2 (1) (3) 8 6 (5) (7) | 9 13 11 (10) (12) 17 15 (14) (16)"),
        (OPEN, "| 0 3 (1) (2) 6 (4) (5) | 8 (7) 11 (9) (10) 14 (12) (13) | 16 (15) 19 (17) (18) 22 (20) (21) 23"),
        (HEVC, "| 0 3 (1) (2) 6 (4) (5) 8 (7) | 9 12 (10) (11) 15 (13) (14) 17 (16)"),
        (OPEN_HEVC, "| 0 3 (1) (2) 6 (4) (5) | 8 (7) 11 (9) (10) 14 (12) (13) | 16 (15) 19 (17) (18) 22 (20) (21) 23"),
    ],
    ids=["plain", "pyramid", "open", "hevc", "open_hevc"],
)
def test_order_and_references(tmp_path, take, suffix, expected):
    assert order(coded(tmp_path, take, suffix)) == expected


@pytest.mark.parametrize(
    ("take", "wanted", "count"),
    [
        (PLAIN, [], 0),
        (PLAIN, [0], 1),
        (PLAIN, [1], 3),  # 0 3 (1)
        (PLAIN, [2], 3),  # 0 3 (2): not (1)
        (PLAIN, [3], 2),
        (PLAIN, [1, 2], 4),
        (PLAIN, [7], 5),  # 0 3 6 8 (7)
        (PLAIN, [10], 3),  # from the second keyframe
        (PLAIN, [7, 10], 8),
        (PLAIN, range(18), 18),
        (PLAIN, range(0, 18, 3), 6),  # references only
        (PLAIN, range(0, 18, 4), 10),  # 0 3 6 (4) 8, 9 12 15 17 (16)
        (PYRAMID, [1], 4),  # 0 4 2 (1)
        (PYRAMID, [4], 2),
        (PYRAMID, [5, 16], 12),  # 0 4 2 8 6 (5), 9 13 11 17 15 (16)
        (OPEN, [6], 3),
        (OPEN, [7], 5),  # 0 3 6 | 8 (7): both sides
        (OPEN, [8], 1),
        (OPEN, [7, 9], 7),  # 0 3 6 | 8 (7) 11 (9): the keyframe once
        (OPEN, [15], 5),  # 8 11 14 | 16 (15)
        (HEVC, [7], 5),
        (OPEN_HEVC, [7], 5),
        (OPEN_HEVC, [7, 9], 7),
    ],
)
def test_closure_counted_by_hand(tmp_path, take, wanted, count):
    assert closure(coded(tmp_path, take), set(wanted)) == count


@pytest.mark.parametrize("take", [PLAIN, PYRAMID, OPEN, HEVC, OPEN_HEVC])
def test_types_are_those_that_ffmpeg_finds(tmp_path, take):
    found = coded(tmp_path, take)
    with av.open(str(tmp_path / "video.mp4")) as container:
        kinds = ["?IPB"[frame.pict_type] for frame in container.decode(video=0)]
    assert len(kinds) == len(found)
    assert all(kinds[picture.frame] == "B" for picture in found if not picture.is_reference)
    assert all(picture.is_reference for picture in found if kinds[picture.frame] in "IP")
    assert [kinds[part[0].frame] for part in intervals(found)] == ["I"] * len(intervals(found))


@pytest.mark.parametrize("take", [PLAIN, PYRAMID, OPEN, HEVC, OPEN_HEVC])
def test_ffmpeg_decodes_no_more_when_told_to_skip(tmp_path, take):
    found = coded(tmp_path, take)
    with av.open(str(tmp_path / "video.mp4")) as container:
        container.streams.video[0].thread_count = 1
        container.streams.video[0].codec_context.skip_frame = "NONREF"
        shown = sum(1 for _ in container.decode(video=0))
    assert shown == sum(picture.is_reference for picture in found)


def test_several_slices_are_one_picture(tmp_path):
    found = coded(tmp_path, Take(frames=6, gop=6, bframes=0, params="slices=4"))
    assert [len(picture.types) for picture in found] == [4] * 6
    assert found[0].types == (5, 5, 5, 5)


def test_temporal_layers_refer_upwards(tmp_path):
    take = Take("libx265", frames=16, gop=16, bframes=3, params="b-adapt=0:open-gop=0:temporal-layers=3")
    found = coded(tmp_path, take, ".mkv")
    assert 2 in {kind for picture in found for kind in picture.types}  # TSA_N
    assert all(picture.types == (2,) for picture in found if not picture.is_reference)


def test_pictures_that_are_cut_away_have_no_number(tmp_path):
    write(tmp_path / "cut.mp4", Take(frames=18, gop=9, bframes=2, params=PLAIN.params, pts=range(-4, 14)))
    found = pictures(tmp_path / "cut.mp4")
    assert order(found) == "| -1 -1 (-1) (-1) 2 (0) (1) 4 (3) | 5 8 (6) (7) 11 (9) (10) 13 (12)"
    assert closure(found, {0}) == 4  # 0 3 6 (4), as numbered before the cut
    with pytest.raises(ValueError, match=r"no frames \[14\]"):
        closure(found, {0, 14})


def test_units_of_both_kinds():
    units = [b"\x65\1\2", b"\x41\0\0\3\1"]
    behind_lengths = b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
    assert list(nal_units(behind_lengths, 2)) == units
    assert list(nal_units(b"\0\0\0\1" + units[0] + b"\0\0\1" + units[1] + b"\0", 0)) == units


def test_other_codecs_are_refused(tmp_path):
    write(tmp_path / "video.webm", Take("libvpx-vp9", frames=3))
    with pytest.raises(ValueError, match="holds vp9, not H.264 or HEVC"):
        pictures(tmp_path / "video.webm")
