"""AdaptivePrefetch in a Lightning run: it sets, logs and says, and the clips stay the same."""

from __future__ import annotations

import csv
import logging
import time

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from onetake import ClipSpec
from onetake.core.errors import SpecError
from onetake.lightning import AdaptivePrefetch, VideoDataModule

METRICS = {"data/stall_fraction", "data/predownload", "data/prefetch_factor", "data/bottleneck"}


class Keeper(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.clips: list = []

    def training_step(self, batch, batch_idx):
        self.clips.append(batch["clip_id"].tolist())
        time.sleep(0.02)
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(numbered, root, callbacks=()):
    data = VideoDataModule(
        {"remote": numbered, "local": root / "cache"},
        clips=ClipSpec(4, 3, hop=4),
        batch_size=2,
        num_workers=2,
        predownload=2,
        num_canonical_lanes=4,
        frame_size=(32, 32),
        loader={"prefetch_factor": 1},
    )
    model, logger = Keeper(), CSVLogger(root, version=0)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=root,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    return model.clips, root / "lightning_logs" / "version_0" / "metrics.csv"


def test_it_sets_logs_and_says_what_helps(numbered, tmp_path, slow_remote, caplog):
    plain, _ = fit(numbered, tmp_path / "plain")
    caplog.set_level(logging.INFO, "onetake.stream.tuning")
    tuner = AdaptivePrefetch(every=8)
    clips, log = fit(numbered, tmp_path / "tuned", [tuner])
    assert clips == plain
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["data/stall_fraction"]]
    assert rows[0].keys() >= METRICS
    assert [int(row["step"]) for row in rows] == list(range(8, len(clips) + 1, 8))
    assert float(rows[-1]["data/predownload"]) > 2
    assert "1.0" in {row["data/bottleneck"] for row in rows}
    assert any("predownload 2 -> 4" in reason for _, reason in tuner.changes)
    assert "predownload 2 -> 4" in caplog.text


def test_loaders_that_are_not_ours_are_refused(tmp_path):
    callbacks = [AdaptivePrefetch()]
    trainer = pl.Trainer(accelerator="cpu", max_steps=1, logger=False, callbacks=callbacks, default_root_dir=tmp_path)
    with pytest.raises(SpecError, match="training reads a DataLoader: give the Trainer a VideoDataModule"):
        trainer.fit(Keeper(), torch.utils.data.DataLoader([{"clip_id": 1}]))
