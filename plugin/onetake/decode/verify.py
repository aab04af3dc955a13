"""Whether files are what was indexed: all there, of the same size, each packet with the bytes of its check sum."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onetake.core.errors import OnetakeError
from onetake.core.index import CONTAINER, UNCHECKED, PacketTable, Video, VideoIndex
from onetake.decode.compare import Damage, DamagedRows, compare_bytes, compare_demuxed, in_order, stretches
from onetake.storage.base import Storage

__all__ = ["Progress", "Verification", "WrongFile", "cannot_be_read", "look_at", "verify_files"]

Progress = Callable[[int, int], None]  # called as (bytes compared, bytes in all)


@dataclass(frozen=True, slots=True)
class WrongFile:
    """A file that is not as it was indexed.

    Attributes:
        file: its path.
        video_ids: the videos that are concerned.
        reason: what is wrong with it as a whole; "" if nothing is.
        damaged: its damaged packets.
    """

    file: str
    video_ids: tuple[str, ...]
    reason: str
    damaged: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """How files compare with their index.

    Attributes:
        files: how many were looked at.
        packets: how many packets were compared.
        packets_without_check: how many of these have no check sum, as where a video was indexed by its header alone:
            nothing but that the file is long enough to hold them was compared.
        bytes: how many bytes were compared.
        other_version: files whose modification time (of objects: their ETag) is another than when they were indexed.
            That is so after a copy, and nothing is wrong as long as their bytes are the same.
        wrong: files that are not as they were indexed.
    """

    files: int
    packets: int
    packets_without_check: int
    bytes: int
    other_version: int
    wrong: tuple[WrongFile, ...]


def verify_files(
    index: VideoIndex,
    read_table: Callable[[int], PacketTable],
    videos: Storage,
    *,
    workers: int = 8,
    progress: Progress | None = None,
) -> Verification:
    """Compare videos with their index. All of every video's packets are read; of a video that only its container can
    read, all of the file.

    Args:
        index: the index.
        read_table: gives a segment's packet table; called by several threads.
        videos: where the videos are.
        workers: files, or stretches of them, that are read at a time.
        progress: told how far it is.

    Raises:
        IndexFileError: a packet table can't be read.
    """
    reasons: dict[int, str] = {}
    sizes: list[int | None] = []
    touched = 0
    for number, (video, (reason, size, version)) in enumerate(
        in_order(lambda video: look_at(videos, video.file, video.file_bytes), index.videos, workers)
    ):
        if reason:
            reasons[number] = reason
        sizes.append(size)
        touched += not reason and version != video.version
    total, done = _weight(index, sizes), 0
    packets = unchecked = num_bytes = 0
    damaged: dict[int, list[DamagedRows]] = {}
    for job, found in in_order(lambda job: _compare(index, job, read_table, videos), _jobs(index, sizes), workers):
        done += job.weight
        packets, unchecked, num_bytes = packets + found.packets, unchecked + found.unchecked, num_bytes + found.bytes
        if found.reason:
            reasons.setdefault(job.video, found.reason)
        if found.damaged is not None:
            damaged.setdefault(job.video, []).append(found.damaged)
        if progress:
            progress(done, total)
    wrong = []
    for number in sorted(reasons.keys() | damaged.keys()):
        video = index.videos[number]
        places = stretches(video.video_id, damaged[number]) if number in damaged else []
        wrong.append(WrongFile(video.file, (video.video_id,), reasons.get(number, ""), tuple(places)))
    return Verification(len(index.videos), packets, unchecked, num_bytes, touched, tuple(wrong))


class _Job(NamedTuple):
    """Segments of a video, and where their packets begin among the video's."""

    video: int
    segments: range
    first_row: int
    file_bytes: int  # that there are
    weight: int  # bytes, about


class _Found(NamedTuple):
    packets: int
    unchecked: int
    bytes: int
    damaged: DamagedRows | None
    reason: str


def look_at(storage: Storage, file: str, file_bytes: int) -> tuple[str, int | None, str]:
    """Of a file: what is wrong with it as a whole, "" if nothing is; its size, None if it can't be read; its version.

    Args:
        storage: where it is.
        file: its path.
        file_bytes: what its size should be.
    """
    try:
        entry = storage.stat(file)
    except FileNotFoundError:
        return "is missing", None, ""
    except (OSError, OnetakeError) as error:
        return cannot_be_read(error), None, ""
    reason = "" if entry.size == file_bytes else f"has {entry.size} bytes, {file_bytes} when it was indexed"
    return reason, entry.size, entry.version


def cannot_be_read(error: Exception) -> str:
    """The reason of a file that an error of a storage is about."""
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
    reason = ""
    try:
        if video.kind == CONTAINER:
            with _local_copy(videos, video, job.file_bytes) as path:
                sound, reason = compare_demuxed(video, table, path)
        else:
            sound = compare_bytes(table, lambda start, length: videos.read(video.file, start, length), job.file_bytes)
    except (OSError, OnetakeError) as error:
        return _Found(0, 0, 0, None, cannot_be_read(error))
    unchecked = (table.flags & UNCHECKED) > 0
    damaged = None if sound.all() else DamagedRows.of(table, sound, job.first_row)
    return _Found(len(table), int(unchecked.sum()), int(table.size[~unchecked].sum()), damaged, reason)


@contextmanager
def _local_copy(videos: Storage, video: Video, size: int) -> Iterator[Path]:
    """A video's file in this machine's file system: itself, or a copy for as long as that takes."""
    if videos.root is not None:
        yield videos.root / video.file
        return
    with tempfile.TemporaryDirectory(prefix="onetake-") as folder:
        path = Path(folder, "video").with_suffix(Path(video.file).suffix)
        videos.copy(video.file, 0, size, path)
        yield path
