"""Which frames a clip holds, and which clips a video and a segment hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import index as as_int
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import SpecError

__all__ = ["ClipSpec", "SegmentClips", "clips_of_segments"]

Int64Array = NDArray[np.int64]

MAX_FRAMES = 2**31 - 1  # so that no product of two frame counts leaves 64 bits


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """A grid of clips over every video: clip i starts at frame ``i * hop``.

    A clip holds ``num_frames`` frames, ``stride`` frames apart, so that it extends over
    ``(num_frames - 1) * stride + 1`` frames of the video. Only clips that end inside the video exist; a
    video shorter than one clip gives none.

    Args:
        num_frames: frames in a clip (T), at least 1.
        stride: distance between a clip's frames, in frames of the video, at least 1.
        hop: frames from the start of one clip to the start of the next, at least 1. None: clips back to
            back, ``num_frames * stride``. Smaller than a clip's extent, clips overlap.

    Raises:
        SpecError: a value is not a whole number, below 1, or above 2**31 - 1.
    """

    num_frames: int
    stride: int = 1
    hop: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride", "hop"):
            value = getattr(self, name)
            if value is None and name == "hop":
                continue
            try:
                if isinstance(value, bool):
                    raise TypeError
                value = as_int(value)
            except TypeError:
                raise SpecError(
                    f"ClipSpec({name}={getattr(self, name)!r}): must be a whole number of frames, at least 1"
                ) from None
            if value < 1:
                raise SpecError(f"ClipSpec({name}={value}): must be at least 1")
            if value > MAX_FRAMES:
                raise SpecError(f"ClipSpec({name}={value}): must be at most {MAX_FRAMES}")
            object.__setattr__(self, name, value)

    @property
    def extent(self) -> int:
        """Frames of the video from a clip's first frame to its last, both included."""
        return (self.num_frames - 1) * self.stride + 1

    @property
    def hop_frames(self) -> int:
        """``hop`` with its default filled in."""
        return self.num_frames * self.stride if self.hop is None else self.hop

    def num_clips(self, video_frames: int) -> int:
        """How many clips a video of ``video_frames`` frames gives."""
        if video_frames < self.extent:
            return 0
        return (video_frames - self.extent) // self.hop_frames + 1

    def start_frame(self, clip: int) -> int:
        """The first frame of the video's clip number ``clip``."""
        return clip * self.hop_frames

    def frame_index(self, start_frame: int) -> Int64Array:
        """The frame numbers of the clip that starts at ``start_frame``: int64 [T], rising."""
        return start_frame + self.stride * np.arange(self.num_frames, dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a resume state or a hash; the same for specs that mean the same."""
        return {**asdict(self), "hop": self.hop_frames}


@dataclass(frozen=True, slots=True)
class SegmentClips:
    """The clips of each of S segments. A clip belongs to the segment it starts in.

    Attributes:
        first_clip: int64 [S], number (within its video) of the first clip that starts in the segment.
        num_clips: int64 [S], how many do.
        stop_frame: int64 [S], one past the last frame that the segment's clips need; it may lie in the next
            segment. 0 where there is no clip.
    """

    first_clip: Int64Array
    num_clips: Int64Array
    stop_frame: Int64Array


def clips_of_segments(
    spec: ClipSpec, first_frame: Int64Array, num_frames: Int64Array, video_frames: Int64Array
) -> SegmentClips:
    """Distribute the grid's clips over segments.

    Args:
        spec: the grid.
        first_frame: int64 [S], each segment's first frame.
        num_frames: int64 [S], each segment's frames.
        video_frames: int64 [S], frames of the video that the segment belongs to.
    """
    hop = spec.hop_frames
    total = np.where(video_frames < spec.extent, 0, (video_frames - spec.extent) // hop + 1)
    first = np.minimum(-(-first_frame // hop), total)
    stop = np.minimum(-(-(first_frame + num_frames) // hop), total)
    stop_frame = np.where(stop > first, (stop - 1) * hop + spec.extent, 0)
    return SegmentClips(first, stop - first, stop_frame)
