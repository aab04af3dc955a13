"""Packing: the videos of an index as MDS shards that hold packets as they are, and an index of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from onetake.core.errors import SourceError
from onetake.core.index import FORMAT_VERSION, PacketTable, VideoIndex
from onetake.core.packing import PackSpec, TranscodeSpec, cut_video, gather, parse_bytes, whole_video
from onetake.decode.engine import Crashed, check_engine, run_all
from onetake.decode.index_source import index_folder
from onetake.decode.index_writer import Annotations
from onetake.decode.metadata import read_metadata, read_spans
from onetake.decode.pack_index import write_pack_index
from onetake.decode.pack_shard import Failure, PackedShard, Places, SegmentPlan, ShardPlan, pack_shard, shard_name
from onetake.decode.pack_target import PackTarget
from onetake.decode.remux import can_cut
from onetake.decode.store import INDEX_FOLDER, read_header, read_index, read_table
from onetake.storage.base import Storage
from onetake.storage.open import open_storage

__all__ = ["PackReport", "pack_videos"]

Progress = Callable[[int, int, str], None]

_PACK_VERSION = 1
_FAILURES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PackReport:
    """What ``pack_videos`` did.

    Attributes:
        out: where the pack is.
        generation: its index's hash.
        videos, segments, frames: how many it holds; a frame that segments have in common counts once.
        shards: how many MDS files it has.
        num_bytes: what they weigh.
        reused: shards that an earlier run had written already.
        whole: videos that can't be cut, so that each is packed as the file that it is.
        damaged: of a transcoded pack, videos of which frames did not decode, and how many.
    """

    out: str
    generation: str
    videos: int
    segments: int
    frames: int
    shards: int
    num_bytes: int
    reused: int
    whole: int
    damaged: dict[str, int]


def pack_videos(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    index: str | os.PathLike[str] | None = None,
    shard_size: int | str = "64mb",
    segment_seconds: float = 60.0,
    overlap: float = 4.0,
    audio: bool = False,
    hashes: Sequence[str] = (),
    transcode: TranscodeSpec | None = None,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Copy indexed videos into MDS shards; the videos themselves are not touched.

    Every sample of a shard is a segment of a video, in a small file of its own, so that ``StreamingDataset`` reads the
    pack; ``VideoStream`` reads its packets by the index in ``out``/onetake, with the frame numbers and times of the
    original videos. The same index and options give the same bytes, on any number of workers and however often the work
    was interrupted: what a killed run has written is not written again.

    Args:
        source: the videos' folder, or its URL.
        out: a new folder, or its URL.
        index: the folder of the index, if it is not in ``source``.
        shard_size: what a shard weighs at most, in bytes or as a text such as "64mb". A segment that can't be cut any
            shorter may weigh more.
        segment_seconds: how long a segment is at least; it ends at the next keyframe, or where it fills a shard.
        overlap: seconds of what follows that each segment carries, so that clips may run over its end by as much.
        audio: keep sound tracks, which ``shard_size`` does not count. Of a video in a bucket, its headers and the
            segment's stretch of the file are fetched once more for them.
        hashes: names of hashes of each shard for MDS's index, such as "sha1".
        transcode: encode anew instead of copying packets: frames keep their numbers and times. What a shard weighs is
            then an estimate.
        engine: "local", or "ray": a Ray cluster, whose nodes see ``source`` and ``out`` by these names.
        workers: see ``engine.run_all``; above 1, call it under ``if __name__ == "__main__"``.
        progress: called as (bytes of the videos done, bytes in all, shard) after every shard.

    Raises:
        SpecError: an argument is out of range.
        IndexFileError: there is no index, or it can't be used.
        SourceError: a video is not there or not as it was indexed, some could not be packed (what could be is kept, and
            not done again), ``out`` holds something else, or another process packs into it.
    """
    check_engine(engine, workers)
    shard_bytes = parse_bytes("shard_size", shard_size)
    spec = PackSpec(shard_bytes, segment_seconds, overlap, audio, tuple(hashes), transcode)
    places = Places(*(os.fspath(place) for place in (source, source if index is None else index, out)))
    videos, target = open_storage(places.videos), open_storage(places.out)
    with index_folder(places.index, with_packets=True) as folder:
        if "pack" in read_header(folder):
            raise SourceError(f"{places.index} is the index of a pack already: pack the videos that it was made of")
        known = read_index(folder)
        _check_sizes(videos, known)
        key = _key(known, spec)
        pack = PackTarget(target, key)
        with pack.locked():
            header = pack.begin()
            if header is not None:
                return _report(places.out, header, reused=header["pack"]["shards"])
            metadata = read_metadata(folder, known)
            plans = _plan(folder, known, metadata.to_pylist() or [{}] * len(known.videos), spec)
            shards, reused = _pack_all(pack, plans, partial(pack_shard, places, spec), engine, workers, progress)
            with tempfile.TemporaryDirectory(prefix="onetake-pack-") as scratch:
                whole = len({part.video.video_id for plan in plans for part in plan.segments if part.is_whole})
                pack_settings = {"key": key, **spec.to_dict(), "whole": whole}
                spans = read_spans(folder, known).to_table()
                write_pack_index(Path(scratch), shards, pack_settings, Annotations(metadata, spans))
                header = read_header(Path(scratch, INDEX_FOLDER))
                pack.finish(Path(scratch))
    return _report(places.out, header, reused)


