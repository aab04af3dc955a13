"""Datasets and loaders as the adapters of both frameworks open them: from a folder, streams, or arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from onetake.core.errors import SpecError
from onetake.stream.dataset import VideoDataset
from onetake.stream.stream import VideoStream

__all__ = ["Source", "open_dataset"]

# One or several streams, arguments of VideoDataset, or a folder (read in place). In the order in which LightningCLI has
# to try them: anything can become a str.
Source = VideoStream | Sequence[VideoStream] | Mapping[str, Any] | str | PathLike[str]


def open_dataset(
    source: Source | None,
    *,
    batch_size: int,
    training: bool,
    world_size: int = 1,
    num_workers: int = 0,
    **dataset: Any,
) -> VideoDataset:
    """Open the videos of one stage.

    Args:
        source: where the videos are; a mapping comes before ``dataset``. None: ``dataset`` says it.
        batch_size: samples per rank and batch.
        training: otherwise unshuffled, every epoch alike, and in lanes that stay on their workers: nobody resumes
            inside a validation, so they may follow the world.
        world_size: ranks.
        num_workers: workers per rank.
        **dataset: further arguments of VideoDataset.

    Raises:
        SpecError: ``source`` is none, or an argument is out of range.
    """
    dataset["batch_size"] = batch_size
    if not training:
        lanes = batch_size * world_size * max(num_workers, 1)
        dataset |= {"shuffle": False, "sampling_method": "fixed", "num_canonical_lanes": lanes}
    if isinstance(source, Mapping):
        dataset |= source
    elif isinstance(source, VideoStream):
        dataset["streams"] = [source]
    elif isinstance(source, (str, PathLike)):
        dataset["local"] = fspath(source)
    elif isinstance(source, Sequence) and not isinstance(source, bytes):
        dataset["streams"] = list(source)
    elif source is not None:
        raise SpecError(
            f"videos from {source!r}: must be a folder, a VideoStream, several of them, or a dict of arguments of "
            "VideoDataset"
        )
    return VideoDataset(**dataset)
