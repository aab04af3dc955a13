"""What decoding a dataset's clips takes on this machine, of a few of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from onetake.stream.dataset import VideoDataset
from onetake.stream.loader import VideoLoader

__all__ = ["Cost", "Measured", "measure", "sample_clips"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Means over clips that were read, by one thread.

    Attributes:
        clips: how many.
        ms: milliseconds a clip, from opening its decoder to its scaled RGB frames; without waiting for downloads.
        frames_decoded: frames that came out of the decoder, a clip.
        bytes_read: packets' bytes that were given to it, a clip.
        opens: decoders opened, and jumps, a clip.
        damaged: clips that did not decode.
    """

    clips: int
    ms: float
    frames_decoded: float
    bytes_read: float
    opens: float
    damaged: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What clips took that were read in the order of a lane, and others that were sought at random."""

    in_order: Cost
    at_random: Cost


def sample_clips(num_clips: int, count: int, seed: int) -> list[int]:
    """Numbers of ``count`` random clips of ``num_clips`` (all, if there are no more), rising."""
    drawn = np.random.default_rng(seed).choice(num_clips, min(count, num_clips), replace=False)
    return sorted(drawn.tolist())


def measure(dataset: VideoDataset, count: int, seed: int) -> Measured:
    """Read ``count`` clips in order, and as many at random.

    Args:
        dataset: has one lane, so that its segments, shuffled, are read one after another; with ``batch_size=1`` and
            ``on_error="substitute"``, so that damage does not end it, and ``max_bad_fraction=1``.
        count: how many clips.
        seed: draws those read at random.

    Raises:
        SourceError, CacheError: a clip can't be had.
    """
    loader = VideoLoader(dataset, 0)
    clips = sample_clips(dataset.num_clips, count, seed)
    dataset[clips[0]]  # what is loaded and set up at the first use is no clip's cost
    start = loader.stats()
    batches = iter(loader)
    read = sum(1 for _ in islice(batches, count))
    batches.close()
    between = loader.stats()
    for clip in np.random.default_rng(seed).permutation(clips).tolist():
        dataset[clip]
    return Measured(_cost(read, start, between), _cost(len(clips), between, loader.stats()))


def _cost(clips: int, before: dict[str, float], after: dict[str, float]) -> Cost:
    def mean(name: str) -> float:
        return (after[name] - before[name]) / clips

    return Cost(
        clips=clips,
        ms=1000 * mean("decode_seconds"),
        frames_decoded=mean("frames_decoded"),
        bytes_read=mean("bytes_read"),
        opens=mean("opens") + mean("seeks"),
        damaged=int(after["clips_substituted"] - before["clips_substituted"]),
    )
