"""``onetake index``: build or refresh the index of a folder of videos."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from operator import attrgetter

import click


@click.command("index")
@click.argument("source")
@click.option("--out", help="Folder or URL for the index.  [default: where the videos are, if that is a folder]")
@click.option("--root", help="Folder below which the files of a manifest are.  [default: the manifest's]")
@click.option(
    "--split",
    multiple=True,
    metavar="NAME=SHARE",
    help='A split and its share of the videos, such as val=0.02, chosen by hash; what is left is "train". Repeatable.',
)
@click.option(
    "--split-by",
    metavar="COLUMN",
    help="Column of the manifest that names each video's split; with --split, videos of one value stay together.",
)
@click.option(
    "--segment-seconds",
    default=60.0,
    show_default=True,
    help="Length of a segment; it ends at the next keyframe.",
)
@click.option(
    "--stream-index",
    type=int,
    help="Number of the video stream to index, in every file.  [default: the one that players choose]",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Decode every frame of every video, and compare what seeking gives; takes several times as long as playing.",
)
@click.option("--workers", type=int, help="Files at once.  [default: one per CPU, four of a bucket]")
@click.option(
    "--engine",
    default="local",
    show_default=True,
    help="Where the work is done: local, or ray (an existing cluster, see RAY_ADDRESS).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def index_command(
    source: str,
    out: str | None,
    root: str | None,
    split: tuple[str, ...],
    split_by: str | None,
    segment_seconds: float,
    stream_index: int | None,
    verify: bool,
    workers: int | None,
    engine: str,
    as_json: bool,
) -> None:
    """Index the videos in SOURCE where they are, so that they can be trained on.

    SOURCE is a folder or a URL; or a manifest: a .csv, .jsonl or .parquet file with a column "path" and metadata of the
    videos in any others, or of spans of them (start_seconds and stop_seconds, or start_frame and stop_frame).

    No video is changed or kept. Files that can't be used are listed with the reason. Run it again after adding
    videos, or when it was interrupted: what did not change is taken from the index that is there, unless all is to be
    verified, and what was done is not done again.

    In a bucket, MP4 and MOV files are indexed from their headers and a few packets (at most 2 MB or 2% of each); other
    formats are read whole, through a copy that is deleted at once.

    Stretches of each video are decoded in several ways, to find out how its frames come out right. Where they don't
    come out as the file's packets announce, and with --verify, all of it is.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from onetake.decode.build import IndexProgress, index_videos

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[files]} files,"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[file]}", style="dim", markup=False),
        console=Console(stderr=True),
        transient=True,
        disable=as_json,
    )
    with bars:
        task = bars.add_task("indexing", total=None, files="", file="")

        def show(far: IndexProgress) -> None:
            files = f"{far.files}/{far.total_files}"
            bars.update(task, completed=far.bytes, total=far.total_bytes, files=files, file=far.file)

        report = index_videos(
            source,
            out,
            root=root,
            split=_shares(split),
            split_by=split_by,
            segment_seconds=segment_seconds,
            stream_index=stream_index,
            verify=verify,
            workers=workers,
            engine=engine,
            progress=show,
        )
    index = report.index
    packets, tables = int(index.num_packets.sum()), int(index.table_length.sum())
    summary = {
        "index": report.out,
        "generation": index.generation,
        "videos": len(index.videos),
        "reused": report.reused,
        "segments": index.num_segments,
        "frames": int(index.num_frames.sum()),
        "hours": round(sum(video.seconds for video in index.videos) / 3600, 4),
        "bytes": sum(video.file_bytes for video in index.videos),
        "bytes_read": report.bytes_read,
        "mean_keyframe_distance": round(int(index.num_frames.sum()) / int(index.num_keyframes.sum()), 1),
        "bytes_per_packet": round(tables / packets, 2),
        "kinds": dict(Counter(video.kind for video in index.videos)),
        "codecs": dict(Counter(video.codec for video in index.videos)),
        "hdr": dict(Counter(video.transfer for video in index.videos if video.transfer)),
        "splits": report.splits,
        "spans": report.spans,
        "damaged": report.damaged,
        "refused": {
            file: "; ".join(refusal.reason for refusal in refusals)
            for file, refusals in groupby(report.refused, attrgetter("file"))
        },
    }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        _print(summary)


def _shares(given: tuple[str, ...]) -> dict[str, float]:
    shares = {}
    for text in given:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise click.BadParameter(f"{text!r}: give NAME=SHARE, such as val=0.02", param_hint="--split") from None
    return shares


def _print(summary: dict[str, object]) -> None:
    from rich.table import Table

    from onetake.cli.console import table_console

    console = table_console()
    refused, damaged = summary.pop("refused"), summary.pop("damaged")
    table = Table(title="index", show_header=False)
    for name, value in summary.items():
        shown = ", ".join(f"{count} {key}" for key, count in value.items()) if isinstance(value, dict) else value
        if shown != "":
            table.add_row(name.replace("_", " "), f"{shown:,}" if isinstance(shown, int) else str(shown))
    console.print(table)
    if damaged:
        table = Table("file", "packets that don't decode", title="damaged")
        for file, count in damaged.items():
            table.add_row(file, f"{count:,}")
        console.print(table)
    if refused:
        table = Table("file", "reason", title="refused")
        for file, reason in refused.items():
            table.add_row(file, reason)
        console.print(table)
