"""How videos are cut into segments, and segments gathered into shards: a pure function of an index and the options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import SpecError
from onetake.core.index import PacketTable

__all__ = [
    "ENCODERS",
    "HASHES",
    "MAX_SHARD_BYTES",
    "Cut",
    "PackSpec",
    "TranscodeSpec",
    "cut_video",
    "gather",
    "parse_bytes",
    "whole_video",
]

ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1")
HASHES = ("blake2b", "blake2s", "md5", "sha1", "sha256", "sha512")  # streaming's names, and hashlib's

MAX_SHARD_BYTES = 2**32 - 2**20  # MDS counts a shard's bytes in 32 bits; this leaves room for what is no video
_OF_FILE, _OF_PACKET = 4096, 48  # bytes that a container and MDS add at most, to each segment and to each packet
_MIN_SHARD_BYTES = 1 << 16
_UNITS = {"": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def parse_bytes(name: str, value: int | str) -> int:
    """A number of bytes, from a number or a text such as "64MB", which counts in powers of 1024 as streaming does.

    Raises:
        SpecError: it is none; ``name`` is the argument's.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]b)?b?", str(value).strip().lower())
    if isinstance(value, bool) or match is None:
        raise SpecError(f'{name}={value!r}: must be a number of bytes, or a text such as "64mb"')
    return int(float(match[1]) * _UNITS[match[2] or ""])


@dataclass(frozen=True, slots=True)
class TranscodeSpec:
    """How to encode anew.

    Args:
        height: of the upright picture, in pixels; the width follows. None: as it is.
        codec: name of an FFmpeg encoder, one of ``ENCODERS``.
        gop: frames from a keyframe to the next, at most.
        crf: the encoder's constant rate factor: higher is smaller, and worse.

    Raises:
        SpecError: an argument is out of range.
    """

    height: int | None = None
    codec: str = "libx264"
    gop: int = 32
    crf: int = 23

    def __post_init__(self) -> None:
        if self.height is not None and not 16 <= self.height <= 8192:
            raise SpecError(f"height={self.height}: must be from 16 to 8192 pixels")
        if self.codec not in ENCODERS:
            raise SpecError(f"codec={self.codec!r}: must be one of {', '.join(ENCODERS)}")
        if self.gop < 1:
            raise SpecError(f"gop={self.gop}: must be at least 1 frame")
        if not 0 <= self.crf <= 63:
            raise SpecError(f"crf={self.crf}: must be from 0 to 63")

    def frame_bytes(self, width: int, height: int) -> int:
        """Bytes that a frame takes on average, roughly: sizes are planned before anything is encoded."""
        scale = 1.0 if self.height is None else (self.height / height) ** 2
        return 64 + round(width * height * scale * 0.01 * 2 ** ((23 - self.crf) / 6))


@dataclass(frozen=True, slots=True)
class PackSpec:
    """What a pack is to be like.

    Args:
        shard_bytes: what a shard weighs at most, unless it holds but one segment that can't be cut.
        segment_seconds: how long a segment is at least; it ends at the next keyframe, or where it fills a shard.
        overlap_seconds: how much of what follows each segment carries: clips may run over its end by that much.
        audio: keep the sound tracks, too.
        hashes: of each shard, to be kept in MDS's index; names of ``HASHES``.
        transcode: None: packets are copied as they are.

    Raises:
        SpecError: an argument is out of range.
    """

    shard_bytes: int = 64 << 20
    segment_seconds: float = 60.0
    overlap_seconds: float = 4.0
    audio: bool = False
    hashes: tuple[str, ...] = ()
    transcode: TranscodeSpec | None = None

    def __post_init__(self) -> None:
        if not _MIN_SHARD_BYTES <= self.shard_bytes <= MAX_SHARD_BYTES:
            allowed = f"from {_MIN_SHARD_BYTES} to {MAX_SHARD_BYTES} bytes"
            raise SpecError(f"shard_size={self.shard_bytes}: must be {allowed}, for MDS counts in 32 bits")
        if not self.segment_seconds > 0:
            raise SpecError(f"segment_seconds={self.segment_seconds}: must be above 0")
        if not 0 <= self.overlap_seconds < float("inf"):
            raise SpecError(f"overlap={self.overlap_seconds}: must be a number of seconds, 0 or more")
        unknown = set(self.hashes) - set(HASHES)
        if unknown or list(self.hashes) != sorted(set(self.hashes)):
            raise SpecError(f"hashes={list(self.hashes)}: must be of {', '.join(HASHES)}, each once, in this order")

    def to_dict(self) -> dict[str, Any]:
        """As plain containers: what tells two packs of the same videos apart."""
        return asdict(self) | {"hashes": list(self.hashes)}


