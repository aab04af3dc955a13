"""Clips that don't decode: what takes their place, and when there are too many of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from onetake.core.errors import DamageError, DecodeError, SpecError, VideoError
from onetake.stream.counters import Count

__all__ = ["ON_ERROR", "Damage", "check_bad_fraction", "nearest_first"]

logger = logging.getLogger(__name__)

ON_ERROR = ("raise", "substitute")

# A share is one of so many clips at least, or of the epoch's: the first bad clip is not yet half of all.
MIN_CLIPS = 1000

T = TypeVar("T")


def check_bad_fraction(value: object) -> None:
    """Raise SpecError unless ``value`` can be a ``max_bad_fraction``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SpecError(f"max_bad_fraction={value!r}: must be a number from 0 to 1, a share of the clips")


def nearest_first(clip: int, start: int, stop: int) -> Iterator[int]:
    """The clips from ``start`` up to ``stop``, without ``clip``, the nearest to it first, and of two the earlier."""
    for distance in range(1, max(clip - start, stop - 1 - clip) + 1):
        if clip - distance >= start:
            yield clip - distance
        if clip + distance < stop:
            yield clip + distance


class Damage:
    """What a dataset's processes know of clips that don't decode.

    Args:
        on_error: "raise", or "substitute".
        max_bad_fraction: the share of bad clips from which on the run is stopped.
        num_videos: how many videos there are; of each it is logged once, whichever process meets it.
    """

    def __init__(self, on_error: str, max_bad_fraction: float, num_videos: int) -> None:
        self.substitutes = on_error == "substitute"
        self._max_bad_fraction = max_bad_fraction
        self._logged = torch.zeros(num_videos, dtype=torch.uint8).share_memory_()
        self._bad: set[int] = set()
        self._epoch = -1

    def substitute(
        self, clip: int, epoch: int, clips: range, video: int, error: VideoError, read: Callable[[int], T]
    ) -> T | None:
        """Read what takes the place of a clip that doesn't decode: the nearest clip of its video that does.

        Args:
            clip: the clip, by its ID.
            epoch: the epoch; in another one, it may have other frames.
            clips: all of its video.
            video: the video's number.
            error: why it doesn't decode.
            read: reads a clip by its ID.

        Returns:
            What ``read`` gives; None if all of them are bad.
        """
        if not self._logged[video]:
            self._logged[video] = 1
            logger.warning("%s. Other clips of the video take the place of those that this concerns", error)
        if epoch != self._epoch:
            self._epoch = epoch
            self._bad.clear()
        self._bad.add(clip)
        if not isinstance(error, DecodeError):  # the video as a whole
            return None
        for other in nearest_first(clip, clips.start, clips.stop):
            if other in self._bad:
                continue
            try:
                return read(other)
            except VideoError:
                self._bad.add(other)
        return None

    def check_share(self, counters: torch.Tensor, num_clips: int, error: VideoError) -> None:
        """Stop if too many clips are bad.

        Args:
            counters: int64 [workers, Counts ...] of this rank.
            num_clips: clips that this rank has in an epoch.
            error: what was wrong with the last one.

        Raises:
            DamageError: more than ``max_bad_fraction`` of the clips so far.
        """
        bad, read = (int(counters[:, count].sum()) for count in (Count.CLIPS_SUBSTITUTED, Count.CLIPS_DELIVERED))
        if bad > self._max_bad_fraction * max(read, min(num_clips, MIN_CLIPS)):
            raise DamageError(
                f"{bad} of {read} clips did not decode, more than max_bad_fraction={self._max_bad_fraction} allows; "
                f"the last: {error}. `onetake index --verify` lists damaged videos: repair or remove them"
            )
