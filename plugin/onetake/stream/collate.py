"""How samples become a batch: as torch collates by default, but for what no tensor can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import default_collate

__all__ = ["RAGGED", "Collate"]

RAGGED = frozenset({"video", "frame_index", "pts_seconds"})  # what has a row per clip, where samples are whole videos

_PLAIN = (str, bool, int, float, list, dict, type(None))


@dataclass(frozen=True, slots=True)
class Collate:
    """A collate function.

    Attributes:
        ragged: keys of samples whose values, tensors of any shape, stay a list in a batch.
        plain: others whose values do, unless a ``sample_transform`` made something else of them, such as tensors.
    """

    ragged: frozenset[str]
    plain: frozenset[str]

    def __call__(self, samples: Sequence[Any]) -> Any:
        if not all(isinstance(sample, Mapping) for sample in samples):
            return default_collate(samples)  # a sample_transform made something else of them
        names = self.ragged | {name for name in self.plain if _all_plain(samples, name)}
        if not names:
            return default_collate(samples)
        others = default_collate([{name: sample[name] for name in sample.keys() - names} for sample in samples])
        return {name: [sample[name] for sample in samples] if name in names else others[name] for name in samples[0]}


def _all_plain(samples: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(name in sample and isinstance(sample[name], _PLAIN) for sample in samples)
