"""What is done with the uint8 video once it is on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from onetake.core.values import check_callables, check_flags, check_mapping
from onetake.stream.loader import VideoLoader
from onetake.stream.randomness import seeded

__all__ = ["check_device_arguments", "to_float", "transform_on_device"]

to_float = v2.ToDtype(torch.float32, scale=True)


def check_device_arguments(per_batch: object, loader: object, **transforms: object) -> None:
    """Raise SpecError for what an adapter's arguments of these names can't be."""
    check_flags(per_batch=per_batch)
    check_mapping("loader", loader)
    check_callables(**transforms)


def transform_on_device(batch: Any, transform: Any, loader: VideoLoader, training: bool, per_batch: bool) -> Any:
    """A batch whose video is what ``transform`` makes of it; anything but a dict with a video is left as it is.

    Args:
        batch: on the device.
        transform: called with each sample's video, [T, C, H, W] or [K, T, C, H, W], under the sample's own seed; or,
            with ``per_batch``, once with all of them, [B, ...]; where they are whole videos, one by one, unseeded.
        loader: the loader that gave the batch.
        training: outside training the draws are the same in every pass.
        per_batch: whether to call it once.
    """
    video = batch.get("video") if isinstance(batch, dict) else None
    listed = isinstance(video, list) and "video" in loader.lists
    some = video[0] if listed else video
    if not isinstance(some, Tensor):
        return batch  # a collate_fn, transform or sample_transform made something else of the samples
    device = some.device
    if isinstance(transform, nn.Module):
        transform = transform.to(device)
    if per_batch or not batch.keys() >= {"clip_id", "is_pad"}:
        return {**batch, "video": [transform(clips) for clips in video] if listed else transform(video)}
    done = []
    epoch = loader.epoch if training else 0
    occurrences = batch["occurrence"].tolist() if "occurrence" in batch else [0] * len(video)
    starts = batch.get("start_frame")
    starts = starts.tolist() if isinstance(starts, Tensor) else [None] * len(video)
    rows = zip(video, batch["clip_id"].tolist(), occurrences, batch["is_pad"].tolist(), starts, strict=True)
    for frames, clip_id, occurrence, is_pad, start in rows:
        seed = loader.dataset.sample_seed(clip_id, epoch, occurrence, is_pad, start)
        with seeded(seed + 1, device):  # not the draws of the worker's transform again
            done.append(transform(frames))
    return {**batch, "video": done if listed else torch.stack(done)}
