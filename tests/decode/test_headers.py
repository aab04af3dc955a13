"""MP4 and MOV by their header bytes: what is found is what demuxing and decoding the whole file finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onetake.core.errors import DecodeError
from onetake.core.index import PACKETS, UNCHECKED
from onetake.decode import check, headers
from onetake.decode.check import Checked, check_video
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.headers import HEADER_SUFFIXES, SparseCopy, Unsettled, check_by_headers, header_budget
from onetake.decode.probe import scan_video
from onetake.decode.scale import converter
from onetake.decode.source import TableSource
from onetake.decode.synthetic import read_number, write_numbered_video
from onetake.storage.local import LocalStorage
from tests.zoo import ZOO, write_zoo

NAMES = [name for name in ZOO if Path(name).suffix in HEADER_SUFFIXES]
# What packets' headers don't tell, or tell wrongly: these are read whole.
UNSETTLED = {
    *("refresh.mp4", "all_flags.mp4", "paff.mp4"),  # keyframes that are none, two packets a picture
    *("two_edits.mp4", "gap.mp4", "size_change.mp4"),  # edits that only decoding follows
}
DAMAGED = {"noise.mp4", "noise_hevc.mp4", "scratch.mp4", "cut_off.mp4"}  # where nothing is read, nothing is seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, NAMES)
    return folder


@pytest.fixture
def sparing(monkeypatch):
    """No byte more than is needed, so that these small files have some that are never read."""
    monkeypatch.setattr(headers, "_FIRST_BYTES", 64)
    monkeypatch.setattr(headers, "_NEXT_BYTES", 16)
    monkeypatch.setattr(headers, "_FRAMES", (8,))
    monkeypatch.setattr(check, "RANDOM_STARTS", 0)


def by_headers(path: Path, scratch: Path, budget: int = 1 << 40) -> tuple[Checked, int]:
    storage = LocalStorage(path.parent)
    with SparseCopy(storage, storage.stat(path.name), scratch / "copy.mp4", budget) as copy:
        return check_by_headers(copy, None), copy.bytes_read


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNSETTLED | DAMAGED])
def test_headers_say_what_the_whole_file_says(folder, tmp_path, sparing, name):
    path = folder / name
    found, bytes_read = by_headers(path, tmp_path)
    truth = check_video(path, scan_video(path, name, name))
    assert replace(found.video, version="") == replace(truth.video, version="")
    for column in ("offset", "size", "pts", "frame"):
        assert np.array_equal(getattr(found.table, column), getattr(truth.table, column)), column
    unread = found.table.flags & UNCHECKED > 0
    assert 0 < np.count_nonzero(unread) < len(unread)
    assert bytes_read < path.stat().st_size
    assert np.array_equal(found.table.check, np.where(unread, 0, truth.table.check))
    differing = found.table.flags & ~np.uint8(UNCHECKED) != truth.table.flags
    assert not np.any(differing) or name == "one_flag.mp4"  # whose packets say that they are keyframes, not its header


@pytest.mark.parametrize("name", sorted(UNSETTLED))
def test_what_headers_do_not_tell_is_known(folder, tmp_path, sparing, name):
    with pytest.raises(Unsettled):
        by_headers(folder / name, tmp_path)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """640 kB, 400 frames."""
    path = tmp_path_factory.mktemp("large") / "v.mp4"
    write_numbered_video(path, 400, gop=20, width=320, height=240, options={"qp": "0", "preset": "ultrafast"})
    return path


def test_no_more_is_read_than_may_be(large, tmp_path):
    size = large.stat().st_size
    read = []
    for budget in (size // 4, size // 2, size):
        found, bytes_read = by_headers(large, tmp_path, budget)
        assert found.video.num_frames == 400
        assert bytes_read <= budget
        read.append(bytes_read)
    assert read == sorted(set(read))
    with pytest.raises(Unsettled):
        by_headers(large, tmp_path, 80_000)
    assert header_budget(size) == 2_000_000
    assert header_budget(10**9) == 20_000_000


def test_the_copy_takes_no_more_room_than_was_read(large, tmp_path):
    _, bytes_read = by_headers(large, tmp_path, large.stat().st_size // 4)
    status = (tmp_path / "copy.mp4").stat()
    assert status.st_size == large.stat().st_size
    assert status.st_blocks * 512 < bytes_read + (1 << 17)


def test_unread_packets_decode_and_damage_in_them_is_left_to_the_decoder(large, tmp_path):
    found, _ = by_headers(large, tmp_path, large.stat().st_size // 4)
    assert found.video.kind == PACKETS

    def frames(path: Path) -> list[int]:
        decoder = ClipDecoder(
            found.video, TableSource(found.video, found.table, path), converter(None, 0), new_counters(), range(400)
        )
        return [read_number(decoder.read([frame])[0]) for frame in range(400)]

    assert frames(large) == list(range(400))
    data = bytearray(large.read_bytes())
    row = int(np.flatnonzero(found.table.flags & UNCHECKED)[5])
    offset, size = int(found.table.offset[row]), int(found.table.size[row])
    data[offset : offset + size] = bytes(size)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(DecodeError):
        frames(tmp_path / "damaged.mp4")
