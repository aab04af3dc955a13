"""Worlds of real processes: two ranks over gloo, with workers, see what one rank sees, and go on where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onetake.core.errors import CacheError
from onetake.storage.local import LocalStorage
from tests.helpers import make_loader, record

GLOBAL_BATCH = 4
RANKS = 2


@dataclass(frozen=True)
class Job:
    """A run of one epoch, or a part of it.

    Attributes:
        workers: per rank.
        global_batch: samples per step.
        resume: the state to go on from, a file in the run's folder; None: the beginning.
        batches: stop after so many; None: at the epoch's end.
        save: where to leave the state then.
        replication: ranks that are given the same.
    """

    workers: int
    global_batch: int = GLOBAL_BATCH
    resume: str | None = None
    batches: int | None = None
    save: str | None = None
    replication: int | None = None


def run_job(folder: Path, root: Path, job: Job, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """What a rank is given, batch by batch, and its counters."""
    size = job.global_batch * (job.replication or 1) // ranks
    loader = make_loader(folder, job.workers, batch_size=size, replication=job.replication)
    if job.resume:
        loader.load_state_dict(json.loads((root / job.resume).read_text()))
    running = iter(loader)
    seen = [record(batch) for batch in islice(running, job.batches)]
    if job.save and rank == 0:
        (root / job.save).write_text(json.dumps(loader.state_dict()))
    running.close()
    return {"batches": seen, "opens": loader.stats()["opens"], "lanes": loader.dataset.lanes}


def run_ranks(folder: Path, root: Path, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What two ranks are given, as one: per job, sorted global batches, and sums of counters."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={RANKS}", "--standalone"]
    arguments = [str(folder), str(root), json.dumps([asdict(job) for job in jobs])]
    subprocess.run(
        [sys.executable, *launcher, "-m", "tests.stream.test_worlds", *arguments],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        check=True,
        timeout=280,
    )
    ranks = [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(RANKS)]
    return [
        {
            "batches": [together(parts) for parts in zip(*(part["batches"] for part in parts), strict=True)],
            "ranks": [[together([batch]) for batch in part["batches"]] for part in parts],
            "parts": [[len(batch) for batch in part["batches"]] for part in parts],
            "opens": sum(part["opens"] for part in parts),
        }
        for parts in zip(*ranks, strict=True)
    ]


def together(parts: Sequence[list[Any]]) -> list[tuple[Any, ...]]:
    """A global batch of the ranks' parts, sorted."""
    return sorted(tuple(sample) for part in parts for sample in part)


@pytest.fixture(scope="module")
def epoch(numbered) -> list[list[tuple[Any, ...]]]:
    """Global batches of one process."""
    return [together([batch]) for batch in run_job(numbered, numbered, Job(0))["batches"]]


@pytest.mark.filterwarnings("ignore:global batch")
@pytest.mark.parametrize("workers", [1, 3, 4])
def test_workers_of_one_rank_give_the_same_batches(numbered, epoch, workers):
    seen = run_job(numbered, numbered, Job(workers))["batches"]
    assert [together([batch]) for batch in seen] == epoch


@pytest.fixture(scope="module")
def two_ranks(numbered, tmp_path_factory):
    """A whole epoch of two ranks with two workers, one that they leave, and one that replicas leave; its folder."""
    root = tmp_path_factory.mktemp("two")
    left = [Job(2, batches=5, save="first.json"), Job(1, batches=5, save="replicated.json", replication=2)]
    return root, run_ranks(numbered, root, [Job(2), *left])


