"""Ways to get clips out of a video, all to one size: each yields uint8 [T, H, W, 3] arrays.

All decode at one thread and start from a closed file. The in-order ones take clips front to back, the others in
an order shuffled from a seed, as a loader without lanes does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from onetake.core.index import PacketTable, Video
from onetake.decode.build import index_video
from onetake.decode.decoder import ClipDecoder, Count, new_counters
from onetake.decode.scale import FrameSize, converter, scaled_size
from onetake.decode.source import TableSource

RANDOM_CLIPS = 8
Clips = Iterator[tuple[int, np.ndarray]]  # (number of the clip, its frames)


@dataclass(frozen=True)
class Task:
    """What to decode: clips of one video, as lists of frame numbers, to one size."""

    path: Path
    clips: Sequence[Sequence[int]]
    frame_size: FrameSize
    video: Video = field(repr=False)
    table: PacketTable = field(repr=False)

    @property
    def scaled(self) -> tuple[int, int]:
        return scaled_size(self.frame_size, self.video.height, self.video.width)

    def crop(self, frames: np.ndarray) -> np.ndarray:
        """The middle of [..., H, W, 3] frames, as large as ``frame_size``."""
        if not isinstance(self.frame_size, tuple):
            return frames
        height, width = self.frame_size
        top, left = (frames.shape[-3] - height) // 2, (frames.shape[-2] - width) // 2
        return frames[..., top : top + height, left : left + width, :]

    def shuffled(self) -> list[int]:
        """Clips for those that jump about: some are enough, since each costs as much in any company."""
        return np.random.default_rng(0).permutation(len(self.clips)).tolist()[:RANDOM_CLIPS]


def make_task(path: Path, num_frames: int, stride: int, frame_size: FrameSize) -> Task:
    """Clips back to back over the whole of a video, which is indexed here, not in the contender's time."""
    indexed = index_video(path.parent, path.name, 1e9)
    table = PacketTable.from_bytes(indexed.tables[0], indexed.rows[0]["num_packets"])
    span = num_frames * stride
    starts = range(0, indexed.video.num_frames - span + 1, span)
    clips = [list(range(start, start + span, stride)) for start in starts]
    return Task(path, clips, frame_size, indexed.video, table)


def onetake_clips(task: Task, scaling: str = "fast") -> Clips:
    counters = new_counters()
    plan = [frame for clip in task.clips for frame in clip]
    convert = converter(task.frame_size, task.video.rotation, scaling)
    decoder = ClipDecoder(task.video, TableSource(task.video, task.table, task.path), convert, counters, plan)
    for number, clip in enumerate(task.clips):
        yield number, np.stack(decoder.read(clip))
    decoder.close()
    assert counters[Count.OPENS] == 1


def onetake_exact(task: Task) -> Clips:
    yield from onetake_clips(task, "exact")


def pyav_in_order(task: Task) -> Clips:
    """Decode everything, convert what is wanted."""
    to_rgb = VideoReformatter()
    with av.open(str(task.path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        pictures = enumerate(container.decode(stream))
        for number, clip in enumerate(task.clips):
            yield number, _taken(task, clip, pictures, to_rgb)


def pyav_seeking(task: Task) -> Clips:
    """Seek to the keyframe before each clip."""
    to_rgb = VideoReformatter()
    pts = np.sort(task.table.pts[task.table.frame >= 0]).tolist()
    with av.open(str(task.path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for number in task.shuffled():
            clip = task.clips[number]
            container.seek(pts[clip[0]], stream=stream)
            pictures = ((bisect_left(pts, picture.pts), picture) for picture in container.decode(stream))
            yield number, _taken(task, clip, pictures, to_rgb)


def _taken(
    task: Task, clip: Sequence[int], pictures: Iterable[tuple[int, VideoFrame]], to_rgb: VideoReformatter
) -> np.ndarray:
    """A clip's frames, out of numbered pictures, which are gone through up to its last."""
    height, width = task.scaled
    wanted, frames = set(clip), []
    for frame, picture in pictures:
        if frame in wanted:
            rgb = to_rgb.reformat(picture, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1)
            frames.append(task.crop(rgb.to_ndarray()))
        if frame == clip[-1]:
            break
    return np.stack(frames)


def torchcodec_random(task: Task) -> Clips:
    """Exact seeking; it does not scale, so torchvision's antialiased resize does."""
    decoders, functional = import_module("torchcodec.decoders"), import_module("torchvision.transforms.v2.functional")
    decoder = decoders.VideoDecoder(str(task.path), num_ffmpeg_threads=1, seek_mode="exact")
    for number in task.shuffled():
        frames = functional.resize(decoder.get_frames_at(task.clips[number]).data, list(task.scaled), antialias=True)
        yield number, task.crop(frames.permute(0, 2, 3, 1).numpy())


def decord_random(task: Task) -> Clips:
    height, width = task.scaled
    decord = import_module("decord")
    reader = decord.VideoReader(str(task.path), width=width, height=height, num_threads=1)
    for number in task.shuffled():
        yield number, task.crop(reader.get_batch(task.clips[number]).asnumpy())


BASELINE = "PyAV, all frames in order"
CONTENDERS: dict[str, tuple[Callable[[Task], Clips], str | None]] = {
    # name: how, the package that it needs
    BASELINE: (pyav_in_order, None),
    "onetake, lane order": (onetake_clips, None),
    "onetake, scaling exact": (onetake_exact, None),
    "torchcodec, random": (torchcodec_random, "torchcodec"),
    "decord, random": (decord_random, "decord"),
    "PyAV seeking, random": (pyav_seeking, None),
}


def why_missing(name: str) -> str:
    """Why a contender cannot run here, "" if it can."""
    package = CONTENDERS[name][1]
    if package is None:
        return ""
    if find_spec(package) is None:
        return "not installed"
    try:
        import_module("torchcodec.decoders" if package == "torchcodec" else package)
    except (ImportError, OSError, RuntimeError):  # torchcodec without FFmpeg's libraries
        return "not installed (it does not load: are FFmpeg's libraries there?)"
    return ""
