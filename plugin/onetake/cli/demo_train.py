"""One training run of the demo, in a process of its own, so that it can be killed:
``python -m onetake.cli.demo_train SETTINGS.json``.

The run tells what it does in a JSON line per event, flushed at once, in the file that the settings name.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from onetake.cli.demo_model import DriftClassifier
from onetake.core.clips import ClipSpec
from onetake.decode.synthetic import DIRECTIONS
from onetake.lightning import VideoDataModule


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What one run needs to know. All paths are strings, so that it travels as JSON.

    Attributes:
        videos: folder with the indexed subfolders ``train`` and ``val``.
        folder: where the run writes ``events.jsonl``, its checkpoints and ``batch.npz``.
        max_epochs: epochs in all, those before the checkpoint included.
        max_steps: optimizer steps in all, for the learning rate; ``max_epochs`` ends the run.
        checkpoint_every: steps from one checkpoint to the next; 0 writes none.
        resume_from: a checkpoint to go on from.
    """

    videos: str
    folder: str
    max_epochs: int
    max_steps: int
    checkpoint_every: int = 0
    resume_from: str | None = None
    batch_size: int = 8
    num_workers: int = 1
    num_frames: int = 8
    stride: int = 2
    frame_size: int = 48
    seed: int = 17

    def save(self) -> Path:
        """Write the settings into the run's folder; returns the file."""
        path = Path(self.folder) / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
        return path


def label_of(video_id: str) -> int:
    """The direction that a demo video's file is named after, as an integer."""
    return DIRECTIONS.index(Path(video_id).stem.split("-")[0])  # type: ignore[arg-type]


def add_label(sample: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """A ``sample_transform``: the label is in the video's name."""
    return {**sample, "label": label_of(sample["video_id"])}


class Diary(lightning.Callback):
    """Writes what happens to ``events.jsonl``: batches trained on, validations, checkpoints, the end."""

    def __init__(self, settings: RunSettings) -> None:
        self._folder = Path(settings.folder)
        self._file = (self._folder / "events.jsonl").open("w")
        self._started = 0.0

    def tell(self, event: str, **what: Any) -> None:
        print(json.dumps({"event": event, **what}), file=self._file, flush=True)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = perf_counter()
        dataset = trainer.train_dataloader.dataset
        slots, phases = dataset.lanes
        self.tell("start", clips=dataset.num_clips, batches=dataset.num_batches, lanes=slots * phases)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        if trainer.global_step == 1:
            np.savez(self._folder / "batch.npz", video=batch["video"].numpy(), label=batch["label"].numpy())
        self.tell(
            "batch",
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            loss=outputs["loss"].item(),
            clips=batch["clip_id"].tolist(),
            at=list(zip(batch["video_id"], batch["start_frame"].tolist(), strict=True)),
        )

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.tell("validation", step=trainer.global_step, accuracy=float(trainer.callback_metrics["val_accuracy"]))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        seconds = perf_counter() - self._started
        self.tell("end", seconds=seconds, stats=trainer.train_dataloader.stats())


def train(settings: RunSettings) -> None:
    """Train as ``settings`` say, to the end."""
    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(2)  # fixed: sums in another order would give another loss
    videos = Path(settings.videos)
    data = VideoDataModule(
        train=videos / "train",
        val=videos / "val",
        batch_size=settings.batch_size,
        val_batch_size=4 * settings.batch_size,
        num_workers=settings.num_workers,
        clips=ClipSpec(settings.num_frames, settings.stride),
        frame_size=(settings.frame_size, settings.frame_size),
        sample_transform=add_label,
        shuffle_seed=settings.seed,
    )
    checkpoints = ModelCheckpoint(
        dirpath=Path(settings.folder) / "checkpoints",
        filename="{step}",
        every_n_train_steps=settings.checkpoint_every,
        save_top_k=-1,
    )
    trainer = lightning.Trainer(
        max_epochs=settings.max_epochs,
        accelerator="cpu",
        deterministic=True,
        callbacks=[Diary(settings), *([checkpoints] if settings.checkpoint_every else [])],
        enable_checkpointing=bool(settings.checkpoint_every),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
    )
    model = DriftClassifier(num_classes=len(DIRECTIONS), max_steps=settings.max_steps)
    trainer.fit(model, data, ckpt_path=settings.resume_from)


def main() -> None:
    """Run with the settings in the file that the command line names."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    train(RunSettings(**json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