def test_two_ranks_with_workers_give_the_same_batches(epoch, two_ranks):
    _, (whole, left, _) = two_ranks
    assert whole["batches"] == epoch
    assert left["batches"] == epoch[:5]
    for part in whole["parts"]:  # what is left out are pads
        assert part[:-1] == [GLOBAL_BATCH // RANKS] * (len(epoch) - 1)


def test_replicas_are_given_the_same_and_stand_where_one_rank_would(numbered, epoch, two_ranks):
    root, (_, _, replicated) = two_ranks
    assert replicated["ranks"] == [epoch[:5], epoch[:5]]
    first, second = (json.loads((root / name).read_text()) for name in ("first.json", "replicated.json"))
    assert first["onetake"] == second["onetake"]
    assert first["sample_in_epoch"] == second["sample_in_epoch"] == 5 * GLOBAL_BATCH


def test_worlds_change_in_mid_video_twice_in_a_row(numbered, epoch, two_ranks):
    """2 ranks x 2 workers, then 1 rank x 3 workers with another batch size, and back."""
    root, _ = two_ranks
    flat = [sample for batch in epoch for sample in batch]
    first = json.loads((root / "first.json").read_text())
    assert any(frame > 0 for _, frame in first["onetake"]["cursors"]["lanes"])  # lanes stand inside their videos
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = run_job(numbered, root, Job(3, 6, "first.json", 3, "second.json"))["batches"]
    order = make_loader(numbered).dataset.epoch_order(0)
    by_clip = {sample[0]: sample for sample in flat}
    for number, batch in enumerate(alone):
        at = 5 * GLOBAL_BATCH + 6 * number
        assert together([batch]) == sorted(by_clip[clip] for clip in order.samples(at, at + 6).clip_id.tolist())
    (rest,) = run_ranks(numbered, root, [Job(2, resume="second.json")])
    at = 5 * GLOBAL_BATCH + 6 * 3
    delivered = [sample for batch in rest["batches"] for sample in batch]
    assert sorted(delivered) == sorted(by_clip[clip] for clip in order.samples(at, len(flat)).clip_id.tolist())
    for number, batch in enumerate(rest["batches"][:-1]):
        wanted = order.samples(at + GLOBAL_BATCH * number, at + GLOBAL_BATCH * (number + 1)).clip_id.tolist()
        assert [sample[0] for sample in batch] == sorted(wanted)


def runs_read(dataset: Any, samples: int) -> set[tuple[int, int]]:
    """(lane, segment) of each stretch that lanes read in an epoch's first samples."""
    batch = dataset.epoch_order(0).samples(0, samples)
    segments = np.searchsorted(np.cumsum(dataset.samples_per_shard), batch.clip_id, side="right")
    return set(zip(batch.lane.tolist(), segments.tolist(), strict=True))


def test_ranks_and_workers_open_what_lanes_read_and_nothing_twice(numbered, two_ranks):
    _, (_, left, _) = two_ranks
    dataset = make_loader(numbered).dataset
    runs = len(runs_read(dataset, 5 * GLOBAL_BATCH))
    assert left["opens"] >= runs  # workers are some batches in front
    _, (whole, _, _) = two_ranks
    pads = -dataset.num_clips % GLOBAL_BATCH
    every = len(runs_read(dataset, dataset.num_clips))
    assert every <= whole["opens"] <= every + pads


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Which segments' bytes leave the remote, of all processes: a name for each fetch."""
    log = tmp_path / "fetched"
    log.touch()
    copy = LocalStorage.copy

    def noting(self, file, start, length, target, *others):
        if ".bytes" in target.name:
            with log.open("a") as lines:
                lines.write(target.name.split(".bytes")[0] + "\n")
        return copy(self, file, start, length, target, *others)

    monkeypatch.setattr(LocalStorage, "copy", noting)
    return lambda: log.read_text().splitlines()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_segment_leaves_the_remote_once(numbered, tmp_path, fetched, workers):
    loader = make_loader(numbered, workers, remote=numbered, local=tmp_path / "cache")
    for _ in loader:
        pass
    assert len(fetched()) == len(set(fetched())) == len(loader.dataset.shards)
    for _ in loader:
        pass
    assert len(fetched()) == len(loader.dataset.shards)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_the_smallest_cache_a_segment_leaves_it_once_more_per_cut(numbered, tmp_path, fetched, workers):
    place = {"remote": numbered, "local": tmp_path / "cache", "predownload": 4}
    with pytest.raises(CacheError) as refusal:
        make_loader(numbered, workers, cache_limit=1, **place)
    smallest = int(str(refusal.value).split("with the index ")[1].split()[0].replace(",", ""))
    loader = make_loader(numbered, workers, cache_limit=smallest, **place)
    for _ in loader:
        pass
    dataset = loader.dataset
    runs = runs_read(dataset, dataset.num_clips)
    assert len(dataset.shards) <= len(fetched()) <= len(runs)
    assert len(runs) <= len(dataset.shards) + 8 - 1


def main() -> None:
    """Run jobs as a rank that torch's launcher started."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    folder, root = Path(sys.argv[1]), Path(sys.argv[2])
    seen = [run_job(folder, root, Job(**job), rank, ranks) for job in json.loads(sys.argv[3])]
    (root / f"rank{rank}.json").write_text(json.dumps(seen))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
