"""``onetake demo``: generated videos, an index, a training run that is killed inside a video, and its resumption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from onetake.core.errors import OnetakeError

VIDEO_SECONDS = 96
SCENE_SECONDS = (2.0, 12.0)  # a new scene starts with a keyframe: the longest scenes reach the 250 frames between two
SIZE = (128, 96)
GROUPS = {"train": (0, 1), "val": (2,)}  # seeds: a group's four videos look the same, and drift four ways
EPOCHS = 3
CHECKPOINT_EVERY = 40
KILL_AFTER = 10  # steps behind a checkpoint
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
    """Show the whole path on generated videos, in a minute or two.

    Makes and indexes twelve videos of shapes that drift left, right, up or down; trains a small network with
    Lightning to tell which way; kills the training process in the middle of a video, resumes it, and compares it
    with a run that nothing interrupted.
    """
    for package in ("lightning", "matplotlib"):
        if find_spec(package) is None:
            raise OnetakeError(f"the demo needs {package}: pip install 'onetake[lightning,plot]'")
    from rich.console import Console

    console = Console(stderr=as_json)
    started = time.monotonic()
    _clear(out)
    with _progress(console) as bars:
        _make_videos(out / "videos", bars)
        _index(out / "videos", bars)
        summary = _train(out, bars)
    summary["total_seconds"] = round(time.monotonic() - started, 1)
    lanes = summary.pop("lanes")
    _print(console, lanes, summary)
    if as_json:
        click.echo(json.dumps({**summary, "lanes": lanes}, indent=2))
    if not (summary["clip_ids_equal"] and summary["went_on_where_the_checkpoint_says"]):
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
    for split in GROUPS:
        (folder / split).mkdir(parents=True)
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4), mp_context=get_context("spawn")) as pool:
        futures = [
            pool.submit(
                write_drift_video,
                folder / split / f"{way}-{seed}.mp4",
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


def _train(out: Path, bars: Any) -> dict[str, Any]:
    """Run to the end; run and be killed; resume. Returns the summary."""
    from onetake.cli.demo_report import contact_sheet, loss_curve, read_run, wanted_spans
    from onetake.cli.demo_settings import RunSettings
    from onetake.core.clips import ClipSpec

    def settings(name: str, **more: Any) -> RunSettings:
        return RunSettings(str(out / "videos"), str(out / name), EPOCHS, **more)

    plain = settings("uninterrupted")
    _run(plain, bars, "training, uninterrupted")
    straight = read_run(plain.diary)
    total = len(straight.batches)
    # In the second epoch's middle, and some steps behind the checkpoint.
    kill_step = total // 2 // CHECKPOINT_EVERY * CHECKPOINT_EVERY + KILL_AFTER
    doomed = settings("killed", checkpoint_every=CHECKPOINT_EVERY)
    _run(doomed, bars, "training, killed in a video", total, kill_step)
    killed = read_run(doomed.diary)
    checkpoint = max(Path(doomed.folder, "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    step, cursors = _read_checkpoint(checkpoint)
    again = settings("resumed", resume_from=str(checkpoint))
    _run(again, bars, "training, resumed", total - step)
    resumed = read_run(again.diary)

    pictures = {"contact_sheet": out / "contact_sheet.png", "loss_curve": out / "loss_curve.png"}
    contact_sheet(Path(plain.folder, "batch.npz"), pictures["contact_sheet"])
    loss_curve(straight, killed, resumed, step, pictures["loss_curve"])

    spec = ClipSpec(plain.num_frames, plain.stride)
    reached, went_on, should = killed.batches, resumed.lanes_at(step), straight.lanes_at(step)
    last = killed.lanes_at(max(reached) - straight.start["phases"])
    stats, seconds = straight.end["stats"], straight.end["seconds"]
    runs, spanned = wanted_spans(straight, spec.extent, spec.hop_frames)
    after = range(step + 1, total + 1)

    def equal(what: str) -> bool:
        return all(resumed.batches[s][what] == straight.batches[s][what] for s in after if s in resumed.batches) and (
            list(resumed.batches) == list(after)
        )

    return {
        "lanes": [
            {"lane": lane, "killed_at": list(k), "checkpoint": list(c), "resumed": list(r), "uninterrupted": list(u)}
            for lane, (k, c, r, u) in enumerate(zip(last, cursors, went_on, should, strict=True))
        ],
        "killed_after_step": max(reached),
        "resumed_after_step": step,
        "steps": total,
        "went_on_where_the_checkpoint_says": cursors == went_on == should,
        "steps_compared": len(after),
        "clip_ids_equal": equal("clips"),
        "losses_bit_identical": equal("loss"),
        "held_out_accuracy": resumed.validations[-1]["accuracy"],
        "chance": 0.25,
        "clips_per_second": round(stats["clips_delivered"] / seconds, 1),
        "frames_decoded": stats["frames_decoded"],
        "frames_in_wanted_spans": spanned,
        "decoded_per_frame_in_span": round(stats["frames_decoded"] / spanned, 3),
        "packets_per_frame_in_span": round(stats["packets_fed"] / spanned, 3),
        "stretches_read": runs,
        "decoders_opened": stats["opens"],
        "jumps": stats["seeks"],
        "stall_seconds": round(stats["wait_seconds"], 2),
        "stall_share": round(stats["wait_seconds"] / seconds, 4),
        "longest_stall_seconds": round(stats["longest_wait_seconds"], 3),
        **{name: str(path) for name, path in pictures.items()},
    }


def _read_checkpoint(path: Path) -> tuple[int, list[tuple[str, int] | None]]:
    """(optimizer steps done, position of each lane) as the checkpoint has them."""
    import torch

    from onetake.core.state import unpack_cursors

    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["VideoDataModule"]["train"]
    return checkpoint["global_step"], unpack_cursors(state["onetake"]["cursors"])


def _run(settings: Any, bars: Any, title: str, total: int | None = None, kill_step: int | None = None) -> None:
    """Train in a process of its own; with ``kill_step``, kill it once it has trained that many steps."""
    from onetake.cli.demo_report import read_events

    task = bars.add_task(title, total=total)
    path = settings.save()
    with (path.parent / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "onetake.cli.demo_train", str(path)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            time.sleep(0.05)
            events = read_events(settings.diary)
            if events and total is None:
                total = settings.max_epochs * events[0]["batches"]
                bars.update(task, total=total)
            steps = [event["step"] for event in events if event["event"] == "batch"]
            bars.update(task, completed=len(steps))
            if kill_step is not None and steps and steps[-1] >= kill_step:
                process.send_signal(signal.SIGKILL)
                process.wait()
                bars.stop_task(task)
                return
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        tail = "\n".join((path.parent / "log.txt").read_text().splitlines()[-15:])
        raise OnetakeError(f"{title}: the run ended with status {process.returncode}; its last words:\n{tail}")
    if kill_step is not None:
        raise OnetakeError(f"{title}: the run ended before step {kill_step}")
    bars.update(task, completed=total)


def _print(console: Any, lanes: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    from rich.table import Table

    title = (
        f"SIGKILL after step {summary['killed_after_step']}, resumed from the checkpoint at step "
        f"{summary['resumed_after_step']} of {summary['steps']}"
    )
    table = Table("lane", "video", "frame, killed", "checkpoint", "resumed", "uninterrupted", title=title)
    for row in lanes:
        places = [row[name] for name in ("killed_at", "checkpoint", "resumed", "uninterrupted")]
        videos = {video for video, _ in places}
        video = places[1][0]
        cells = [str(frame) if len(videos) == 1 or place == video else f"{place} {frame}" for place, frame in places]
        table.add_row(str(row["lane"]), video, *cells)
    yes = {True: "yes", False: "NO"}
    table.caption = (
        f"the clip IDs of the {summary['steps_compared']} steps after it equal the uninterrupted run's: "
        f"{yes[summary['clip_ids_equal']]}; the losses, bit for bit: {yes[summary['losses_bit_identical']]}"
    )
    console.print(table)
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
