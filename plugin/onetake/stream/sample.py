"""What a sample is: a clip that was read, as a dict, with its random transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from onetake.core.clips import ClipSpec
from onetake.core.errors import SpecError
from onetake.decode.scale import output_size
from onetake.stream.randomness import seeded
from onetake.stream.reader import ClipPlace
from onetake.stream.work import ClipRef

__all__ = [
    "LAYOUTS",
    "Clip",
    "Sample",
    "SampleForm",
    "SampleTransform",
    "Transform",
    "make_sample",
    "transformed",
    "zeros",
]  # fmt: skip

Sample = dict[str, Any]
Transform = Callable[[torch.Tensor], Any]
SampleTransform = Callable[[Sample, torch.Generator], Sample]

LAYOUTS = ("TCHW", "CTHW")


class Clip(NamedTuple):
    """A clip that was read, or all of a sample: its pictures, uint8, as the layout says; its frames' numbers and times
    in seconds."""

    video: torch.Tensor
    video_id: str
    frames: list[int]
    seconds: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SampleForm:
    """How a sample holds its pictures.

    Attributes:
        layout: of a clip, "TCHW" or "CTHW".
        clips: clips in a sample; "all" of a video. One alone has no dimension of its own.
    """

    layout: str
    clips: int | str

    @property
    def is_ragged(self) -> bool:
        """Whether samples differ in shape."""
        return self.clips == "all"

    def empty(self, spec: ClipSpec, num_frames: int, height: int, width: int) -> torch.Tensor:
        """Room for the pictures of ``num_frames`` frames: uint8 [K, T, 3, H, W], or as ``layout`` says; K is left out
        where a sample holds one clip."""
        shape = (3, spec.num_frames) if self.layout == "CTHW" else (spec.num_frames, 3)
        clips = () if self.clips == 1 else (num_frames // spec.num_frames,)
        return torch.empty((*clips, *shape, height, width), dtype=torch.uint8)

    def pictures(self, video: torch.Tensor) -> list[NDArray[np.uint8]]:
        """Views of the pictures that ``empty`` made room for, each [H, W, 3]."""
        array: NDArray[np.uint8] = video.numpy()  # numpy copies on this thread alone, torch would wake its pool
        clips = array[None] if self.clips == 1 else array
        axes = (1, 2, 3, 0) if self.layout == "CTHW" else (0, 2, 3, 1)
        return [picture for clip in clips for picture in clip.transpose(axes)]

    def per_frame(self, values: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        """``values``, one for each frame of ``video``, as [K, T], or [T]."""
        return values if self.clips == 1 else values.view(len(video), -1)


def zeros(place: ClipPlace, form: SampleForm) -> Clip:
    """Black pictures in the place of a clip that can't be had, with its frames and times."""
    video, segment = place.video, place.segment
    size = output_size(place.stream.frame_size, video.rotation, video.height, video.width)
    timeline = place.stream.timeline(segment)
    frames = place.frames(lambda: timeline)
    seconds = video.to_seconds(timeline.pts[np.searchsorted(timeline.frame, frames)])
    return Clip(form.empty(place.spec, len(frames), *size).zero_(), place.video_id, frames, seconds)


def make_sample(clip: Clip, form: SampleForm, ref: ClipRef, valid: bool, repeats: bool) -> Sample:
    """The dict that a VideoDataset gives for a clip; ``repeats``: with "occurrence"."""
    sample: Sample = {
        "video": clip.video,
        "video_id": clip.video_id,
        "start_frame": clip.frames[0],
        "frame_index": form.per_frame(torch.tensor(clip.frames), clip.video),
        "pts_seconds": form.per_frame(torch.from_numpy(clip.seconds), clip.video),
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
            sample["video"] = _returned("transform", transform(sample["video"]))
    if sample_transform is not None:
        sample = _returned("sample_transform", sample_transform(sample, torch.Generator().manual_seed(seed)))
    return sample


def _returned(name: str, value: Any) -> Any:
    if value is None:
        raise SpecError(f"{name}= returned None: it must return what takes the place of what it was given")
    return value
