"""Packets against their check sums: those of a file's bytes, and those that a demuxer gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import VideoError
from onetake.core.index import UNCHECKED, PacketTable, Video, packet_check
from onetake.decode.container import HEADER_BYTES, decoding_stream, open_video

__all__ = ["Damage", "DamagedRows", "compare_bytes", "compare_demuxed", "in_order", "stretches"]

Int64Array = NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")

_PIECE = 8 << 20  # bytes that are read at a time
_GAP = 1 << 20  # bytes between two packets that are not worth a request of their own


@dataclass(frozen=True, slots=True)
class Damage:
    """Packets of a video that follow one another, and whose bytes are not those that were indexed.

    Attributes:
        video_id: the video.
        packets: how many they are.
        first_frame, last_frame: the lowest and the highest number of the frames they hold; None if none is shown.
        byte_offset, byte_stop: the stretch of the file that holds them; None where only the demuxer knows.
    """

    video_id: str
    packets: int
    first_frame: int | None
    last_frame: int | None
    byte_offset: int | None
    byte_stop: int | None


class DamagedRows(NamedTuple):
    """Rows of packet tables: int64 arrays of one length, of which ``row`` rises."""

    row: Int64Array
    frame: Int64Array
    offset: Int64Array
    size: Int64Array

    @classmethod
    def of(cls, table: PacketTable, sound: NDArray[np.bool_], first_row: int) -> DamagedRows:
        """Those of ``table`` that are not sound, counted from ``first_row`` on."""
        rows = np.flatnonzero(~sound)
        return cls(first_row + rows, table.frame[rows], table.offset[rows], table.size[rows])


def compare_bytes(table: PacketTable, read: Callable[[int, int], bytes], file_bytes: int) -> NDArray[np.bool_]:
    """Which packets are in a file as they were: bool [n].

    Those without a check sum are not read: it is enough that the file is as long.

    Args:
        table: the packets.
        read: gives the bytes of the file from (start, length); fewer where it ends before.
        file_bytes: how many there are.

    Raises:
        OSError: what ``read`` raises.
    """
    sound = _unchecked(table) & (table.offset + table.size <= file_bytes)
    for rows in _pieces(table, np.flatnonzero(~_unchecked(table))):
        start = int(table.offset[rows[0]])
        stop = int((table.offset[rows] + table.size[rows]).max())
        data = memoryview(read(start, stop - start))
        columns = (rows, table.offset[rows] - start, table.size[rows], table.check[rows])
        for row, offset, size, check in zip(*(column.tolist() for column in columns), strict=True):
            sound[row] = offset + size <= len(data) and packet_check(data[offset : offset + size]) == check
    return sound


def _unchecked(table: PacketTable) -> NDArray[np.bool_]:
    return (table.flags & UNCHECKED) > 0


def _pieces(table: PacketTable, rows: Int64Array) -> Iterator[Int64Array]:
    """Those of ``rows`` that are read together, in the order of their places."""
    rows = rows[np.argsort(table.offset[rows], kind="stable")]
    offset, stop = table.offset[rows], np.maximum.accumulate((table.offset + table.size)[rows])
    gaps = np.append(np.flatnonzero(offset[1:] > stop[:-1] + _GAP) + 1, len(rows))
    first = 0
    while first < len(rows):
        full = int(np.searchsorted(stop, offset[first] + _PIECE, side="right"))
        gap = int(gaps[np.searchsorted(gaps, first, side="right")])
        last = min(max(full, first + 1), gap)
        yield rows[first:last]
        first = last


def compare_demuxed(video: Video, table: PacketTable, path: Path) -> tuple[NDArray[np.bool_], str]:
    """Which packets the demuxer still gives as it did, bool [n]; and what keeps it from giving all, "" if nothing does.

    Args:
        video: the video.
        table: all of its packets.
        path: its file.
    """
    found: set[tuple[int, int, int]] = set()
    reason = ""
    try:
        with open_video(path, video.video_id) as container:
            for packet in container.demux(decoding_stream(container, video.video_id, video.stream_index)):
                if packet.size:
                    place = -1 if packet.pos is None else packet.pos
                    found.add((place, packet.size, packet_check(bytes(packet))))
    except av.error.FFmpegError as error:
        reason = f"cannot be demuxed to its end ({error.strerror})"
    except VideoError as error:
        reason = error.reason
    sound = _unchecked(table)
    rows = np.flatnonzero(~sound)
    columns = (rows, table.offset[rows], table.size[rows], table.check[rows])
    for row, offset, size, check in zip(*(column.tolist() for column in columns), strict=True):
        # Where the payload was found at indexing, that is what the table names; the demuxer says where its header is.
        sound[row] = any((offset - header, size, check) in found for header in range(HEADER_BYTES + 1))
    return sound, reason


def stretches(video_id: str, parts: Iterable[DamagedRows]) -> list[Damage]:
    """Damaged rows of a video, those that follow one another as one."""
    rows = DamagedRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    starts = np.flatnonzero(np.diff(rows.row, prepend=-2) != 1)
    found = []
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows.row)], strict=True):
        frames = rows.frame[start:stop]
        frames = frames[frames >= 0]
        placed = rows.offset[start:stop] >= 0
        offset, size = rows.offset[start:stop][placed], rows.size[start:stop][placed]
        found.append(
            Damage(
                video_id=video_id,
                packets=stop - start,
                first_frame=int(frames.min()) if len(frames) else None,
                last_frame=int(frames.max()) if len(frames) else None,
                byte_offset=int(offset.min()) if len(offset) else None,
                byte_stop=int((offset + size).max()) if len(offset) else None,
            )
        )
    return found


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """Each item with what ``function`` makes of it, by several threads that go but a few items ahead."""
    with ThreadPoolExecutor(workers) as pool:
        running: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                running.append((item, pool.submit(function, item)))
                if len(running) > 2 * workers:
                    first, future = running.popleft()
                    yield first, future.result()
            for first, future in running:
                yield first, future.result()
        finally:
            for _, future in running:
                future.cancel()
