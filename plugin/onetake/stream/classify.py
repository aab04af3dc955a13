"""Classification of clips, as far as it is the same in both frameworks: labels, network, loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model, list_models, video

from onetake.core.errors import ConfigError, VideoError
from onetake.core.names import load_object, nearest
from onetake.decode.index_source import index_folder
from onetake.decode.store import read_index
from onetake.storage.open import open_storage

__all__ = ["ClipClassifier", "FolderLabels", "clip_loss"]

# Of Kinetics-400, on which torchvision's video models are trained (torchvision/models/video/resnet.py).
MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)


class FolderLabels:
    """A ``sample_transform``: adds "label" (int), the number of the folder in which the video lies.

    Args:
        videos: folder or URL (of the index) of videos that lie in a folder per class: the classes are those, sorted.
        classes: the classes by name, in the order of their numbers; instead of ``videos``.

    Raises:
        ConfigError: neither or both are given, or ``videos`` has no folders in it.
    """

    def __init__(self, videos: str | PathLike[str] | None = None, classes: Sequence[str] | None = None) -> None:
        if (videos is None) == (classes is None):
            raise ConfigError("FolderLabels needs either videos= (a folder per class in it) or classes= (their names)")
        if videos is not None:
            storage = open_storage(fspath(videos))
            if storage.root is not None:
                storage.check()
            with index_folder(fspath(videos)) as folder:
                index = read_index(folder)
            classes = sorted({_folder(video.video_id) for video in index.videos} - {""})
            if not classes:
                raise ConfigError(f"no video in {fspath(videos)} lies in a folder of its class, as in class/video.mp4")
        self.classes = list(classes or ())
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def __call__(self, sample: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        folder = _folder(sample["video_id"])
        if folder not in self._numbers:
            raise VideoError(
                sample["video_id"], f"its folder {folder!r} is not among the classes{nearest(folder, self.classes)}"
            )
        return {**sample, "label": self._numbers[folder]}


def _folder(video_id: str) -> str:
    return PurePosixPath(video_id).parent.name


class ClipClassifier(nn.Module):
    """Clips, [B, T, 3, H, W] or [B, 3, T, H, W], uint8 or float in 0..1, to logits, float [B, num_classes].

    Args:
        network: a video model of torchvision by its name ("r3d_18", "mvit_v2_s", ...), which is given clips
            normalised by Kinetics-400's mean and deviation; or the dotted path of a module that takes
            ``num_classes`` and is given floats in 0..1, [B, 3, T, H, W].
        num_classes: number of labels.
        **options: further arguments of the network.

    Raises:
        ConfigError: there is no such network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str = "r3d_18", num_classes: int = 400, **options: Any) -> None:
        super().__init__()
        foreign = "." in network
        if not foreign and network not in list_models(module=video):
            raise ConfigError(
                f"network {network!r} is no video model of torchvision{nearest(network, list_models(module=video))}"
            )
        try:
            self.network = (load_object(network) if foreign else partial(get_model, network))(
                num_classes=num_classes, **options
            )
        except TypeError as error:
            raise ConfigError(f"network {network!r} does not take these arguments: {error}") from None
        self.register_buffer("mean", torch.tensor((0.0,) * 3 if foreign else MEAN).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor((1.0,) * 3 if foreign else STD).view(3, 1, 1, 1), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        if clips.shape[1] != 3:
            clips = clips.transpose(1, 2)
        if not clips.is_floating_point():
            clips = clips.float() / 255
        logits: Tensor = self.network((clips - self.mean) / self.std)
        return logits


def clip_loss(logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor, int]:
    """Mean cross-entropy and accuracy over the clips of a batch that are no padding, and how many they are.

    A batch of nothing but padding has the loss 0, with a gradient, so that DDP's ranks stay together.

    Raises:
        ConfigError: a label is beyond the model's classes.
    """
    highest = int(batch["label"].max())
    if highest >= logits.shape[1]:
        raise ConfigError(
            f"a sample has label {highest}, but the model has num_classes={logits.shape[1]}: set it to the number of "
            "classes"
        )
    keep = ~batch["is_pad"]
    losses = functional.cross_entropy(logits, batch["label"], reduction="none")
    correct = (logits.argmax(1) == batch["label"]).float()
    kept = int(keep.sum())
    return (losses * keep).sum() / max(kept, 1), (correct * keep).sum() / max(kept, 1), kept
