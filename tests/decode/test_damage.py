"""Damage after indexing: what is read is exact or refused, costs at most its GOP, and the rest goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import CONTAINER, PacketTable
from onetake.decode.build import index_video
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.scale import converter
from onetake.decode.source import open_source
from tests.zoo import reference
from tests.zoo_make import Take, with_payload, write

VIDEOS = {
    "closed.mp4": Take(frames=100, gop=12, bframes=2),
    "open.mkv": Take(frames=100, gop=12, bframes=3, params="open-gop=1:b-pyramid=none:ref=4"),
    "hevc.mp4": Take("libx265", frames=100, gop=12, bframes=3, params="open-gop=1:b-adapt=0"),
    "mpeg2.mkv": Take("mpeg2video", frames=100, gop=12, bframes=2),
    "mpeg4.mp4": Take("mpeg4", frames=100, gop=12, bframes=2),
    "vp9.webm": Take("libvpx-vp9", frames=100, gop=12),
    "stream.ts": Take(frames=100, gop=12, bframes=2),
}


class Video:
    """An indexed video, its right frames, and a copy of the file to be damaged."""

    def __init__(self, folder: Path, name: str) -> None:
        indexed = index_video(folder, name, 1000.0)
        self.video = indexed.video
        self.table = PacketTable.from_bytes(indexed.tables[0], indexed.rows[0]["num_packets"])
        self.truth = reference(folder / name)
        self.data = (folder / name).read_bytes()
        self.path = folder / f"damaged_{name}"

    def damage(self, *rows: int, seed: int = 0) -> None:
        """Write the copy, with noise in the packets at ``rows``."""
        rng = np.random.default_rng(seed)
        data = bytearray(self.data)
        for row in rows:
            at = int(self.table.offset[row]) + int(self.table.size[row]) // 2
            length = min(20, int(self.table.offset[row] + self.table.size[row]) - at)
            data[at : at + length] = rng.bytes(length)
        self.path.write_bytes(data)

    def decoder(self, plan=None) -> ClipDecoder[np.ndarray]:
        source = open_source(self.video, self.table, self.path)
        return ClipDecoder(self.video, source, converter(None), new_counters(), plan)

    def lost(self, frames, plan=None) -> set[int]:
        """The frames that are refused when they are read in this order; the others are right."""
        decoder = self.decoder(plan)
        refused = set()
        for frame in frames:
            try:
                (picture,) = decoder.read([frame])
            except DecodeError:
                refused.add(frame)
            else:
                assert np.array_equal(picture, self.truth[frame]), frame
        decoder.close()
        return refused

    def may_cost(self, *rows: int) -> set[int]:
        """The frames that damage at ``rows`` may cost: those stored in the GOP, and up to the next keyframe."""
        keys = self.table.key_rows
        found = set()
        for row in rows:
            start = keys[keys <= row][-1]
            later = keys[keys > row]
            stop = self.table.frame[later[0]] if len(later) else len(self.truth)
            first = self.table.frame[start : later[0] if len(later) else None].min()
            found |= set(range(max(int(first), 0), int(stop)))
        return found


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Video]:
    folder = tmp_path_factory.mktemp("videos")
    for name, take in VIDEOS.items():
        write(folder / name, take)
    return {name: Video(folder, name) for name in VIDEOS}


every_video = pytest.mark.parametrize("name", VIDEOS)


@every_video
@pytest.mark.parametrize("row", [5, 30, 36, 37, 47])
def test_damage_costs_its_gop_in_any_order(videos, name, row):
    v = videos[name]
    v.damage(row)
    every = range(len(v.truth))
    orders = [every, np.random.default_rng(row).permutation(len(v.truth)).tolist()]
    for order, plan in [(orders[0], set(every)), (orders[0], None), (orders[1], None), (every[::3], set(every[::3]))]:
        lost = v.lost(order, plan)
        assert lost <= v.may_cost(row)
        assert lost or plan == set(every[::3]) or v.video.kind == CONTAINER  # there, the noise may hit stuffing


@every_video
def test_two_damages_side_by_side(videos, name):
    """The second stretch begins inside the first where leading pictures lie between them."""
    v = videos[name]
    keys = v.table.key_rows
    rng = np.random.default_rng(0)
    for trial in range(12):
        gop = int(rng.integers(1, len(keys) - 2))
        rows = int(rng.integers(keys[gop] + 1, keys[gop + 1])), int(keys[gop + 1])
        v.damage(*rows, seed=trial)
        lost = v.lost(range(len(v.truth)), set(range(len(v.truth))))
        assert lost <= v.may_cost(*rows)
        if v.video.kind != CONTAINER:  # there, what is damaged in the file may be the container's own
            assert {int(v.table.frame[row]) for row in rows} <= lost


@every_video
def test_a_bit_is_enough(videos, name):
    """What decoders don't notice is noticed all the same."""
    v = videos[name]
    for row in range(20, 30):
        data = bytearray(v.data)
        data[int(v.table.offset[row]) + int(v.table.size[row]) - 3] ^= 1
        v.path.write_bytes(data)
        assert v.lost(range(len(v.truth)), set(range(len(v.truth)))) <= v.may_cost(row)


def test_a_decoder_goes_on_after_a_start_that_failed(videos):
    v = videos["stream.ts"]
    data = bytearray(v.data)
    start, stop = int(v.table.offset[36]), int(v.table.offset[37])
    data[start:stop] = bytes(stop - start)
    v.path.write_bytes(data)
    decoder = v.decoder()
    assert len(decoder.read([0])) == 1
    with pytest.raises(VideoError):
        decoder.read([int(v.table.frame[36])])
    for frame in (1, 30, 60, 99):
        assert np.array_equal(decoder.read([frame])[0], v.truth[frame])
    decoder.close()


def test_packets_of_one_size_are_not_mistaken_for_one_another(tmp_path):
    """As intra codecs and padded streams have them: one that is gone must not shift the others."""

    def pad(packets):
        padded = []
        for packet in packets:
            data = bytes(packet)
            padded.append(with_payload(packet, data + b"\0\0\0\1\x0c" + b"\xff" * (4000 - len(data) - 6) + b"\x80"))
        return padded

    write(tmp_path / "v.ts", Take(frames=60, gop=1, bframes=0), edit=pad)
    v = Video(tmp_path, "v.ts")
    assert len(set(v.table.size.tolist())) == 1
    at = v.data.index(b"\0\0\1\xe0", int(v.table.offset[20]))
    v.path.write_bytes(v.data[:at] + b"\xff" * 4 + v.data[at + 4 :])
    for plan in (set(range(60)), None):
        assert v.lost(range(60), plan) == {20}
