"""How a cache's room is dealt out: numbers in, numbers out. Who holds what is written down by ``stream.ledger``.

What is in a cache is, for one that needs room,

    free to go    finished segments (read to their end in this epoch, or of folders that nobody uses), then the others
    fetched ahead held until they are read
    open          held by the lane that reads them

and below the limit there is always room for the segments of all lanes: what is fetched ahead stays out of it. So a lane
that comes to its next segment never waits for another one's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Room", "default_limit", "lane_bytes", "ledger_bytes", "limit_on_shared_disk", "smallest_limit"]

_SHARE = 0.8  # of the disk's free space
_LEDGER_BYTES = 128 << 10  # with its journal, markers and lock files
_LEDGER_BYTES_PER_SEGMENT = 256
_ASIDE = 1  # a segment read out of turn: ``dataset[i]``, or what takes the place of a damaged clip


@dataclass(frozen=True, slots=True)
class Room:
    """What a cache holds, in bytes.

    Attributes:
        limit: what it may hold at most.
        held: what it holds, with what is being fetched, and its indexes.
        fixed: of it, what is no segment.
        opened: of it, segments that lanes have open.
        ahead: of it, other segments that are held: fetched ahead, or being fetched.
        reserve: what the lanes of all its datasets may have open.
    """

    limit: int
    held: int
    fixed: int
    opened: int
    ahead: int
    reserve: int

    def must_go(self, need: int, urgent: bool) -> int | None:
        """Bytes of segments that must leave before ``need`` more are fetched, 0 for none; None: they have to wait.

        Args:
            need: what the segment weighs at most.
            urgent: a lane waits for it. It may take the place of what others fetched ahead.
        """
        kept = self.fixed + (self.opened if urgent else self.ahead + max(self.reserve, self.opened))
        if kept + need > self.limit:
            return None
        return max(self.held + need - self.limit, 0)


def default_limit(free_bytes: int, held_bytes: int) -> int:
    """What a cache may hold where nobody says it: 80% of what its disk has free, or would have without it."""
    return int(_SHARE * (free_bytes + held_bytes))


def limit_on_shared_disk(limit: int, free_bytes: int, held_bytes: int, least: int) -> int:
    """What is left of a ``default_limit`` where others fill the same disk too, such as caches of other folders.

    The fifth that was left free stays free; but the cache may always hold the ``least`` bytes that its lanes need.
    """
    left_free = limit * (1 - _SHARE) / _SHARE
    return max(min(limit, int(held_bytes + free_bytes - left_free)), least)


def lane_bytes(segment_bytes: NDArray[np.int64], lanes: int) -> int:
    """What ``lanes`` may have open of segments that weigh ``segment_bytes`` at most, int64 [S]: the heaviest ones."""
    return _heaviest(segment_bytes, lanes + _ASIDE)


def smallest_limit(segment_bytes: NDArray[np.int64], lanes: int, predownload: int, fixed: int) -> tuple[int, int]:
    """The smallest limit of a cache in which no segment is fetched again and again.

    Args:
        segment_bytes: int64 [S], what each segment weighs at most.
        lanes: open on a node.
        predownload: clips per worker whose segments are fetched ahead.
        fixed: bytes of the cache that are no segments.

    Returns:
        How many segments are held at once, and the limit in bytes.
    """
    held = min(lanes + min(lanes, predownload) + _ASIDE, len(segment_bytes))
    return held, _heaviest(segment_bytes, held) + fixed


def ledger_bytes(num_segments: int) -> int:
    """What the ledger of so many segments weighs at most."""
    return _LEDGER_BYTES + _LEDGER_BYTES_PER_SEGMENT * num_segments


def _heaviest(segment_bytes: NDArray[np.int64], count: int) -> int:
    if count >= len(segment_bytes):
        return int(segment_bytes.sum())
    return int(np.partition(segment_bytes, len(segment_bytes) - count)[len(segment_bytes) - count :].sum())
