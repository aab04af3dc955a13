"""What an open decoder holds of memory, by codec and picture size, beside what ``decode.memory`` says beforehand.

Each case is measured in a process of its own, which opens the same video several times, reads some frames of each, and
keeps them open. Run it as ``python -m tests.benchmarks.bench_memory``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from onetake.core.index import PacketTable
from onetake.core.memory import decoder_bytes
from onetake.decode.build import index_video
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.scale import converter
from onetake.decode.source import TableSource
from tests.benchmarks.media import FPS, pictures

#      name: (encoder, its options). The encoders' defaults say how many pictures a decoder keeps.
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "medium"}),
    "h264, 16 references": ("libx264", {"preset": "medium", "refs": "16"}),
    "hevc": ("libx265", {"preset": "medium", "x265-params": "log-level=error"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "4M"}),
    "av1": ("libsvtav1", {"preset": "10"}),
}
SIZES = [(720, 1280), (1080, 1920)]
NUM_FRAMES = 48
UNREAD = 8  # frames at the end: a decoder that was told that this is the end holds less
FRAME_SIZE = (64, 64)  # small: what clips weigh is known


def write(path: Path, name: str, height: int, width: int) -> None:
    """Encode a case's video."""
    encoder, options = CASES[name]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, picture in enumerate(pictures([], height, width, NUM_FRAMES)):
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def measure(path: Path, decoders: int) -> tuple[float, int]:
    """Bytes by which this process grows for each open decoder of a video, and what is said beforehand. The first one
    is not counted: it brings code and tables that all of them use."""
    indexed = index_video(path.parent, path.name, 1e9)
    table = PacketTable.from_bytes(indexed.tables[0], indexed.rows[0]["num_packets"])
    video = indexed.video
    process = psutil.Process()
    opened, held = [], []
    for _ in range(decoders + 1):
        source = TableSource(video, table, path)
        decoder = ClipDecoder(video, source, converter(FRAME_SIZE), new_counters(), range(video.num_frames))
        for frame in range(video.num_frames - UNREAD):
            decoder.read([frame])
        opened.append(decoder)
        held.append(process.memory_info().rss)
    return float(np.diff(held).mean()), decoder_bytes(video.codec, video.width, video.height, video.pix_fmt)


def measure_apart(path: Path, decoders: int) -> tuple[float, int]:
    """``measure``, in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (path, decoders))


@click.command()
@click.option("--codec", "names", multiple=True, type=click.Choice(list(CASES)), default=list(CASES))
@click.option("--decoders", default=8, show_default=True, help="How many are open at once.")
@click.option("--tall", "heights", multiple=True, type=int, help="Heights of 16:9 pictures, in place of the usual.")
def main(names: Sequence[str], decoders: int, heights: Sequence[int]) -> None:
    """Measure what open decoders hold."""
    table = Table(title="MB of memory for each open decoder")
    for column in ("codec", "pictures", "measured", "said beforehand", "said / measured"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    with TemporaryDirectory() as folder:
        for name in names:
            for height, width in [(height, height * 16 // 9) for height in heights] or SIZES:
                path = Path(folder) / f"{list(CASES).index(name)}-{height}.mp4"
                write(path, name, height, width)
                measured, said = measure_apart(path, decoders)
                cells = (f"{measured / 1e6:.1f}", f"{said / 1e6:.1f}", f"{said / max(measured, 1):.2f}")
                table.add_row(name, f"{width}x{height}", *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
