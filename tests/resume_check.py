"""The check that a stopped run goes on exactly, for any adapter.

An adapter brings a run: called with (folder to write in, Jobs), it returns for each what was trained on, batch by
batch: the samples of all ranks, as ``tests.helpers.record`` gives them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EPOCHS = 3
GLOBAL_BATCH = 4

Batches = list[list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Job:
    """One run of EPOCHS epochs, or a part of it.

    Attributes:
        workers: per rank.
        processes: ranks; each takes an equal part of GLOBAL_BATCH.
        stop: "7ba" or "1ep": end after so many batches or epochs in all, and save there as "7ba.ckpt". None: run
            to the end.
        resume: the checkpoint to go on from, a path in the run's folder.
        replication: ranks that are given the same samples.
    """

    workers: int = 0
    processes: int = 1
    stop: str | None = None
    resume: str | None = None
    replication: int = 1

    @property
    def batch_size(self) -> int:
        return GLOBAL_BATCH // self.processes * self.replication

    @property
    def checkpoint(self) -> str:
        """What a job that stops saves."""
        return f"{self.stop}.ckpt"


#      where: the stop, by the batches of an epoch
CASES: dict[str, Callable[[int], str]] = {
    "first batch": lambda per_epoch: "1ba",
    "mid-epoch": lambda per_epoch: "7ba",
    "last batch": lambda per_epoch: f"{per_epoch}ba",
    "epoch end": lambda per_epoch: "1ep",
    "first of second": lambda per_epoch: f"{per_epoch + 1}ba",
    "second epoch": lambda per_epoch: f"{per_epoch + 9}ba",
    "second epoch end": lambda per_epoch: "2ep",
}

# (case, workers): what is tried with several processes, which are slow.
PLAN_OF_SEVERAL = (("mid-epoch", 0), ("mid-epoch", 2), ("last batch", 2), ("epoch end", 0), ("second epoch", 2))


def check_resume(
    run: Callable[[Path, Sequence[Job]], list[Batches]],
    root: Path,
    whole: Batches,
    plan: Iterable[tuple[str, int]],
    processes: int = 1,
) -> None:
    """Assert that runs which are stopped and resumed train on what an uninterrupted one does: as many batches, with
    the same clips and pixels.

    Args:
        run: the adapter's.
        root: a folder for the checkpoints.
        whole: what one uninterrupted process trains on.
        plan: (a name of CASES, workers) of each.
        processes: ranks.
    """
    per_epoch, rest = divmod(len(whole), EPOCHS)
    assert not rest
    stops = [Job(workers, processes, stop=CASES[where](per_epoch)) for where, workers in plan]
    jobs = [job for stop in stops for job in (stop, Job(stop.workers, processes, resume=stop.checkpoint))]
    seen = run(root, jobs)
    if processes > 1:  # ranks share a batch in another order
        seen = [[sorted(batch) for batch in batches] for batches in seen]
        whole = [sorted(batch) for batch in whole]
    for stop, before, after in zip(stops, seen[::2], seen[1::2], strict=True):
        assert stop.stop is not None
        trained = int(stop.stop[:-2]) * (per_epoch if stop.stop.endswith("ep") else 1)
        assert (len(before), len(after)) == (trained, len(whole) - trained), stop
        assert before == whole[:trained], stop
        assert after == whole[trained:], stop


# Jobs of several processes: they get them on the command line, and leave in files what each rank saw.


def to_arguments(folder: Path, root: Path, jobs: Iterable[Job]) -> list[str]:
    """The arguments of a command that runs jobs."""
    return [str(folder), str(root), json.dumps([asdict(job) for job in jobs])]


def from_arguments(folder: str, root: str, jobs: str) -> tuple[Path, Path, list[Job]]:
    """Inverse of ``to_arguments``."""
    return Path(folder), Path(root), [Job(**job) for job in json.loads(jobs)]


def write_rank(root: Path, rank: int, seen: list[Batches]) -> None:
    """Leave what one rank was trained on, job by job."""
    (root / f"rank{rank}.json").write_text(json.dumps(seen))


def read_ranks(root: Path, processes: int = 2) -> list[list[list[list[tuple[Any, ...]]]]]:
    """What the ranks left: [job][batch][rank][sample]."""
    ranks = [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(processes)]
    return [
        [[[tuple(sample) for sample in part] for part in batch] for batch in zip(*job, strict=True)]
        for job in zip(*ranks, strict=True)
    ]


def together(batches: list[list[list[tuple[Any, ...]]]]) -> Batches:
    """Global batches, from the ranks' parts."""
    return [[sample for part in batch for sample in part] for batch in batches]
