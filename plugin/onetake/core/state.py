"""The resume state: what is saved of a position in the order, and whether it fits what it is loaded into.

    epoch, sample_in_epoch, num_canonical_nodes, shuffle_seed, initial_physical_nodes    streaming's own keys
    onetake:
        version   1
        units     where streams are apart, the sizes in which their samples were dealt in this epoch, and from which
                  sample on: [[size, first sample], ...] (see core.batching)
        order     all that the order is a function of, and (slots, phases)
        cursors   per lane, the video and the frame at which it goes on: {"video_ids": [...], "frame_seconds":
                  [[mean duration of a frame, of how many of the videos that follow one another], ...],
                  "lanes": [[number in video_ids, start_frame], ...]}, [-1, 0] for a lane that is at its end

Plain containers only: checkpoints are loaded with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from onetake.core.errors import ResumeError

__all__ = [
    "STATE_VERSION",
    "Cursor",
    "check_order",
    "cursor_seconds",
    "pack_cursors",
    "read_state",
    "read_units",
    "unpack_cursors",
]

STATE_VERSION = 1

# A lane's position: video ID and frame offset; None at the lane's end.
Cursor = tuple[str, int] | None


def pack_cursors(cursors: Sequence[Cursor], frame_seconds: Sequence[float]) -> dict[str, Any]:
    """Cursors as they are saved: distinct video IDs once, two small numbers a lane.

    Args:
        cursors: per lane.
        frame_seconds: per lane, the mean duration of a frame of its video: a checkpoint tells the time without the
            index.
    """
    seconds = {at[0]: duration for at, duration in zip(cursors, frame_seconds, strict=True) if at is not None}
    ids = sorted(seconds, key=seconds.__getitem__)  # few durations are different: each is stored once
    numbers = {video_id: number for number, video_id in enumerate(ids)}
    return {
        "video_ids": ids,
        "frame_seconds": [[duration, len(list(same))] for duration, same in groupby(seconds[name] for name in ids)],
        "lanes": [[-1, 0] if at is None else [numbers[at[0]], at[1]] for at in cursors],
    }


def unpack_cursors(packed: Mapping[str, Any]) -> list[Cursor]:
    """Inverse of ``pack_cursors``.

    Raises:
        ResumeError: ``packed`` is not what it gives.
    """
    try:
        ids = packed["video_ids"]
        return [None if video < 0 else (str(ids[video]), int(frame)) for video, frame in packed["lanes"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ResumeError(f"the state's cursors are damaged ({error!r}); load another checkpoint") from None


def cursor_seconds(packed: Mapping[str, Any]) -> list[float | None]:
    """Per lane, where in its video it goes on, in seconds from the video's start: exact where the frame rate is
    constant. None at a lane's end.

    Raises:
        ResumeError: ``packed`` is not what ``pack_cursors`` gives.
    """
    try:
        counts = [count for _, count in packed["frame_seconds"]]
        if min(counts, default=1) < 1 or sum(counts) != len(packed["video_ids"]):
            raise ValueError("not one duration per video")
        seconds = [float(duration) for duration, count in packed["frame_seconds"] for _ in range(count)]
        return [None if video < 0 else frame * seconds[video] for video, frame in packed["lanes"]]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ResumeError(f"the state's cursors are damaged ({error!r}); load another checkpoint") from None


def read_state(state: Mapping[str, Any]) -> tuple[int, int, dict[str, Any], list[Cursor]]:
    """(epoch, sample in epoch, order, cursors) of a state.

    Raises:
        ResumeError: it was not saved by onetake, or by another version of it, or is damaged.
    """
    ours = state.get("onetake") if isinstance(state, Mapping) else None
    if not isinstance(ours, Mapping) or "epoch" not in state or "sample_in_epoch" not in state:
        raise ResumeError("the state was not saved by onetake: it has no cursors; start without it")
    if ours.get("version") != STATE_VERSION:
        raise ResumeError(
            f"the state has version {ours.get('version')}, this onetake reads version {STATE_VERSION}; "
            "resume with the onetake that saved it"
        )
    try:
        epoch, sample, order = int(state["epoch"]), int(state["sample_in_epoch"]), dict(ours["order"])
        cursors = ours["cursors"]
    except (KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"the state is damaged ({error!r}); load another checkpoint") from None
    if epoch < 0 or sample < 0:
        raise ResumeError(f"the state is damaged (epoch {epoch}, sample {sample}); load another checkpoint")
    return epoch, sample, order, unpack_cursors(cursors)


def read_units(state: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(size, first sample) of the units that the epoch's batches were made of up to a state, one size after another;
    none where streams were not apart (see ``core.batching``).

    Raises:
        ResumeError: the state is damaged.
    """
    try:
        units = [(int(size), int(first)) for size, first in state["onetake"].get("units", [])]
        for (size, first), (_, following) in pairwise(units):
            if following <= first or (following - first) % size:
                raise ValueError("units that are not whole")
        if units and (units[0][1] or min(size for size, _ in units) < 1):
            raise ValueError("units of no size")
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ResumeError(f"the state's units are damaged ({error!r}); load another checkpoint") from None
    return units


def check_order(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two order keys, in words; empty if nothing does."""
    return [
        f"{name} was {saved.get(name)!r} and is now {now.get(name)!r}"
        for name in dict.fromkeys([*saved, *now])
        if saved.get(name) != now.get(name)
    ]
