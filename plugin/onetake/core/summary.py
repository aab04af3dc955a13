"""What a dataset holds, told from its index alone: no video is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onetake.core.clips import ClipSpec
from onetake.core.index import Keyframes, Video, VideoIndex
from onetake.core.layout import Layout
from onetake.core.simulate import simulate
from onetake.core.simulate_clips import Clips, Cluster
from onetake.core.simulate_costs import decoding

__all__ = ["ClipSummary", "Spread", "Summary", "summarise", "summarise_clips"]

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

_COSTED = 200_000  # clips that are gone through for what decoding costs
_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are spread."""

    least: float
    median: float
    mean: float
    most: float

    @classmethod
    def of(cls, values: Int64Array | Float64Array) -> Spread:
        """Of at least one value."""
        return cls(float(values.min()), float(np.median(values)), float(values.mean()), float(values.max()))


@dataclass(frozen=True, slots=True)
class Summary:
    """What an index holds. Mappings count videos, the most frequent first.

    Attributes:
        videos, segments, frames, packets: how many there are.
        seconds: how long all videos play.
        bytes: size of their files.
        index_bytes_per_packet: what a packet takes in packets.bin.
        codecs, kinds, containers, pixel_formats: by name.
        sizes: by "height x width" of the upright picture, in pixels.
        frame_rates: by mean frames a second, such as "29.97".
        rotated: by degrees clockwise, of those that are turned to stand upright.
        hdr: by transfer function, of those of high dynamic range.
        video_seconds: how long a video plays.
        bits_per_second: of a video's file.
        segment_seconds, segment_bytes: of a segment.
        keyframe_distance: frames from a keyframe to the next, or to its video's end.
        keyframe_distances: how many of these distances are in each power of two, by "first-last".
    """

    videos: int
    segments: int
    frames: int
    packets: int
    seconds: float
    bytes: int
    index_bytes_per_packet: float
    codecs: dict[str, int]
    kinds: dict[str, int]
    containers: dict[str, int]
    pixel_formats: dict[str, int]
    sizes: dict[str, int]
    frame_rates: dict[str, int]
    rotated: dict[str, int]
    hdr: dict[str, int]
    video_seconds: Spread
    bits_per_second: Spread
    segment_seconds: Spread
    segment_bytes: Spread
    keyframe_distance: Spread
    keyframe_distances: dict[str, int]


@dataclass(frozen=True, slots=True)
class ClipSummary:
    """Which clips a dataset gives, and what it takes to decode one. Frames decoded are at most so many: the index does
    not say which pictures others lean on, so that all from a keyframe on count.

    Attributes:
        clips: how many there are.
        clips_per_epoch: how many of them an epoch draws from.
        clips_of_videos: how many a video gives.
        videos_without: videos that give none.
        examples: IDs of the first of these.
        frames_spanned: frames of the video from a clip's first to its last, both included, on average.
        decoded_in_order: frames decoded per clip where clips are read one after the other, as lanes do.
        decoded_at_random: the same where each clip is sought by itself, from the keyframe before it.
        bytes_in_order: bytes fetched per clip, where each segment is fetched once.
        costed: clips that were gone through for this.
    """

    clips: int
    clips_per_epoch: int
    clips_of_videos: Spread
    videos_without: int
    examples: tuple[str, ...]
    frames_spanned: float
    decoded_in_order: float
    decoded_at_random: float
    bytes_in_order: float
    costed: int


