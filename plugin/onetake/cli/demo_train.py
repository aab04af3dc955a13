"""One training run of the demo, in a process of its own, so that it can be killed:
``python -m onetake.cli.demo_train SETTINGS.json``.

The run tells what it does in a JSON line per event, flushed at once, in the file that the settings name.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from onetake.cli.demo_model import DriftClassifier
from onetake.cli.demo_settings import RunSettings
from onetake.core.clips import ClipSpec
from onetake.decode.synthetic import DIRECTIONS
from onetake.lightning import VideoDataModule

SHOWN_STEP = 12  # whose batch is kept for the contact sheet: its lanes are in the middle of their videos


def label_of(video_id: str) -> int:
    """The direction that a demo video's file is named after, as an integer."""
    return DIRECTIONS.index(Path(video_id).stem.split("-")[0])  # type: ignore[arg-type]


def add_label(sample: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """A ``sample_transform``: the label is in the video's name."""
    return {**sample, "label": label_of(sample["video_id"])}


class Diary(lightning.Callback):
    """Writes what happens to ``events.jsonl``: the start, batches trained on, validations, the end."""

    def __init__(self, settings: RunSettings) -> None:
        self._folder = Path(settings.folder)
        self._file = settings.diary.open("w")
        self._started = self._validating = self._validation_seconds = 0.0

    def tell(self, event: str, **what: Any) -> None:
        print(json.dumps({"event": event, **what}), file=self._file, flush=True)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = perf_counter()
        dataset = trainer.train_dataloader.dataset
        slots, phases = dataset.lanes
        self.tell("start", clips=dataset.num_clips, batches=dataset.num_batches, slots=slots, phases=phases)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        if trainer.global_step == SHOWN_STEP:
            np.savez(self._folder / "batch.npz", video=batch["video"].numpy(), label=batch["label"].numpy())
        self.tell(
            "batch",
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            loss=outputs["loss"].item(),
            clips=batch["clip_id"].tolist(),
            at=list(zip(batch["video_id"], batch["start_frame"].tolist(), strict=True)),
        )

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._validating = perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._validation_seconds += perf_counter() - self._validating
        self.tell("validation", step=trainer.global_step, accuracy=float(trainer.callback_metrics["val_accuracy"]))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        seconds = perf_counter() - self._started - self._validation_seconds
        self.tell("end", seconds=seconds, stats=trainer.train_dataloader.stats())


def train(settings: RunSettings) -> None:
    """Train as ``settings`` say, to the end."""
    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(1)  # the other core decodes; and the loss must not depend on the machine's cores
    videos = Path(settings.videos)
    data = VideoDataModule(
        train=videos / "train",
        val={"local": videos / "val", "num_canonical_lanes": 1},  # one decoder, from the first video to the last
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
        save_top_k=1,  # the latest
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
    data.setup("fit")
    steps = settings.max_epochs * len(data.train_dataloader())
    model = DriftClassifier(num_classes=len(DIRECTIONS), max_steps=steps)
    trainer.fit(model, data, ckpt_path=settings.resume_from)


def main() -> None:
    """Run with the settings in the file that the command line names."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    train(RunSettings(**json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
