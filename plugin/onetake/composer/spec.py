"""Clips of long videos as a Composer DataSpec, resumed in the middle of a video."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from composer.core import DataSpec
from composer.utils import dist
from torch import Tensor

from onetake.core.errors import SpecError
from onetake.stream.dataset import VideoDataset
from onetake.stream.device import check_device_arguments, to_float, transform_on_device
from onetake.stream.loader import VideoLoader
from onetake.stream.opening import Source, open_dataset

__all__ = ["video_data_spec"]

_COLLATED = (Tensor, np.ndarray, Mapping, list, tuple)  # what a batch of a tuple's entries may be


def video_data_spec(
    source: Source | VideoDataset | VideoLoader | None = None,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    training: bool = True,
    device_transform: Any = None,
    per_batch: bool = False,
    loader: Mapping[str, Any] | None = None,
    **dataset: Any,
) -> DataSpec:
    """Clips for ``Trainer(train_dataloader=...)``, ``eval_dataloader=`` (or an Evaluator's ``dataloader=``), and
    ``trainer.predict``.

    Checkpoints hold the position inside each open video; a run resumed by ``load_path=`` or ``autoresume=True``
    sees exactly the clips that the interrupted one would have seen, whatever the number of devices and workers.
    Composer itself knows of no position but a checkpoint's: for a second ``fit`` of one Trainer and for
    ``train_subset_num_batches=``, give it the callback ``ExactResume`` too.

    Composer moves a microbatch to the device, then ``device_transform`` is called: algorithms that run before
    the forward pass of a microbatch see the uint8 video. A batch counts all its samples, also those with ``is_pad``: a
    rank's share of an epoch's last batch may hold no others, and Composer divides by the count.

    Not with ``replication``: Composer counts the samples of all replicas.

    Args:
        source: the videos: a folder (read in place), a VideoStream, several, or a mapping of VideoDataset arguments,
            which come before ``dataset``; or a ready VideoDataset; or a ready VideoLoader.
        batch_size: samples per batch and device. None: 8.
        num_workers: decoding processes per device. None: 0.
        training: otherwise unshuffled, the same in every pass, and in lanes that suit the batch size, whatever
            ``dataset`` says: what it says against that is refused, but for a mapping in ``source``. For a
            ready dataset or loader it only says whether transforms draw anew in every epoch.
        device_transform: a torchvision v2 module, or any callable, run on the device with the uint8 video of a
            sample ([T, C, H, W]), with the sample's own seed. None: conversion to float32 in 0..1.
        per_batch: call it once with the whole microbatch ([B, T, C, H, W]) instead: faster, but torchvision then
            draws once for all its samples.
        loader: further arguments of VideoLoader, such as ``pin_memory`` or ``collate_fn``. Batches that are no
            dicts are counted and split as Composer does by default.
        **dataset: further arguments of VideoDataset, such as ``clips`` and ``frame_size``.

    Raises:
        SpecError: no videos, an argument is out of range or does not go with Composer, or is one that the ready
            dataset or loader says.
        SourceError, IndexFileError: the videos or their index are not there, or not as they were.
        ValueError: a ready loader with ``persistent_workers=True`` that was already iterated (Composer's rule).
    """
    check_device_arguments(per_batch, loader, device_transform=device_transform)
    videos = _loader(source, batch_size, num_workers, training, loader, dataset)
    transform = to_float if device_transform is None else device_transform
    default = DataSpec(videos)

    def on_device(batch: Any) -> Any:
        return transform_on_device(batch, transform, videos, training, per_batch)

    def count(batch: Any) -> int:
        found = _count(batch) if isinstance(batch, Mapping) else None
        return default.get_num_samples_in_batch(batch) if found is None else found

    def split(batch: Any, microbatch_size: int | float) -> Sequence[Any]:
        if not isinstance(batch, Mapping) or isinstance(microbatch_size, float):
            return default.split_batch(batch, microbatch_size)
        total = count(batch)
        if microbatch_size >= total:
            return [batch]
        parts = (range(total)[at : at + microbatch_size] for at in range(0, total, microbatch_size))
        return [_part(batch, part, total, videos.collates_by_default, videos.lists) for part in parts]

    return DataSpec(
        videos,
        num_samples=videos.dataset.num_batches * videos.dataset.global_batch_size,
        microbatch_transforms=on_device,
        split_batch=split,
        get_num_samples_in_batch=count,
    )


def _loader(
    source: Any,
    batch_size: int | None,
    num_workers: int | None,
    training: bool,
    loader: Mapping[str, Any] | None,
    dataset: Mapping[str, Any],
) -> VideoLoader:
    _refuse_replicas(source, dataset)
    given = {"batch_size": batch_size, "num_workers": num_workers, "loader": loader, **dataset}
    if isinstance(source, VideoLoader):
        _refuse(given, source)
        return source
    num_workers = num_workers or 0
    if isinstance(source, VideoDataset):
        _refuse({name: value for name, value in given.items() if name not in ("num_workers", "loader")}, source)
    else:
        if not training:
            _refuse_order(dataset)
        source = open_dataset(
            source,
            batch_size=8 if batch_size is None else batch_size,
            training=training,
            world_size=dist.get_world_size(),
            num_workers=num_workers,
            **dataset,
        )
    return VideoLoader(source, num_workers, **(loader or {}))


def _refuse(given: Mapping[str, Any], source: VideoDataset | VideoLoader) -> None:
    for name, value in given.items():
        if value is not None:
            kind = "VideoLoader" if isinstance(source, VideoLoader) else "VideoDataset"
            raise SpecError(f"video_data_spec({name}={value!r}): leave it out, or give it to the {kind} in source=")


def _refuse_replicas(source: Any, dataset: Mapping[str, Any]) -> None:
    if isinstance(source, VideoLoader | VideoDataset):
        replication = (source.dataset if isinstance(source, VideoLoader) else source).replication
    else:
        replication = {**dataset, **(source if isinstance(source, Mapping) else {})}.get("replication")
    if replication not in (None, 1):
        raise SpecError(
            f"replication={replication!r}: Composer counts the samples of every replica, so that its positions and "
            "those of the videos would part; leave it out"
        )


_EVALUATION = {"shuffle": False, "sampling_method": "fixed", "num_canonical_lanes": None}


def _refuse_order(dataset: Mapping[str, Any]) -> None:
    """Evaluation sets these by itself; a mapping in ``source`` may say otherwise."""
    for name, value in _EVALUATION.items():
        given = dataset.get(name)
        if given is not None and given != value:
            raise SpecError(
                f"video_data_spec(training=False, {name}={given!r}): what is not trained on is read unshuffled, the "
                "same in every pass, and in lanes that suit the batch size: leave it out, or say it in a mapping as "
                "source="
            )


def _length(value: Any) -> int | None:
    """Entries of what holds one per sample; None for numbers, text and the like, which stand for the whole batch."""
    if isinstance(value, Tensor | np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _count(batch: Mapping[str, Any]) -> int | None:
    if "clip_id" in batch:
        return _length(batch["clip_id"])
    lengths = (_count(value) if isinstance(value, Mapping) else _length(value) for value in batch.values())
    return next((length for length in lengths if length is not None), None)


def _part(
    batch: Mapping[str, Any], samples: range, total: int, by_default: bool, lists: Collection[str] = ()
) -> dict[str, Any]:
    """Some samples of a batch; ``by_default``: collated by torch's default, but for ``lists`` of one entry each."""
    return {
        name: _part_of(value, samples, total, by_default and name not in lists, name) for name, value in batch.items()
    }


def _part_of(value: Any, samples: range, total: int, by_default: bool, name: str) -> Any:
    if isinstance(value, Mapping):
        return _part(value, samples, total, by_default)
    # torch's default makes of the samples' tuples a tuple of batches.
    if by_default and isinstance(value, list | tuple) and all(isinstance(entry, _COLLATED) for entry in value):
        parts = [_part_of(entry, samples, total, by_default, name) for entry in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    length = _length(value)
    if length is None:
        return value
    if length == total:
        return value[samples.start : samples.stop]
    raise SpecError(
        f"the batch's {name!r} holds {length} entries for {total} samples, and can't be split into "
        "microbatches: have collate_fn= give one entry per sample, or leave out device_train_microbatch_size="
    )
