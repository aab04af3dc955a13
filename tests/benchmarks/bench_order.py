"""What an epoch's order costs, and how well it mixes, of data sets that are made of numbers alone.

Each order is made in a process of its own, so that the memory that it takes can be read there. Run it as
``python -m tests.benchmarks.bench_order``.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from onetake.core.draw import draw_runs, run_order
from onetake.core.lane_counts import default_lanes
from onetake.core.order import EpochOrder, Lanes, lanes_read, num_batches, worker_batches
from onetake.core.simulate_costs import expected_distinct

SEED = 17
SEGMENTS_PER_VIDEO = 10
LEAD_IN = 125  # frames: keyframes ten seconds apart, at 25 a second
FRAMES_PER_CLIP = 16
MIXED_VIDEOS = 5000
BATCH = 256


@dataclass(frozen=True)
class World:
    """Who reads: ``batch`` samples per rank."""

    nodes: int
    ranks: int
    workers: int
    batch: int = 8

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks

    @property
    def global_batch(self) -> int:
        return self.num_ranks * self.batch


@dataclass(frozen=True)
class Task:
    """An epoch, and what it may cost a node."""

    name: str
    clips: int
    segments: int
    world: World
    shuffle_by: str = "segment"
    aim_seconds: float = 10
    aim_mb: float = 1000


TASKS = [
    Task("1e9 clips, 128 nodes", 10**9, 10**7, World(128, 8, 8)),
    Task("the same, by video", 10**9, 10**7, World(128, 8, 8), "video"),
    Task("1e8 clips, one node", 10**8, 10**6, World(1, 8, 8), aim_mb=3000),
]
QUICK_WORLD = World(4, 2, 2)


def made_index(clips: int, segments: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The clips and the video of each segment: int64 [S] both. Segments are of uneven length, some empty."""
    counts = np.random.default_rng(seed).integers(0, 2 * clips // segments, segments)
    counts[-1] += max(clips - int(counts.sum()), 0)
    return counts, np.arange(segments) // SEGMENTS_PER_VIDEO


def epoch_of(clips: np.ndarray, videos: np.ndarray, shuffle_by: str, lanes: tuple[int, int], kept=None) -> EpochOrder:
    runs = draw_runs(clips, [len(clips)], [int(clips.sum())], SEED, 0)
    order = run_order(videos[runs.segment], True, shuffle_by, SEED, 0)
    return EpochOrder(runs, *lanes, order=order, kept=kept)


def lanes_of(world: World, clips: int) -> tuple[int, int]:
    return default_lanes(world.global_batch, None, LEAD_IN, clips * FRAMES_PER_CLIP)


def reads_of(world: World, lanes: Lanes, rank: int, worker: int, first: int = 0) -> np.ndarray:
    return lanes_read(lanes, first, world.global_batch, rank, world.num_ranks, worker, world.workers)


def one_node(task: Task) -> dict[str, Any]:
    """Make what the workers of a node's ranks read, and their first and last batches."""
    clips, videos = made_index(task.clips, task.segments, SEED)
    at_start, world = peak_mb(), task.world
    started, cpu_started = time.perf_counter(), time.process_time()
    total = int(clips.sum())
    slots, phases = lanes_of(world, total)
    lanes = Lanes(total, slots, phases)
    node = world.nodes // 2
    ranks = range(node * world.ranks, (node + 1) * world.ranks)
    own = {(rank, worker): reads_of(world, lanes, rank, worker) for rank in ranks for worker in range(world.workers)}
    epoch = epoch_of(clips, videos, task.shuffle_by, (slots, phases), np.logical_or.reduce(list(own.values())))
    made = time.perf_counter()
    size = world.global_batch
    for (rank, worker), kept in own.items():
        part = epoch.of(kept)
        numbers = worker_batches(num_batches(total, size, False), worker, world.workers)
        for number in (numbers[0], numbers[-1]):
            batch = part.samples(number * size, (number + 1) * size, rank, world.num_ranks)
            assert len(batch.clip_id) == world.batch
    return {
        "clips": total,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "seconds_before_batches": made - started,
        "peak_mb": peak_mb(),
        "peak_mb_of_the_index": at_start,
        "segments_kept": epoch.num_runs / len(clips),
        "lanes": lanes.count,
    }


def late_resume(task: Task, rounds: int) -> dict[str, Any]:
    """The order and the first batch of a worker, of an epoch that starts, and of one that goes on near its end."""
    clips, videos = made_index(task.clips, task.segments, SEED)
    world, total = task.world, int(clips.sum())
    lanes = Lanes(total, *lanes_of(world, total))
    size = world.global_batch

    def first_batch(first: int) -> None:
        kept = reads_of(world, lanes, 0, 0, first)
        epoch = epoch_of(clips, videos, task.shuffle_by, (lanes.slots, lanes.phases), kept)
        epoch.samples(first, first + size, 0, world.num_ranks)

    points = {"seconds_at_start": 0, "seconds_late": int(total * 0.95)}
    found: dict[str, list[float]] = {name: [] for name in points}
    for _ in range(rounds):
        for name, first in points.items():
            started = time.perf_counter()
            first_batch(first)
            found[name].append(time.perf_counter() - started)
    return {name: min(took) for name, took in found.items()}


def mixing(videos: int, batch: int, shuffle_by: str) -> dict[str, Any]:
    """Different videos per global batch at default lanes, against a perfect shuffle's; of videos of uneven length."""
    segments = np.random.default_rng(SEED).integers(1, 2 * SEGMENTS_PER_VIDEO, videos)
    of_video = np.repeat(np.arange(videos), segments)
    clips = np.random.default_rng(SEED).integers(1, 20, len(of_video))
    total = int(clips.sum())
    lanes = default_lanes(batch, None, LEAD_IN, total * FRAMES_PER_CLIP)
    epoch = epoch_of(clips, of_video, shuffle_by, lanes)
    stops, found = np.cumsum(clips), []
    for start in range(0, total // batch * batch, batch):
        shown = epoch.samples(start, start + batch).clip_id
        found.append(len(np.unique(of_video[np.searchsorted(stops, shown, side="right")])))
    perfect = expected_distinct(np.bincount(of_video, clips).astype(np.int64), batch)
    return {"distinct": float(np.mean(found)), "perfect": perfect, "share": float(np.mean(found)) / perfect}


def peak_mb() -> float:
    """The most memory that this process has taken."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


def alone(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``run`` finds in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run)


@click.command()
@click.option("--quick", is_flag=True, help="A thousandth of each: shows that it runs, not what it costs.")
@click.option("--rounds", default=3, show_default=True, help="How often a resume is timed.")
@click.option("--out", default="build/bench", show_default=True, type=click.Path(), help="Where order.json goes.")
def main(quick: bool, rounds: int, out: str) -> None:
    """Measure how long orders take, in how much memory, and how well they mix."""
    shrink = 1000 if quick else 1
    tasks = [
        Task(t.name, t.clips // shrink, t.segments // shrink, QUICK_WORLD if quick else t.world, t.shuffle_by,
             t.aim_seconds, t.aim_mb)
        for t in TASKS
    ]  # fmt: skip
    results: dict[str, Any] = {"quick": quick, "epochs": [], "mixing": []}
    cost = Table(title="A node's epoch: draw, shuffle, lanes, first and last batches of its workers")
    for column in ("", "seconds", "of CPU", "aim", "MB at most", "aim", "of these, index", "segments kept"):
        cost.add_column(column, justify="right")
    for task in tasks:
        row = alone(partial(one_node, task))
        results["epochs"].append({"task": asdict(task), **row})
        cost.add_row(
            task.name, f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{task.aim_seconds:.0f}",
            f"{row['peak_mb']:.0f}", f"{task.aim_mb:.0f}", f"{row['peak_mb_of_the_index']:.0f}",
            f"{row['segments_kept']:.2%}",
        )  # fmt: skip
    late = results["resume"] = alone(partial(late_resume, tasks[-1], 1 if quick else rounds))
    resumed = Table(title="A worker's order and first batch, in seconds")
    resumed.add_column("epoch starts", justify="right")
    resumed.add_column("goes on at 95%", justify="right")
    resumed.add_row(f"{late['seconds_at_start']:.2f}", f"{late['seconds_late']:.2f}")
    mixed = Table(title=f"Different videos in a batch of {BATCH}, of {MIXED_VIDEOS // (10 if quick else 1)} videos")
    for column in ("shuffle_by", "ours", "perfect shuffle", "share"):
        mixed.add_column(column, justify="right")
    for shuffle_by in ("segment", "video"):
        row = mixing(MIXED_VIDEOS // (10 if quick else 1), BATCH, shuffle_by)
        results["mixing"].append({"shuffle_by": shuffle_by, **row})
        mixed.add_row(shuffle_by, f"{row['distinct']:.1f}", f"{row['perfect']:.1f}", f"{row['share']:.3f}")
    for table in (cost, resumed, mixed):
        Console(width=120).print(table)
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "order.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