class Cut(NamedTuple):
    """A segment, as rows and frames of its video.

    Attributes:
        start_row, stop_row: of the video's packet table, the packets that the segment carries.
        first_frame, num_frames: the segment's own frames; those of all its cuts are the video's.
        stop_frame: the first frame that the segment does not carry.
        num_bytes: what it weighs, roughly, and no more.
    """

    start_row: int
    stop_row: int
    first_frame: int
    num_frames: int
    stop_frame: int
    num_bytes: int


def whole_video(table: PacketTable, num_frames: int, file_bytes: int) -> list[Cut]:
    """A video that is packed as the file that it is."""
    return [Cut(0, len(table), 0, num_frames, num_frames, file_bytes + _OF_FILE)]


def cut_video(
    table: PacketTable, time_base: tuple[int, int], spec: PackSpec, sizes: NDArray[np.int64] | None = None
) -> list[Cut]:
    """Cut a video at keyframes.

    A segment's packets run from its keyframe to the last one that its frames, and the overlap, need: where pictures are
    shown before a keyframe that they follow (an open GOP), that lies behind the next segment's keyframe.

    Args:
        table: all of its packets.
        time_base: (numerator, denominator) in seconds of one pts tick.
        spec: how long segments are, and how far they overlap.
        sizes: int64 [n], bytes of each packet in the pack. None: as they are.
    """
    per_second = time_base[1] / time_base[0]
    sums = np.concatenate([[0], np.cumsum((table.size if sizes is None else sizes) + _OF_PACKET)])
    shown = np.flatnonzero(table.frame >= 0)
    rows = np.empty(len(shown), np.int64)  # of each frame
    rows[table.frame[shown]] = shown
    times, num_frames = table.pts[rows], len(rows)
    keys = table.clean_key_rows
    firsts = np.append(np.maximum(table.frame[keys], 0), num_frames)  # the first frame from each key on, and the end
    firsts[0] = 0

    def cut(start: int, stop: int) -> Cut:
        """From key ``start`` to key ``stop`` (both by number)."""
        stop_frame = int(firsts[stop])
        if stop_frame < num_frames:
            until = times[stop_frame] + spec.overlap_seconds * per_second
            stop_frame = max(stop_frame, int(np.searchsorted(times, until)))
        first_row, first_frame = int(keys[start]), int(firsts[start])
        stop_row = table.end_of(int(rows[first_frame:stop_frame].max()))
        num_bytes = _OF_FILE + int(sums[stop_row] - sums[first_row])
        return Cut(first_row, stop_row, first_frame, int(firsts[stop]) - first_frame, stop_frame, num_bytes)

    cuts: list[Cut] = []
    start = 0
    while start < len(keys):
        until = times[firsts[start]] + spec.segment_seconds * per_second
        stop = max(int(np.searchsorted(times[firsts[:-1]], until)), start + 1)
        best = cut(start, stop)
        while best.num_bytes > spec.shard_bytes and stop > start + 1:
            stop -= 1
            best = cut(start, stop)
        cuts.append(best)
        start = stop
    return cuts


def gather(sizes: Sequence[int], shard_bytes: int) -> list[range]:
    """Which segments each shard holds: in their order, a new one where the next does not fit.

    Args:
        sizes: bytes of each segment.
        shard_bytes: of a shard, at most; it has one segment at least.
    """
    shards, start, filled = [], 0, 0
    for number, size in enumerate(sizes):
        if number > start and filled + size > shard_bytes:
            shards.append(range(start, number))
            start, filled = number, 0
        filled += size
    if sizes:
        shards.append(range(start, len(sizes)))
    return shards
