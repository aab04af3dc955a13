"""No waste: what is decoded, against a count by NAL headers that shares nothing with the decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onetake.core.clips import ClipSpec
from onetake.core.index import PacketTable
from onetake.decode.build import index_video
from onetake.decode.decoder import ClipDecoder, Count, new_counters
from onetake.decode.source import open_source
from onetake.decode.synthetic import write_numbered_video
from tests.nal import closure, pictures

FRAMES = 600
X264 = {"preset": "medium", "b_strategy": "1", "sc_threshold": "40"}
VIDEOS = {
    "h264.mp4": {"gop": 250, "bframes": 3, "options": X264},
    "plain.mp4": {"gop": 60, "bframes": 0},
    "pyramid.mkv": {"gop": 48, "bframes": 5, "options": {"x264-params": "b-pyramid=normal:ref=4"}},
    "short_gops.mp4": {"gop": 12, "bframes": 2},
    "hevc.mp4": {"codec": "libx265", "gop": 250, "bframes": 4, "options": {
        "preset": "fast", "x265-params": "scenecut=0:log-level=error:open-gop=0",
    }},
    "hevc_open.mkv": {"codec": "libx265", "gop": 48, "bframes": 3},
}  # fmt: skip


def starts(hop: int, extent: int, keys: list[int]) -> list[int]:
    return list(range(0, FRAMES - extent, hop))


def sparse(hop: int, extent: int, keys: list[int]) -> list[int]:
    """Few clips, anywhere."""
    picked = np.random.default_rng(0).choice(FRAMES - extent, 5, replace=False)
    return sorted(picked.tolist())


def at_keys(hop: int, extent: int, keys: list[int]) -> list[int]:
    return [key for key in keys if key + extent <= FRAMES]


CLIPS = {
    # name: clips, and which of them
    "dense": (ClipSpec(16, 1), starts),
    "stride_4": (ClipSpec(16, 4), starts),
    "stride_8": (ClipSpec(16, 8), starts),
    "stride_70": (ClipSpec(4, 70), starts),  # longer than most GOPs
    "overlapping": (ClipSpec(16, 2, 8), starts),
    "overlapping_wide": (ClipSpec(8, 9, 5), starts),
    "overlapping_far": (ClipSpec(8, 25, 7), starts),  # clips reach over many GOPs
    "overlapping_over_gops": (ClipSpec(4, 60, 11), starts),
    "apart": (ClipSpec(8, 2, 100), starts),
    "sparse": (ClipSpec(8, 1), sparse),
    "sparse_strided": (ClipSpec(8, 4), sparse),
    "at_keyframes": (ClipSpec(8, 1), at_keys),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, how in VIDEOS.items():
        write_numbered_video(folder / name, FRAMES, **{"width": 96, "height": 64, **how})
    return folder


@pytest.mark.parametrize("clips", CLIPS)
@pytest.mark.parametrize("name", VIDEOS)
def test_no_more_is_decoded_than_wanted_frames_depend_on(folder, name, clips):
    indexed = index_video(folder, name, 1000.0)
    table = PacketTable.from_bytes(indexed.tables[0], len(pictures(folder / name)))
    spec, choose = CLIPS[clips]
    first = choose(spec.hop_frames, spec.extent, table.frame[table.key_rows].tolist())
    wanted = [spec.frame_index(start).tolist() for start in first]
    plan = {frame for frames in wanted for frame in frames}
    counters = new_counters()
    decoder = ClipDecoder(indexed.video, open_source(indexed.video, table, folder / name), id, counters, plan)
    for frames in wanted:
        decoder.read(frames)
    decoder.close()
    needed = closure(pictures(folder / name), plan)
    assert len(plan) <= needed <= FRAMES
    assert counters[Count.FRAMES_CONVERTED] == len(plan)
    assert counters[Count.FRAMES_DECODED] <= 1.02 * needed
    assert counters[Count.FRAMES_DECODED] >= len(plan)


def test_the_closure_is_well_below_all_frames(folder):
    """Else the test above would show little."""
    shares = {name: closure(pictures(folder / name), range(0, FRAMES, 8)) / FRAMES for name in VIDEOS}
    assert shares["plain.mp4"] > 0.9
    assert max(shares[name] for name in ("h264.mp4", "pyramid.mkv", "hevc.mp4", "hevc_open.mkv")) < 0.75
