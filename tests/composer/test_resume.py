"""A Composer run that was stopped goes on exactly: the clips and pixels that the uninterrupted run would have seen."""

from __future__ import annotations

import warnings

import pytest

from onetake.composer import video_data_spec
from onetake.core.errors import ResumeError
from tests.composer.training import DATASET, Recorder, fit, fit_job, make_trainer, saving
from tests.resume_check import CASES, EPOCHS, Job, check_resume


@pytest.fixture(scope="module")
def whole(numbered):
    """What an uninterrupted run of three epochs sees, batch by batch."""
    return fit(numbered, Recorder())


@pytest.fixture(scope="module")
def per_epoch(whole):
    return len(whole) // EPOCHS


WITH_WORKERS = [("mid-epoch", 2), ("last batch", 2), ("epoch end", 2), ("second epoch", 2)]


@pytest.mark.parametrize(("where", "workers"), [*((where, 0) for where in CASES), *WITH_WORKERS])
def test_goes_on_exactly(numbered, tmp_path, whole, where, workers):
    def run(root, jobs):
        return [fit_job(numbered, root, job) for job in jobs]

    check_resume(run, tmp_path, whole, [(where, workers)])


@pytest.mark.filterwarnings("ignore:No batches were trained for global rank")  # in what is left after the last batch
@pytest.mark.parametrize("where", ["mid-epoch", "last batch", "epoch end", "second epoch"])
def test_goes_on_exactly_without_a_callback(numbered, tmp_path, whole, where):
    def run(root, jobs):
        return [fit_job(numbered, root, job, callbacks=[]) for job in jobs]

    check_resume(run, tmp_path, whole, [(where, 0)])


@pytest.mark.parametrize("every", ["1ba", "1ep"])
def test_autoresume(numbered, tmp_path, whole, per_epoch, every):
    """A run that is killed and started again with the same command, twice."""
    seen = []
    arguments = saving(tmp_path, every) | {"autoresume": True, "save_latest_filename": "latest.ckpt"}
    for limit in ("1ep", "2ep", f"{EPOCHS}ep") if every == "1ep" else (9, per_epoch + 3, len(whole)):
        limit = f"{limit}ba" if isinstance(limit, int) else limit
        seen += fit(numbered, Recorder(), max_duration=limit, **arguments | {"save_overwrite": False})
    assert seen == whole


@pytest.mark.parametrize(
    ("loaded", "durations"),
    [
        (False, (7, 5)),
        (False, ("first epoch", 4)),
        (False, (4, "first epoch", 1)),
        (True, (7, 5)),
        (True, (4, "first epoch", 1)),
    ],
)
def test_fits_one_after_the_other(numbered, tmp_path, whole, per_epoch, durations, loaded):
    """Trainer.fit(duration=) goes on where the fit before ended, in the middle of an epoch too."""
    trained = 0
    arguments = {}
    if loaded:
        trained = per_epoch + 3
        fit(numbered, Recorder(), max_duration=f"{trained}ba", **saving(tmp_path, f"{trained}ba"))
        arguments = {"load_path": str(tmp_path / f"{trained}ba.ckpt")}
    model = Recorder()
    trainer = make_trainer(model, video_data_spec(numbered, batch_size=4, **DATASET), max_duration=None, **arguments)
    for duration in durations:
        trainer.fit(duration=f"{per_epoch if duration == 'first epoch' else duration}ba")
    assert model.seen == whole[trained:][: len(model.seen)]
    assert len(model.seen) == sum(per_epoch if duration == "first epoch" else duration for duration in durations)
    trainer.save_checkpoint(str(tmp_path / "after.ckpt"))
    after = fit(numbered, Recorder(), load_path=str(tmp_path / "after.ckpt"))
    assert after == whole[trained + len(model.seen) :]


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_train_subset_num_batches(numbered, tmp_path, stop):
    subset = {"train_subset_num_batches": 5}
    expected = fit(numbered, Recorder(), **subset)
    assert len(expected) == 5 * EPOCHS
    fit(numbered, Recorder(), max_duration=f"{stop}ba", **subset, **saving(tmp_path, f"{stop}ba"))
    assert fit(numbered, Recorder(), load_path=str(tmp_path / f"{stop}ba.ckpt"), **subset) == expected[stop:]


@pytest.mark.parametrize("interval", ["4ba", "1ep"])
def test_evaluation_in_between_changes_nothing(numbered, tmp_path, whole, interval):
    def evaluated():
        data = video_data_spec(numbered, batch_size=3, training=False, **DATASET | {"num_canonical_lanes": None})
        return {"eval_dataloader": data, "eval_interval": interval, "eval_subset_num_batches": 2}

    fit(numbered, Recorder(), max_duration="7ba", **saving(tmp_path, "7ba"), **evaluated())
    model = Recorder()
    assert fit(numbered, model, load_path=str(tmp_path / "7ba.ckpt"), **evaluated()) == whole[7:]
    assert model.eval_batches


def test_resumes_with_other_workers_and_batch_sizes_twice(numbered, tmp_path, whole, per_epoch):
    fit(numbered, Recorder(), max_duration="6ba", **saving(tmp_path, "6ba"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "global batch")
        first = fit(
            numbered,
            Recorder(),
            batch_size=8,
            workers=2,
            max_duration="10ba",
            load_path=str(tmp_path / "6ba.ckpt"),
            **saving(tmp_path, "10ba"),
        )
        second = fit(numbered, Recorder(), batch_size=5, load_path=str(tmp_path / "10ba.ckpt"))
    assert len(first) == 4
    flat = [sample for batch in [*first, *second] for sample in batch]
    rest = [sample for batch in whole[6:] for sample in batch]
    assert sorted(flat) == sorted(rest)
    of_epoch = sum(len(batch) for batch in whole[6:per_epoch])
    assert sorted(flat[:of_epoch]) == sorted(rest[:of_epoch])
    for at in range(0, 32, 8):  # the same samples in the same order, but for the order within a batch
        assert sorted(flat[at : at + 8]) == sorted(rest[at : at + 8])


def test_the_loader_may_come_with_fit(numbered, tmp_path, whole):
    fit_job(numbered, tmp_path, Job(stop="7ba"))
    model = Recorder()
    trainer = make_trainer(model, None, load_path=str(tmp_path / "7ba.ckpt"))
    trainer.fit(train_dataloader=video_data_spec(numbered, batch_size=4, **DATASET))
    assert model.seen == whole[7:]


def test_other_clips_are_refused_by_name(numbered, tmp_path):
    fit_job(numbered, tmp_path, Job(stop="3ba"))
    data = video_data_spec(numbered, batch_size=4, shuffle_seed=99, **DATASET)
    with pytest.raises(ResumeError, match="shuffle_seed was 17 and is now 99"):
        make_trainer(Recorder(), data, load_path=str(tmp_path / "3ba.ckpt"))
