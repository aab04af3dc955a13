"""Whether the shards of a pack are what was packed; where one is not, which packets of which videos are damaged."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onetake.core.errors import IndexFileError, OnetakeError
from onetake.core.index import CONTAINER, PacketTable, VideoIndex
from onetake.decode.compare import Damage, DamagedRows, compare_bytes, compare_demuxed, in_order, stretches
from onetake.decode.pack_index import PackedShards
from onetake.decode.verify import Progress, Verification, WrongFile, cannot_be_read, look_at
from onetake.storage.base import Storage

__all__ = ["verify_pack"]

_PIECE = 8 << 20  # bytes that are read at a time


def verify_pack(
    index: VideoIndex,
    shards: PackedShards,
    read_table: Callable[[int], PacketTable],
    pack: Storage,
    *,
    workers: int = 4,
    progress: Progress | None = None,
) -> Verification:
    """Compare the shards of a pack with its index, byte by byte: their hashes first, packets where these differ.

    Args:
        index: the pack's own index.
        shards: its shards.
        read_table: gives a segment's packet table; called by several threads.
        pack: where the shards are.
        workers: shards that are read at a time.
        progress: told how far it is.

    Raises:
        IndexFileError: a packet table can't be read.
    """
    sizes = shards.num_bytes.tolist()
    bounds = np.searchsorted(shards.shard_of_segment, np.arange(len(sizes) + 1)).tolist()
    jobs = [
        _Job(file, size, digest, range(first, stop))
        for file, size, digest, first, stop in zip(
            shards.files, sizes, shards.digests, bounds[:-1], bounds[1:], strict=True
        )
    ]
    packets = num_bytes = done = 0
    wrong = []
    for job, found in in_order(lambda job: _compare(index, job, read_table, pack), jobs, workers):
        done += job.num_bytes
        if found.is_read:
            num_bytes += job.num_bytes
            packets += int(index.num_packets[job.segments.start : job.segments.stop].sum())
        if found.reason or found.damaged:
            videos = index.video[job.segments.start : job.segments.stop].tolist()
            inside = dict.fromkeys(index.videos[number].video_id for number in videos)
            hit = {damage.video_id for damage in found.damaged} or inside.keys()
            concerned = tuple(video_id for video_id in inside if video_id in hit)
            wrong.append(WrongFile(job.file, concerned, found.reason, tuple(found.damaged)))
        if progress:
            progress(done, int(shards.num_bytes.sum()))
    return Verification(len(jobs), packets, 0, num_bytes, 0, tuple(wrong))


class _Job(NamedTuple):
    """A shard, and the segments in it."""

    file: str
    num_bytes: int
    digest: str
    segments: range


class _Found(NamedTuple):
    is_read: bool
    reason: str
    damaged: list[Damage]


def _compare(index: VideoIndex, job: _Job, read_table: Callable[[int], PacketTable], pack: Storage) -> _Found:
    reason, size, _ = look_at(pack, job.file, job.num_bytes)
    if size is None:
        return _Found(False, reason, [])
    try:
        if not reason and _digest(pack, job.file, size) == job.digest:
            return _Found(True, "", [])
        damaged = [
            damage
            for segment in job.segments
            for damage in _damage(index, segment, read_table(segment), pack, job.file, size)
        ]
    except IndexFileError:
        raise
    except (OSError, OnetakeError) as error:
        return _Found(False, cannot_be_read(error), [])
    return _Found(True, reason or ("" if damaged else "differs from what was packed, beside its packets"), damaged)


def _digest(pack: Storage, file: str, size: int) -> str:
    """See ``PackedShard``."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, size, _PIECE):
        digest.update(pack.read(file, start, min(_PIECE, size - start)))
    return digest.hexdigest()


def _damage(index: VideoIndex, segment: int, table: PacketTable, pack: Storage, file: str, size: int) -> list[Damage]:
    """Damaged packets of a segment; their places are those in the shard."""
    video = index.videos[index.video[segment]]
    if video.kind == CONTAINER:
        start = int(index.byte_offset[segment])
        with tempfile.TemporaryDirectory(prefix="onetake-") as folder:
            path = Path(folder, "video").with_suffix(Path(video.file).suffix)
            pack.copy(file, start, int(index.byte_length[segment]), path)
            sound = compare_demuxed(video, table, path)[0]
        rows = DamagedRows.of(table, sound, 0)
        rows = rows._replace(offset=np.where(rows.offset >= 0, rows.offset + start, -1))
    else:
        rows = DamagedRows.of(table, compare_bytes(table, lambda at, length: pack.read(file, at, length), size), 0)
    return stretches(video.video_id, [rows]) if len(rows.row) else []
