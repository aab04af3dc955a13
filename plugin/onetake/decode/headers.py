"""MP4 and MOV files indexed from their header bytes, wherever they are; the bytes of few packets are read.

Their headers say of every packet where it is, how large it is and when it is shown. So a file is demuxed of which only
the headers were fetched: the rest of the local copy is a hole, which reads as zeros and takes no room. How packets
decode is found out from a few stretches of them, fetched into the same copy.
"""

from __future__ import annotations

import os
from bisect import insort
from dataclasses import replace
from pathlib import Path

import numpy as np

from onetake.core.index import KEYFRAME, PACKETS, UNCHECKED, PacketTable, packet_check
from onetake.decode.check import MAX_FRAMES, Checked, can_sample, check_stretches, sample_starts, stretch
from onetake.decode.container import decoding_stream, open_video
from onetake.decode.probe import Scan, is_idr, scan_video
from onetake.decode.segment import byte_range
from onetake.storage.base import Entry, Storage

__all__ = ["HEADER_SUFFIXES", "SparseCopy", "Unsettled", "check_by_headers", "header_budget"]

HEADER_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".3gp"})
# Boxes (ISO/IEC 14496-12) that hold packets, or nothing.
_PAYLOAD = frozenset({b"mdat", b"free", b"skip", b"wide"})
_FIRST = frozenset({b"ftyp", b"styp", b"moov", b"pnot", *_PAYLOAD})
_FIRST_BYTES, _NEXT_BYTES, _BOX_HEADER = 1 << 16, 1 << 12, 16
# A fragmented file has a header every few seconds; where they are more, one request for all of it is faster.
_MAX_REQUESTS = 512
_FRAMES = (MAX_FRAMES, 16, 8)  # to decode of each stretch: the most that can be afforded


class Unsettled(Exception):  # noqa: N818 - no error of the file's
    """What header bytes and a few packets don't tell; the whole file does."""


