"""``onetake demo``: generated videos, an index, a training run that is killed inside a video, and its resumption."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from onetake.core.errors import OnetakeError
from onetake.core.names import require

VIDEO_SECONDS = 96
SCENE_SECONDS = (2.0, 12.0)  # a new scene starts with a keyframe: the longest scenes reach the 250 frames between two
SIZE = (128, 96)
GROUPS = {"train": (0, 1), "val": (2,)}  # seeds: a group's four videos look the same, and drift four ways
MARKER = ".onetake-demo"


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/demo"),
    show_default=True,
    help="Folder for the videos, the runs and the pictures; a demo's before it is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def demo_command(out: Path, as_json: bool) -> None:
    """Show the whole path on generated videos, in about three minutes.

    Makes and indexes twelve videos of shapes that drift left, right, up or down; trains a small network with
    Lightning to tell which way; kills the training process in the middle of a video, resumes it, and compares it
    with a run that nothing interrupted. Then it does the same, shorter, with MosaicML Composer and a recipe: the clips
    are those of the Lightning run.
    """
    for package, extra in (("lightning", "lightning"), ("composer", "composer"), ("matplotlib", "plot")):
        require(package, extra, "the demo")
    from rich.console import Console

    from onetake.cli.demo_runs import train_with_composer, train_with_lightning

    console = Console(stderr=as_json)
    started = time.monotonic()
    _clear(out)
    with _progress(console) as bars:
        _make_videos(out / "videos", bars)
        _index(out / "videos", bars)
        summary, uninterrupted = train_with_lightning(out, bars)
        composer = train_with_composer(out, bars, uninterrupted)
    summary["composer"] = composer
    summary["total_seconds"] = round(time.monotonic() - started, 1)
    _print(console, summary)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    if not all(leg["clip_ids_equal"] and leg["went_on_where_the_checkpoint_says"] for leg in (summary, composer)):
        raise OnetakeError("the resumed run did not see what the uninterrupted one saw")
    if summary["held_out_accuracy"] < 0.5:
        raise OnetakeError(f"held-out accuracy {summary['held_out_accuracy']:.0%} does not clearly beat chance, 25%")


def _clear(out: Path) -> None:
    """An empty folder. Only a folder that an earlier demo made is emptied."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            raise OnetakeError(f"--out {out} holds files that are not the demo's: name a new or empty folder")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


@contextmanager
def _progress(console: Any) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bars:
        yield bars


def _make_videos(folder: Path, bars: Any) -> None:
    from onetake.decode.synthetic import DIRECTIONS, write_drift_video

    jobs = [(split, seed, way) for split, seeds in GROUPS.items() for seed in seeds for way in DIRECTIONS]
    task = bars.add_task("making videos", total=len(jobs))
    for split, _, way in jobs:
        (folder / split / way).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4), mp_context=get_context("spawn")) as pool:
        futures = [
            pool.submit(
                write_drift_video,
                folder / split / way / f"{seed}.mp4",
                way,
                seconds=VIDEO_SECONDS,
                scene_seconds=SCENE_SECONDS,
                size=SIZE,
                seed=seed,
            )
            for split, seed, way in jobs
        ]
        for future in as_completed(futures):
            future.result()
            bars.advance(task)


def _index(folder: Path, bars: Any) -> None:
    from onetake.decode.build import index_videos

    task = bars.add_task("indexing", total=sum(4 * len(seeds) for seeds in GROUPS.values()))
    for split in GROUPS:
        index_videos(folder / split, progress=lambda *_: bars.advance(task))


def _print(console: Any, summary: dict[str, Any]) -> None:
    from rich.table import Table

    _print_lanes(console, "Lightning", summary, summary["losses_bit_identical"])
    _print_lanes(console, "Composer", summary["composer"], None)
    table = Table(title="summary", show_header=False)
    rows = {
        "accuracy on held-out videos": f"{summary['held_out_accuracy']:.1%} (chance 25%)",
        "clips a second": f"{summary['clips_per_second']}",
        "decode waste": f"{summary['frames_decoded']:,} frames decoded for {summary['frames_in_wanted_spans']:,} in "
        f"the wanted spans: {summary['decoded_per_frame_in_span']} a frame (with those that need not be decoded, "
        f"{summary['packets_per_frame_in_span']})",
        "decoders": f"{summary['decoders_opened']} opened, {summary['jumps']} jumps, for {summary['stretches_read']} "
        "stretches of video",
        "stalls": f"{summary['stall_seconds']} s, {summary['stall_share']:.1%} of the training time; the longest "
        f"{summary['longest_stall_seconds']} s",
        "one batch": summary["contact_sheet"],
        "loss curve": summary["loss_curve"],
        "time": f"{summary['total_seconds']} s",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table)


def _print_lanes(console: Any, framework: str, leg: dict[str, Any], losses_equal: bool | None) -> None:
    from rich.table import Table

    title = (
        f"{framework}: SIGKILL after step {leg['killed_after_step']}, resumed from the checkpoint at step "
        f"{leg['resumed_after_step']} of {leg['steps']}"
    )
    table = Table("lane", "video", "frame, killed", "checkpoint", "resumed", "uninterrupted", title=title)
    for row in leg["lanes"]:
        places = [row[name] for name in ("killed_at", "checkpoint", "resumed", "uninterrupted")]
        videos = {video for video, _ in places}
        video = places[1][0]
        cells = [str(frame) if len(videos) == 1 or place == video else f"{place} {frame}" for place, frame in places]
        table.add_row(str(row["lane"]), video, *cells)
    yes = {True: "yes", False: "NO"}
    table.caption = (
        f"the clip IDs of the {leg['steps_compared']} steps after it equal the uninterrupted Lightning run's: "
        f"{yes[leg['clip_ids_equal']]}"
    )
    if losses_equal is not None:
        table.caption += f"; the losses, bit for bit: {yes[losses_equal]}"
    console.print(table)
