"""What a training run of the demo is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What one run needs to know. All paths are strings, so that it travels as JSON.

    Attributes:
        videos: folder with the indexed subfolders ``train`` and ``val``.
        folder: where the run writes ``events.jsonl``, its checkpoints and ``batch.npz``.
        max_epochs: epochs in all, those before the checkpoint included.
        checkpoint_every: steps from one checkpoint to the next; 0 writes none.
        resume_from: a checkpoint to go on from.
    """

    videos: str
    folder: str
    max_epochs: int
    checkpoint_every: int = 0
    resume_from: str | None = None
    batch_size: int = 8
    num_workers: int = 1
    num_frames: int = 8
    stride: int = 2
    frame_size: int = 48
    seed: int = 17

    @property
    def diary(self) -> Path:
        """The file in which the run tells what it does."""
        return Path(self.folder) / "events.jsonl"

    def save(self) -> Path:
        """Write the settings into the run's folder; returns the file."""
        path = Path(self.folder) / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
        return path
