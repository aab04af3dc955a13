"""A model that remembers what it was trained on, and a Trainer run around it; also run by itself, for two ranks."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from onetake.lightning import VideoDataModule
from tests.helpers import SPEC, record
from tests.resume_check import EPOCHS, Batches, Job, from_arguments, write_rank


class Recorder(pl.LightningModule):
    """Trains one number; keeps what it was trained on, and fails in step ``fail_at``."""

    def __init__(self, fail_at: int | None = None, estimate: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.estimate = estimate
        self.seen: list = []

    def training_step(self, batch, batch_idx):
        if self.fail_at is not None and self.global_step == self.fail_at:
            raise RuntimeError("the test stops here")
        self.seen.append(record(batch))
        return (self.weight - batch["video"].mean()).square().sum()

    def validation_step(self, batch, batch_idx):
        self.log("val", batch["video"].mean(), batch_size=len(batch["video"]))

    def configure_optimizers(self):
        if self.estimate:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(
    folder: Path,
    root: Path,
    model: Recorder,
    ckpt=None,
    callbacks=(),
    workers=0,
    batch_size=4,
    devices=1,
    replication=None,
    **trainer,
):
    data = VideoDataModule(
        folder,
        folder if trainer.get("limit_val_batches") else None,
        batch_size=batch_size,
        num_workers=workers,
        clips=SPEC,
        frame_size=None,
        num_canonical_lanes=8,
        replication=replication,
    )
    arguments = {"max_epochs": EPOCHS, **trainer}
    run = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        default_root_dir=root,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    run.fit(model, datamodule=data, ckpt_path=ckpt, **({"weights_only": True} if ckpt else {}))
    return model.seen


def save_every(root: Path, steps: int) -> ModelCheckpoint:
    return ModelCheckpoint(root, filename="{step}", every_n_train_steps=steps, save_top_k=-1)


def fit_job(folder: Path, root: Path, job: Job, **trainer: Any) -> Batches:
    """Run a job, in this process."""
    callbacks = []
    if job.stop:
        count, unit = int(job.stop[:-2]), job.stop[-2:]
        every = {"every_n_train_steps": count} if unit == "ba" else {"every_n_epochs": count}
        callbacks = [ModelCheckpoint(root, job.stop, save_top_k=-1, save_on_train_epoch_end=unit == "ep", **every)]
        trainer["max_steps" if unit == "ba" else "max_epochs"] = count
    if job.processes > 1:
        trainer |= {"devices": job.processes, "strategy": "ddp", "replication": job.replication}
    ckpt = root / job.resume if job.resume else None
    return fit(folder, root, Recorder(), ckpt, callbacks, job.workers, job.batch_size, **trainer)


def main() -> None:
    """Run jobs as one of the ranks that Lightning or torch's launcher starts; see ``resume_check.to_arguments``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, root, jobs = from_arguments(*sys.argv[1:])
    seen = [fit_job(folder, root, job) for job in jobs]
    write_rank(root, torch.distributed.get_rank(), seen)


if __name__ == "__main__":
    main()
