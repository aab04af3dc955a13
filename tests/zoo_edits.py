"""Meddling: edits of packets before they are muxed, and surgery on the bytes of files that were.

Shares no code with onetake.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.packet import Packet

from tests.zoo_make import Edit, with_payload

# Packets


def start_at_key(number: int) -> Edit:
    """Leave out what stands before keyframe ``number`` (0: the first)."""

    def edit(packets: list[Packet]) -> list[Packet]:
        return packets[[row for row, packet in enumerate(packets) if packet.is_keyframe][number] :]

    return edit


def without(*rows: int) -> Edit:
    """Leave out packets."""
    return lambda packets: [packet for row, packet in enumerate(packets) if row not in rows]


def shifted(ticks: int) -> Edit:
    """Later, or earlier, by ``ticks``."""

    def edit(packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packets

    return edit


def flagged(*keys: int) -> Edit:
    """Flag these packets as keyframes, and no others; none given: all."""

    def edit(packets: list[Packet]) -> list[Packet]:
        for row, packet in enumerate(packets):
            packet.is_keyframe = row in keys or not keys
        return packets

    return edit


def swapped_pts(row: int) -> Edit:
    """Exchange the times of a packet and the next one."""

    def edit(packets: list[Packet]) -> list[Packet]:
        packets[row].pts, packets[row + 1].pts = packets[row + 1].pts, packets[row].pts
        for late, packet in enumerate(packets):
            packet.dts = late - 1  # no later than its pts
        return packets

    return edit


def twin_pts(row: int) -> Edit:
    """Give a packet the time of the one before it."""

    def edit(packets: list[Packet]) -> list[Packet]:
        packets[row].pts = packets[row].dts = packets[row - 1].pts
        return packets

    return edit


def hidden_vp8(*rows: int) -> Edit:
    """Clear ``show_frame`` in the frame tags of VP8 packets: decoded, referred to, never shown."""

    def edit(packets: list[Packet]) -> list[Packet]:
        for row in rows:
            data = bytearray(packets[row])
            data[0] &= ~0x10
            packets[row] = with_payload(packets[row], bytes(data))
        return packets

    return edit


def packed_bframes(packets: list[Packet]) -> list[Packet]:
    """MPEG-4 with one B-VOP between two others, packed as DivX packs it: the B-VOP goes into the packet of the VOP
    that it is shown before, and a VOP that is not coded takes its place."""
    packed: list[Packet] = []
    for packet in packets:
        data = bytes(packet)
        at = data.index(b"\0\0\1\xb6")
        if data[at + 4] >> 6 == 2:
            before = bytes(packed[-1])
            packed[-1] = with_payload(packed[-1], before + data)
            packet = with_payload(packet, _vop_not_coded(before[before.index(b"\0\0\1\xb6") :]))
        elif packet.is_keyframe:
            packet = with_payload(packet, data[:at] + b"\0\0\1\xb2DivX503b1393p" + data[at:])
        packed.append(packet)
    for row, packet in enumerate(packed):
        packet.pts = packet.dts = row
    return packed


def _vop_not_coded(vop: bytes, time_bits: int = 5) -> bytes:
    """A P-VOP that repeats ``vop``'s time and holds nothing."""
    bits = "".join(f"{byte:08b}" for byte in vop[4:12])
    stop = bits.index("0", 2) + 2 + time_bits + 1  # type, seconds, marker, time, marker
    bits = "01" + bits[2:stop] + "0"
    bits += "0" + "1" * (-len(bits) - 1 & 7)
    return vop[:4] + int(bits, 2).to_bytes(len(bits) // 8, "big")


# Damage


def payloads(path: Path) -> list[tuple[int, int, bool]]:
    """(offset, size, is_keyframe) of the video's packets in their file."""
    data, found = path.read_bytes(), []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.best("video")):
            if packet.size:
                at = data.find(bytes(packet), packet.pos)
                assert at >= 0
                found.append((at, packet.size, packet.is_keyframe))
    return found


