"""``onetake inspect``: what a dataset holds, how it looks, and whether it is still what was indexed."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onetake.cli.clip_options import clip_options, clip_spec
from onetake.core.errors import SourceError

if TYPE_CHECKING:
    from onetake.core.index import VideoIndex
    from onetake.decode.verify import Verification


@click.command("inspect", epilog="Example: onetake inspect videos --num-frames 16 --stride 4")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--index", type=click.Path(path_type=Path), help="Folder of the index.  [default: SOURCE]")
@clip_options
@click.option(
    "--check", is_flag=True, help="Compare every packet of every video with the index; exit status 1 if any differs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def inspect_command(source: Path, index: Path | None, check: bool, as_json: bool, **clips: Any) -> None:
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
    if check:
        verification = _verify(source, folder, found)
        summary["check"] = asdict(verification)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        from onetake.cli.inspect_tables import print_summary

        print_summary(summary)
    if check and verification.wrong:
        raise SourceError(
            f"not as indexed: {len(verification.wrong)} of {len(found.videos)} videos; copy them again, or run "
            "`onetake index` again"
        )


def _verify(source: Path, folder: Path, index: VideoIndex) -> Verification:
    from onetake.cli.console import byte_bar
    from onetake.decode.store import read_table
    from onetake.decode.verify import verify_files
    from onetake.storage.open import open_storage

    videos = open_storage(str(source))
    videos.check()
    with byte_bar("comparing") as progress:
        return verify_files(index, partial(read_table, folder, index), videos, progress=progress)
