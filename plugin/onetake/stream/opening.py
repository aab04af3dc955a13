"""Datasets and loaders as the adapters of both frameworks open them: from a folder, streams, or arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from onetake.stream.dataset import VideoDataset
from onetake.stream.stream import VideoStream

__all__ = ["Source", "open_dataset"]

# A folder (read in place), one or several streams, or arguments of VideoDataset.
Source = str | PathLike[str] | VideoStream | Sequence[VideoStream] | Mapping[str, Any]


def open_dataset(
    source: Source | None,
    arguments: Mapping[str, Any],
    *,
    batch_size: int,
    training: bool,
    world_size: int = 1,
    num_workers: int = 0,
) -> VideoDataset:
    """Open the videos of one stage.

    Args:
        source: where the videos are; a mapping comes before ``arguments``. None: ``arguments`` say it.
        arguments: arguments of VideoDataset.
        batch_size: samples per rank and batch.
        training: otherwise unshuffled, every epoch alike, and in lanes that stay on their workers: nobody resumes
            inside a validation, so they may follow the world.
        world_size: ranks.
        num_workers: workers per rank.
    """
    own: dict[str, Any] = dict(arguments)
    own["batch_size"] = batch_size
    if not training:
        lanes = batch_size * world_size * max(num_workers, 1)
        own |= {"shuffle": False, "sampling_method": "fixed", "num_canonical_lanes": lanes}
    if isinstance(source, Mapping):
        own |= source
    elif isinstance(source, VideoStream):
        own["streams"] = [source]
    elif isinstance(source, (str, PathLike)):
        own["local"] = fspath(source)
    elif source is not None:
        own["streams"] = list(source)
    return VideoDataset(**own)
