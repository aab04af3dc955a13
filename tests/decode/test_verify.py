"""Every kind of damage to a file is found, and nothing else is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from onetake.core.errors import IndexFileError
from onetake.core.index import UNCHECKED, PacketTable, VideoIndex
from onetake.decode import compare
from onetake.decode.build import index_videos
from onetake.decode.store import read_index, read_table
from onetake.decode.synthetic import write_numbered_video
from onetake.decode.verify import Verification, verify_files
from onetake.storage.base import Entry
from onetake.storage.local import LocalStorage


@pytest.fixture
def videos(numbered, tmp_path) -> Path:
    """The numbered videos, to be damaged."""
    return Path(shutil.copytree(numbered, tmp_path / "videos"))


class Counted(LocalStorage):
    """Counts what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[int] = []

    def read(self, file: str, start: int, length: int) -> bytes:
        self.reads.append(length)
        return super().read(file, start, length)


def verified(folder: Path, storage: LocalStorage | None = None) -> Verification:
    index = read_index(folder)
    return verify_files(index, partial(read_table, folder, index), storage or LocalStorage(folder), workers=2)


def table_of(folder: Path, video_id: str) -> PacketTable:
    index = read_index(folder)
    (number,) = [n for n, video in enumerate(index.videos) if video.video_id == video_id]
    return PacketTable.concatenate(
        [read_table(folder, index, segment) for segment in np.flatnonzero(index.video == number).tolist()]
    )


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_nothing_is_wrong_with_what_was_indexed(numbered):
    index = read_index(numbered)
    result = verified(numbered)
    assert result.wrong == ()
    assert (result.files, result.packets, result.other_version) == (7, int(index.num_packets.sum()), 0)
    assert result.packets_without_check == 0
    assert result.bytes == sum(int(table_of(numbered, video.video_id).size.sum()) for video in index.videos)


@pytest.mark.parametrize("video_id", ["a.mp4", "b.mp4", "sub/c.mkv", "sub/d.mp4", "e.ts", "short.mp4"])
@pytest.mark.parametrize("frame", [0, 3, -1])
def test_a_damaged_packet_is_found_by_its_frame_and_place(videos, video_id, frame):
    table = table_of(videos, video_id)
    frame = frame % (int(table.frame.max()) + 1)
    (row,) = np.flatnonzero(table.frame == frame).tolist()
    offset, size = int(table.offset[row]), int(table.size[row])
    flip(videos / video_id, offset + min(150, size - 1))
    result = verified(videos)
    assert [(wrong.file, wrong.video_ids, wrong.reason) for wrong in result.wrong] == [(video_id, (video_id,), "")]
    (damage,) = result.wrong[0].damaged
    assert (damage.video_id, damage.packets, damage.first_frame, damage.last_frame) == (video_id, 1, frame, frame)
    assert (damage.byte_offset, damage.byte_stop) == (offset, offset + size)
    assert result.other_version == 1


def test_damage_that_goes_on_is_one_stretch_also_across_segments(videos):
    table = table_of(videos, "a.mp4")
    index = read_index(videos)
    cut = int(index.num_packets[0])
    for row in (*range(cut - 2, cut + 3), cut + 10):
        flip(videos / "a.mp4", int(table.offset[row]))
    (wrong,) = verified(videos).wrong
    assert [damage.packets for damage in wrong.damaged] == [5, 1]
    frames = table.frame[cut - 2 : cut + 3]
    assert (wrong.damaged[0].first_frame, wrong.damaged[0].last_frame) == (frames.min(), frames.max())