def summarise(index: VideoIndex, keyframes: Keyframes) -> Summary:
    """What an index holds; its segments in time O(S), of a million in a second or two."""
    videos = index.videos
    seconds = np.array([video.seconds for video in videos], np.float64)
    frames = np.array([video.num_frames for video in videos], np.int64)
    size = np.array([video.file_bytes for video in videos], np.int64)
    packets = int(index.num_packets.sum())
    distances = keyframe_distances(index, keyframes)
    frame_seconds = seconds / frames
    return Summary(
        videos=len(videos),
        segments=index.num_segments,
        frames=int(frames.sum()),
        packets=packets,
        seconds=float(seconds.sum()),
        bytes=int(size.sum()),
        index_bytes_per_packet=int(index.table_length.sum()) / max(packets, 1),
        codecs=_counted(video.codec for video in videos),
        kinds=_counted(video.kind for video in videos),
        containers=_counted(video.container for video in videos),
        pixel_formats=_counted(video.pix_fmt for video in videos),
        sizes=_counted(map(_upright, videos)),
        frame_rates=_counted(f"{rate:.5g}" for rate in (1 / np.maximum(frame_seconds, 1e-9)).tolist()),
        rotated=_counted(str(video.rotation) for video in videos if video.rotation),
        hdr=_counted(video.transfer for video in videos if video.transfer),
        video_seconds=Spread.of(seconds),
        bits_per_second=Spread.of(8 * size / np.maximum(seconds, 1e-9)),
        segment_seconds=Spread.of(index.num_frames * frame_seconds[index.video]),
        segment_bytes=Spread.of(index.byte_length),
        keyframe_distance=Spread.of(distances),
        keyframe_distances=_histogram(distances),
    )


def keyframe_distances(index: VideoIndex, keyframes: Keyframes) -> Int64Array:
    """Frames from each keyframe to the next of its video, or to the video's end: int64, at least one value.

    A video without a keyframe from which all frames come out right counts as one stretch.
    """
    frames = np.array([video.num_frames for video in index.videos], np.int64)
    stop = np.cumsum(frames)  # frames of all videos, one after the other
    owner = np.repeat(index.video, np.diff(keyframes.start))
    starts = np.unique(np.concatenate([stop - frames, (stop - frames)[owner] + keyframes.frame]))
    return np.diff(starts, append=stop[-1])


def summarise_clips(index: VideoIndex, keyframes: Keyframes, spec: ClipSpec) -> ClipSummary:
    """Which clips ``spec`` gives. Of many, what they cost is told from stretches of them, spread evenly."""
    layout = Layout(spec, index, keyframes if spec.align else None)
    per_video = layout.num_clips_of_videos
    without = np.flatnonzero(per_video == 0)
    spanned = in_order = at_random = fetched = 0.0
    costed = 0
    if layout.num_drawn:
        clips = Clips(index, keyframes, spec, shuffle=False)
        read = simulate(clips, Cluster(batch_size=1), (1, 1), max_steps=_COSTED)[0]
        costed = read.steps_simulated
        in_order = read.frames_decoded / costed
        spanned, at_random = _alone(clips, costed)
        fetched = read.node_bytes / costed
    return ClipSummary(
        clips=int(per_video.sum()),
        clips_per_epoch=layout.num_drawn,
        clips_of_videos=Spread.of(per_video),
        videos_without=len(without),
        examples=tuple(index.videos[video].video_id for video in without[:_EXAMPLES].tolist()),
        frames_spanned=spanned,
        decoded_in_order=in_order,
        decoded_at_random=at_random,
        bytes_in_order=fetched,
        costed=costed,
    )


def _alone(clips: Clips, count: int) -> tuple[float, float]:
    """Per clip, (frames from its first to its last, frames decoded where each is read by itself), of ``count`` clips
    spread evenly over an epoch."""
    order, runs = clips.epoch(0, (1, 1))
    seq = np.linspace(0, len(order) - 1, count).astype(np.int64)
    segment = runs.segment[np.searchsorted(np.cumsum(runs.num_clips), seq, side="right")]
    first, last = clips.frames(order.clip_ids(seq), segment, 0)
    decoded = decoding(clips, segment, first, last, np.ones(count, np.bool_))[1]
    return float((last + 1 - first).mean()), decoded / count


def _upright(video: Video) -> str:
    height, width = (video.width, video.height) if video.rotation % 180 else (video.height, video.width)
    return f"{height} x {width}"


def _counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name comes, the most frequent first, those equally frequent by name."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _histogram(values: Int64Array) -> dict[str, int]:
    """How many of the values, all at least 1, lie in 1, 2-3, 4-7, ...: from the first that has some to the last."""
    power = np.frexp(values)[1].astype(np.int64) - 1
    counts = np.bincount(power)
    return {
        f"{1 << p}-{(2 << p) - 1}" if p else "1": int(counts[p]) for p in range(int(power.min()), int(power.max()) + 1)
    }
