"""Names of columns: those that samples, manifests and indexes use themselves, and so no metadata may have."""

from __future__ import annotations

__all__ = ["MANIFEST_COLUMNS", "SAMPLE_KEYS", "SPAN_BOUNDS", "SPLIT"]

SAMPLE_KEYS = frozenset(
    {
        "clip_id",
        "frame_index",
        "is_pad",
        "occurrence",
        "pts_seconds",
        "spans",
        "start_frame",
        "valid",
        "video",
        "video_id",
    }
)
SPAN_BOUNDS = ("start_seconds", "stop_seconds", "start_frame", "stop_frame")
MANIFEST_COLUMNS = ("path", "video_id", *SPAN_BOUNDS)
SPLIT = "split"  # the column by which ``VideoStream(split=)`` chooses, where an index has it
