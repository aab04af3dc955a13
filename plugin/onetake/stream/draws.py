"""What epochs draw of a stream's clips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onetake.core.draw import draw_of_videos, video_keys
from onetake.core.layout import Layout

__all__ = ["EpochDraws"]


class EpochDraws:
    """Which of a layout's clips an epoch draws from, and by how much their grid is shifted.

    Args:
        layout: the clips.
        name: the stream's: draws of streams of other names are others.
        spans: whether its videos are spans of videos, which have draws of their own.
    """

    def __init__(self, layout: Layout, name: str, spans: bool = False) -> None:
        self._layout = layout
        spec = layout.spec
        # Whether epochs differ in which clips there are, or where they start.
        self.is_random = spec.jitter or spec.clips_per_video is not None
        names = _span_names(layout) if spans else (video.video_id for video in layout.index.videos)
        self._keys = video_keys(name, names if self.is_random else ())

    def pick(self, seed: int, epoch: int) -> NDArray[np.int64] | None:
        """Numbers of the clips that an epoch draws from, rising; None for all that are kept."""
        return self._layout.pick(self._keys, seed, epoch)

    def shift(self, segment: int, seed: int, epoch: int) -> int:
        """By how much an epoch's jitter shifts the clips of a segment; see ``Layout.shift``."""
        if not self._layout.spec.jitter:
            return 0
        video = int(self._layout.index.video[segment])
        draw = draw_of_videos(self._keys[video : video + 1], seed, epoch)
        return self._layout.shift(segment, int(draw[0]))


def _span_names(layout: Layout) -> Iterator[str]:
    first = np.unique(layout.index.video, return_index=True)[1]
    for video, frame in zip(layout.index.videos, layout.index.first_frame[first].tolist(), strict=True):
        yield f"{video.video_id}@{frame}-{frame + video.num_frames}"
