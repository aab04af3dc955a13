"""``onetake inspect``: what a dataset holds, how it looks, and whether it is still what was indexed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onetake.cli.clip_options import clip_options, clip_spec

if TYPE_CHECKING:
    pass


@click.command("inspect", epilog="Example: onetake inspect videos --num-frames 16 --stride 4")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--index", type=click.Path(path_type=Path), help="Folder of the index.  [default: SOURCE]")
@clip_options
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def inspect_command(source: Path, index: Path | None, as_json: bool, **clips: Any) -> None:
    """Say what the dataset in SOURCE holds, which clips it gives, and what decoding one takes.

    SOURCE is the folder of the videos. This is told from their index, and no video is read. Frames decoded are an upper
    bound, since the index does not say which pictures others lean on.
    """
    from onetake.core.summary import summarise, summarise_clips
    from onetake.decode.store import read_index, read_keyframes

    spec = clip_spec(clips)
    folder = source if index is None else index
    found = read_index(folder)
    keyframes = read_keyframes(folder, found)
    summary: dict[str, Any] = {
        "source": str(source),
        "index": str(folder),
        "generation": found.generation,
        **asdict(summarise(found, keyframes)),
        "clips": {"spec": spec.to_dict(), **asdict(summarise_clips(found, keyframes, spec))},
    }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        from onetake.cli.inspect_tables import print_summary

        print_summary(summary)
