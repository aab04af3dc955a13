"""What a training run of the demo is told, and what it tells."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NETWORK = "onetake.cli.demo_model.DriftNetwork"


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


class Diary:
    """Tells what a run does: a line of JSON per event, flushed at once, so that it is there when the run is killed.

    Args:
        path: the file; one of that name is begun anew.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w")

    def tell(self, event: str, **what: Any) -> None:
        """Note an event."""
        print(json.dumps({"event": event, **what}), file=self._file, flush=True)

    def start(self, dataset: Any) -> None:
        """Training starts on a VideoDataset."""
        slots, phases = dataset.lanes
        self.tell("start", clips=dataset.num_clips, batches=dataset.num_batches, slots=slots, phases=phases)

    def batch(self, step: int, epoch: int, loss: float, batch: dict[str, Any]) -> None:
        """A batch was trained on; steps are counted from 1."""
        at = list(zip(batch["video_id"], batch["start_frame"].tolist(), strict=True))
        self.tell("batch", step=step, epoch=epoch, loss=loss, clips=batch["clip_id"].tolist(), at=at)
