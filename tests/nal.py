"""Which pictures of an H.264 or HEVC file a decoder must decode, read from the NAL headers alone.

An independent count to hold decode counters against: it shares no code with onetake.

The closure of wanted frames, walking a video once from front to back. Keyframes cut the packets, in decode order, into
intervals: a keyframe and what follows it, up to the next one. A *leading* picture is stored after a keyframe and shown
before it (open GOP); it belongs to the interval before, with whose references it was coded, and it needs that keyframe
too. The closure holds, for each interval that has wanted pictures,

- the wanted pictures themselves, referred to or not;
- every picture of the interval that is marked as a reference, from its keyframe to the last wanted picture in decode
  order (finer dependencies can't be told from headers);
- the next interval's keyframe, if a leading picture is wanted.

A picture stands in it once, whatever asks for it. Pictures that an edit list cuts away have no number, and count where
they are references.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

__all__ = ["Picture", "closure", "intervals", "nal_units", "pictures"]


@dataclass(frozen=True)
class Picture:
    """One coded picture.

    Attributes:
        row: its packet's number in decode order, from 0.
        frame: its number in presentation order among the pictures that are shown; -1: not shown.
        pts: as the container says.
        is_keyframe: as the demuxer says.
        is_reference: other pictures may refer to it: H.264's ``nal_ref_idc``; of HEVC, all but the sub-layer
            non-reference pictures of the highest temporal layer.
        types: NAL unit types of its slices.
    """

    row: int
    frame: int
    pts: int
    is_keyframe: bool
    is_reference: bool
    types: tuple[int, ...]


def pictures(path: Path) -> list[Picture]:
    """The pictures of a file's H.264 or HEVC video in decode order; there must be one to a packet.

    Raises:
        ValueError: the video is of another codec, a packet holds no slice, or times are missing or stand twice.
    """
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        codec, extradata = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
        if codec not in ("h264", "hevc"):
            raise ValueError(f"{path} holds {codec}, not H.264 or HEVC")
        packets = [packet for packet in container.demux(stream) if packet.size]
        length_size = _length_size(codec, extradata)
        slices = [_slices(codec, nal_units(bytes(packet), length_size)) for packet in packets]
    if not all(slices):
        raise ValueError(f"{path}: packet {slices.index([])} holds no slice")
    times = [packet.pts for packet in packets if not packet.is_discard]
    if None in times or len(set(times)) < len(times):
        raise ValueError(f"{path}: its pictures' times don't tell their order")
    shown = sorted(times)
    number = {pts: frame for frame, pts in enumerate(shown)}
    top = max(layer for found in slices for _, _, layer in found)
    return [
        Picture(
            row,
            -1 if packet.is_discard else number[packet.pts],
            packet.pts,
            packet.is_keyframe,
            any(reference or layer < top for _, reference, layer in found),
            tuple(kind for kind, _, _ in found),
        )
        for row, (packet, found) in enumerate(zip(packets, slices, strict=True))
    ]


def nal_units(payload: bytes, length_size: int) -> Iterator[bytes]:
    """The NAL units of a packet: behind their lengths, of ``length_size`` bytes, or (0) behind start codes."""
    if length_size:
        at = 0
        while at < len(payload):
            size = int.from_bytes(payload[at : at + length_size], "big")
            at += length_size
            yield payload[at : at + size]
            at += size
        return
    for unit in payload.split(b"\0\0\1")[1:]:
        yield unit.rstrip(b"\0")  # the first zero of a long start code; a NAL unit never ends with one


def _length_size(codec: str, extradata: bytes) -> int:
    if extradata[:1] != b"\1":
        return 0
    return (extradata[4 if codec == "h264" else 21] & 3) + 1


def _slices(codec: str, units: Iterator[bytes]) -> list[tuple[int, bool, int]]:
    """(type, may be referred to within its layer, temporal layer) of the slices among NAL units."""
    found = []
    for unit in filter(None, units):
        if codec == "h264":
            kind = unit[0] & 31
            if kind in (1, 2, 5):
                found.append((kind, bool(unit[0] >> 5 & 3), 0))
        else:
            kind = unit[0] >> 1 & 63
            if kind < 32:
                found.append((kind, kind > 15 or kind % 2 == 1, (unit[1] & 7) - 1))
    return found


def intervals(coded: Sequence[Picture]) -> list[list[Picture]]:
    """Pictures by the keyframe's interval that they belong to, in decode order; leading ones with the one before.

    Leading pictures of the first keyframe, which lean on what is not there, stand with it.
    """
    found: list[list[Picture]] = []
    key = coded[0]
    for picture in coded:
        if picture.is_keyframe or not found:
            key = picture
            found.append([])
        is_leading = picture.pts < key.pts and len(found) > 1
        found[-2 if is_leading else -1].append(picture)
    return found


def closure(coded: Sequence[Picture], wanted: Collection[int]) -> int:
    """How many pictures must be decoded for the frames numbered ``wanted`` (see the module's docstring)."""
    known = {picture.frame for picture in coded} - {-1}
    if not known.issuperset(wanted):
        raise ValueError(f"no frames {sorted(set(wanted) - known)}")
    needed: set[int] = set()
    parts = intervals(coded)
    for number, part in enumerate(parts):
        asked = [picture.row for picture in part if picture.frame in wanted and picture.frame >= 0]
        if not asked:
            continue
        needed.update(asked)
        needed.update(picture.row for picture in part if picture.is_reference and picture.row <= asked[-1])
        if number + 1 < len(parts) and asked[-1] > parts[number + 1][0].row:
            needed.add(parts[number + 1][0].row)
    return len(needed)