def test_files_that_are_gone_cut_off_or_unreadable(videos):
    (videos / "a.mp4").unlink()
    (videos / "f.mp4").unlink()
    (videos / "f.mp4").mkdir()  # reading it fails, also for root
    size = (videos / "b.mp4").stat().st_size
    table = table_of(videos, "b.mp4")
    lost = np.flatnonzero(table.offset + table.size > size // 2)
    with (videos / "b.mp4").open("r+b") as file:
        file.truncate(size // 2)
    (videos / "e.ts").write_bytes(b"")
    wrong = {file.file: file for file in verified(videos).wrong}
    assert wrong.keys() == {"a.mp4", "b.mp4", "e.ts", "f.mp4"}
    assert wrong["a.mp4"].reason == "is missing"
    assert wrong["b.mp4"].reason == f"has {size // 2} bytes, {size} when it was indexed"
    assert sum(damage.packets for damage in wrong["b.mp4"].damaged) == len(lost) > 0
    assert wrong["e.ts"].reason.startswith("has 0 bytes")
    assert sum(damage.packets for damage in wrong["e.ts"].damaged) == 150
    assert "bytes," in wrong["f.mp4"].reason
    assert not wrong["f.mp4"].damaged


def test_a_file_that_cannot_be_read_is_named_with_the_reason(videos):
    class Failing(LocalStorage):
        def read(self, file: str, start: int, length: int) -> bytes:
            if file == "b.mp4":
                raise OSError(5, "Input/output error")
            return super().read(file, start, length)

        def stat(self, file: str) -> Entry:
            if file == "a.mp4":
                raise PermissionError(13, "Permission denied")
            return super().stat(file)

    result = verified(videos, Failing(videos))
    assert [(wrong.file, wrong.reason, wrong.damaged) for wrong in result.wrong] == [
        ("a.mp4", "cannot be read (Permission denied)", ()),
        ("b.mp4", "cannot be read (Input/output error)", ()),
    ]


def test_a_copy_is_as_good(numbered, tmp_path):
    shutil.copytree(numbered, tmp_path / "copy", copy_function=shutil.copyfile)
    result = verified(tmp_path / "copy")
    assert (result.other_version, result.wrong) == (7, ())


def test_neighbouring_packets_are_read_together_and_no_piece_grows_beyond_bounds(numbered, monkeypatch):
    whole = Counted(numbered)
    assert not verified(numbered, whole).wrong
    index = read_index(numbered)
    packed = [number for number, video in enumerate(index.videos) if video.kind == "packets"]
    assert len(whole.reads) == sum(int((index.video == number).sum()) for number in packed)
    monkeypatch.setattr(compare, "_PIECE", 3000)
    monkeypatch.setattr(compare, "_GAP", 100)
    pieces = Counted(numbered)
    result = verified(numbered, pieces)
    assert not result.wrong
    assert len(pieces.reads) > 2 * len(whole.reads)
    assert sum(pieces.reads) < sum(whole.reads)
    largest = max(int(table_of(numbered, index.videos[number].video_id).size.max()) for number in packed)
    assert max(pieces.reads) <= max(3000, largest)


def test_progress_ends_at_all_bytes(numbered):
    index = read_index(numbered)
    seen: list[tuple[int, int]] = []
    verify_files(
        index,
        partial(read_table, numbered, index),
        LocalStorage(numbered),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_a_damaged_index_is_not_taken_for_damaged_videos(videos):
    data = bytearray((videos / "packets.bin").read_bytes())
    data[100] ^= 0xFF
    (videos / "packets.bin").write_bytes(data)
    with pytest.raises(IndexFileError, match="packets.bin is damaged"):
        verified(videos)


def test_a_video_that_only_its_container_can_read_and_whose_payloads_were_found(tmp_path):
    """Its table names payloads, the demuxer the headers before them."""
    write_numbered_video(tmp_path / "a.mkv", 30)
    index = index_videos(tmp_path, workers=1).index
    held: VideoIndex = replace(index, videos=(replace(index.videos[0], kind="container"),))
    read = partial(read_table, tmp_path, index)
    assert not verify_files(held, read, LocalStorage(tmp_path)).wrong
    flip(tmp_path / "a.mkv", int(read(0).offset[7]) + 5)
    (wrong,) = verify_files(held, read, LocalStorage(tmp_path)).wrong
    assert [damage.first_frame for damage in wrong.damaged] == [int(read(0).frame[7])]


def test_packets_without_a_check_sum_are_counted_and_not_called_damaged(videos):
    index = read_index(videos)

    def read(segment: int) -> PacketTable:
        """As of a video of which the header alone was read, and the first packet of each segment."""
        table = read_table(videos, index, segment)
        some = np.arange(len(table)) > 0
        flags, check = np.where(some, table.flags | UNCHECKED, table.flags), np.where(some, 0, table.check)
        return replace(table, flags=flags.astype(np.uint8), check=check.astype(np.uint32))

    table = table_of(videos, "a.mp4")
    flip(videos / "a.mp4", int(table.offset[5]))
    storage = Counted(videos)
    result = verify_files(index, read, storage)
    assert not result.wrong
    assert result.packets == int(index.num_packets.sum())
    assert result.packets_without_check == result.packets - index.num_segments
    assert result.bytes == sum(int(read(segment).size[0]) for segment in range(index.num_segments))
    kinds = [index.videos[number].kind for number in index.video.tolist()]
    assert sum(storage.reads) == sum(
        int(read(segment).size[0]) for segment, kind in enumerate(kinds) if kind == "packets"
    )
    flip(videos / "a.mp4", int(table.offset[0]))
    (wrong,) = verify_files(index, read, LocalStorage(videos)).wrong
    assert [(damage.packets, damage.first_frame) for damage in wrong.damaged] == [(1, 0)]
    with (videos / "b.mp4").open("r+b") as file:
        file.truncate(int(table_of(videos, "b.mp4").offset[-1]))
    wrong = {file.file: file for file in verify_files(index, read, LocalStorage(videos)).wrong}
    assert sum(damage.packets for damage in wrong["b.mp4"].damaged) == 1
