"""The demo's parts; the whole of it is `make demo`."""

import json

import pytest
import torch
from click.testing import CliRunner

from onetake.cli.demo import demo_command
from onetake.cli.demo_model import DriftClassifier
from onetake.cli.demo_report import Run, read_run, wanted_spans
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


def test_the_model_takes_both_layouts_and_both_types():
    video = torch.randint(0, 256, (2, 8, 3, 48, 48), dtype=torch.uint8)
    model = DriftClassifier().eval()
    with torch.no_grad():
        logits = model(video)
        assert logits.shape == (2, 4)
        assert torch.equal(model(video.transpose(1, 2)), logits)
        torch.testing.assert_close(model(video.float() / 255), logits)


def test_padding_counts_for_nothing():
    model = DriftClassifier().eval()
    batch = {"video": torch.rand(3, 8, 3, 48, 48), "label": torch.tensor([0, 1, 2])}
    model.log = model.log_dict = lambda *args, **kwargs: None
    all_kept = {name: values[:2] for name, values in batch.items()} | {"is_pad": torch.tensor([False, False])}
    padded = batch | {"is_pad": torch.tensor([False, False, True])}
    torch.testing.assert_close(model.training_step(padded, 0), model.training_step(all_kept, 0))
    nothing = model.training_step(batch | {"is_pad": torch.tensor([True, True, True])}, 0)
    assert nothing == 0
    assert nothing.requires_grad
