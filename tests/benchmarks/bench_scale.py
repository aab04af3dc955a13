"""Ways to scale a picture and turn it to RGB: what they cost, and how far they are from a careful resize.

The reference is torchvision's antialiased bilinear resize, in float, of the RGB picture as FFmpeg converts it by
default. Run it as ``python -m tests.benchmarks.bench_scale``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes in

import click
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from rich.console import Console
from rich.table import Table
from torchvision.transforms.v2.functional import resize

from onetake.decode.scale import converter, scaled_size
from tests.benchmarks.media import pictures

Route = Callable[[VideoFrame, int, int], np.ndarray]  # picture, height, width -> uint8 [H, W, 3]

# (height, width) of the pictures, short side wanted
CASES = [((720, 1280), 256), ((360, 640), 256), ((720, 1280), 112), ((180, 320), 256)]
FULL_CHROMA = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
PICTURES = 8


def in_yuv(interpolation: Interpolation, small: str) -> Route:
    """Scaled in YUV, converted at the small size."""
    scaler, to_rgb = VideoReformatter(), VideoReformatter()

    def route(picture: VideoFrame, height: int, width: int) -> np.ndarray:
        scaled = scaler.reformat(picture, width, height, small, interpolation=interpolation, threads=1)
        return to_rgb.reformat(scaled, format="rgb24", threads=1).to_ndarray()

    return route


def at_once(interpolation: Interpolation, shared: bool = True) -> Route:
    """Scaled and converted in one call; not shared: by a new reformatter for each picture."""
    kept = VideoReformatter()

    def route(picture: VideoFrame, height: int, width: int) -> np.ndarray:
        scaler = kept if shared else VideoReformatter()
        return scaler.reformat(picture, width, height, "rgb24", interpolation=interpolation, threads=1).to_ndarray()

    return route


def halved_first(interpolation: Interpolation) -> Route:
    """Halved by averaging where that leaves enough, then scaled in YUV."""
    halver, rest = VideoReformatter(), in_yuv(interpolation, "yuv420p")

    def route(picture: VideoFrame, height: int, width: int) -> np.ndarray:
        if picture.height >= 2 * height:
            size = (picture.width // 2, picture.height // 2)
            picture = halver.reformat(picture, *size, interpolation=Interpolation.AREA, threads=1)
        return rest(picture, height, width)

    return route


def in_rgb(interpolation: Interpolation) -> Route:
    """Converted at full size, then scaled."""
    to_rgb, scaler = VideoReformatter(), VideoReformatter()

    def route(picture: VideoFrame, height: int, width: int) -> np.ndarray:
        rgb = to_rgb.reformat(picture, format="rgb24", threads=1)
        return scaler.reformat(rgb, width, height, interpolation=interpolation, threads=1).to_ndarray()

    return route


def by_torchvision(picture: VideoFrame, height: int, width: int) -> np.ndarray:
    """Converted at full size, then torchvision's uint8 resize."""
    rgb = torch.from_numpy(picture.to_ndarray(format="rgb24", threads=1)).permute(2, 0, 1)
    return resize(rgb, [height, width], antialias=True).permute(1, 2, 0).numpy()


def ours(scaling: str) -> Route:
    made: dict[int, Callable[[VideoFrame], np.ndarray]] = {}

    def route(picture: VideoFrame, height: int, width: int) -> np.ndarray:
        return made.setdefault(height, converter(height, scaling=scaling))(picture)

    return route


def routes() -> dict[str, Route]:
    kinds = Interpolation
    return {
        'converter, "fast"': ours("fast"),
        'converter, "exact"': ours("exact"),
        "AREA in 4:2:0, then RGB": in_yuv(kinds.AREA, "yuv420p"),
        "BILINEAR in 4:2:0, then RGB": in_yuv(kinds.BILINEAR, "yuv420p"),
        "BICUBIC in 4:2:0, then RGB": in_yuv(kinds.BICUBIC, "yuv420p"),
        "LANCZOS in 4:2:0, then RGB": in_yuv(kinds.LANCZOS, "yuv420p"),
        "FAST_BILINEAR in 4:2:0, then RGB": in_yuv(kinds.FAST_BILINEAR, "yuv420p"),
        "halved, BILINEAR in 4:2:0, then RGB": halved_first(kinds.BILINEAR),
        "AREA to 4:2:2, then RGB": in_yuv(kinds.AREA, "yuv422p"),
        "BILINEAR to 4:4:4, then RGB": in_yuv(kinds.BILINEAR, "yuv444p"),
        "AREA to RGB at once": at_once(kinds.AREA),
        "BILINEAR to RGB at once": at_once(kinds.BILINEAR),
        "the same, a new reformatter each": at_once(kinds.BILINEAR, shared=False),
        "RGB, then BILINEAR": in_rgb(kinds.BILINEAR),
        "RGB, then BILINEAR with full chroma, rounded": in_rgb(kinds.BILINEAR | FULL_CHROMA | kinds.ACCURATE_RND),
        "RGB, then torchvision (uint8)": by_torchvision,
    }


def reference(picture: VideoFrame, height: int, width: int) -> np.ndarray:
    rgb = torch.from_numpy(picture.to_ndarray(format="rgb24")).permute(2, 0, 1).float()
    return resize(rgb, [height, width], antialias=True).permute(1, 2, 0).numpy()


def cost(route: Route, shown: list[VideoFrame], height: int, width: int, rounds: int) -> float:
    """CPU milliseconds a picture: of the rounds, the least disturbed."""
    took = []
    for _ in range(rounds):
        start = time.thread_time()
        for picture in shown:
            route(picture, height, width)
        took.append((time.thread_time() - start) / len(shown) * 1e3)
    return min(took)


@click.command()
@click.option("--video", "videos", multiple=True, envvar="ONETAKE_BENCH_VIDEOS", type=click.Path(exists=True),
              help="Real videos to take the pictures from, scaled to each size. Without: made.")  # fmt: skip
@click.option("--rounds", default=10, show_default=True, help="How often each route is timed.")
@click.option("--quick", is_flag=True, help="One round: shows that it runs, not how fast.")
def main(videos, rounds, quick) -> None:
    """Compare routes from a decoded picture to a small RGB one."""
    torch.set_num_threads(1)
    table = Table(title="CPU ms a picture | mean error | largest error, in levels")
    table.add_column("route")
    columns = []
    for size, short in CASES:
        height, width = scaled_size(short, *size)
        table.add_column(f"{size[1]}x{size[0]} to {width}x{height}", justify="right")
        every = islice(pictures([Path(video) for video in videos], *size, PICTURES * 12), 5, None, 12)
        columns.append((list(every), height, width))
    for name, route in routes().items():
        cells = []
        for shown, height, width in columns:
            errors = [np.abs(route(picture, height, width) - reference(picture, height, width)) for picture in shown]
            took = cost(route, shown, height, width, 1 if quick else rounds)
            mean, most = np.mean([error.mean() for error in errors]), np.max([error.max() for error in errors])
            cells.append(f"{took:5.2f} | {mean:4.2f} | {most:3.0f}")
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
