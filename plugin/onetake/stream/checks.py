"""What is settled before a dataset is built: arguments, lanes, and whether the cache is large enough."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature

import numpy as np
from streaming import StreamingDataset
from streaming.base.util import bytes_to_int, number_abbrev_to_int

from onetake.core.batching import APART, BATCHING_METHODS
from onetake.core.errors import CacheError, SpecError
from onetake.core.lane_counts import MAX_LEAD_IN
from onetake.core.layout import choose_lanes as lanes_of_layouts
from onetake.core.names import nearest
from onetake.core.values import check_choice, check_count
from onetake.stream.arguments import check_downloads
from onetake.stream.stream import VideoStream

__all__ = [
    "check_cache_limit",
    "check_clips_per_sample",
    "check_full_batch",
    "check_host_arguments",
    "check_replication",
    "check_streams",
    "choose_lanes",
    "refuse_replaced",
    "warn_of_long_segments",
    "weigh_streams",
]

_REPLACED = {
    "num_canonical_nodes": "lanes make the order independent of nodes: use num_canonical_lanes=",
    "shuffle_algo": "whole segments are shuffled, so that none is decoded twice: use shuffle_by=",
    "shuffle_block_size": "whole segments are shuffled, so that none is decoded twice: use shuffle_by=",
    "partition_algo": "lanes partition the epoch: use num_canonical_lanes=",
    "sampling_granularity": "clips are drawn by whole segments",
}

_LONG = 1000  # clips of one segment in a row
_NOTHING = "an epoch takes no clip of any stream: raise proportion=, repeat=, choose= or epoch_size="


def refuse_replaced(arguments: Iterable[str]) -> None:
    """Raise SpecError for an argument of StreamingDataset that lanes replace, with the reason."""
    for name in arguments:
        if name in _REPLACED:
            raise SpecError(f"{name}= does not apply to VideoDataset: {_REPLACED[name]}")


def check_host_arguments(arguments: Mapping[str, object], dataset: type[StreamingDataset]) -> None:
    """Raise SpecError for arguments of StreamingDataset that ``dataset`` can't take, or that neither of them has."""
    refuse_replaced(arguments)
    _refuse_unknown(arguments, dataset)
    check_choice("batching_method", arguments.get("batching_method", "random"), BATCHING_METHODS)
    check_choice("sampling_method", arguments.get("sampling_method", "balanced"), ("balanced", "fixed"))
    _check_epoch_size(arguments.get("epoch_size"))
    check_downloads(arguments.get("download_retry"), arguments.get("download_timeout"))


def _check_epoch_size(size: object) -> None:
    try:
        if size is not None and (isinstance(size, bool | float) or number_abbrev_to_int(size) < 0):
            raise ValueError
    except (ValueError, TypeError, AttributeError):
        raise SpecError(f'epoch_size={size!r}: must be a whole number of clips, or a text such as "100k"') from None


def _refuse_unknown(arguments: Iterable[str], dataset: type[StreamingDataset]) -> None:
    host = signature(StreamingDataset).parameters
    for name in arguments:
        if name not in host:
            known = {*signature(dataset).parameters, *host} - _REPLACED.keys() - {"kwargs"}
            raise SpecError(f"VideoDataset has no argument {name}={nearest(name, known)}")


def check_clips_per_sample(value: object, max_memory: object) -> None:
    """Raise SpecError unless ``value`` is a number of clips, or "all" with a bound on what that may take."""
    if value != "all":
        if isinstance(value, str):
            raise SpecError(f"clips_per_sample={value!r}: must be a whole number, at least 1, or 'all'")
        check_count("clips_per_sample", value)
    elif max_memory is None:
        raise SpecError(
            "clips_per_sample='all' makes samples as large as videos are long: say how much memory they may take, such "
            'as max_memory="8gb"'
        )


def check_streams(streams: object) -> None:
    """Raise SpecError unless these are VideoStreams, one at least."""
    if isinstance(streams, Sequence) and streams and all(isinstance(stream, VideoStream) for stream in streams):
        return
    raise SpecError(f"streams={streams!r}: must be a list of VideoStreams, such as [VideoStream(local='videos')]")


def check_cache_limit(limit: int | str, streams: Sequence[VideoStream]) -> int:
    """A cache limit in bytes; CacheError for one that is none, or where there is no cache and evicting would delete
    videos read in place."""
    if all(stream.in_place for stream in streams):
        raise CacheError(
            f"cache_limit= with videos read in place ({streams[0].videos_location}): evicting would delete your only "
            "copy; leave out cache_limit=, or give remote= (the videos) and local= (a folder for the cache)"
        )
    try:
        count = bytes_to_int(limit) if isinstance(limit, str) else int(limit)
    except (ValueError, TypeError):
        count = 0
    if count <= 0:
        raise CacheError(f'cache_limit={limit!r}: must be a number of bytes, or a text such as "100gb"')
    return count


