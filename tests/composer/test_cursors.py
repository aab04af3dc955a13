"""What CursorLogger tells of a checkpoint's position."""

from __future__ import annotations

import logging

import pytest
import torch
from composer.loggers import InMemoryLogger
from torch.utils.data import DataLoader

from onetake.composer import CursorLogger, ExactResume
from onetake.core.state import unpack_cursors
from tests.composer.training import Recorder, fit, make_trainer, saving


class Tables(InMemoryLogger):
    """Keeps the tables too, as a logger that can take them does."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list = []

    def log_table(self, columns, rows, name="Table", step=None):
        self.tables.append((name, step, columns, rows))


def saved_state(path):
    return torch.load(path, weights_only=False)["state"]["dataset_state"]["train"]


def test_each_checkpoint_tells_the_lanes_videos_frames_and_times(numbered, tmp_path, caplog):
    logger = Tables()
    with caplog.at_level(logging.INFO, logger="onetake.composer.cursors"):
        fit(
            numbered,
            Recorder(),
            max_duration="7ba",
            callbacks=[CursorLogger(lanes_in_words=3)],
            loggers=[logger],
            **saving(tmp_path, "3ba"),
        )
    assert [(name, step) for name, step, _, _ in logger.tables] == [("data/cursors", step) for step in (3, 6, 7)]
    for name, expected in {"data/epoch": [0, 0, 0], "data/sample": [12, 24, 28]}.items():
        assert [int(value) for _, value in logger.data[name]] == expected
    _, _, columns, rows = logger.tables[1]
    assert columns == ["lane", "video_id", "frame", "seconds"]
    state = saved_state(tmp_path / "6ba.ckpt")
    assert state["sample_in_epoch"] == 24
    assert [(video_id, frame) for _, video_id, frame, _ in rows] == unpack_cursors(state["onetake"]["cursors"])
    assert [lane for lane, *_ in rows] == list(range(8))
    assert all(seconds == pytest.approx(frame / 25, rel=0.02) for _, _, frame, seconds in rows)  # 25 frames a second
    assert int(logger.data["data/open_videos"][1][1]) == len({video_id for _, video_id, _, _ in rows})
    lines = [entry.message for entry in caplog.records if entry.name == "onetake.composer.cursors"]
    assert len(lines) == 3
    _, video_id, frame, seconds = rows[0]
    start = f"checkpoint at epoch 0, sample 24: lane 0 at frame {frame} ({seconds:.2f} s) of {video_id}, lane 1 at "
    assert lines[1].startswith(start)
    assert lines[1].endswith(" and 5 lanes more")


def test_lanes_at_their_ends_and_the_next_epoch(numbered, tmp_path, caplog):
    logger = Tables()
    with caplog.at_level(logging.INFO, logger="onetake.composer.cursors"):
        seen = fit(
            numbered,
            Recorder(),
            max_duration="1ep",
            callbacks=[CursorLogger()],
            loggers=[logger],
            **saving(tmp_path, "1ba"),
        )
    assert len(logger.tables) == len(seen)
    assert [None, None, None] in [row[1:] for row in logger.tables[-2][3]]
    assert any("lane 7 at its end" in entry.message for entry in caplog.records)


def test_no_position_no_words(numbered, tmp_path):
    """Weights alone hold no position; nor has a loader that is not ours."""
    logger = Tables()
    arguments = {"max_duration": "2ba", "callbacks": [CursorLogger(), ExactResume()], "loggers": [logger]}
    fit(numbered, Recorder(), save_weights_only=True, **arguments, **saving(tmp_path / "weights", "1ba"))
    others = DataLoader(torch.zeros(16, 2), batch_size=4)
    make_trainer(Recorder(), others, **arguments, **saving(tmp_path / "others", "1ba")).fit()
    assert len(list(tmp_path.rglob("*.ckpt"))) == 4
    assert not logger.tables
