"""CPU per clip, side by side: onetake in lane order, a bare PyAV loop, torchcodec, decord, and seeking.

Contenders take turns, and each is compared with the bare loop of its own round, so that other load on the machine
falls on all alike. Run it as ``python -m tests.benchmarks.bench_decode``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes in, with torchcodec

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from onetake.decode.scale import check_frame_size
from tests.benchmarks.contenders import BASELINE, CONTENDERS, RANDOM_CLIPS, Task, make_task, pyav_in_order, why_missing
from tests.benchmarks.media import ENCODERS, write_video

NUM_FRAMES = 16
SIZE = (720, 1280)
# A frame is the right one if it is as near to the bare loop's as scalers differ, and those beside it are not nearer
# by more than still scenes leave to chance; in levels.
MOST_APART = 6.0
CHANCE = 0.2
AIMS = {("h264", 4): 0.80, ("h264", 8): 0.65, ("hevc", 8): 0.60}


@dataclass(frozen=True)
class Row:
    """One contender's result on one video at one stride."""

    codec: str
    stride: int
    contender: str
    clips: int
    cpu_ms_per_clip: float  # median over rounds
    ratio: float  # to the bare loop, median over rounds
    frames_agree: bool


def measure(task: Task, contenders: list[str], rounds: int, step) -> dict[str, list[float]]:
    """CPU milliseconds a clip of each contender, a value a round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            start = time.process_time()
            count = sum(1 for _ in CONTENDERS[name][0](task))
            found[name].append((time.process_time() - start) / count * 1e3)
            step()
    return found


def agreement(task: Task, contenders: list[str]) -> dict[str, bool]:
    """Whether each contender gives the frames that a decoder front to back gives."""
    whole = Task(task.path, [range(task.clips[-1][-1] + 1)], task.frame_size, task.video, task.table)
    _, reference = next(iter(pyav_in_order(whole)))
    return {name: _agrees(task, CONTENDERS[name][0](task), reference) for name in contenders}


def _agrees(task: Task, clips, reference: np.ndarray) -> bool:
    seen = 0
    for number, frames in clips:
        seen += 1
        for frame, picture in zip(task.clips[number], frames, strict=True):
            beside = [n for n in (frame - 1, frame, frame + 1) if 0 <= n < len(reference)]
            apart = {n: float(np.abs(reference[n].astype(np.int16) - picture).mean()) for n in beside}
            if apart[frame] > min(MOST_APART, min(apart.values()) + CHANCE):
                return False
    return seen >= min(len(task.clips), RANDOM_CLIPS)


def show(rows: list[Row], console: Console) -> None:
    table = Table(width=104, title=f"CPU per {NUM_FRAMES}-frame clip, {SIZE[0]}p, one thread")
    for name in ("codec", "stride", "contender", "clips", "ms a clip", "to the bare loop", "aim", "same frames"):
        table.add_column(name, justify="left" if name in ("codec", "contender") else "right")
    for before, row in zip([None, *rows], rows, strict=False):
        if before and (before.codec, before.stride) != (row.codec, row.stride):
            table.add_section()
        aim = AIMS.get((row.codec, row.stride)) if row.contender == "onetake, lane order" else None
        table.add_row(
            row.codec, str(row.stride), row.contender, str(row.clips), f"{row.cpu_ms_per_clip:.1f}",
            f"{row.ratio:.2f}", "" if aim is None else f"{aim:.2f}", "yes" if row.frames_agree else "NO",
        )  # fmt: skip
    console.print(table)


def plot(rows: list[Row], path: Path) -> None:
    """A panel a codec, a group of bars a stride, a bar a contender."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    codecs = list(dict.fromkeys(row.codec for row in rows))
    strides = sorted({row.stride for row in rows})
    names = list(dict.fromkeys(row.contender for row in rows))
    figure, axes = plt.subplots(1, len(codecs), figsize=(6.5 * len(codecs), 4.6), squeeze=False, layout="constrained")
    for axis, codec in zip(axes[0], codecs, strict=True):
        for place, name in enumerate(names):
            mine = {row.stride: row for row in rows if row.codec == codec and row.contender == name}
            at = [group + (place - (len(names) - 1) / 2) * 0.8 / len(names) for group in range(len(strides))]
            heights = [mine[stride].cpu_ms_per_clip for stride in strides]
            bars = axis.bar(at, heights, 0.8 / len(names), label=name, color=f"C{place}")
            labels = [f"{mine[stride].ratio:.2f}" for stride in strides]
            axis.bar_label(bars, labels, fontsize=7, rotation=90, padding=2)
        axis.set_xticks(range(len(strides)), [f"stride {stride}" for stride in strides])
        axis.margins(y=0.15)
        axis.set_title(f"{codec}, {SIZE[0]}p")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(f"CPU ms per {NUM_FRAMES}-frame clip (less is better)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Decoding clips: on each bar, its ratio to the bare loop")
    figure.savefig(path, dpi=130)
    plt.close(figure)