def _pack_all(
    pack: PackTarget,
    plans: Sequence[ShardPlan],
    make: Callable[[ShardPlan], PackedShard | Failure],
    engine: str,
    workers: int | None,
    progress: Progress | None,
) -> tuple[list[PackedShard], int]:
    """All shards, by number, and how many of them were there already.

    Raises:
        SourceError: some can't be made.
    """
    done = {plan.number: shard for plan in plans if (shard := pack.packed(plan.number)) is not None}
    reused = len(done)
    todo = [plan for plan in plans if plan.number not in done]
    count = _Count(plans, todo, progress)
    failures = []
    for plan, result in run_all(make, todo, engine, workers):
        if isinstance(result, PackedShard):
            pack.record(result)
            done[plan.number] = result
        else:
            failures.append(_crash(plan) if isinstance(result, Crashed) else result)
        count.add(plan)
    if failures:
        raise _failed(failures, len(plans))
    return [done[plan.number] for plan in plans], reused


def _report(out: str, header: dict[str, Any], reused: int) -> PackReport:
    pack = header["pack"]
    counts = {name: header[name] for name in ("generation", "videos", "segments", "frames")}
    rest = {"num_bytes": pack["bytes"], **{name: pack[name] for name in ("shards", "whole", "damaged")}}
    return PackReport(out, reused=reused, **counts, **rest)


def _key(index: VideoIndex, spec: PackSpec) -> str:
    """What tells a pack from any other, but not from one of the same videos elsewhere."""
    what = [FORMAT_VERSION, _PACK_VERSION, index.generation, spec.to_dict()]
    return blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=16).hexdigest()


def _check_sizes(storage: Storage, index: VideoIndex) -> None:
    """Raise SourceError unless every video is there as it was indexed; sizes alone, the rest shows when it is read."""
    sizes = {entry.file: entry.size for entry in storage.list(lambda *_: None)}  # what can't be seen is not there
    for video in index.videos:
        size = sizes.get(video.file)
        if size != video.file_bytes:
            now = "it is not there" if size is None else f"it has {size} bytes, {video.file_bytes} when it was indexed"
            raise SourceError(
                f"video {video.video_id!r} in {storage.location} changed ({now}): put it back, or run `onetake index` "
                "again. Nothing was packed"
            )


def _plan(folder: Path, index: VideoIndex, metadata: Sequence[dict[str, Any]], spec: PackSpec) -> list[ShardPlan]:
    """Every shard, and what it holds; ``metadata`` of each video goes with its segments."""
    segments: list[SegmentPlan] = []
    firsts = np.searchsorted(index.video, np.arange(len(index.videos) + 1)).tolist()
    for number in range(len(index.videos)):
        segments += _cut(folder, index, range(firsts[number], firsts[number + 1]), metadata[number], spec)
    shards = gather([segment.cut.num_bytes for segment in segments], spec.shard_bytes)
    return [ShardPlan(number, tuple(segments[run.start : run.stop])) for number, run in enumerate(shards)]


def _cut(
    folder: Path, index: VideoIndex, own: range, metadata: dict[str, Any], spec: PackSpec
) -> Iterator[SegmentPlan]:
    """The segments of one video, whose segments in the index are ``own``."""
    video = index.videos[index.video[own.start]]
    tables = [read_table(folder, index, segment) for segment in own]
    table = PacketTable.concatenate(tables)
    is_whole = spec.transcode is None and not can_cut(video, table)
    if is_whole:
        cuts = whole_video(table, video.num_frames, video.file_bytes)
    else:
        sizes = None
        if spec.transcode is not None:
            sizes = np.full(len(table), spec.transcode.frame_bytes(video.width, video.height), np.int64)
        cuts = cut_video(table, video.time_base, spec, sizes)
    stops = np.cumsum([len(part) for part in tables])
    for cut in cuts:
        first, last = (int(np.searchsorted(stops, row, side="right")) for row in (cut.start_row, cut.stop_row - 1))
        skipped = int(stops[first - 1]) if first else 0
        parts = tuple(
            (int(index.table_offset[at]), int(index.table_length[at]), int(index.num_packets[at]))
            for at in own[first : last + 1]
        )
        moved = cut._replace(start_row=cut.start_row - skipped, stop_row=cut.stop_row - skipped)
        yield SegmentPlan(video, moved, is_whole, parts, metadata)


class _Count:
    """Tells how far the work is, in bytes of shards as they were planned."""

    def __init__(self, plans: Sequence[ShardPlan], todo: Sequence[ShardPlan], progress: Progress | None) -> None:
        self._total = sum(map(_planned_bytes, plans))
        self._done = self._total - sum(map(_planned_bytes, todo))
        self._progress = progress

    def add(self, plan: ShardPlan) -> None:
        """A shard is done, or given up."""
        self._done += _planned_bytes(plan)
        if self._progress:
            self._progress(self._done, self._total, shard_name(plan.number))


def _planned_bytes(plan: ShardPlan) -> int:
    return sum(segment.cut.num_bytes for segment in plan.segments)


def _crash(plan: ShardPlan) -> Failure:
    videos = sorted({segment.video.video_id for segment in plan.segments})
    return Failure(plan.number, videos[0], f"the process that packed it (with {len(videos) - 1} others) crashed")


def _failed(failures: Sequence[Failure], shards: int) -> SourceError:
    lines = {f"  {failure.video_id or shard_name(failure.number)}: {failure.reason}" for failure in failures}
    return SourceError(
        f"{len(failures)} of {shards} shards could not be packed; the others are kept. Mend these, and run the same "
        "command again:\n" + "\n".join(sorted(lines)[:_FAILURES_SHOWN])
    )
