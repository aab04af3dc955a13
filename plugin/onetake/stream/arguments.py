"""What a VideoStream is given, checked; and what it says of videos that have no clips, or other colours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onetake.core.clips import ClipSpec
from onetake.core.errors import CacheError, SpecError
from onetake.core.index import Video
from onetake.core.layout import Layout
from onetake.core.values import check_count, check_path, check_seconds, check_text
from onetake.storage.open import open_storage

__all__ = [
    "check_downloads",
    "check_stream",
    "check_stream_index",
    "check_weights",
    "no_clips",
    "refuse_nested",
    "refuse_other_streams",
    "warn_of_hdr",
    "warn_of_short",
]

logger = logging.getLogger(__name__)


def refuse_nested(cache: Path, remote: str) -> None:
    """The cache is emptied by deleting files, so it must not hold the videos, nor lie among them."""
    storage = open_storage(remote)
    if storage.root is None:
        return
    storage.check()
    cache, videos = cache.resolve(), storage.root.resolve()
    if cache == videos or cache in videos.parents or videos in cache.parents:
        raise CacheError(
            f"local={cache} and remote={videos} lie within one another: the cache deletes files, so give it a "
            "folder of its own; or leave out remote= to read the videos in place"
        )


def check_stream(
    remote: object, local: object, split: object, index: object, clips: object, name: object, *downloads: object
) -> None:
    """Raise SpecError for what can be no argument of a VideoStream; ``downloads``: see ``check_downloads``."""
    for argument, place in (("remote", remote), ("local", local), ("index", index)):
        check_path(argument, place)
    check_text("split", split)
    check_text("name", name)
    check_spec(clips)
    check_downloads(*downloads)
    if remote is None and local is None:
        raise SpecError("VideoStream needs remote= (videos that are cached) or local= (videos read in place)")


def check_spec(clips: object) -> None:
    """Raise SpecError unless ``clips`` is a ClipSpec, or None."""
    if clips is not None and not isinstance(clips, ClipSpec):
        raise SpecError(f"clips={clips!r}: must be a ClipSpec, such as ClipSpec(num_frames=16, stride=4)")


def check_downloads(retry: object, timeout: object) -> None:
    """Raise SpecError unless these can be ``download_retry`` and ``download_timeout``; None leaves them open."""
    if retry is not None:
        check_count("download_retry", retry, 0)
    if timeout is not None:
        check_seconds("download_timeout", timeout)


def check_weights(**weights: float | None) -> dict[str, float]:
    """The one of ``weights`` that is given, if any; SpecError for several, or for one that is no weight."""
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if len(given) > 1:
        raise SpecError(f"VideoStream({', '.join(f'{n}={w!r}' for n, w in given.items())}): give one of them at most")
    for name, weight in given.items():
        kinds = int if name == "choose" else (int, float)
        if isinstance(weight, bool) or not isinstance(weight, kinds) or not 0 <= weight < float("inf"):
            what = "a whole number of clips" if name == "choose" else "a number"
            raise SpecError(f"VideoStream({name}={weight!r}): must be {what}, not below 0")
    return given


def check_stream_index(stream_index: int | None) -> int | None:
    """A stream's number in its container, or None; SpecError for anything else."""
    if stream_index is not None and (
        isinstance(stream_index, bool) or not isinstance(stream_index, int) or stream_index < 0
    ):
        raise SpecError(f"VideoStream(stream_index={stream_index!r}): must be a whole number, not below 0")
    return stream_index


def refuse_other_streams(videos: Sequence[Video], stream_index: int | None, location: str) -> None:
    """Raise SpecError unless all videos were indexed with the stream asked for."""
    if stream_index is None:
        return
    others = [video for video in videos if video.stream_index != stream_index]
    if others:
        raise SpecError(
            f"VideoStream(stream_index={stream_index}): of video {others[0].video_id!r} in {location}, stream "
            f"{others[0].stream_index} was indexed ({len(others)} of {len(videos)} videos have another stream): "
            f"run `onetake index --stream-index {stream_index}`"
        )


def _clip_in_words(spec: ClipSpec) -> str:
    """How long a clip is."""
    return f"{_seconds(float(spec.extent_time))} s" if spec.by_time else f"{spec.extent} frames"


def _too_short_in_words(layout: Layout) -> str:
    """What videos are that have no sample."""
    if isinstance(layout.clips_per_sample, int) and layout.clips_per_sample > 1:
        return f"have fewer than the {layout.clips_per_sample} clips of a sample"
    or_lack = ", or have no keyframe from which one fits," if layout.spec.align else ""
    return f"are shorter than a clip ({_clip_in_words(layout.spec)}){or_lack}"


def no_clips(layout: Layout, what: str, location: str) -> SpecError:
    """The error for videos (or ``what`` they are) none of which has a sample."""
    spec, videos = layout.spec, layout.videos
    most = layout.most_clips
    if most:
        return SpecError(
            f"no {what} in {location} has the {layout.clips_per_sample} clips of a sample, the longest has {most}: "
            "lower clips_per_sample=, or use shorter clips"
        )
    if spec.by_time:
        longest = f"{_seconds(max(video.seconds for video in videos))} s"
        remedy = "use fewer frames or a higher fps"
    else:
        longest = str(max(video.num_frames for video in videos))
        remedy = "use fewer frames or a smaller stride"
    extent = _clip_in_words(spec)
    if spec.align is None or _longest_is_too_short(spec, videos):
        return SpecError(
            f"no {what} in {location} is long enough for a clip: one extends over {extent}, the longest {what} has "
            f"{longest}; {remedy}"
        )
    return SpecError(
        f"no {what} in {location} has a keyframe from which a clip fits: one extends over {extent}, and begins at a "
        f'keyframe (align="keyframe"); leave out align=, or {remedy}'
    )


def _longest_is_too_short(spec: ClipSpec, videos: Sequence[Video]) -> bool:
    if spec.by_time:
        return max(video.seconds for video in videos) <= spec.extent_time
    return max(video.num_frames for video in videos) < spec.extent


def _seconds(value: float) -> str:
    return np.format_float_positional(value, precision=3, trim="-")


def warn_of_short(layout: Layout, what: str, location: str) -> None:
    """Say that some videos (or ``what`` they are) have no sample."""
    logger.warning(
        "%d of the %d %ss in %s %s and give none",
        layout.num_empty_videos,
        len(layout.videos),
        what,
        location,
        _too_short_in_words(layout),
    )


def warn_of_hdr(videos: Sequence[Video], location: str) -> None:
    """Say that pictures of high dynamic range come out as they are."""
    found = [video for video in videos if video.transfer]
    if found:
        logger.warning(
            "%d of the %d videos in %s are HDR (%s, first of all %r): they are not tone-mapped, so their RGB looks "
            "pale beside that of other videos; convert them, or train on them alone",
            len(found),
            len(videos),
            location,
            " and ".join(sorted({video.transfer for video in found})),
            found[0].video_id,
        )
