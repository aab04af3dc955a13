"""Composer 0.32 does what the adapter rests on: what it asks a dataset for, when, and in which order."""

from __future__ import annotations

import pytest
from composer.core import Callback

from onetake import VideoDataset, VideoLoader
from tests.composer.training import Recorder, fit, saving


@pytest.fixture
def calls(monkeypatch):
    """What the host calls on datasets, loaders and callbacks, in order."""
    made: list = []

    def spy(owner, name):
        original = getattr(owner, name)

        def called(self, *args):
            made.append((name, *args))
            return original(self, *args)

        monkeypatch.setattr(owner, name, called)

    spy(VideoDataset, "state_dict")
    spy(VideoDataset, "load_state_dict")
    spy(VideoLoader, "__iter__")
    return made


def test_a_checkpoint_asks_for_the_trained_samples_of_all_ranks(numbered, tmp_path, calls):
    seen = fit(numbered, Recorder(), max_duration="1ep", callbacks=[], **saving(tmp_path, "10ba"))
    asked = [args for name, *args in calls if name == "state_dict"]
    assert asked == [[4 * step, True] for step in range(10, len(seen), 10)] + [[0, True]]
    assert all(type(samples) is int for samples, _ in asked)


def test_a_resumed_run_is_neither_spun_nor_skipped(numbered, tmp_path, calls):
    seen = fit(numbered, Recorder(), max_duration="2ep", callbacks=[])
    stop = len(seen) // 2 + 3
    fit(numbered, Recorder(), max_duration=f"{stop}ba", callbacks=[], **saving(tmp_path, f"{stop}ba"))
    calls.clear()
    fit(numbered, Recorder(), max_duration="2ep", callbacks=[], load_path=str(tmp_path / f"{stop}ba.ckpt"))
    assert [name for name, *_ in calls] == ["load_state_dict", "__iter__"]


class Watcher(Callback):
    """Notes when the host asks for its state."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.batches = 0

    def batch_end(self, state, logger):
        self.batches = int(state.timestamp.batch)

    def state_dict(self):
        self.asked.append(self.batches)
        return {}


@pytest.mark.parametrize(("weights_only", "asked"), [(False, [3, 6]), (True, [])])
def test_a_callbacks_state_is_asked_for_when_a_checkpoint_is_saved(numbered, tmp_path, weights_only, asked):
    watcher = Watcher()
    save = saving(tmp_path, "3ba") | {"save_weights_only": weights_only}
    fit(numbered, Recorder(), max_duration="6ba", callbacks=[watcher], **save)
    assert watcher.asked == asked
    assert len(list(tmp_path.glob("*.ckpt"))) == 2


class Shortener(Callback):
    """Sets the epoch's length as ExactResume does."""

    def fit_start(self, state, logger):
        self.whole = state.dataloader_len
        state.dataloader_len = 3

    def before_dataloader(self, state, logger):
        state.dataloader_len = self.whole


def test_the_length_of_an_epoch_is_taken_between_fit_start_and_before_dataloader(numbered):
    whole = fit(numbered, Recorder(), max_duration="2ep", callbacks=[])
    seen = fit(numbered, Recorder(), max_duration="2ep", callbacks=[Shortener()])
    assert seen == whole[:3] + whole[len(whole) // 2 :]


def test_why_exact_resume_is_there(numbered, tmp_path):
    """The host alone counts a resumed part of ``train_subset_num_batches`` anew."""
    subset = {"train_subset_num_batches": 5, "max_duration": "1ep", "callbacks": []}
    fit(numbered, Recorder(), **subset | {"max_duration": "3ba"}, **saving(tmp_path, "3ba"))
    assert len(fit(numbered, Recorder(), load_path=str(tmp_path / "3ba.ckpt"), **subset)) == 5
