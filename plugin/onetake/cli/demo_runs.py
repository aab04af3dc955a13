"""The demo's training runs, each in a process of its own: one to its end, one killed, one resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onetake.cli.demo_report import Place, Run, contact_sheet, loss_curve, read_events, read_run, wanted_spans
from onetake.cli.demo_settings import RunSettings
from onetake.core.clips import ClipSpec
from onetake.core.errors import OnetakeError
from onetake.stream.checkpoints import read_checkpoint

EPOCHS = 3
CHECKPOINT_EVERY = 40
KILL_AFTER = 10  # steps behind a checkpoint
COMPOSER_STEPS = 120


def train_with_lightning(out: Path, bars: Any) -> tuple[dict[str, Any], Run]:
    """Run to the end; run and be killed; resume. Returns the summary, and the run that nothing interrupted."""

    def settings(name: str, **more: Any) -> RunSettings:
        return RunSettings(str(out / "videos"), str(out / name), EPOCHS, **more)

    def run(given: RunSettings, title: str, steps: int | None = None, kill_step: int | None = None) -> Run:
        return _run(["onetake.cli.demo_train", str(given.save())], given, bars, f"Lightning, {title}", steps, kill_step)

    plain = settings("uninterrupted")
    straight = run(plain, "uninterrupted")
    total = len(straight.batches)
    # In the second epoch's middle, and some steps behind the checkpoint.
    kill_step = total // 2 // CHECKPOINT_EVERY * CHECKPOINT_EVERY + KILL_AFTER
    doomed = settings("killed", checkpoint_every=CHECKPOINT_EVERY)
    killed = run(doomed, "killed in a video", total, kill_step)
    checkpoint = max(Path(doomed.folder, "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    step = read_checkpoint(str(checkpoint))["optimizer_steps"]
    resumed = run(settings("resumed", resume_from=str(checkpoint)), "resumed", total - step)

    pictures = {"contact_sheet": out / "contact_sheet.png", "loss_curve": out / "loss_curve.png"}
    contact_sheet(Path(plain.folder, "batch.npz"), pictures["contact_sheet"])
    loss_curve(straight, killed, resumed, step, pictures["loss_curve"])
    spec = ClipSpec(plain.num_frames, plain.stride)
    stats, seconds = straight.end["stats"], straight.end["seconds"]
    runs, spanned = wanted_spans(straight, spec.extent, spec.hop_frames)
    summary = {
        **_compare(straight, killed, resumed, checkpoint, step, total),
        "losses_bit_identical": _equal(straight, resumed, "loss", range(step + 1, total + 1)),
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
    return summary, straight


def train_with_composer(out: Path, bars: Any, straight: Run) -> dict[str, Any]:
    """Train as a recipe says, be killed, and run the same recipe again, which goes on by itself. Returns the summary.

    Args:
        out: the demo's folder.
        bars: progress bars.
        straight: Lightning's uninterrupted run, which has the same clips.
    """
    from onetake.cli.demo_composer import write_recipe

    checkpoints = out / "composer" / "checkpoints"

    def run(name: str, steps: int, kill_step: int | None = None) -> Run:
        given = RunSettings(
            str(out / "videos"), str(out / "composer" / name), EPOCHS, checkpoint_every=CHECKPOINT_EVERY
        )
        recipe = write_recipe(given, COMPOSER_STEPS, checkpoints)
        return _run(["onetake.composer.train", str(recipe)], given, bars, f"Composer, {name}", steps, kill_step)

    killed = run("killed", COMPOSER_STEPS, CHECKPOINT_EVERY + KILL_AFTER)
    checkpoint = checkpoints / "latest-rank0.pt"
    step = read_checkpoint(str(checkpoint))["batches"]
    checkpoint = checkpoint.resolve()  # the link moves on with the next run
    resumed = run("resumed", COMPOSER_STEPS - step)
    return _compare(straight, killed, resumed, checkpoint, step, COMPOSER_STEPS)


def _compare(straight: Run, killed: Run, resumed: Run, checkpoint: Path, step: int, total: int) -> dict[str, Any]:
    """Where the lanes stood when the run was killed, by its checkpoint after ``step`` steps, and when it went on."""
    (state,) = read_checkpoint(str(checkpoint))["states"]
    cursors: list[Place | None] = [at and (at["video_id"], at["frame"]) for at in state["cursors"]]
    went_on, should = resumed.lanes_at(step), straight.lanes_at(step)
    last = killed.lanes_at(max(killed.batches) - straight.start["phases"])
    after = range(step + 1, total + 1)
    return {
        "lanes": [
            {
                "lane": lane,
                "killed_at": list(k),
                "checkpoint": c and list(c),
                "resumed": list(r),
                "uninterrupted": list(u),
            }
            for lane, (k, c, r, u) in enumerate(zip(last, cursors, went_on, should, strict=True))
        ],
        "killed_after_step": max(killed.batches),
        "resumed_after_step": step,
        "steps": total,
        "went_on_where_the_checkpoint_says": cursors == went_on == should,
        "steps_compared": len(after),
        "clip_ids_equal": _equal(straight, resumed, "clips", after),
    }


def _equal(straight: Run, resumed: Run, what: str, steps: range) -> bool:
    """Whether ``resumed`` trained exactly ``steps``, with the same as ``straight`` in each."""
    return list(resumed.batches) == list(steps) and all(
        resumed.batches[step][what] == straight.batches[step][what] for step in steps
    )


def _run(
    module: Sequence[str], settings: RunSettings, bars: Any, title: str, steps: int | None, kill_step: int | None
) -> Run:
    """Train in a process of its own, ``python -m`` with the words of ``module``; with ``kill_step``, kill it once it
    has trained that step. Returns its diary."""
    task = bars.add_task(title, total=steps)
    log_path = Path(settings.folder, "log.txt")
    with log_path.open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", *module], stdout=log, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            time.sleep(0.05)
            events = read_events(settings.diary)
            if events and steps is None:
                steps = settings.max_epochs * events[0]["batches"]
                bars.update(task, total=steps)
            trained = [event["step"] for event in events if event["event"] == "batch"]
            bars.update(task, completed=len(trained))
            if kill_step is not None and trained and trained[-1] >= kill_step:
                process.send_signal(signal.SIGKILL)
                process.wait()
                bars.stop_task(task)
                return read_run(settings.diary)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        tail = "\n".join(log_path.read_text().splitlines()[-15:])
        raise OnetakeError(f"{title}: the run ended with status {process.returncode}; its last words:\n{tail}")
    if kill_step is not None:
        raise OnetakeError(f"{title}: the run ended before step {kill_step}")
    bars.update(task, completed=steps)
    return read_run(settings.diary)
