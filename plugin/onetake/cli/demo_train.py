"""One training run of the demo with Lightning, in a process of its own, so that it can be killed:
``python -m onetake.cli.demo_train SETTINGS.json``.
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

from onetake.cli.demo_settings import NETWORK, Diary, RunSettings
from onetake.core.clips import ClipSpec
from onetake.lightning import VideoDataModule
from onetake.lightning.classifier import VideoClassifier
from onetake.stream.classify import FolderLabels

SHOWN_STEP = 12  # whose batch is kept for the contact sheet: its lanes are in the middle of their videos


class DiaryCallback(lightning.Callback):
    """Tells the diary of the start, the batches trained on, the validations and the end; keeps one batch."""

    def __init__(self, settings: RunSettings, classes: list[str]) -> None:
        self._folder, self._classes = Path(settings.folder), classes
        self._diary = Diary(settings.diary)
        self._started = self._validating = self._validation_seconds = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = perf_counter()
        self._diary.start(trainer.train_dataloader.dataset)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        if trainer.global_step == SHOWN_STEP:
            labels = [self._classes[label] for label in batch["label"].tolist()]
            np.savez(self._folder / "batch.npz", video=batch["video"].numpy(), label=labels)
        self._diary.batch(trainer.global_step, trainer.current_epoch, outputs["loss"].item(), batch)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._validating = perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._validation_seconds += perf_counter() - self._validating
        self._diary.tell(
            "validation", step=trainer.global_step, accuracy=float(trainer.callback_metrics["val_accuracy"])
        )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        seconds = perf_counter() - self._started - self._validation_seconds
        self._diary.tell("end", seconds=seconds, stats=trainer.train_dataloader.stats())


def train(settings: RunSettings) -> None:
    """Train as ``settings`` say, to the end."""
    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(1)  # the other core decodes; and the loss must not depend on the machine's cores
    videos = Path(settings.videos)
    labels = FolderLabels(videos / "train")
    data = VideoDataModule(
        train=videos / "train",
        val={"local": videos / "val", "num_canonical_lanes": 1},  # one decoder, from the first video to the last
        batch_size=settings.batch_size,
        val_batch_size=4 * settings.batch_size,
        num_workers=settings.num_workers,
        clips=ClipSpec(settings.num_frames, settings.stride),
        frame_size=(settings.frame_size, settings.frame_size),
        sample_transform=labels,
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
        callbacks=[DiaryCallback(settings, labels.classes), *([checkpoints] if settings.checkpoint_every else [])],
        enable_checkpointing=bool(settings.checkpoint_every),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
    )
    data.setup("fit")
    steps = settings.max_epochs * len(data.train_dataloader())
    model = VideoClassifier(NETWORK, len(labels.classes), warmup_steps=steps // 10, max_steps=steps)
    trainer.fit(model, data, ckpt_path=settings.resume_from)


def main() -> None:
    """Run with the settings in the file that the command line names."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    train(RunSettings(**json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
