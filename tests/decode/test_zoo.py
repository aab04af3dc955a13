"""The zoo: odd files of every kind, each clip of them bit for bit what a full sequential decode shows, or refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from onetake.core.clips import ClipSpec
from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import PACKETS, PacketTable
from onetake.decode.build import IndexedVideo, index_video
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.scale import converter
from onetake.decode.source import open_source
from tests.zoo import ZOO, facts, reference, sequential, write_zoo

REFUSED = {
    # file: why. Both are damaged.
    "cut_off.mp4": r"cut off or damaged at byte \d+; copy it again",
    "cut_off.mkv": r"cut off: its header announces \d+ bytes, the file holds \d+; copy it again",
}
# file: the frames that its damage may cost, and no others
LOST = {"scratch.mp4": range(24, 48), "torn.ts": range(20, 40), "quiet_scratch.mkv": range(25, 40)}
USED = [name for name in ZOO if name not in REFUSED]
STRIDES = (1, 3, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


def whole_table(indexed: IndexedVideo) -> PacketTable:
    parts = zip(indexed.tables, indexed.rows, strict=True)
    return PacketTable.concatenate([PacketTable.from_bytes(part, row["num_packets"]) for part, row in parts])


def upright(path: Path) -> list[np.ndarray]:
    return [np.rot90(shown.pixels, shown.rotation // 90) for shown in sequential(path)]


def test_there_are_many_files_and_few_refusals():
    assert len(USED) >= 50
    assert len(REFUSED) <= 8
    assert len({Path(name).suffix for name in USED}) >= 9


@pytest.mark.parametrize("name", ZOO)
def test_a_file_is_what_it_is_meant_to_be(folder, name):
    found = facts(folder / name)
    assert {key: found[key] for key in ZOO[name].claims} == ZOO[name].claims


@pytest.mark.parametrize("name", ZOO)
def test_the_pictures_of_a_file_differ(folder, name):
    pictures = [(picture.shape, picture.tobytes()) for picture in reference(folder / name)]
    assert len(pictures) - len(set(pictures)) == ZOO[name].repeats  # what an edit list shows twice


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("verify", [False, True])
def test_a_refusal_says_why(folder, name, verify):
    with pytest.raises(VideoError) as caught:
        index_video(folder, name, 1.0, verify=verify)
    assert caught.value.video_id == name
    assert re.fullmatch(REFUSED[name], caught.value.reason)


@pytest.mark.parametrize("verify", [False, True], ids=["sampled", "verified"])
@pytest.mark.parametrize("name", USED)
def test_every_clip_is_exact(folder, name, verify):
    path = folder / name
    truth = upright(path)
    indexed = index_video(folder, name, 1.0, verify=verify)
    video, table = indexed.video, whole_table(indexed)
    assert video.num_frames == len(truth)
    lost = 0
    for stride in STRIDES:
        spec = ClipSpec(4, stride)
        starts = [spec.start_frame(clip) for clip in range(spec.num_clips(video.num_frames))]
        plan = {frame for start in starts for frame in spec.frame_index(start).tolist()}
        shuffled = np.random.default_rng(stride).permutation(starts).tolist()
        for order, known in [(starts, plan), (shuffled, None), (starts[len(starts) // 2 :], plan)]:
            source = open_source(video, table, path)
            decoder = ClipDecoder(video, source, converter(None, video.rotation), new_counters(), known)
            for start in order:
                frames = spec.frame_index(start).tolist()
                got = _read(decoder, frames, name)
                lost += got is None
                for frame, picture in zip(frames, got or (), strict=got is not None):
                    assert np.array_equal(picture, truth[frame]), (stride, start, frame)
            decoder.close()
    assert bool(lost) == (name in LOST)


def _read(decoder: ClipDecoder[np.ndarray], frames: list[int], name: str) -> list[np.ndarray] | None:
    """The frames; None if they are refused and the file is damaged there."""
    try:
        return decoder.read(frames)
    except DecodeError as error:
        known = error.video_id == name and error.frame in LOST.get(name, ()) and error.byte_offset is not None
        if not known or not set(frames) & set(LOST[name]):
            raise
        return None


def test_most_files_are_read_without_their_container(folder):
    kinds = {name: index_video(folder, name, 1.0).video.kind for name in USED}
    others = {name for name in USED if kinds[name] != PACKETS}
    assert {Path(name).suffix for name in others} <= {".ts", ".m2ts", ".mpg", ".asf"}