def check_replication(replication: object, num_ranks: int) -> int:
    """How many ranks read the same clips; SpecError unless that divides the ranks there are."""
    if replication is None:
        return 1
    check_count("replication", replication)
    assert isinstance(replication, int)
    if num_ranks % replication:
        raise SpecError(f"replication={replication}: must divide the number of ranks, {num_ranks}")
    return replication


def weigh_streams(streams: Sequence[VideoStream], epoch_size: int | str | None, seed: int) -> None:
    """Settle how many clips an epoch takes of each stream, as the host will; SpecError if that can't be done."""
    if all(0 in stream.weights.values() for stream in streams):
        raise SpecError(_NOTHING)
    try:
        size = None if epoch_size is None else number_abbrev_to_int(epoch_size)
        clips = np.array([stream.num_clips for stream in streams], np.int64)
        with np.errstate(invalid="ignore"):  # shares of nothing
            VideoStream.apply_weights(streams, clips, size, seed)
    except ValueError as error:
        weights = ", ".join(str(stream.weights or "none") for stream in streams)
        raise SpecError(
            f"weights of the streams ({weights}) and epoch_size={epoch_size!r} do not go together: {error}"
        ) from None
    for stream in streams:
        stream.num_chosen = int(stream.choose)
        stream.forget_weights()
    if size == 0 or not any(stream.num_chosen for stream in streams):
        raise SpecError(_NOTHING)


def check_full_batch(streams: Sequence[VideoStream], global_batch: int, batching_method: str) -> None:
    """Raise SpecError where an epoch without its last, incomplete batch would have none; or none of some stream."""
    few = [s.num_chosen for s in streams if 0 < s.num_chosen < global_batch]
    if few and batching_method in APART:
        raise SpecError(
            f"drop_last=True with batching_method={batching_method!r} leaves out a stream of which an epoch takes "
            f"{few[0]} clips, fewer than a batch of {global_batch}: lower batch_size=, or leave out the stream"
        )
    if sum(stream.num_chosen for stream in streams) < global_batch:
        raise SpecError(
            f"drop_last=True with fewer clips than a global batch of {global_batch} leaves no batch: lower batch_size="
        )


def choose_lanes(
    streams: Sequence[VideoStream], global_batch: int, num_lanes: int | None, batching_method: str, warn: bool
) -> tuple[int, int]:
    """(slots, phases) for a first run, of each stream where they are apart; says so when there is little video for
    them.

    Raises:
        SpecError: a stream's share of the lanes is too small to be in every batch, and ``batching_method`` demands it.
    """
    layouts, chosen = [stream.layout for stream in streams], [stream.num_chosen for stream in streams]
    times = len(streams) if batching_method in APART else 1
    lanes, waste = lanes_of_layouts(layouts, chosen, global_batch, num_lanes, times)
    if batching_method == "stratified":
        _check_shares(chosen, lanes[0])
    if warn and num_lanes is None and waste > MAX_LEAD_IN:
        warnings.warn(
            f"{lanes[0] * times} lanes start in the middle of a video, and decode about {waste:.0%} more frames than "
            "the clips span to get there: there is little video for this batch size; num_canonical_lanes= sets them",
            stacklevel=3,
        )
    return lanes


def warn_of_long_segments(streams: Sequence[VideoStream], lanes: int, batching_method: str) -> None:
    """Say so where a lane stays on one segment for thousands of clips, as where a long video has one keyframe: with
    whole segments shuffled, its place in the batches shows the same scene for as long."""
    total = sum(stream.num_chosen for stream in streams)
    longest, where = 0, ""
    for stream in streams:
        assert stream.clips is not None
        clips, segment = int(stream.layout.num_kept.max()), int(stream.layout.num_kept.argmax())
        of_lane = -(-(stream.num_chosen if batching_method in APART else total) // lanes)
        clips = min(clips, stream.clips.clips_per_video or clips, of_lane, stream.num_chosen)
        if clips > longest:
            longest, where = clips, f"{stream.index.segment_name(segment)} in {stream.videos_location}"
    if longest > _LONG:
        warnings.warn(
            f"a lane reads up to {longest} clips of one segment in a row ({where}), so that batches mix little: index "
            "with smaller --segment-seconds; if keyframes lie too far apart for that, `onetake pack --transcode` puts "
            "more; or read more lanes (num_canonical_lanes=), or fewer clips (hop=, clips_per_video=). "
            'shuffle_by="video" says that it is meant',
            stacklevel=3,
        )


def _check_shares(chosen: Sequence[int], slots: int) -> None:
    fewest, total = min(filter(None, chosen)), sum(chosen)
    if fewest * slots < total:
        raise SpecError(
            f'batching_method="stratified" with a stream of {fewest} of the {total} clips of an epoch: that is not one '
            f"in each {slots} (the global batch, or num_canonical_lanes=), so that batches would lack it; raise "
            "batch_size=, or the stream's proportion="
        )
