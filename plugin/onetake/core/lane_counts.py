"""How many lanes: what suits a first run, and what would suit a world."""

from __future__ import annotations

from math import gcd

from onetake.core.errors import SpecError

__all__ = ["MAX_LEAD_IN", "default_lanes", "nearest_lanes"]

MAX_PHASES = 8
MAX_LEAD_IN = 0.02


def nearest_lanes(slots: int, phases: int, batch_size: int, num_workers: int) -> tuple[int, ...]:
    """The lane counts next to slots * phases that ``batch_size`` (global) times workers divides, the nearest first."""
    count, stride = slots * phases, batch_size * max(num_workers, 1)
    below = count // stride * stride
    if below == count:
        return (count,)
    above = below + stride
    if not below:
        return (above,)
    return (below, above) if count - below <= above - count else (above, below)


def default_lanes(batch_size: int, num_lanes: int | None, lead_in: float, num_frames: int) -> tuple[int, int]:
    """(slots, phases) for a first run.

    Args:
        batch_size: the global batch size.
        num_lanes: what the user asked for (L), or None.
        lead_in: frames that a lane decodes in vain at its start, on average: half the mean keyframe distance.
        num_frames: frames that the epoch's clips span.

    Returns:
        With ``num_lanes``, a pair whose product is ``num_lanes``. Otherwise the batch size, and at most 8
        phases, halved while all lanes' lead-in exceeds 2% of the frames.

    Raises:
        SpecError: ``num_lanes`` is below 1.
    """
    if num_lanes is not None:
        if num_lanes < 1:
            raise SpecError(f"num_canonical_lanes={num_lanes}: must be at least 1")
        slots = gcd(batch_size, num_lanes)
        return (slots, num_lanes // slots) if slots == batch_size else (num_lanes, 1)
    phases = MAX_PHASES
    while phases > 1 and batch_size * phases * lead_in > MAX_LEAD_IN * num_frames:
        phases //= 2
    return batch_size, phases
