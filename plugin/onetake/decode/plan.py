"""What a decoder knows of the frames ahead: where they are stored, which are wanted, and which are lost."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onetake.core.index import LATE, RECOVERED, PacketTable

__all__ = ["Lost", "LostFrames", "Places", "Plan", "key_frames"]

_NEVER = 2**62  # above every frame number


def key_frames(table: PacketTable) -> NDArray[np.int64]:
    """Per row of ``table.key_rows``, the first frame that comes out right when a decoder starts there."""
    keys = table.key_rows
    frames = np.maximum(table.frame[keys], 0)
    frames[(table.flags[keys] & LATE) > 0] = _NEVER  # unless the table reaches as far as the recovery
    for row in np.flatnonzero(table.flags & RECOVERED).tolist():
        frames[np.searchsorted(keys, row, side="right") - 1] = table.frame[row]
    return frames


class Places:
    """Where frames are stored.

    Args:
        table: packets in decode order.
    """

    def __init__(self, table: PacketTable) -> None:
        shown = np.flatnonzero(table.frame >= 0)
        self.frame_of = table.frame
        self.row_of: dict[int, int] = dict(zip(table.frame[shown].tolist(), shown.tolist(), strict=True))
        self.key_rows: list[int] = table.key_rows.tolist()
        self.key_frames: list[int] = key_frames(table).tolist()
        # Per row, the last frame, as they are shown, of those stored up to there: the row's picture may lean on it.
        self.highest = np.maximum.accumulate(table.frame)

    def start_for(self, frame: int) -> int:
        """The keyframe's row at which to start for ``frame``."""
        return self.key_rows[max(bisect_right(self.key_frames, frame) - 1, 0)]

    def floor_of(self, key_row: int) -> int:
        """The first frame that comes out right from a start at ``key_row``."""
        return self.key_frames[bisect_left(self.key_rows, key_row)]


class Plan:
    """The frames that will be asked for, where that is known.

    Args:
        places: where they are.
        frames: their numbers.
    """

    def __init__(self, places: Places, frames: Collection[int]) -> None:
        self.frames = frozenset(frames)
        self._sorted = sorted(self.frames & places.row_of.keys())
        self._rows = sorted(places.row_of[frame] for frame in self._sorted)
        # Per row, the first keyframe's row at which one must have started for its frame, or for one behind it.
        starts = [places.start_for(int(places.frame_of[row])) for row in self._rows]
        self._starts = list(accumulate(reversed(starts), min))[::-1]

    def between(self, first: int, last: int) -> list[int]:
        """The frames of the plan from ``first`` to ``last``."""
        return self._sorted[bisect_left(self._sorted, first) : bisect_right(self._sorted, last)]

    def next_start(self, row: int) -> int:
        """The first keyframe's row from which frames are read that are stored at ``row`` or behind it."""
        at = bisect_left(self._rows, row)
        return self._starts[at] if at < len(self._rows) else _NEVER


class Lost(NamedTuple):
    """Frames ``first`` to ``stop`` (not included) that cannot be had: why, and at which row that shows."""

    first: int
    stop: int
    row: int
    reason: str


class LostFrames:
    """The frames that are known to be lost.

    Args:
        places: where frames are.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._found: list[Lost] = []
        self.rows: set[int] = set()  # of packets that are damaged

    def note_row(self, row: int, floor: int, reason: str) -> None:
        """Note that the packet at ``row`` is damaged: what leans on it is lost, which may be all that is stored behind
        it, and all that is shown from there to the next keyframe, down to frame ``floor``."""
        places = self._places
        after = bisect_right(places.key_rows, row)
        behind = places.key_rows[after] if after < len(places.key_rows) else len(places.frame_of)
        stop = places.key_frames[after] if after < len(places.key_rows) else int(places.frame_of.max()) + 1
        later = places.frame_of[row:behind]
        later = later[later >= 0]
        first = max(min(int(later.min()) if len(later) else stop, stop), floor)
        self.rows.add(row)
        self._note(Lost(first, stop, row, reason))

    def note_frame(self, frame: int, reason: str) -> None:
        """Note that a frame does not come out."""
        self._note(Lost(frame, frame + 1, self._places.row_of[frame], reason))

    def _note(self, lost: Lost) -> None:
        if not any(known.first <= lost.first and lost.stop <= known.stop for known in self._found):
            self._found.append(lost)

    def find(self, frame: int) -> Lost | None:
        """What is known of a frame; None if it is not lost."""
        return next((lost for lost in self._found if lost.first <= frame < lost.stop), None)
