"""AdaptivePrefetch in a Composer run: it sets, logs and says, and the clips stay the same."""

from __future__ import annotations

import logging
import time

import pytest
import torch
from composer import Trainer
from composer.loggers import InMemoryLogger
from composer.models import ComposerModel

from onetake import ClipSpec
from onetake.composer import AdaptivePrefetch, video_data_spec
from onetake.core.errors import SpecError

METRICS = ("data/stall_fraction", "data/predownload", "data/prefetch_factor", "data/bottleneck")


class Keeper(ComposerModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.clips: list = []

    def forward(self, batch):
        self.clips.append(batch["clip_id"].tolist())
        time.sleep(0.02)
        return self.weight.sum()

    def loss(self, outputs, batch):
        return outputs


def fit(numbered, root, callbacks=()):
    spec = video_data_spec(
        {"remote": numbered, "local": root / "cache"},
        clips=ClipSpec(4, 3, hop=4),
        batch_size=2,
        num_workers=2,
        predownload=2,
        num_canonical_lanes=4,
        frame_size=(32, 32),
        loader={"prefetch_factor": 1},
    )
    return run(spec, callbacks)


def run(train_dataloader, callbacks):
    model, logger = Keeper(), InMemoryLogger()
    trainer = Trainer(
        model=model,
        train_dataloader=train_dataloader,
        optimizers=torch.optim.SGD(model.parameters(), 0.1),
        max_duration="1ep",
        callbacks=list(callbacks),
        loggers=[logger],
        progress_bar=False,
        device="cpu",
    )
    trainer.fit()
    trainer.close()
    return model.clips, logger.data


def test_it_sets_logs_and_says_what_helps(numbered, tmp_path, slow_remote, caplog):
    plain, _ = fit(numbered, tmp_path / "plain")
    caplog.set_level(logging.INFO, "onetake.stream.tuning")
    tuner = AdaptivePrefetch(every=8)
    clips, logged = fit(numbered, tmp_path / "tuned", [tuner])
    assert clips == plain
    for name in METRICS:
        assert [int(time.batch) for time, _ in logged[name]] == list(range(8, len(clips) + 1, 8)), name
    assert logged["data/predownload"][-1][1] > 2
    assert 1.0 in [value for _, value in logged["data/bottleneck"]]
    assert any("predownload 2 -> 4" in reason for _, reason in tuner.changes)
    assert "predownload 2 -> 4" in caplog.text


def test_loaders_that_are_not_ours_are_refused():
    with pytest.raises(SpecError, match="training reads a DataLoader: give the Trainer"):
        run(torch.utils.data.DataLoader([{"clip_id": 1}]), [AdaptivePrefetch()])