def header_budget(size: int) -> int:
    """Bytes that may be read to index a file of ``size`` bytes by its headers."""
    return max(2_000_000, size // 50)


class SparseCopy:
    """A local file of a remote one's size that holds what was fetched of it, and zeros elsewhere.

    Args:
        storage, entry: the remote file.
        path: the local one, made anew.
        budget: bytes that may be fetched.

    Attributes:
        bytes_read: fetched so far.
    """

    def __init__(self, storage: Storage, entry: Entry, path: Path, budget: int) -> None:
        self.path, self.entry = path, entry
        self.bytes_read = 0
        self._storage, self._budget = storage, budget
        self._requests = 0
        self._held: list[tuple[int, int]] = []  # [start, stop) ranges, sorted
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.truncate(self._fd, entry.size)

    def __enter__(self) -> SparseCopy:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of [start, stop) that were not fetched yet."""
        parts = []
        for held_start, held_stop in self._held:
            if held_start >= stop:
                break
            if start < held_start:
                parts.append((start, held_start))
            start = max(start, held_stop)
        return [*parts, (start, stop)] if start < stop else parts

    def cost(self, start: int, stop: int) -> int:
        """How many bytes ``read`` would fetch."""
        return sum(part_stop - part_start for part_start, part_stop in self.missing(start, stop))

    @property
    def left(self) -> int:
        """Bytes that may still be fetched."""
        return self._budget - self.bytes_read

    def read(self, start: int, stop: int) -> bytes:
        """The bytes of [start, stop), up to the file's end, fetched unless they are there.

        Raises:
            Unsettled: that would go beyond the budget.
            OSError, SourceError: they can't be fetched.
        """
        start, stop = (min(place, self.entry.size) for place in (start, stop))
        for part_start, part_stop in self.missing(start, stop):
            self._requests += 1
            if part_stop - part_start > self.left or self._requests > _MAX_REQUESTS:
                raise Unsettled
            data = self._storage.read(self.entry.file, part_start, part_stop - part_start, self.entry.version)
            if len(data) != part_stop - part_start:
                raise OSError(f"{self.entry.file} ended while it was read")
            os.pwrite(self._fd, data, part_start)
            self.bytes_read += len(data)
            insort(self._held, (part_start, part_stop))
        return os.pread(self._fd, stop - start, start)


def check_by_headers(copy: SparseCopy, stream_index: int | None) -> Checked:
    """What ``check_video`` would say of a file of which ``copy`` holds nothing yet.

    Packets whose bytes were not read are UNCHECKED.

    Raises:
        Unsettled: that takes more bytes than may be read; or it is no MP4, or not so simple.
        VideoError: it can't be used, as far as its headers say.
        OSError, SourceError: it can't be read.
    """
    _fetch_headers(copy)
    _fetch_first_packets(copy, stream_index)
    file = copy.entry.file
    scan = scan_video(copy.path, file, file, stream_index, headers_only=True)
    if scan.video.kind != PACKETS or not can_sample(scan):
        raise Unsettled
    starts, limit = _affordable(copy, scan.table)
    scan = _with_bytes(copy, scan, starts, limit)
    checked = check_stretches(copy.path, scan, starts, limit)
    if checked is None or checked.video.kind != PACKETS:
        raise Unsettled
    return checked


def _fetch_headers(copy: SparseCopy) -> None:
    """Fetch all boxes of the file but the payload of its packets."""
    size, position = copy.entry.size, 0
    copy.read(0, _FIRST_BYTES)
    while position < size:
        if copy.missing(position, min(position + _BOX_HEADER, size)):
            copy.read(position, position + _NEXT_BYTES)
        head = copy.read(position, position + _BOX_HEADER)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        elif length == 0:
            length = size - position
        if not position and kind not in _FIRST:
            raise Unsettled
        if length < 8 or not kind.isalnum():
            return  # what follows is no box, for the demuxer neither
        if kind not in _PAYLOAD:
            copy.read(position, position + length)
        position += length


def _fetch_first_packets(copy: SparseCopy, stream_index: int | None) -> None:
    """Fetch what FFmpeg looks at when it opens a file, to learn what the headers do not say of pictures."""
    with open_video(copy.path, copy.entry.file) as container:
        entries = decoding_stream(container, copy.entry.file, stream_index).index_entries
        first = [entries[number] for number in range(min(len(entries), _FRAMES[-1]))]
        ranges = [(entry.pos, entry.pos + entry.size) for entry in first]
    for start, stop in ranges:
        if copy.cost(start, stop) > copy.left // 4:
            return
        copy.read(start, stop)


def _affordable(copy: SparseCopy, table: PacketTable) -> tuple[list[int], int]:
    """Rows to start decoding from, and how many frames: the first and the last keyframe, and as many others as fit."""
    first, last, *others = sample_starts(table)
    for limit in _FRAMES:
        left = copy.left
        starts = []
        for start in dict.fromkeys((first, last, *others)):
            offset, length = byte_range(stretch(table, start, limit)[1])
            cost = copy.cost(offset, offset + length)
            if cost <= left:
                left -= cost
                starts.append(start)
        if first in starts and last in starts:
            return sorted(starts), limit
    raise Unsettled


def _with_bytes(copy: SparseCopy, scan: Scan, starts: list[int], limit: int) -> Scan:
    """The scan, with what the bytes of the stretches say; they are fetched."""
    table = scan.table
    flags, check = table.flags.copy(), table.check.copy()
    is_open = _has_leading_pictures(table)
    for start in starts:
        part = stretch(table, start, limit)[1]
        offset, length = byte_range(part)
        copy.read(offset, offset + length)
        for row in range(start, start + len(part)):
            place, size = int(table.offset[row]), int(table.size[row])
            data = copy.read(place, place + size)
            check[row] = packet_check(data)
            flags[row] &= ~np.uint8(UNCHECKED)
            is_open |= bool(flags[row] & KEYFRAME) and not is_idr(data, scan.video.extradata)
    return replace(scan, table=replace(table, flags=flags, check=check), is_open=is_open and scan.video.codec == "h264")


def _has_leading_pictures(table: PacketTable) -> bool:
    """Whether pictures that stand behind a keyframe are shown before it."""
    shown = table.frame >= 0
    number_of_key = np.maximum.accumulate(np.where((table.flags & KEYFRAME > 0) & shown, table.frame, -1))
    return bool(np.any(table.frame[shown] < number_of_key[shown]))
