"""From a stream's remote into its cache: who fetches a segment, when there is room for it, and until when it stays."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep

import numpy as np
from streaming.base.world import World

from onetake.core.errors import CacheError, OnetakeError
from onetake.stream.cache import lane_bytes, smallest_limit
from onetake.stream.ranks import Gather
from onetake.stream.shard import VideoShard
from onetake.stream.shared_cache import CachedSegment, SharedCache, Standing
from onetake.stream.stream import VideoStream

__all__ = ["WAIT_SECONDS", "bring", "close_for_lane", "let_go", "open_caches", "open_for_lane"]

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.05  # until what could not be had is asked for again


def open_caches(
    gather: Gather, streams: Sequence[VideoStream], world: World, limit: int | None, lanes: int, predownload: int
) -> tuple[int | None, str]:
    """Give each stream that has a remote its part of the machine's cache.

    Every rank calls it, and all of them raise if one does.

    Args:
        gather: tells what each rank says; none of them goes on, or waits for one that is gone, before it knows.
        streams: open.
        world: this process's place.
        limit: bytes that these streams may take; None: what the machine has for all datasets that have no limit.
        lanes: open on a node.
        predownload: clips per worker whose segments are fetched ahead.

    Returns:
        What the streams' cache may hold, in bytes, None if all of them are read in place; and a name that the ranks
        have in common, and no other dataset has.

    Raises:
        CacheError: the limit, or the disk, is too small; names the smallest that works.
    """
    cached = [stream for stream in streams if not stream.in_place]
    error = None
    try:
        limit = _open(cached, world, limit, lanes, predownload) if cached else None
    except OnetakeError as failure:
        error = failure
    name, *_ = gather(token_hex(8))
    others = list(filter(None, gather(str(error or ""))))
    if error is None and others:
        error = CacheError(f"another rank can't use its cache: {others[0]}")
    if error is not None:
        for stream in cached:
            if stream.cache is not None:
                stream.cache.end()
        raise error
    return limit, name


def _open(streams: Sequence[VideoStream], world: World, limit: int | None, lanes: int, predownload: int) -> int:
    roots = sorted({Path(stream.local).parent for stream in streams})
    if limit is not None and len(roots) > 1:
        raise CacheError(
            f"cache_limit= with several local= ({', '.join(map(str, roots))}): give all streams the same one; each has "
            "a folder of its own in it"
        )
    taken = 0
    for root in roots:
        inside = [stream for stream in streams if Path(stream.local).parent == root]
        taken += _open_root(root, inside, world, limit, lanes, predownload)
    return taken


def _open_root(
    root: Path, streams: Sequence[VideoStream], world: World, limit: int | None, lanes: int, predownload: int
) -> int:
    sizes = np.concatenate([stream.most_segment_bytes for stream in streams])
    fixed = {Path(stream.local).name: stream.fixed_cache_bytes for stream in streams}
    segments, least = smallest_limit(sizes, lanes, predownload, sum(fixed.values()))
    too_small = (
        f"too small: {lanes} lanes and predownload={predownload} keep up to {segments} segments of up to "
        f"{int(sizes.max()):,} bytes open, with the index {least:,} bytes; below that, segments are fetched again and "
        "again. {}, or lower num_canonical_lanes=, or index with shorter segments"
    )
    if limit is not None and limit < least:
        raise CacheError(f"cache_limit={limit:,} bytes is {too_small.format('Raise cache_limit=')}")
    cache = SharedCache(root, fixed, limit, -(-lane_bytes(sizes, lanes) // world.ranks_per_node))
    for stream in streams:
        stream.cache = cache
    room = cache.open(for_node=world.is_local_leader)
    if room < least:
        remedy = "Make room on the disk, give another local="
        raise CacheError(f"the cache {root} may take {room:,} bytes of the disk, which is {too_small.format(remedy)}")
    if world.is_local_leader:
        whose = "80% of the free disk, for all datasets without a cache_limit=" if limit is None else "cache_limit="
        logger.info("the cache %s may take %s bytes (%s)", root, f"{room:,}", whose)
    return room


def bring(stream: VideoStream, shard: VideoShard, urgent: bool, given_up: Callable[[], bool]) -> bool:
    """Have a segment in the cache, where it stays until ``let_go``.

    Args:
        stream, shard: the segment.
        urgent: a lane waits for it. Otherwise what can't be had at once is left for later.
        given_up: whether nobody waits any more.

    Returns:
        Whether it is there.

    Raises:
        SourceError, CacheError: it can't be fetched, or never finds room.
    """
    cache = stream.cache
    if cache is None:
        return True
    segment = _cached(stream, shard)
    waits_since = None
    while True:
        standing = cache.hold_ahead(segment, shard.get_raw_size(), urgent)
        if standing is Standing.YOURS:
            _fetch(stream, shard, cache, segment)
        if standing in (Standing.HELD, Standing.YOURS):
            return True
        if not urgent or given_up():
            return False
        if standing is Standing.UNDER_WAY:
            waits_since = None
        elif waits_since is None:
            waits_since = monotonic()
        elif monotonic() > waits_since + stream.download_timeout:
            raise CacheError(
                f"no room in the cache {cache.root}: the segments that lanes have open fill it for "
                f"{stream.download_timeout} s. Raise cache_limit=, lower num_canonical_lanes=, or take a number of "
                "workers with which lanes stay on their worker"
            )
        sleep(WAIT_SECONDS)


def _fetch(stream: VideoStream, shard: VideoShard, cache: SharedCache, segment: CachedSegment) -> None:
    try:
        while True:
            try:
                stream.prepare_shard(shard)
                break
            except CacheError as error:
                if not _disk_is_full(error) or not cache.make_room_on_disk(shard.get_raw_size()):
                    raise
    except BaseException:
        cache.failed(segment)
        raise
    cache.fetched(segment)


def _disk_is_full(error: CacheError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)


def let_go(stream: VideoStream, shard: VideoShard) -> None:
    """Say that a sample for which ``bring`` was called is read, or never will be."""
    if stream.cache is not None:
        stream.cache.let_go(_cached(stream, shard), ahead=1)


def open_for_lane(stream: VideoStream, shard: VideoShard) -> None:
    """Have a segment stay for as long as a lane reads it."""
    if stream.cache is not None:
        stream.cache.open_held(_cached(stream, shard))


def close_for_lane(stream: VideoStream, shard: VideoShard, finished: bool) -> None:
    """Say that a lane has left a segment; ``finished`` where this was the last to read it in the epoch. What else is in
    its shard may still be to come."""
    if stream.cache is not None:
        finished = finished and shard.num_segments == 1
        stream.cache.let_go(_cached(stream, shard), opened=1, finished=finished)


def _cached(stream: VideoStream, shard: VideoShard) -> CachedSegment:
    return CachedSegment(Path(stream.local).name, shard.path.name)
