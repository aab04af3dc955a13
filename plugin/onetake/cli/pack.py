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
@click.option("--audio", is_flag=True, help="Keep the sound; what it weighs is not counted by --shard-size.")
@click.option("--hashes", default="", help="Hashes of the shards for MDS's index, such as sha1, joined by commas.")
@click.option("--transcode", is_flag=True, help="Encode anew instead of copying packets.")
@click.option("--height", type=int, help="With --transcode: height of the upright picture.  [default: as it is]")
@click.option("--codec", help="With --transcode: libx264, libx265, libvpx-vp9 or libsvtav1.  [default: libx264]")
@click.option("--gop", type=int, help="With --transcode: frames from a keyframe to the next, at most.  [default: 32]")
@click.option("--crf", type=int, help="With --transcode: the encoder's rate factor; higher is smaller.  [default: 23]")
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
    audio: bool,
    hashes: str,
    transcode: bool,
    height: int | None,
    codec: str | None,
    gop: int | None,
    crf: int | None,
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
    from onetake.core.errors import SpecError
    from onetake.core.packing import TranscodeSpec
    from onetake.decode.pack import pack_videos

    given = {"height": height, "codec": codec, "gop": gop, "crf": crf}
    encoding = {name: value for name, value in given.items() if value is not None}
    if encoding and not transcode:
        raise SpecError(f"--{next(iter(encoding))} says how to encode: give --transcode as well, or leave it out")
    with byte_bar("packing") as tell:
        report = pack_videos(
            source,
            out,
            index=index,
            shard_size=shard_size,
            segment_seconds=segment_seconds,
            overlap=overlap,
            audio=audio,
            hashes=sorted(filter(None, hashes.split(","))),
            transcode=TranscodeSpec(**encoding) if transcode else None,
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
        if not isinstance(value, dict):
            shown = in_bytes(value) if name == "bytes" else f"{value:,}" if isinstance(value, int) else str(value)
            table.add_row(name, shown)
    console = table_console()
    console.print(table)
    if report.damaged:
        table = Table("video", "frames that don't decode", title="damaged: the frame before stands for them")
        for video, count in report.damaged.items():
            table.add_row(video, f"{count:,}")
        console.print(table)
