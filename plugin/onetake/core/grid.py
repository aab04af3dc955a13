"""A clip spec in the units of one clock, and the times of a video's frames; see ``core.layout``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onetake.core.clips import ClipSpec
from onetake.core.index import PacketTable

__all__ = ["Grid", "Timeline"]

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grid:
    """A spec in the units of one clock.

    Attributes:
        num_frames: frames in a clip.
        scale: units in a tick.
        hop: units from a clip to the next.
        step: units from a target to the next.
    """

    num_frames: int
    scale: int
    hop: int
    step: int

    @classmethod
    def of(cls, spec: ClipSpec, time_base: tuple[int, int]) -> Grid:
        """The grid on a clock whose tick lasts ``time_base`` seconds (numerator, denominator)."""
        if not spec.by_time:
            assert spec.stride is not None
            return cls(spec.num_frames, 1, spec.hop_frames, spec.stride)
        tick = Fraction(*time_base)
        hop, step = spec.hop_time / tick, spec.frame_time / tick
        scale = lcm(hop.denominator, step.denominator)
        return cls(spec.num_frames, scale, int(hop * scale), int(step * scale))

    @property
    def span(self) -> int:
        """Units from a clip's first target to its last."""
        return (self.num_frames - 1) * self.step

    def targets(self, position: int, count: int) -> list[int]:
        """The first ``count`` target times of a clip, in whole ticks, rounded down: pts are compared with nothing
        finer."""
        return [(position + k * self.step) // self.scale for k in range(count)]

    def exact(self, ticks: Int64Array) -> NDArray[Any]:
        """``ticks`` in a type in which the arithmetic of this grid on them does not overflow."""
        largest = int(np.abs(ticks).max(initial=0)) + 4
        return ticks if largest * self.scale + self.span + self.hop < 2**62 else ticks.astype(object)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the frames of a stretch of a video are shown.

    Attributes:
        frame: int64 [n], rising.
        pts: int64 [n], never falling.
    """

    frame: Int64Array
    pts: Int64Array

    @classmethod
    def of(cls, table: PacketTable, first_frame: int) -> Timeline:
        """The timeline of the table's frames from ``first_frame`` on."""
        rows = np.flatnonzero(table.frame >= first_frame)
        rows = rows[np.argsort(table.frame[rows], kind="stable")]
        return cls(table.frame[rows], table.pts[rows])

    def on_screen(self, pts: Sequence[int]) -> list[int]:
        """The frame that is on screen at each of ``pts``."""
        found: list[int] = self.frame[np.searchsorted(self.pts, pts, side="right") - 1].tolist()
        return found
