"""Whether files are what was indexed: all there, of the same size, each packet with the bytes of its check sum."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import OnetakeError, VideoError
from onetake.core.index import CONTAINER, UNCHECKED, PacketTable, Video, VideoIndex, packet_check
from onetake.decode.container import HEADER_BYTES, decoding_stream, open_video
from onetake.storage.base import Storage

__all__ = ["Damage", "Verification", "WrongVideo", "verify_files"]

Int64Array = NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")

_PIECE = 8 << 20  # bytes that are read at a time
_GAP = 1 << 20  # bytes between two packets that are not worth a request of their own


@dataclass(frozen=True, slots=True)
class Damage:
    """Packets that follow one another, and whose bytes are not those that were indexed.

    Attributes:
        packets: how many they are.
        first_frame, last_frame: the lowest and the highest number of the frames they hold; None if none is shown.
        byte_offset, byte_stop: the stretch of the file that holds them; None where only the demuxer knows.
    """

    packets: int
    first_frame: int | None
    last_frame: int | None
    byte_offset: int | None
    byte_stop: int | None


@dataclass(frozen=True, slots=True)
class WrongVideo:
    """A video that is not as it was indexed.

    Attributes:
        video_id, file: as in the index.
        reason: what is wrong with the file as a whole; "" if nothing is.
        damaged: its damaged packets.
    """

    video_id: str
    file: str
    reason: str
    damaged: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify_files`` found.

    Attributes:
        videos: how many were looked at.
        packets: how many packets were compared.
        packets_without_check: how many of these have no check sum, as where a video was indexed by its header alone:
            nothing but that the file is long enough to hold them was compared.
        bytes: how many bytes were compared.
        other_version: files whose modification time (of objects: their ETag) is another than when they were indexed.
            That is so after a copy, and nothing is wrong as long as their bytes are the same.
        wrong: videos that are not as they were indexed.
    """

    videos: int
    packets: int
    packets_without_check: int
    bytes: int
    other_version: int
    wrong: tuple[WrongVideo, ...]


