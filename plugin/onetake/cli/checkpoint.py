"""``onetake checkpoint``: where a checkpoint stands, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import click

_FRAMEWORKS = {"lightning": "Lightning", "composer": "Composer", None: "unknown"}


@click.command(
    "checkpoint",
    epilog="Example: onetake checkpoint checkpoints/latest-rank0.pt --json | jq '.states[0].cursors'",
)
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def checkpoint_command(path: str, as_json: bool) -> None:
    """Say where the checkpoint PATH stands: epoch, sample, and where in each open video it goes on.

    PATH is a checkpoint of Lightning or Composer, a file of torch.save() or JSON that holds loader.state_dict(), or a
    folder, of which the newest checkpoint is taken. Nothing in the file is run; the videos are not needed.
    """
    from onetake.stream.checkpoints import read_checkpoint

    summary = read_checkpoint(path)
    if as_json:
        del summary["found"]
        click.echo(json.dumps(summary, indent=2))
    else:
        _print(summary)


def _print(summary: dict[str, Any]) -> None:
    from rich.table import Table

    from onetake.cli.console import table_console

    console = table_console()

    def facts(title: str, rows: Iterable[tuple[str, str]]) -> None:
        table = Table(title=title, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, _visible(value))
        console.print(table)

    facts("checkpoint", _rows(summary))
    for state in summary["states"]:
        facts("state", _state_rows(state))
        places = sorted(filter(None, state["cursors"]), key=lambda place: (place["video_id"], place["lane"]))
        table = Table(title="open videos")
        table.add_column("lane", justify="right", no_wrap=True)
        table.add_column("video", overflow="fold")
        table.add_column("frame", justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        for _, lanes in groupby(places, key=lambda place: place["video_id"]):
            for place in lanes:
                time = place["time_code"] or "?"
                table.add_row(str(place["lane"]), _visible(place["video_id"]), str(place["frame"]), time)
            table.add_section()
        console.print(table if places else "no open videos: every lane is at its end")


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "file", f"{summary['file']} ({summary['found']})" if summary["found"] else summary["file"]
    yield "written by", f"{_FRAMEWORKS[summary['framework']]} {summary['framework_version'] or ''}".rstrip()
    for name, title in (("optimizer_steps", "optimizer steps"), ("batches", "batches trained")):
        if summary[name] is not None:
            yield title, f"{summary[name]:,}"


def _state_rows(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    finished = state["finished_lanes"]
    clips = f"{state['num_clips']:,}" if isinstance(state["num_clips"], int) else "?"
    yield "found at", ", ".join(path or "the top level" for path in state["paths"])
    yield "epoch", str(state["epoch"])
    yield "sample in epoch", f"{state['sample_in_epoch']:,} of {clips}"
    yield "lanes", f"{state['num_lanes']:,}"
    yield "finished lanes", f"{len(finished):,}" + (f": {_ranges(finished)}" if finished else "")
    shuffle = {True: f"by {state['shuffle_by'] or '?'}", False: "off"}
    yield "shuffle", shuffle[state["shuffle"]] if isinstance(state["shuffle"], bool) else "?"
    yield "shuffle seed", "?" if state["shuffle_seed"] is None else str(state["shuffle_seed"])
    generations = state["generations"]
    yield "index generations", ", ".join(map(str, generations)) if isinstance(generations, list) else "?"


def _ranges(numbers: Iterable[int]) -> str:
    """ "1, 4-6" for 1, 4, 5, 6."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _visible(text: str) -> str:
    """``text`` with what a terminal would obey, and what no encoding can write, spelt out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
