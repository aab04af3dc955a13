"""What the demo's runs have shown, from their diaries: numbers, a contact sheet and a loss curve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onetake.cli.contact_sheet import SheetRow, draw_sheet
from onetake.decode.synthetic import DIRECTIONS

_ENLARGED = 2  # times that pictures are drawn, which are small

Event = dict[str, Any]
Place = tuple[str, int]  # (video ID, frame)


@dataclass(frozen=True, slots=True)
class Run:
    """A run's diary.

    Attributes:
        start: its ``start`` event.
        batches: its ``batch`` events by optimizer step.
        validations: its ``validation`` events.
        end: its ``end`` event; empty if it was killed.
    """

    start: Event
    batches: dict[int, Event]
    validations: tuple[Event, ...]
    end: Event

    def lanes_at(self, step: int) -> list[Place]:
        """Per lane, the next place that is trained on after ``step`` steps."""
        slots, phases = self.start["slots"], self.start["phases"]
        places: list[Place] = [("", -1)] * (slots * phases)
        for turn in range(phases):
            phase = (step % self.start["batches"] + turn) % phases
            for slot, (video, frame) in enumerate(self.batches[step + 1 + turn]["at"]):
                places[slot * phases + phase] = (video, frame)
        return places


def read_events(path: Path) -> list[Event]:
    """The events that a diary holds by now; a line that is not written to its end is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_run(path: Path) -> Run:
    """The diary in ``path``."""
    events = read_events(path)

    def named(name: str) -> list[Event]:
        return [event for event in events if event["event"] == name]

    batches = {event["step"]: event for event in named("batch")}
    return Run(named("start")[0], batches, tuple(named("validation")), (named("end") or [{}])[0])


def wanted_spans(run: Run, extent: int, hop: int) -> tuple[int, int]:
    """(stretches of video that its lanes have read front to back, frames from their first to their last)."""
    runs = frames = 0
    last: dict[tuple[int, int, int], Place] = {}
    for step, event in sorted(run.batches.items()):
        phase = (step - 1) % run.start["batches"] % run.start["phases"]
        for slot, (video, frame) in enumerate(event["at"]):
            lane = (event["epoch"], phase, slot)
            goes_on = last.get(lane) == (video, frame - hop)
            last[lane] = (video, frame)
            runs += not goes_on
            frames += hop if goes_on else extent
    return runs, frames


def contact_sheet(batch: Path, out: Path) -> None:
    """One batch as a PNG: a row per clip, its frames from left to right.

    Args:
        batch: a file with "video", float [B, T, C, H, W] in 0..1, and "label" [B].
        out: the picture.
    """
    with np.load(batch) as data:
        pictures = (data["video"] * 255).round().astype(np.uint8).transpose(0, 1, 3, 4, 2)
        videos = pictures.repeat(_ENLARGED, 2).repeat(_ENLARGED, 3)
        rows = [SheetRow(str(label), video) for video, label in zip(videos, data["label"], strict=True)]
    draw_sheet("One batch: a clip in each row, from a different place of the videos", rows, out)


def loss_curve(straight: Run, killed: Run, resumed: Run, checkpoint_step: int, out: Path) -> None:
    """Loss and held-out accuracy of the three runs, as a PNG."""
    plt = _pyplot()
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 7), sharex=True)
    drawn = [(straight, "uninterrupted", "0.6", 4.0), (killed, "killed", "tab:red", 1.5)]
    for run, name, colour, width in [*drawn, (resumed, "resumed", "tab:blue", 1.5)]:
        steps = sorted(run.batches)
        before = [killed.batches[step]["loss"] for step in range(1, steps[0])]  # so that it is smoothed alike
        losses = _smooth([*before, *(run.batches[step]["loss"] for step in steps)])
        upper.plot(steps, losses[len(before) :], label=name, color=colour, linewidth=width)
        points = [(event["step"], event["accuracy"]) for event in run.validations]
        if points:
            lower.plot(*zip(*points, strict=True), "o-", label=name, color=colour, linewidth=width)
    upper.axvline(checkpoint_step, color="black", linestyle=":", label="checkpoint")
    lower.axhline(1 / len(DIRECTIONS), color="black", linestyle="--", label="chance")
    upper.set(ylabel="training loss (smoothed)", ylim=(0, None))
    lower.set(ylabel="accuracy on held-out videos", xlabel="optimizer step", ylim=(0, 1.02))
    for axis in (upper, lower):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def _smooth(values: Sequence[float], decay: float = 0.85) -> list[float]:
    """A running mean that starts at the first value."""
    smooth = [values[0]] if values else []
    for value in values[1:]:
        smooth.append(decay * smooth[-1] + (1 - decay) * value)
    return smooth


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    return plt
