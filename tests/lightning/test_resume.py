"""A Lightning run that was stopped goes on exactly: the clips and pixels that the uninterrupted run would have seen."""

from __future__ import annotations

import warnings

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from onetake.core.errors import ResumeError
from onetake.lightning import VideoDataModule
from tests.helpers import SPEC
from tests.lightning.training import Recorder, fit, fit_job, save_every
from tests.resume_check import CASES, EPOCHS, check_resume


@pytest.fixture(scope="module")
def whole(numbered, tmp_path_factory):
    """What an uninterrupted run of three epochs sees, batch by batch."""
    seen = fit(numbered, tmp_path_factory.mktemp("whole"), Recorder())
    assert len(seen) % EPOCHS == 0
    return seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limits", [{}, {"max_steps": 10_000, "max_epochs": EPOCHS}], ids=["epochs", "steps"])
@pytest.mark.parametrize("where", CASES)
def test_goes_on_exactly(numbered, tmp_path, whole, where, limits, workers):
    def run(root, jobs):
        return [fit_job(numbered, root, job, **limits) for job in jobs]

    check_resume(run, tmp_path, whole, [(where, workers)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fail_at", [0, 22, "first of second"])
def test_resumes_after_an_exception(numbered, tmp_path, whole, fail_at, workers):
    fail_at = len(whole) // EPOCHS if fail_at == "first of second" else fail_at
    with pytest.raises(RuntimeError, match="stops here"):
        fit(
            numbered,
            tmp_path,
            Recorder(fail_at),
            callbacks=[OnExceptionCheckpoint(tmp_path, "failed")],
            workers=workers,
        )
    assert fit(numbered, tmp_path, Recorder(), tmp_path / "failed.ckpt", workers=workers) == whole[fail_at:]


def test_resumes_when_the_loader_is_built_before_its_state_is_restored(numbered, tmp_path, whole):
    fit(numbered, tmp_path, Recorder(), callbacks=[save_every(tmp_path, 7)], max_steps=7)
    assert fit(numbered, tmp_path, Recorder(estimate=True), tmp_path / "step=7.ckpt") == whole[7:]


def test_resumes_with_other_workers_and_batch_sizes_twice(numbered, tmp_path, whole):
    """Trap 11: Lightning counts batches, so its count is wrong once the batch size has changed."""
    per_epoch = len(whole) // EPOCHS
    fit(numbered, tmp_path, Recorder(), callbacks=[save_every(tmp_path, 6)], max_steps=6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "global batch")
        first = fit(
            numbered,
            tmp_path,
            Recorder(),
            tmp_path / "step=6.ckpt",
            callbacks=[save_every(tmp_path, 10)],
            batch_size=8,
            workers=2,
            max_steps=10,
        )
        second = fit(numbered, tmp_path, Recorder(), tmp_path / "step=10.ckpt", batch_size=5)
    flat = [sample for batch in [*first, *second] for sample in batch]
    rest = [sample for batch in whole[6:] for sample in batch]
    assert len(first) == 4
    assert sorted(flat) == sorted(rest)
    epoch_rest = sum(len(batch) for batch in whole[6:per_epoch])
    assert sorted(flat[:epoch_rest]) == sorted(rest[:epoch_rest])
    taken = 0
    for batch in first:  # the same samples in the same order, but for the order within a batch
        assert sorted(batch) == sorted(rest[taken : taken + len(batch)])
        taken += len(batch)


def test_validation_in_between_changes_nothing(numbered, tmp_path, whole):
    limits = {"limit_val_batches": 2, "val_check_interval": 5, "num_sanity_val_steps": 1}
    fit(numbered, tmp_path, Recorder(), callbacks=[save_every(tmp_path, 12)], max_steps=12, **limits)
    assert fit(numbered, tmp_path, Recorder(), tmp_path / "step=12.ckpt", **limits) == whole[12:]


def test_limit_train_batches_ends_an_epoch_early_and_resumes_in_the_next(numbered, tmp_path):
    limit = {"limit_train_batches": 5}
    expected = fit(numbered, tmp_path, Recorder(), **limit)
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_on_train_epoch_end=True, save_top_k=-1)
    fit(numbered, tmp_path, Recorder(), callbacks=[save], **limit | {"max_epochs": 1})
    assert fit(numbered, tmp_path, Recorder(), tmp_path / "epoch=0.ckpt", **limit) == expected[5:]


def test_other_clips_are_refused_by_name(numbered, tmp_path):
    fit(numbered, tmp_path, Recorder(), callbacks=[save_every(tmp_path, 3)], max_steps=3)
    data = VideoDataModule(numbered, clips=SPEC, shuffle_seed=99, batch_size=4, frame_size=None, num_canonical_lanes=8)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    with pytest.raises(ResumeError, match="shuffle_seed was 17 and is now 99"):
        trainer.fit(Recorder(), datamodule=data, ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)


def test_a_checkpoint_saved_after_the_fit_is_resumed_where_it_ended(numbered, tmp_path, whole):
    model = Recorder()
    data = VideoDataModule(numbered, clips=SPEC, batch_size=4, frame_size=None, num_canonical_lanes=8)
    arguments = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **arguments)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert fit(numbered, tmp_path, Recorder(), tmp_path / "after.ckpt") == whole[len(model.seen) :]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, datamodule=data)
    assert model.seen == whole[: len(model.seen)]
    assert len(model.seen) == 2 * len(whole) // EPOCHS
