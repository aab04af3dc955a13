"""Damage to a pack is told by shard, and by what of which videos is lost."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from onetake import pack_videos
from onetake.core.errors import IndexFileError
from onetake.decode.pack_index import read_shards
from onetake.decode.store import read_header, read_index, read_table
from onetake.decode.verify import Verification
from onetake.decode.verify_pack import verify_pack
from onetake.storage.local import LocalStorage


@pytest.fixture(scope="module")
def packed(numbered, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "out"
    pack_videos(numbered, out, shard_size=1 << 17, segment_seconds=1.5, overlap=1.0, workers=1)
    return out


@pytest.fixture
def pack(packed, tmp_path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(packed, tmp_path / "pack"))


def verified(pack: Path) -> Verification:
    folder = pack / "onetake"
    index = read_index(folder)
    shards = read_shards(folder, index, read_header(folder))
    return verify_pack(index, shards, partial(read_table, folder, index), LocalStorage(pack), workers=2)


def place_of(pack: Path, video_id: str, frame: int) -> tuple[str, int, int]:
    """(shard, first byte, last byte and one) of the packet that holds a frame, by the segment it belongs to."""
    folder = pack / "onetake"
    index = read_index(folder)
    shards = read_shards(folder, index, read_header(folder))
    for segment in range(index.num_segments):
        first, count = int(index.first_frame[segment]), int(index.num_frames[segment])
        video = index.videos[index.video[segment]]
        if video.video_id == video_id and first <= frame < first + count:
            table = read_table(folder, index, segment)
            (row,) = np.flatnonzero(table.frame == frame).tolist()
            start = int(table.offset[row]) + (int(index.byte_offset[segment]) if video.kind == "container" else 0)
            return shards.files[shards.shard_of_segment[segment]], start, start + int(table.size[row])
    raise AssertionError("no such frame")


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_nothing_is_wrong_with_what_was_packed(packed):
    index = read_index(packed / "onetake")
    result = verified(packed)
    assert result.wrong == ()
    assert result.files == len(list(packed.glob("*.mds"))) > 2
    assert result.packets == int(index.num_packets.sum())
    assert result.bytes == sum(path.stat().st_size for path in packed.glob("*.mds"))


@pytest.mark.parametrize("video_id, frame", [("a.mp4", 60), ("sub/c.mkv", 3), ("e.ts", 100), ("short.mp4", 0)])
def test_a_damaged_packet_is_found_by_shard_video_frame_and_place(pack, video_id, frame):
    shard, start, stop = place_of(pack, video_id, frame)
    flip(pack / shard, min(start + 150, stop - 1))
    (wrong,) = verified(pack).wrong
    assert (wrong.file, wrong.video_ids, wrong.reason) == (shard, (video_id,), "")
    assert {(damage.video_id, damage.first_frame) for damage in wrong.damaged} == {(video_id, frame)}
    assert (wrong.damaged[0].byte_offset, wrong.damaged[0].byte_stop) == (start, stop)


def test_shards_that_are_gone_or_cut_off(pack):
    first, second = sorted(path.name for path in pack.glob("*.mds"))[:2]
    (pack / first).unlink()
    size = (pack / second).stat().st_size
    with (pack / second).open("r+b") as file:
        file.truncate(size // 2)
    result = verified(pack)
    gone, cut = result.wrong
    assert (gone.file, gone.reason, gone.damaged) == (first, "is missing", ())
    assert gone.video_ids
    assert (cut.file, cut.reason) == (second, f"has {size // 2} bytes, {size} when it was indexed")
    assert cut.damaged
    assert all(damage.byte_stop > size // 2 for damage in cut.damaged)


def test_bytes_beside_the_packets_count_too(pack):
    shard = sorted(pack.glob("*.mds"))[0]
    flip(shard, 5)
    (wrong,) = verified(pack).wrong
    assert (wrong.file, wrong.reason) == (shard.name, "differs from what was packed, beside its packets")
    assert not wrong.damaged


def test_a_damaged_index_is_not_taken_for_damaged_shards(pack):
    table = bytearray((pack / "onetake" / "packets.bin").read_bytes())
    table[100] ^= 0xFF
    (pack / "onetake" / "packets.bin").write_bytes(table)
    assert not verified(pack).wrong  # which needs no table
    for shard in pack.glob("*.mds"):
        flip(shard, 5)
    with pytest.raises(IndexFileError, match="packets.bin is damaged"):
        verified(pack)