def verify_files(
    index: VideoIndex,
    read_table: Callable[[int], PacketTable],
    videos: Storage,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Compare files with their index. All of every video's packets are read; of a video that only its container can
    read, all of the file.

    Args:
        index: the index.
        read_table: gives a segment's packet table; called by several threads.
        videos: where the videos are.
        workers: files, or stretches of them, that are read at a time.
        progress: called as (bytes compared, bytes in all).

    Raises:
        IndexFileError: a packet table can't be read.
    """
    reasons: dict[int, str] = {}
    sizes: list[int | None] = []
    touched = 0
    for number, (_, state) in enumerate(_in_order(lambda video: _look(videos, video), index.videos, workers)):
        if state.reason:
            reasons[number] = state.reason
        sizes.append(state.size)
        touched += state.is_touched
    total, done = _weight(index, sizes), 0
    packets = unchecked = size = 0
    damaged: dict[int, list[_Rows]] = {}
    for job, found in _in_order(lambda job: _compare(index, job, read_table, videos), _jobs(index, sizes), workers):
        done += job.weight
        packets, unchecked, size = packets + found.packets, unchecked + found.unchecked, size + found.bytes
        if found.reason:
            reasons.setdefault(job.video, found.reason)
        if len(found.damaged.row):
            damaged.setdefault(job.video, []).append(found.damaged)
        if progress:
            progress(done, total)
    wrong = [
        WrongVideo(
            video_id=index.videos[number].video_id,
            file=index.videos[number].file,
            reason=reasons.get(number, ""),
            damaged=_stretches(damaged.get(number, [])),
        )
        for number in sorted(reasons.keys() | damaged.keys())
    ]
    return Verification(len(index.videos), packets, unchecked, size, touched, tuple(wrong))


class _Rows(NamedTuple):
    """Rows of a video's packet table: int64 arrays of one length, ``row`` counted from the video's first packet."""

    row: Int64Array
    frame: Int64Array
    offset: Int64Array
    size: Int64Array


class _Job(NamedTuple):
    """Segments of a video, and where their packets begin among the video's."""

    video: int
    segments: range
    first_row: int
    file_bytes: int  # that there are
    weight: int  # bytes, about


class _State(NamedTuple):
    """Of a file: what is wrong with it as a whole, its size (None: it can't be read), whether it was touched."""

    reason: str
    size: int | None
    is_touched: bool


class _Found(NamedTuple):
    packets: int
    unchecked: int
    bytes: int
    damaged: _Rows
    reason: str


def _look(videos: Storage, video: Video) -> _State:
    try:
        entry = videos.stat(video.file)
    except FileNotFoundError:
        return _State("is missing", None, False)
    except (OSError, OnetakeError) as error:
        return _State(_unreadable(error), None, False)
    if entry.size != video.file_bytes:
        return _State(f"has {entry.size} bytes, {video.file_bytes} when it was indexed", entry.size, False)
    return _State("", entry.size, entry.version != video.version)


def _unreadable(error: Exception) -> str:
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _weight(index: VideoIndex, sizes: Sequence[int | None]) -> int:
    """Bytes of all jobs."""
    by_video = np.bincount(index.video, index.byte_length, len(index.videos)).astype(np.int64).tolist()
    return sum(
        video.file_bytes if video.kind == CONTAINER else own
        for video, own, size in zip(index.videos, by_video, sizes, strict=True)
        if size is not None
    )


def _jobs(index: VideoIndex, sizes: Sequence[int | None]) -> Iterator[_Job]:
    """A job for each segment; for a video that is read by its container, one for all of its segments."""
    bounds = np.searchsorted(index.video, np.arange(len(index.videos) + 1)).tolist()
    before = np.concatenate([[0], np.cumsum(index.num_packets)])
    for number, (video, size) in enumerate(zip(index.videos, sizes, strict=True)):
        if size is None:
            continue
        segments = range(bounds[number], bounds[number + 1])
        if video.kind == CONTAINER:
            yield _Job(number, segments, 0, size, video.file_bytes)
            continue
        for segment in segments:
            first_row = int(before[segment] - before[segments.start])
            yield _Job(number, range(segment, segment + 1), first_row, size, int(index.byte_length[segment]))


def _compare(index: VideoIndex, job: _Job, read_table: Callable[[int], PacketTable], videos: Storage) -> _Found:
    video = index.videos[job.video]
    table = PacketTable.concatenate([read_table(segment) for segment in job.segments])
    unchecked = (table.flags & UNCHECKED) > 0
    sound, reason = unchecked & (table.offset + table.size <= job.file_bytes), ""
    try:
        if unchecked.all():
            pass
        elif video.kind == CONTAINER:
            with _local_copy(videos, video) as path:
                reason = _compare_demuxed(video, table, path, sound)
        else:
            _compare_bytes(video, table, videos, sound)
    except (OSError, OnetakeError) as error:
        none = np.zeros(0, np.int64)
        return _Found(0, 0, 0, _Rows(none, none, none, none), _unreadable(error))
    rows = np.flatnonzero(~sound)
    damaged = _Rows(job.first_row + rows, table.frame[rows], table.offset[rows], table.size[rows])
    return _Found(len(table), int(unchecked.sum()), int(table.size[~unchecked].sum()), damaged, reason)


def _compare_bytes(video: Video, table: PacketTable, videos: Storage, sound: NDArray[np.bool_]) -> None:
    """Mark the packets whose bytes in the file are those of their check sums."""
    for rows in _pieces(table, np.flatnonzero((table.flags & UNCHECKED) == 0)):
        start = int(table.offset[rows[0]])
        stop = int((table.offset[rows] + table.size[rows]).max())
        data = memoryview(videos.read(video.file, start, stop - start))
        columns = (rows, table.offset[rows] - start, table.size[rows], table.check[rows])
        for row, offset, size, check in zip(*(column.tolist() for column in columns), strict=True):
            sound[row] = offset + size <= len(data) and packet_check(data[offset : offset + size]) == check


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


def _compare_demuxed(video: Video, table: PacketTable, path: Path, sound: NDArray[np.bool_]) -> str:
    """Mark the packets that the demuxer still gives as it did; what keeps it from giving all, "" if nothing does."""
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
    rows = np.flatnonzero((table.flags & UNCHECKED) == 0)
    columns = (rows, table.offset[rows], table.size[rows], table.check[rows])
    for row, offset, size, check in zip(*(column.tolist() for column in columns), strict=True):
        # Where the payload was found at indexing, that is what the table names; the demuxer says where its header is.
        sound[row] = any((offset - header, size, check) in found for header in range(HEADER_BYTES + 1))
    return reason


@contextmanager
def _local_copy(videos: Storage, video: Video) -> Iterator[Path]:
    """A video's file in this machine's file system: itself, or a copy for as long as that takes."""
    if videos.root is not None:
        yield videos.root / video.file
        return
    with tempfile.TemporaryDirectory(prefix="onetake-") as folder:
        path = Path(folder, "video").with_suffix(Path(video.file).suffix)
        videos.copy(video.file, 0, videos.stat(video.file).size, path)
        yield path


def _stretches(parts: list[_Rows]) -> tuple[Damage, ...]:
    """Damaged rows, those that follow one another as one."""
    if not parts:
        return ()
    rows = _Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    starts = np.flatnonzero(np.diff(rows.row, prepend=-2) != 1)
    found = []
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows.row)], strict=True):
        frames = rows.frame[start:stop]
        frames = frames[frames >= 0]
        placed = rows.offset[start:stop] >= 0
        offset, size = rows.offset[start:stop][placed], rows.size[start:stop][placed]
        found.append(
            Damage(
                packets=stop - start,
                first_frame=int(frames.min()) if len(frames) else None,
                last_frame=int(frames.max()) if len(frames) else None,
                byte_offset=int(offset.min()) if len(offset) else None,
                byte_stop=int((offset + size).max()) if len(offset) else None,
            )
        )
    return tuple(found)


def _in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Result]]:
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
