"""``onetake inspect``: what a dataset holds, how it looks, and whether it is still what was indexed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onetake.cli.clip_options import clip_options, clip_spec
from onetake.cli.console import byte_bar, require_folder
from onetake.core.errors import IndexFileError, SourceError, SpecError

if TYPE_CHECKING:
    from onetake.core.index import PacketTable, VideoIndex
    from onetake.decode.index_source import IndexSource
    from onetake.decode.pack_index import PackedShards
    from onetake.decode.verify import Verification
    from onetake.storage.base import Storage


@click.command("inspect", epilog="Example: onetake inspect videos --num-frames 16 --stride 4 --sheet clips.png")
@click.argument("source")
@click.option("--index", help="Folder or URL of the index.  [default: SOURCE]")
@clip_options
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Draw random clips, as a PNG.")
@click.option("--count", default=8, show_default=True, help="With --sheet: how many clips.")
@click.option("--measure", type=int, metavar="N", help="Decode N clips in order and N at random; say what that takes.")
@click.option("--seed", default=0, show_default=True, help="Draws the random clips.")
@click.option("--check", is_flag=True, help="Compare all packets with the index; exit status 1 if any differs.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def inspect_command(
    source: str,
    index: str | None,
    sheet: Path | None,
    count: int,
    measure: int | None,
    seed: int,
    check: bool,
    as_json: bool,
    **clips: Any,
) -> None:
    """Say what the dataset in SOURCE holds, which clips it gives, and what decoding one takes.

    SOURCE is the folder or URL of the videos, or of a pack. All is told from their index, unless an option asks for
    more. Frames decoded are an upper bound, since the index does not say which pictures others lean on; --measure
    counts them.
    """
    from onetake.core.summary import summarise, summarise_clips
    from onetake.decode.index_source import find_index, index_folder
    from onetake.decode.metadata import read_metadata, read_spans
    from onetake.decode.pack_index import read_shards
    from onetake.decode.store import read_header, read_index, read_keyframes
    from onetake.storage.open import open_storage

    for name, value, lowest in (("count", count, 1), ("measure", measure, 1), ("seed", seed, 0)):
        if value is not None and value < lowest:
            raise SpecError(f"--{name} {value}: must be at least {lowest}")
    if sheet is not None:
        require_folder("--sheet", sheet)
    spec = clip_spec(clips)
    place = source if index is None else index
    with index_folder(place) as folder:
        header, found = read_header(folder), read_index(folder)
        keyframes = read_keyframes(folder, found)
        columns = {field.name: str(field.type) for field in read_metadata(folder, found).schema}
        spans = len(read_spans(folder, found))
        shards = read_shards(folder, found, header) if "pack" in header else None
    summary: dict[str, Any] = {
        "source": source,
        "index": place,
        "generation": found.generation,
        **asdict(summarise(found, keyframes)),
        "columns": columns,
        "spans": spans,
        "splits": header.get("splits") or {},
        "clips": {"spec": spec.to_dict(), **asdict(summarise_clips(found, keyframes, spec))},
    }
    if sheet is not None or measure is not None:
        from onetake.cli.inspect_clips import draw_clips, measure_clips

        if sheet is not None:
            summary["sheet"] = draw_clips(source, index, spec, count, seed, sheet)
        if measure is not None:
            summary["measured"] = asdict(measure_clips(source, index, spec, measure, seed))
    wrong = 0
    if check:
        verification = _verify(open_storage(source), find_index(open_storage(place)), found, shards)
        summary["check"], wrong = asdict(verification), len(verification.wrong)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        from onetake.cli.inspect_tables import print_summary

        print_summary(summary)
    if wrong:
        raise SourceError(
            f"not as indexed: {wrong} of {verification.files} files; copy them again, or run `onetake index` again"
        )


def _verify(files: Storage, tables: IndexSource, index: VideoIndex, shards: PackedShards | None) -> Verification:
    from onetake.decode.verify import verify_files
    from onetake.decode.verify_pack import verify_pack
    from onetake.storage.base import StorageError

    def read(segment: int) -> PacketTable:
        try:
            return tables.read_table(index, segment)
        except StorageError as error:
            raise IndexFileError(f"the index in {tables.storage.location} cannot be read ({error.strerror})") from None

    files.check()
    with byte_bar("comparing") as progress:
        if shards is not None:
            return verify_pack(index, shards, read, files, progress=progress)
        return verify_files(index, read, files, progress=progress)