def noise_over_gop(path: Path, number: int = 1) -> None:
    """Overwrite the payloads of a keyframe and of all packets up to the next one with noise."""
    data, found = bytearray(path.read_bytes()), payloads(path)
    keys = [row for row, (_, _, is_keyframe) in enumerate(found) if is_keyframe]
    rng = np.random.default_rng(0)
    for at, size, _ in found[keys[number] : keys[number + 1]]:
        data[at : at + size] = rng.bytes(size)
    path.write_bytes(bytes(data))


def noise_in_packet(path: Path, row: int) -> None:
    """Overwrite the second half of a packet's payload with noise."""
    data = bytearray(path.read_bytes())
    at, size, _ = payloads(path)[row]
    data[at + size // 2 : at + size] = np.random.default_rng(0).bytes(size - size // 2)
    path.write_bytes(bytes(data))


def flip_bit(path: Path, row: int, bit: int) -> None:
    """Flip one bit of a packet's payload."""
    data = bytearray(path.read_bytes())
    data[payloads(path)[row][0] + bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def positions(path: Path) -> list[int]:
    """Where the video's packets begin in their file, in decode order, the container's own headers included."""
    with av.open(str(path)) as container:
        return [packet.pos for packet in container.demux(container.streams.best("video")) if packet.size]


def lose_pictures(path: Path, first: int, last: int) -> None:
    """Take pictures, by their numbers in decode order, out of a transport stream of video alone."""
    data, starts = path.read_bytes(), positions(path)
    path.write_bytes(data[: starts[first]] + data[starts[last + 1] :])


def lose_part(path: Path, row: int) -> None:
    """Take a 188-byte packet out of the middle of a picture in a transport stream."""
    data, starts = path.read_bytes(), positions(path)
    middle = starts[row] + (starts[row + 1] - starts[row]) // 2 // 188 * 188
    path.write_bytes(data[:middle] + data[middle + 188 :])


def cut_off(path: Path) -> None:
    """End a file in the middle of its packet 35."""
    data, starts = path.read_bytes(), positions(path)
    path.write_bytes(data[: (starts[35] + starts[36]) // 2])


# Bits


class Bits:
    """The bits of a NAL unit's payload, emulation prevention taken out; ``place`` is the next to be read."""

    def __init__(self, nal: bytes) -> None:
        raw = nal.replace(b"\0\0\3", b"\0\0")
        self.bits = "".join(f"{byte:08b}" for byte in raw)
        self.place = 8

    def u(self, count: int) -> int:
        self.place += count
        return int(self.bits[self.place - count : self.place] or "0", 2)

    def ue(self) -> int:
        zeros = self.bits.index("1", self.place) - self.place
        self.place += zeros
        return self.u(zeros + 1) - 1


def without_reordering(sps: bytes) -> bytes:
    """An H.264 SPS that does not say how far pictures are reordered, padded with zeros to the same length.

    Read as far as x264 writes it: High profile, no scaling lists, frames only.
    """
    bits = Bits(sps)
    profile = bits.u(8)
    bits.u(16)
    bits.ue()
    if profile >= 100:
        assert (bits.ue(), bits.ue(), bits.ue(), bits.u(1), bits.u(1)) == (1, 0, 0, 0, 0)  # 4:2:0, 8 bits, no lists
    bits.ue()
    assert bits.ue() == 0  # pic_order_cnt_type
    bits.ue()
    bits.ue()
    bits.u(1)
    bits.ue()
    bits.ue()
    assert bits.u(2) == 3  # frame_mbs_only_flag, direct_8x8_inference_flag
    if bits.u(1):
        [bits.ue() for _ in range(4)]
    assert bits.u(1)  # vui_parameters_present_flag
    if bits.u(1) and bits.u(8) == 255:
        bits.u(32)
    if bits.u(1):
        bits.u(1)
    if bits.u(1):
        bits.u(4)
        if bits.u(1):
            bits.u(24)
    if bits.u(1):
        bits.ue(), bits.ue()
    if bits.u(1):
        bits.u(65)
    assert bits.u(2) == 0  # no HRD parameters
    bits.u(1)
    assert bits.u(1)  # bitstream_restriction_flag
    kept = bits.bits[: bits.place - 1] + "01"
    kept += "0" * (-len(kept) % 8)
    raw = int(kept, 2).to_bytes(len(kept) // 8, "big")
    out = bytearray()
    for byte in raw:
        if byte <= 3 and out[-2:] == b"\0\0":
            out.append(3)
        out.append(byte)
    return bytes(out).ljust(len(sps), b"\0")


def clear_reordering(path: Path) -> None:
    """Take ``bitstream_restriction`` out of every SPS of an H.264 MP4 or MKV, in place."""
    with av.open(str(path)) as container:
        extradata = bytes(container.streams.video[0].codec_context.extradata)
    length = int.from_bytes(extradata[6:8], "big")
    sps = extradata[8 : 8 + length]
    data = path.read_bytes()
    assert sps in data
    path.write_bytes(data.replace(sps, without_reordering(sps)))


# Boxes of an MP4 whose moov stands behind its mdat, so that it may grow


def find_box(data: bytes | bytearray, *names: bytes) -> tuple[int, int]:
    """(start, stop) of the box that ``names`` lead to, its header included; of several the first."""
    start, stop = 0, len(data)
    header = 0
    for name in names:
        at = start + header
        while data[at + 4 : at + 8] != name:
            at += int.from_bytes(data[at : at + 4], "big")
            assert at < stop, name
        start, stop, header = at, at + int.from_bytes(data[at : at + 4], "big"), 8
    return start, stop


def edit_list(path: Path, edits: Sequence[tuple[float, int]]) -> None:
    """Give the first track these edits: (seconds, media time in the track's time scale), -1 for an empty one."""
    data = path.read_bytes()
    movie = find_box(data, b"moov", b"mvhd")[0]
    assert data[movie + 8] == 0
    scale = int.from_bytes(data[movie + 20 : movie + 24], "big")
    rows = b"".join(
        round(seconds * scale).to_bytes(4, "big") + start.to_bytes(4, "big", signed=True) + b"\0\1\0\0"
        for seconds, start in edits
    )
    body = b"\0\0\0\0" + len(edits).to_bytes(4, "big") + rows
    new = (len(body) + 8).to_bytes(4, "big") + b"elst" + body
    start, stop = find_box(data, b"moov", b"trak", b"edts", b"elst")
    grown = bytearray(data)
    for names in ((b"moov",), (b"moov", b"trak"), (b"moov", b"trak", b"edts")):
        at = find_box(data, *names)[0]
        size = int.from_bytes(data[at : at + 4], "big") + len(new) - (stop - start)
        grown[at : at + 4] = size.to_bytes(4, "big")
    grown[start:stop] = new
    path.write_bytes(bytes(grown))


def scatter_chunks(path: Path) -> None:
    """Move the chunks of the first track into a second mdat at the end of the file, last chunk first."""
    data = bytearray(path.read_bytes())
    start, _ = find_box(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco")
    count = int.from_bytes(data[start + 12 : start + 16], "big")
    places = [start + 16 + 4 * number for number in range(count)]
    offsets = [int.from_bytes(data[at : at + 4], "big") for at in places]
    chunks: dict[int, int] = {}  # where a chunk starts, how long it is
    chunk = -1
    for at, size, _ in payloads(path):
        chunk = at if at in offsets else chunk
        chunks[chunk] = chunks.get(chunk, 0) + size
    assert sorted(chunks) == offsets
    moved = bytearray()
    for place, offset in zip(places[::-1], offsets[::-1], strict=True):
        data[place : place + 4] = (len(data) + 8 + len(moved)).to_bytes(4, "big")
        moved += data[offset : offset + chunks[offset]]
        data[offset : offset + chunks[offset]] = bytes(chunks[offset])
    path.write_bytes(bytes(data) + (len(moved) + 8).to_bytes(4, "big") + b"mdat" + bytes(moved))
