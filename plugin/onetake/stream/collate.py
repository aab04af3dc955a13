"""How samples become a batch: as torch collates by default, but for what no tensor can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import default_collate

from onetake.core.errors import SpecError

__all__ = ["RAGGED", "Collate"]

RAGGED = frozenset({"video", "frame_index", "pts_seconds"})  # what has a row per clip, where samples are whole videos

_PLAIN = (str, bool, int, float, list, dict, type(None))


@dataclass(frozen=True, slots=True)
class Collate:
    """A collate function. Raises SpecError for samples whose pictures differ in shape, but for ``ragged`` ones.

    Attributes:
        ragged: keys of samples whose values, tensors of any shape, stay a list in a batch.
        plain: others whose values do, unless a ``sample_transform`` made something else of them, such as tensors.
    """

    ragged: frozenset[str]
    plain: frozenset[str]

    def __call__(self, samples: Sequence[Any]) -> Any:
        if not all(isinstance(sample, Mapping) for sample in samples):
            return default_collate(samples)  # a sample_transform made something else of them
        if "video" not in self.ragged:
            _check_shapes(samples)
        names = self.ragged | {name for name in self.plain if _all_plain(samples, name)}
        if not names:
            return default_collate(samples)
        others = default_collate([{name: sample[name] for name in sample.keys() - names} for sample in samples])
        return {name: [sample[name] for sample in samples] if name in names else others[name] for name in samples[0]}


def _check_shapes(samples: Sequence[Mapping[str, Any]]) -> None:
    """Raise SpecError where the samples' pictures can't be stacked, which torch would say in shapes alone."""
    first, shape = samples[0], getattr(samples[0].get("video"), "shape", None)
    for sample in samples:
        other = getattr(sample.get("video"), "shape", None)
        if other != shape:
            raise SpecError(
                f"a batch cannot hold video {first.get('video_id')!r} of shape {_words(shape)} beside "
                f"{sample.get('video_id')!r} of shape {_words(other)}: give frame_size=(height, width), a transform= "
                "that makes them alike, collate_fn= to VideoLoader, or batch_size=1"
            )


def _words(shape: Sequence[int] | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape))


def _all_plain(samples: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(name in sample and isinstance(sample[name], _PLAIN) for sample in samples)
