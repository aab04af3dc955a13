"""What a sample is: a clip that was read, as a dict, with its random transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from onetake.decode.scale import output_size
from onetake.stream.randomness import seeded
from onetake.stream.reader import ClipPlace
from onetake.stream.work import ClipRef

__all__ = [
    "LAYOUTS",
    "Clip",
    "Sample",
    "SampleTransform",
    "Transform",
    "empty_video",
    "frames_of",
    "make_sample",
    "transformed",
    "zeros",
]  # fmt: skip

Sample = dict[str, Any]
Transform = Callable[[torch.Tensor], Any]
SampleTransform = Callable[[Sample, torch.Generator], Sample]

LAYOUTS = ("TCHW", "CTHW")


class Clip(NamedTuple):
    """A clip that was read: its pictures, uint8, as the layout says; its frames' numbers and times in seconds."""

    video: torch.Tensor
    video_id: str
    frames: list[int]
    seconds: NDArray[np.float64]


def empty_video(layout: str, num_frames: int, height: int, width: int) -> torch.Tensor:
    """Room for a clip's pictures: uint8, [T, 3, H, W] or as ``layout`` says."""
    shape = (3, num_frames, height, width) if layout == "CTHW" else (num_frames, 3, height, width)
    return torch.empty(shape, dtype=torch.uint8)


def frames_of(layout: str, video: torch.Tensor) -> NDArray[np.uint8]:
    """A view of a clip's pictures as [T, H, W, 3]."""
    array: NDArray[np.uint8] = video.numpy()  # numpy copies on this thread alone, torch would wake its pool
    return array.transpose((1, 2, 3, 0) if layout == "CTHW" else (0, 2, 3, 1))


def zeros(place: ClipPlace, layout: str) -> Clip:
    """Black pictures in the place of a clip that can't be had, with its frames and times."""
    video, segment = place.video, place.shard.segment
    size = output_size(place.stream.frame_size, video.rotation, video.height, video.width)
    timeline = place.stream.timeline(segment)
    frames = place.frames(lambda: timeline)
    seconds = video.to_seconds(timeline.pts[np.searchsorted(timeline.frame, frames)])
    return Clip(empty_video(layout, len(frames), *size).zero_(), place.video_id, frames, seconds)


def make_sample(clip: Clip, ref: ClipRef, valid: bool, repeats: bool) -> Sample:
    """The dict that a VideoDataset gives for a clip; ``repeats``: with "occurrence"."""
    sample: Sample = {
        "video": clip.video,
        "video_id": clip.video_id,
        "start_frame": clip.frames[0],
        "frame_index": torch.tensor(clip.frames),
        "pts_seconds": torch.from_numpy(clip.seconds),
        "clip_id": int(ref),
        "valid": valid,
        "is_pad": ref.is_pad,
    }
    if repeats:
        sample["occurrence"] = ref.occurrence
    return sample


def transformed(
    sample: Sample, transform: Transform | None, sample_transform: SampleTransform | None, seed: int
) -> Sample:
    """The sample, after its transforms, which draw by ``seed``."""
    if transform is not None:
        with seeded(seed):
            sample["video"] = transform(sample["video"])
    if sample_transform is not None:
        sample = sample_transform(sample, torch.Generator().manual_seed(seed))
    return sample
