"""``onetake pack``: copy indexed videos into MDS shards."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("pack")
@click.argument("source")
@click.argument("out")
@click.option("--index", help="Folder of the index.  [default: SOURCE]")
@click.option("--shard-size", default="64MB", show_default=True, help="What a shard weighs at most.")
@click.option(
    "--segment-seconds",
    default=60.0,
    show_default=True,
    help="Length of a segment; it ends at the next keyframe, or where it fills a shard.",
)
@click.option(
    "--overlap",
    default=4.0,
    show_default=True,
    help="Seconds of what follows that a segment carries: how far clips may run over its end.",
)
@click.option("--hashes", default="", help="Hashes of the shards for MDS's index, such as sha1, joined by commas.")
@click.option("--workers", type=int, help="Shards at once.  [default: one per CPU]")
@click.option(
    "--engine",
    default="local",
    show_default=True,
    help="Where the work is done: local, or ray (an existing cluster, see RAY_ADDRESS).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def pack_command(
    source: str,
    out: str,
    index: str | None,
    shard_size: str,
    segment_seconds: float,
    overlap: float,
    hashes: str,
    workers: int | None,
    engine: str,
    as_json: bool,
) -> None:
    """Copy the indexed videos of SOURCE into OUT, a new folder, as MDS shards.

    Packets are copied as they are. Long videos are cut at keyframes, short ones are gathered, and what can't be cut is
    packed as the file that it is. OUT is read by onetake, with the same clips as SOURCE, and by any StreamingDataset: a
    sample is a segment of a video, in a small file of its own.

    Run again after it was interrupted, it goes on where it was.
    """
    from onetake.cli.console import byte_bar, in_bytes, table_console
    from onetake.decode.pack import pack_videos

    with byte_bar("packing") as tell:
        report = pack_videos(
            source,
            out,
            index=index,
            shard_size=shard_size,
            segment_seconds=segment_seconds,
            overlap=overlap,
            hashes=sorted(filter(None, hashes.split(","))),
            engine=engine,
            workers=workers,
            progress=tell and (lambda done, total, _: tell(done, total)),
        )
    summary = asdict(report)
    summary["bytes"] = summary.pop("num_bytes")
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    from rich.table import Table

    table = Table(title="pack", show_header=False)
    for name, value in summary.items():
        if value != {}:
            shown = in_bytes(value) if name == "bytes" else f"{value:,}" if isinstance(value, int) else str(value)
            table.add_row(name, shown)
    table_console().print(table)
