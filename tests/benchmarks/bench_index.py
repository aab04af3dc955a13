"""What an index of a million segments weighs, and what it takes to open: time and memory, in place and with a cache.

The index is of videos that are made of numbers alone, written by onetake's own writer; the files are holes of the right
size. Each opening is a process of its own, whose memory is read there. Run it as
``python -m tests.benchmarks.bench_index``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from onetake.core.index import DISCARD, KEYFRAME, PACKETS, Keyframes, PacketTable, Video
from onetake.decode.index_writer import IndexedVideo, write_index
from onetake.decode.store import PACKETS_BIN
from tests.benchmarks.bench_order import alone, peak_mb

SEED = 17
SEGMENT_SECONDS, FPS, TICKS = 60, 25, 512
FRAMES = SEGMENT_SECONDS * FPS  # of a segment
BYTES_PER_SECOND = 600_000
AIMS = {"bytes a packet": 8, "bytes a segment": 300, "seconds": 15, "MB": 1500}
OPEN = """
import sys, time
start = time.perf_counter()
from onetake import ClipSpec, VideoDataset
imported = time.perf_counter()
from tests.benchmarks.bench_index import opened
opened(VideoDataset, ClipSpec(16, stride=4), start, imported, *sys.argv[1:])
"""


def opened(dataset: Any, clips: Any, start: float, imported: float, *where: str) -> None:
    """Open an index, and print what that took, as JSON; called in a process of its own."""
    before, cpu = peak_mb(), time.process_time()
    found = dataset(clips=clips, **dict(pair.split("=", 1) for pair in where))
    seconds, cpu_seconds = time.perf_counter() - imported, time.process_time() - cpu
    report = {"clips": found.num_samples, "seconds": seconds, "seconds_of_imports": imported - start}
    print(json.dumps({**report, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb(), "peak_mb_of_imports": before}))


def packets(rng: np.random.Generator, frames: int) -> PacketTable:
    """A segment of H.264 as encoders make it: uneven keyframes, two B-frames between others, audio in the gaps."""
    number = np.arange(frames)
    keys = np.unique(np.append(0, np.cumsum(rng.integers(25, 251, frames // 25 + 1))))
    keys = keys[keys < frames]
    decode = number.copy()
    for start, stop in zip(keys, [*keys[1:], frames], strict=True):
        run = np.arange(start + 1, stop)
        run = run[: len(run) // 3 * 3].reshape(-1, 3)
        decode[start + 1 : start + 1 + run.size] = run[:, [2, 0, 1]].ravel()  # P, then the two before it
    size = rng.gamma(2.0, BYTES_PER_SECOND / FPS / 2, frames).astype(np.int64) + 40
    gap = np.where(rng.random(frames) < 0.5, rng.integers(150, 900, frames), 0)
    offset = np.cumsum(size + gap) - size
    flags = np.where(np.isin(number, keys), KEYFRAME, 0).astype(np.uint8) & ~np.uint8(DISCARD)
    check = rng.integers(0, 1 << 24, frames).astype(np.uint32)
    return PacketTable(offset, size, decode * TICKS, decode, flags, check)


def indexed_videos(videos: int, segments: int) -> Iterator[IndexedVideo]:
    """Videos of whole minutes, ``segments`` minutes in all, at 25 frames a second."""
    rng = np.random.default_rng(SEED)
    shares = rng.multinomial(segments - videos, np.full(videos, 1 / videos)) + 1
    table = packets(rng, 8).to_bytes()  # a stand-in: tables are not read when an index is opened
    extradata = rng.bytes(48)
    for number, count in enumerate(shares.tolist()):
        first = np.arange(count) * FRAMES
        length = rng.integers(int(0.8 * BYTES_PER_SECOND), int(1.2 * BYTES_PER_SECOND), count) * SEGMENT_SECONDS
        offset = np.cumsum(length + 5000) - length
        keys = [np.cumsum(rng.integers(25, 251, 24)) for _ in range(count)]
        keys = [np.append(0, run[run < FRAMES]) + start for run, start in zip(keys, first.tolist(), strict=True)]
        frame = np.concatenate(keys)
        rows = tuple(
            dict(first_frame=f, num_frames=FRAMES, first_pts=f * TICKS, byte_offset=o, byte_length=n, num_packets=8,
                 num_keyframes=len(k))
            for f, o, n, k in zip(first.tolist(), offset.tolist(), length.tolist(), keys, strict=True)
        )  # fmt: skip
        file = f"2024/{number % 100:02d}/camera-{number:06d}.mp4"
        video = Video(
            video_id=file, file=file, file_bytes=int(offset[-1] + length[-1]) + 100_000, version=str(10**18 + number),
            kind=PACKETS, num_frames=count * FRAMES, codec="h264", decoder="h264", codec_options="err_detect=explode",
            extradata=extradata, time_base=(1, FPS * TICKS), duration=count * FRAMES * TICKS, frame_ticks=TICKS,
            width=1280, height=720, rotation=0, pix_fmt="yuv420p", color_matrix="bt709", color_range="limited",
            transfer="", stream_index=0, container="mov,mp4,m4a,3gp,3g2,mj2",
        )  # fmt: skip
        start = np.cumsum([0, *map(len, keys)])
        yield IndexedVideo(video, rows, Keyframes(start, frame, frame * TICKS), (table,) * count)


def write(folder: Path, videos: int, segments: int) -> dict[str, float]:
    """Write the index into ``folder``, with its videos; what it weighs."""
    found = list(indexed_videos(videos, segments))
    write_index(folder, found, {"segment_seconds": SEGMENT_SECONDS, "stream_index": None})
    for item in found:
        path = folder / item.video.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(item.video.file_bytes)
    tables = sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name != PACKETS_BIN)
    rng = np.random.default_rng(SEED)
    samples = [packets(rng, FRAMES) for _ in range(50)]
    return {
        "bytes a packet": sum(len(sample.to_bytes()) for sample in samples) / (len(samples) * FRAMES),
        "bytes a segment": tables / segments,
    }


def open_alone(**where: Path) -> dict[str, Any]:
    """What it takes to open an index, in a process of its own."""
    command = [sys.executable, "-c", OPEN, *(f"{name}={path}" for name, path in where.items())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise click.ClickException(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command()
@click.option("--quick", is_flag=True, help="A thousandth of it: shows that it runs, not what it costs.")
@click.option("--out", default="build/bench", show_default=True, type=click.Path(), help="Where index.json goes.")
def main(quick: bool, out: str) -> None:
    """Measure what a large index weighs, and what it takes to open."""
    videos, segments = (20, 1000) if quick else (20_000, 1_000_000)
    folder, cache = Path(out, "videos"), Path(out, "cache")
    for path in (folder, cache):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    weighs = alone(partial(write, folder, videos, segments))  # the memory of who starts a process counts as that one's
    opens = {"in place": open_alone(local=folder), "with a cache": open_alone(remote=folder, local=cache)}
    console = Console(width=120)
    table = Table(title=f"An index of {segments:,} segments in {videos:,} videos")
    for column in ("", "", "aim"):
        table.add_column(column, justify="right")
    for name, value in weighs.items():
        table.add_row(name, f"{value:.1f}", str(AIMS[name]))
    for name, found in opens.items():
        table.add_row(f"seconds to open it {name}", f"{found['seconds']:.1f}", str(AIMS["seconds"]))
        table.add_row("of these, of CPU", f"{found['cpu_seconds']:.1f}", "")
        table.add_row("MB at most", f"{found['peak_mb']:.0f}", str(AIMS["MB"]))
        table.add_row("of these, imports", f"{found['peak_mb_of_imports']:.0f}", "")
    console.print(table)
    results = {"quick": quick, "videos": videos, "segments": segments, **weighs, "opens": opens, "aims": AIMS}
    (Path(out) / "index.json").write_text(json.dumps(results, indent=1))
    for path in (folder, cache):
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
