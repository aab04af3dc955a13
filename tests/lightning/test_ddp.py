"""Two ranks over gloo see what one rank sees, in halves, and resume as one does, also into another world."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.lightning.training import Recorder, fit
from tests.resume_check import EPOCHS, PLAN_OF_SEVERAL, Job, check_resume, read_ranks, to_arguments, together

TORCH_LAUNCHER = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


def two_ranks(folder: Path, root: Path, *jobs: Job, launcher: Sequence[str] = ()) -> list:
    """What the two ranks saw: [job][batch][rank]. Lightning starts them, or ``launcher``."""
    root.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, *launcher, "-m", "tests.lightning.training", *to_arguments(folder, root, jobs)],
        cwd=Path(__file__).parents[2],
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        check=True,
        timeout=280,
        stdout=subprocess.DEVNULL,
    )
    return read_ranks(root)


def sorted_batches(batches: list) -> list:
    """Global batches as sets of samples."""
    return [sorted(batch) for batch in batches]


@pytest.fixture(scope="module")
def alone(numbered, tmp_path_factory):
    """One rank with the same global batch."""
    return fit(numbered, tmp_path_factory.mktemp("alone"), Recorder(), batch_size=4)


def test_two_ranks_are_one_rank_in_halves(numbered, tmp_path, alone):
    (batches,) = two_ranks(numbered, tmp_path / "two", Job(workers=2, processes=2))
    assert sorted_batches(together(batches)) == sorted_batches(alone)
    ids = [[sample[0] for batch in batches for sample in batch[rank]] for rank in range(2)]
    per_epoch = len(alone) // EPOCHS
    for rank in range(2):
        first = [sample[0] for batch in batches[:per_epoch] for sample in batch[rank]]
        assert len(first) == len(set(first))
    assert abs(len(ids[0]) - len(ids[1])) <= 2 * EPOCHS


@pytest.mark.parametrize("steps", [7, "first epoch"])
def test_two_ranks_stop_and_go_on_with_two_and_with_one(numbered, tmp_path, alone, steps):
    steps = len(alone) // EPOCHS if steps == "first epoch" else steps
    stop = Job(workers=1, processes=2, stop=f"{steps}ba")
    two_ranks(numbered, tmp_path / "stopped", stop)
    checkpoint = tmp_path / "stopped" / stop.checkpoint
    (resumed,) = two_ranks(numbered, tmp_path / "resumed", Job(workers=1, processes=2, resume=str(checkpoint)))
    assert sorted_batches(together(resumed)) == sorted_batches(alone[steps:])
    one = fit(numbered, tmp_path / "one", Recorder(), checkpoint, batch_size=4)
    assert sorted_batches(one) == sorted_batches(alone[steps:])


def test_two_ranks_that_replicate_are_each_what_one_rank_is_and_go_on_as_one(numbered, tmp_path, alone):
    stop = Job(workers=1, processes=2, stop="7ba", replication=2)
    goes_on = Job(workers=2, processes=2, resume=stop.checkpoint, replication=2)
    before, after = two_ranks(numbered, tmp_path, stop, goes_on)
    for rank in range(2):
        assert [batch[rank] for batch in before] == alone[:7]
        assert [batch[rank] for batch in after] == alone[7:]
    one = fit(numbered, tmp_path / "one", Recorder(), tmp_path / stop.checkpoint, batch_size=4)
    assert one == alone[7:]


def test_two_ranks_of_torchs_launcher_go_on_exactly(numbered, tmp_path, alone):
    def run(root, jobs):
        return [together(batches) for batches in two_ranks(numbered, root, *jobs, launcher=TORCH_LAUNCHER)]

    check_resume(run, tmp_path, alone, PLAN_OF_SEVERAL, processes=2)
