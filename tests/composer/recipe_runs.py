"""What recipes name in tests: a small network, transforms, a callback that counts; and videos to run them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from composer import Callback
from torch import Tensor, nn

from onetake import index_videos
from onetake.decode.synthetic import DIRECTIONS, write_drift_video


class Network(nn.Module):
    """Floats [B, 3, T, H, W] to logits [B, num_classes]."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, width, 3, stride=2), nn.Flatten(2))
        self.head = nn.Linear(width, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(clips).mean(2))
        return logits


class Scale:
    """A transform with an argument."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, video: Tensor) -> Tensor:
        return video.float() * self.factor


def name_it(sample: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """A sample_transform without arguments."""
    return {**sample, "name": sample["video_id"].upper()}


class Seen(Callback):
    """Keeps what the model is given."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []

    def before_forward(self, state: Any, logger: Any) -> None:
        self.batches.append(state.batch)


def write_videos(folder: Path) -> None:
    """train/DIRECTION/0.mp4 and val/DIRECTION/0.mp4, indexed."""
    for seed, part in enumerate(("train", "val")):
        for direction in DIRECTIONS:
            path = folder / part / direction / "0.mp4"
            path.parent.mkdir(parents=True)
            write_drift_video(path, direction, seconds=4, size=(64, 48), gop=25, seed=seed)
        index_videos(folder / part, segment_seconds=2, workers=1)
