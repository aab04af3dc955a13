"""The zoo through the whole dataset: each clip of odd files bit for bit, in order, shuffled, and after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onetake import ClipSpec
from onetake.core.errors import DecodeError
from onetake.decode.build import index_videos
from tests.helpers import make_loader
from tests.zoo import ZOO, sequential, write_zoo

REFUSED = {"cut_off.mp4", "cut_off.mkv"}
DAMAGED = {"scratch.mp4", "torn.ts", "quiet_scratch.mkv"}
CHANGING = {name for name in ZOO if "size_change" in name}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All files that hold pictures of one size and no damage, indexed in segments of a second."""
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, ZOO.keys() - DAMAGED - CHANGING)
    report = index_videos(folder, segment_seconds=1, workers=1)
    assert {refusal.file for refusal in report.refused} == REFUSED
    return folder


@pytest.fixture(scope="module")
def truth(folder) -> dict[str, list[np.ndarray]]:
    found = {}
    for name in ZOO.keys() - DAMAGED - CHANGING - REFUSED:
        found[name] = [np.rot90(shown.pixels, shown.rotation // 90) for shown in sequential(folder / name)]
    return found


def check(batch, truth) -> int:
    """Compare a batch of one clip with the truth; its ID."""
    pictures = batch["video"][0].permute(0, 2, 3, 1).numpy()
    for frame, picture in zip(batch["frame_index"][0].tolist(), pictures, strict=True):
        assert np.array_equal(picture, truth[batch["video_id"][0]][frame]), (batch["video_id"], frame)
    return int(batch["clip_id"][0])


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("how", ["in order", "shuffled", "resumed"])
def test_every_clip_of_every_file(folder, truth, how, stride):
    def loader():
        lanes = 1 if how == "in order" else 8
        return make_loader(
            folder, clips=ClipSpec(4, stride), batch_size=1, shuffle=how != "in order", num_canonical_lanes=lanes
        )

    one = loader()
    delivered = []
    if how == "resumed":
        for batch in one:
            delivered.append(int(batch["clip_id"][0]))
            if len(delivered) == one.dataset.num_clips // 2:
                break
        state = one.state_dict()
        one = loader()
        one.load_state_dict(state)
    delivered += [check(batch, truth) for batch in one]
    assert sorted(delivered) == list(range(one.dataset.num_clips))


def test_pictures_of_two_sizes_need_a_frame_size(tmp_path):
    write_zoo(tmp_path, ["size_change.mkv"])
    index_videos(tmp_path, workers=1)
    clips = ClipSpec(4, 5, 5)  # some of them hold pictures of both sizes
    with pytest.raises(DecodeError, match=r"size_change\.mkv.*give frame_size="):
        list(make_loader(tmp_path, clips=clips, batch_size=1, shuffle=False))
    shapes = {batch["video"].shape for batch in make_loader(tmp_path, clips=clips, batch_size=1, frame_size=(32, 32))}
    assert shapes == {(1, 4, 3, 32, 32)}
