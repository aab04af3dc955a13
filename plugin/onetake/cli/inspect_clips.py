"""Clips of a dataset, decoded: to be looked at, and to see what that takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onetake.cli.contact_sheet import SheetRow, draw_sheet
from onetake.core.clips import ClipSpec
from onetake.core.errors import VideoError
from onetake.storage.open import open_storage
from onetake.stream.dataset import VideoDataset
from onetake.stream.measure import Measured, measure, sample_clips

__all__ = ["draw_clips", "measure_clips"]

_PICTURE = 120  # pixels of the short side
_COLUMNS = 8  # frames of a clip that are drawn


def draw_clips(
    source: str, index: str | None, spec: ClipSpec, count: int, seed: int, out: Path
) -> list[dict[str, Any]]:
    """Draw random clips as a PNG; what it shows, a dict for each."""
    rows, shown = [], []
    with _opened(source, index, clips=spec, frame_size=_PICTURE) as dataset:
        for clip in sample_clips(dataset.num_clips, count, seed):
            try:
                row, about = _row(clip, dataset[clip])
            except VideoError as error:
                row = SheetRow(f"clip {clip}: {error.video_id}", (), note=error.reason)
                about = {"clip_id": clip, "video_id": error.video_id, "damaged": str(error)}
            rows.append(row)
            shown.append(about)
        total = dataset.num_clips
    draw_sheet(f"{len(rows)} of {total:,} clips in {source}", rows, out)
    return shown


def _row(clip: int, sample: dict[str, Any]) -> tuple[SheetRow, dict[str, Any]]:
    pictures = sample["video"].permute(0, 2, 3, 1).numpy()
    frames, seconds = sample["frame_index"].tolist(), sample["pts_seconds"].tolist()
    columns = np.linspace(0, len(frames) - 1, min(_COLUMNS, len(frames))).round().astype(int).tolist()
    drawn = "" if len(columns) == len(frames) else f" ({len(columns)} of {len(frames)} drawn)"
    title = f"clip {clip}: {sample['video_id']}   frames {frames[0]} to {frames[-1]}{drawn}"
    row = SheetRow(title, pictures[columns], [f"{frames[column]}   {seconds[column]:.3f} s" for column in columns])
    about = {"clip_id": clip, "video_id": sample["video_id"], "frame_index": frames, "pts_seconds": seconds}
    return row, about


def measure_clips(source: str, index: str | None, spec: ClipSpec, count: int, seed: int) -> Measured:
    """What clips scaled to 256 x 256 take on this machine."""
    bearing = {"on_error": "substitute", "max_bad_fraction": 1.0}
    with _opened(source, index, clips=spec, shuffle_seed=seed, **bearing) as dataset:
        return measure(dataset, count, seed)


@contextmanager
def _opened(source: str, index: str | None, **arguments: Any) -> Iterator[VideoDataset]:
    """A dataset with one lane, in place or with a cache of its own. It logs nothing of short videos and HDR: the tables
    tell of them."""
    logger = logging.getLogger("onetake")
    level = logger.level
    logger.setLevel(logging.ERROR)
    arguments |= {"index": index, "batch_size": 1, "num_canonical_lanes": 1, "predownload": 0}
    try:
        if open_storage(source).root is not None:
            yield VideoDataset(local=source, **arguments)
            return
        with TemporaryDirectory(prefix="onetake-inspect-") as cache:
            yield VideoDataset(remote=source, local=cache, **arguments)
    finally:
        logger.setLevel(level)