@click.command()
@click.option("--video", "videos", multiple=True, envvar="ONETAKE_BENCH_VIDEOS", type=click.Path(exists=True),
              help="Real videos to take the pictures from, scaled to 720p. Without: made.")  # fmt: skip
@click.option(
    "--media", type=click.Path(file_okay=False), help="Keep the encoded videos here, and take them from here."
)
@click.option("--out", type=click.Path(file_okay=False), default="build/bench", show_default=True,
              help="Folder for decode.json and decode.png.")  # fmt: skip
@click.option("--frames", default=1024, show_default=True, help="Length of the videos.")
@click.option("--rounds", default=5, show_default=True, help="How often every contender runs.")
@click.option("--stride", "strides", multiple=True, type=int, default=(1, 4, 8), show_default=True)
@click.option("--codec", "codecs", multiple=True, type=click.Choice(list(ENCODERS)), default=tuple(ENCODERS))
@click.option("--size", nargs=2, type=int, default=(256, 256), show_default=True, help="Height and width of the clips.")
@click.option("--peers/--no-peers", default=True, help="Measure those that jump about as well; they take longest.")
@click.option("--quick", is_flag=True, help="Short videos, two rounds: shows that it runs, not how fast.")
def main(videos, media, out, frames, rounds, strides, codecs, size, peers, quick) -> None:
    """Compare ways to get clips out of long videos, in CPU time."""
    if quick:
        frames, rounds = 272, 2
    console = Console(width=None if sys.stdout.isatty() else 108)
    missing = {name: why_missing(name) for name in CONTENDERS}
    contenders = [name for name in CONTENDERS if not missing[name] and (peers or not name.endswith("random"))]
    with TemporaryDirectory() as scratch:
        folder = Path(media or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for codec in codecs:
            path = folder / f"{codec}-{frames}{'-real' if videos else ''}.mp4"
            if not path.exists():
                with console.status(f"Encoding {frames} frames, {codec}"):
                    write_video(path, codec, [Path(video) for video in videos], *SIZE, frames)
            for stride in strides:
                task = make_task(path, NUM_FRAMES, stride, check_frame_size(size))
                rows += compare(task, codec, stride, contenders, rounds)
    show(rows, console)
    for name, reason in missing.items():
        if reason:
            console.print(f"{name}: {reason}")
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    settings = {"frames": frames, "rounds": rounds, "size": size, "real": bool(videos), "quick": quick}
    document = {"settings": settings, "rows": [asdict(row) for row in rows], "missing": missing}
    (target / "decode.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(rows, target / "decode.png")
    console.print(f"Wrote {target / 'decode.json'} and {target / 'decode.png'}")


def compare(task: Task, codec: str, stride: int, contenders: list[str], rounds: int) -> list[Row]:
    """All contenders on one video at one stride."""
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"{codec}, stride {stride}", total=rounds * len(contenders))
        agree = agreement(task, contenders)
        times = measure(task, contenders, rounds, lambda: progress.advance(bar))
    base = times[BASELINE]
    return [
        Row(
            codec, stride, name, len(task.clips), statistics.median(times[name]),
            statistics.median(mine / bare for mine, bare in zip(times[name], base, strict=True)), agree[name],
        )
        for name in contenders
    ]  # fmt: skip


if __name__ == "__main__":
    main()
