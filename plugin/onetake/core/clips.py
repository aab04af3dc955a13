"""Which clips of a video there are: a grid in frames or in seconds, and what an epoch takes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Rational, Real
from operator import index as as_int
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import SpecError

__all__ = ["ClipSpec"]

Int64Array = NDArray[np.int64]

MAX_FRAMES = 2**31 - 1  # so that no product of two frame counts leaves 64 bits
MAX_FPS = 10**6
MIN_SECONDS, MAX_SECONDS = Fraction(1, 10**6), 10**9


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """A grid of clips over every video, counted in frames (``stride``, ``hop``) or in seconds (``fps``,
    ``hop_seconds``).

    In frames, clip i starts at frame ``i * hop`` and holds ``num_frames`` frames, ``stride`` frames apart, so that it
    extends over ``(num_frames - 1) * stride + 1`` frames of the video.

    In seconds, clip i starts ``i * hop_seconds`` after the video's first frame, and holds, for each of ``num_frames``
    times ``1 / fps`` apart, the frame that is on screen then. That is right for any frame rate, and for one that
    varies; where a video is slower than ``fps``, a frame comes several times. For a constant frame rate both ways give
    the same clips: ``stride`` and ``hop`` are then ``fps = rate / stride`` and ``hop_seconds = hop / rate``.

    Only clips that end inside the video exist; a video shorter than one clip gives none.

    Args:
        num_frames: frames in a clip (T), at least 1.
        stride: distance between a clip's frames, in frames of the video, at least 1. None: 1.
        hop: frames from the start of one clip to the start of the next, at least 1. None: clips back to
            back, ``num_frames * stride``. Smaller than a clip's extent, clips overlap.
        fps: frames a second. Exact: a whole number, a Fraction, a text such as "30000/1001"; of a float, the decimal
            that it prints as.
        hop_seconds: seconds from the start of one clip to the start of the next, given like ``fps``. None: clips back
            to back, ``num_frames / fps``.
        clips_per_video: an epoch takes so many random clips of each video, others in each epoch; all of a video that
            has no more. With ``sampling_method="fixed"``, as in validation, it is the same ones. None: all.
        align: "keyframe": the clips of a video start at keyframes, so that nothing is decoded in vain before them: at
            the first keyframe of each stretch of ``hop`` (``hop_seconds``) that has one. None: on the grid.
        jitter: shift each video's grid by a random part of ``hop`` (``hop_seconds``), another one in every epoch; its
            last clip, only as far as it still ends inside the video. With ``sampling_method="fixed"`` nothing moves.

    Raises:
        SpecError: a value is not what it must be or out of range, or two of them do not go together.
    """

    num_frames: int
    stride: int | None = None
    hop: int | None = None
    fps: int | float | str | Fraction | None = field(default=None, kw_only=True)
    hop_seconds: int | float | str | Fraction | None = field(default=None, kw_only=True)
    clips_per_video: int | None = field(default=None, kw_only=True)
    align: Literal["keyframe"] | None = field(default=None, kw_only=True)
    jitter: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        frames = {"stride": self.stride, "hop": self.hop}
        seconds = {"fps": self.fps, "hop_seconds": self.hop_seconds}
        self._refuse_both(frames, seconds)
        if self.fps is None and self.stride is None:
            object.__setattr__(self, "stride", 1)
        for name in ("num_frames", "stride", "hop", "clips_per_video"):
            value = getattr(self, name)
            if value is not None or name == "num_frames":
                unit = "clips" if name == "clips_per_video" else "frames"
                object.__setattr__(self, name, _whole(name, value, unit))
        if self.fps is not None:
            object.__setattr__(self, "fps", _exact("fps", self.fps, Fraction(1, MAX_SECONDS), MAX_FPS))
        if self.hop_seconds is not None:
            value = _exact("hop_seconds", self.hop_seconds, MIN_SECONDS, MAX_SECONDS)
            object.__setattr__(self, "hop_seconds", value)
        if self.align not in (None, "keyframe"):
            raise SpecError(f"ClipSpec(align={self.align!r}): must be 'keyframe', or None")
        if not isinstance(self.jitter, bool):
            raise SpecError(f"ClipSpec(jitter={self.jitter!r}): must be True or False")
        if self.align and self.jitter:
            raise SpecError(
                "ClipSpec(align='keyframe', jitter=True): keyframes stay where they are: give one of the two"
            )

    @staticmethod
    def _refuse_both(frames: dict[str, Any], seconds: dict[str, Any]) -> None:
        given = {name: value for name, value in {**frames, **seconds}.items() if value is not None}
        words = ", ".join(f"{name}={value!r}" for name, value in given.items())
        if given.keys() & frames.keys() and given.keys() & seconds.keys():
            raise SpecError(
                f"ClipSpec({words}): clips are counted in frames (stride=, hop=) or in seconds (fps=, hop_seconds=): "
                "leave out one of the two pairs, or set it to None"
            )
        if "hop_seconds" in given and "fps" not in given:
            raise SpecError(f"ClipSpec({words}): hop_seconds= needs fps=; clips counted in frames have hop=")

    @property
    def by_time(self) -> bool:
        """Whether clips are counted in seconds."""
        return self.fps is not None

    # Of clips counted in frames.

    @property
    def extent(self) -> int:
        """Frames of the video from a clip's first frame to its last, both included."""
        assert self.stride is not None
        return (self.num_frames - 1) * self.stride + 1

    @property
    def hop_frames(self) -> int:
        """``hop`` with its default filled in."""
        assert self.stride is not None
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
        return start_frame + (self.stride or 1) * np.arange(self.num_frames, dtype=np.int64)

    # Of clips counted in seconds.

    @property
    def frame_time(self) -> Fraction:
        """Seconds from one frame of a clip to the next."""
        assert isinstance(self.fps, Fraction)
        return 1 / self.fps

    @property
    def extent_time(self) -> Fraction:
        """Seconds from a clip's first frame to its last."""
        return (self.num_frames - 1) * self.frame_time

    @property
    def hop_time(self) -> Fraction:
        """``hop_seconds`` with its default filled in."""
        if self.hop_seconds is None:
            return self.num_frames * self.frame_time
        assert isinstance(self.hop_seconds, Fraction)
        return self.hop_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a resume state or a hash; the same for specs that mean the same."""
        values: dict[str, Any] = {"num_frames": self.num_frames}
        if self.by_time:
            values |= {"fps": str(self.fps), "hop_seconds": str(self.hop_time)}
        else:
            values |= {"stride": self.stride, "hop": self.hop_frames}
        for name in ("clips_per_video", "align", "jitter"):
            if getattr(self, name):
                values[name] = getattr(self, name)
        return values


def _whole(name: str, given: Any, unit: str) -> int:
    try:
        if isinstance(given, bool):
            raise TypeError
        value = as_int(given)
    except TypeError:
        raise SpecError(f"ClipSpec({name}={given!r}): must be a whole number of {unit}, at least 1") from None
    if value < 1:
        raise SpecError(f"ClipSpec({name}={value}): must be at least 1")
    if value > MAX_FRAMES:
        raise SpecError(f"ClipSpec({name}={value}): must be at most {MAX_FRAMES}")
    return value


def _exact(name: str, given: Any, lowest: Fraction, highest: int) -> Fraction:
    """The number that is given, as one prints it."""
    try:
        if isinstance(given, Rational) and not isinstance(given, bool):
            value = Fraction(int(given.numerator), int(given.denominator))
        elif isinstance(given, str) or (isinstance(given, Real) and not isinstance(given, bool)):
            value = Fraction(str(given))
        else:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        example = "30000/1001" if name == "fps" else "1001/500"
        raise SpecError(f"ClipSpec({name}={given!r}): must be a number, or a text such as {example!r}") from None
    if not lowest <= value <= highest:
        raise SpecError(f"ClipSpec({name}={given!r}): must be from {float(lowest):g} to {highest:g}")
    return value
