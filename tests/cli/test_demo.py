"""The demo's parts, and the whole of it, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from onetake.cli.demo import demo_command
from onetake.cli.demo_composer import DiaryCallback, write_recipe
from onetake.cli.demo_model import DriftNetwork
from onetake.cli.demo_report import Run, contact_sheet, read_run, wanted_spans
from onetake.cli.demo_settings import NETWORK, RunSettings
from onetake.composer.recipe import check_recipe, load_recipe
from onetake.core.errors import OnetakeError


def batch_event(step, *at):
    return {"event": "batch", "step": step, "epoch": 0, "loss": 1.0, "clips": [], "at": [list(place) for place in at]}


@pytest.fixture
def run():
    """Two slots, two phases; lane 1 (slot 0, phase 1) goes over to another video."""
    steps = [
        [("a", 0), ("b", 0)],
        [("a", 64), ("b", 80)],
        [("a", 16), ("b", 16)],
        [("c", 0), ("b", 96)],
    ]
    start = {"event": "start", "slots": 2, "phases": 2, "batches": 4}
    return Run(start, {i: batch_event(i, *at) for i, at in enumerate(steps, 1)}, (), {})


def test_lanes_are_found_in_the_batches_that_follow(run):
    assert run.lanes_at(0) == [("a", 0), ("a", 64), ("b", 0), ("b", 80)]
    assert run.lanes_at(1) == [("a", 16), ("a", 64), ("b", 16), ("b", 80)]


def test_spans_join_clips_that_follow_one_another(run):
    assert wanted_spans(run, extent=15, hop=16) == (5, 3 * (15 + 16) + 15 + 15)


def test_a_diary_that_was_cut_off_is_read_to_its_last_whole_line(tmp_path, run):
    diary = tmp_path / "events.jsonl"
    diary.write_text("".join(json.dumps(event) + "\n" for event in (run.start, run.batches[1])) + '{"event": "ba')
    assert read_run(diary) == Run(run.start, {1: run.batches[1]}, (), {})


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mine.mp4").touch()
    result = CliRunner().invoke(demo_command, ["--out", str(tmp_path)])
    assert isinstance(result.exception, OnetakeError)
    assert "holds files that are not the demo's" in str(result.exception)
    assert (tmp_path / "mine.mp4").exists()


def test_the_sheet_shows_the_batch_that_was_trained_on(tmp_path):
    video = np.zeros((2, 3, 3, 8, 10), np.float32)
    video[1, 2, 0] = 0.6  # of the second clip, the last frame is red
    np.savez(tmp_path / "batch.npz", video=video, label=["left", "up"])
    contact_sheet(tmp_path / "batch.npz", tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert (sheet == (153, 0, 0)).all(-1).sum() == 4 * 8 * 10
    assert (sheet == 0).all(-1).sum() >= 5 * 4 * 8 * 10


def test_the_network_sees_motion_alone():
    video = torch.rand(2, 3, 8, 48, 48)
    model = DriftNetwork(4).eval()
    with torch.no_grad():
        logits = model(video)
        assert logits.shape == (2, 4)
        torch.testing.assert_close(model(video + torch.rand(2, 3, 1, 48, 48)), logits, rtol=1e-3, atol=1e-4)


def test_the_recipe_is_the_shipped_one_with_the_demos_settings(tmp_path):
    settings = RunSettings("videos", str(tmp_path), 3, checkpoint_every=40)
    plan = check_recipe(load_recipe(write_recipe(settings, 120, tmp_path / "checkpoints")))
    assert plan.trainer["max_duration"] == "120ba"
    assert plan.trainer["autoresume"] is True
    assert plan.train.arguments["batch_size"] == settings.batch_size
    assert plan.train.arguments["local"] == "videos/train"
    assert plan.model.arguments["network"] == NETWORK
    assert [entry.target for entry in plan.callbacks][-1] is DiaryCallback


@pytest.mark.timeout(900)
def test_all_of_it(tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name("onetake"), "demo", "--out", str(tmp_path / "demo"), "--json"],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    for leg in (summary, summary["composer"]):
        assert leg["clip_ids_equal"]
        assert leg["went_on_where_the_checkpoint_says"]
    for picture in ("contact_sheet", "loss_curve"):
        with Image.open(summary[picture]) as drawn:
            assert min(drawn.size) > 500
