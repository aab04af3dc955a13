"""``onetake simulate``: what an order costs in a world, before anyone pays for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from onetake.cli.clip_options import clip_options, clip_spec
from onetake.cli.console import in_bytes, require_folder
from onetake.core.errors import SpecError


@click.command("simulate", epilog="Example: onetake simulate videos --nodes 2 --compare-lanes 512,2048 --plot l.png")
@click.argument("index")
@click.option("--nodes", default=1, show_default=True, help="Machines; each has a cache.")
@click.option("--ranks", default=8, show_default=True, help="Ranks (GPUs) per node.")
@click.option("--workers", default=4, show_default=True, help="Workers per rank; 0: the rank decodes itself.")
@click.option("--batch-size", default=8, show_default=True, help="Clips per rank and step.")
@clip_options
@click.option("--lanes", type=int, help="num_canonical_lanes.  [default: what VideoDataset chooses]")
@click.option("--compare-lanes", metavar="L,L,...", help="One column for each of these numbers of lanes.")
@click.option("--shuffle/--no-shuffle", default=True, show_default=True)
@click.option("--shuffle-by", help='"segment", "video" or "shard".  [default: "shard" for packs, or else "segment"]')
@click.option("--seed", default=17, show_default=True, help="shuffle_seed.")
@click.option("--epochs", default=1, show_default=True, help="Epochs to go through; their mean is told.")
@click.option("--drop-last", is_flag=True, help="Leave out an incomplete last batch.")
@click.option("--predownload", type=int, help="Clips per worker that are fetched ahead.  [default: 8 batches]")
@click.option("--steps", type=int, help="Go through about so many steps, in four blocks.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it, as a PNG.")
def simulate_command(
    index: str,
    nodes: int,
    ranks: int,
    workers: int,
    batch_size: int,
    lanes: int | None,
    compare_lanes: str | None,
    shuffle: bool,
    shuffle_by: str | None,
    seed: int,
    epochs: int,
    drop_last: bool,
    predownload: int | None,
    steps: int | None,
    as_json: bool,
    plot: Path | None,
    **clips: Any,
) -> None:
    """Say what training on the videos of an index would be like in a world: how well its batches mix videos, how much
    is decoded in vain, and what it takes of network, disk and memory.

    INDEX is the folder or URL that `onetake index` wrote to. No video is read. Opened decoders, segments and videos are
    exactly those of a real epoch; frames decoded are an upper bound, since the index does not say which pictures others
    lean on; bytes and memory are estimates.

    A million clips take some seconds; of many more, --steps goes through a part. Each of its four blocks, spread over
    the epoch, counts as a run that is resumed at its first step and stopped after its last.
    """
    from onetake.core.lane_counts import nearest_lanes
    from onetake.core.names import require
    from onetake.core.simulate import Simulation, simulate
    from onetake.core.simulate_clips import Clips, Cluster
    from onetake.decode.index_source import index_folder
    from onetake.decode.pack_index import read_shards
    from onetake.decode.store import read_header, read_index, read_keyframes

    for name, value in (("lanes", lanes), ("epochs", epochs), ("steps", steps)):
        if value is not None and value < 1:
            raise SpecError(f"--{name} {value}: must be at least 1")
    if seed < 0:
        raise SpecError(f"--seed {seed}: must be at least 0")
    if plot is not None:
        require("matplotlib", "plot", "--plot")
        require_folder("--plot", plot)
    cluster = Cluster(nodes, ranks, workers, batch_size, predownload)
    wanted = _lanes(lanes, compare_lanes)
    spec = clip_spec(clips)
    with index_folder(index) as folder:
        found = read_index(folder)
        keyframes, header = read_keyframes(folder, found), read_header(folder)
        shards = read_shards(folder, found, header).shard_of_segment if "pack" in header else None
    source = Clips(found, keyframes, spec, shuffle=shuffle, shuffle_by=shuffle_by, seed=seed, shards=shards)
    columns, drawn = [], []
    for count in wanted:
        pair = source.choose_lanes(cluster.global_batch, count)
        results = [simulate(source, cluster, pair, epoch, steps, drop_last) for epoch in range(epochs)]
        columns.append(Simulation.mean([simulation for simulation, _ in results]))
        drawn.append(results[0][1])
    near = (nearest_lanes(c.slots, c.phases, cluster.global_batch, cluster.readers) for c in columns)
    warnings = [_warning(column, cluster, sorted(good)) for column, good in zip(columns, near, strict=True)]
    if plot is not None:
        from onetake.cli.simulate_plot import draw

        draw(columns, drawn, plot)
    summary = {
        "index": index,
        "generation": found.generation,
        "videos": len(found.videos),
        "clips": spec.to_dict(),
        "world": {**asdict(cluster), "global_batch": cluster.global_batch},
        "shuffle": {"shuffle": shuffle, "shuffle_by": source.shuffle_by, "shuffle_seed": seed},
        "epochs": epochs,
        "simulations": [
            {**asdict(column), "warning": warning} for column, warning in zip(columns, warnings, strict=True)
        ],
    }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        _print(summary, columns, [warning for warning in warnings if warning])


def _lanes(lanes: int | None, compared: str | None) -> Sequence[int | None]:
    """The numbers of lanes to go through."""
    if compared is None:
        return [lanes]
    if lanes is not None:
        raise SpecError("--lanes and --compare-lanes: give one of the two")
    try:
        counts = [int(word) for word in compared.split(",")]
        if min(counts) < 1:
            raise ValueError
    except ValueError:
        raise SpecError(
            f"--compare-lanes {compared}: must be whole numbers, at least 1, with commas in between, such as 64,256"
        ) from None
    return list(dict.fromkeys(counts))


def _warning(simulation: Any, cluster: Any, good: Sequence[int]) -> str | None:
    """What is wrong with the number of lanes, as VideoDataset says it when it is too late; None if nothing is."""
    lanes = simulation.lanes
    if lanes == 1 or lanes % cluster.stride == 0:
        return None
    return (
        f"{lanes:,} lanes: global batch {cluster.global_batch} x {cluster.readers} workers = {cluster.stride} does not "
        f"divide them: batches stay the same, but lanes wander between workers. {simulation.same_reader:.0%} of the "
        f"steps of a lane stay on the worker that has it open, and {simulation.opens / simulation.stretches:.1f} times "
        f"as many decoders are opened as there are stretches; num_canonical_lanes={' or '.join(map(str, good))} fits"
    )


_Row = tuple[str, Callable[[Any], str]]

_ROWS: tuple[tuple[_Row, ...], ...] = (
    (
        ("lanes (slots x phases)", lambda s: f"{s.lanes:,} ({s.slots:,} x {s.phases})"),
        ("clips an epoch", lambda s: f"{s.clips:,}"),
        ("steps an epoch", lambda s: f"{s.steps:,}"),
        ("steps gone through", lambda s: f"{s.steps_simulated:,}"),
    ),
    (
        ("videos in a global batch", lambda s: f"{s.distinct_videos:,.1f}"),
        ("... after a perfect shuffle", lambda s: f"{s.distinct_videos_perfect:,.1f}"),
        ("... ratio", lambda s: f"{s.distinct_ratio:.1%}"),
        ("batches in a row that hold a video", lambda s: f"{s.stay_steps:,.1f}"),
        ("steps that a lane stays in a segment", lambda s: f"{s.stretch_steps:,.1f}"),
    ),
    (
        ("decoders opened", lambda s: f"{s.opens:,.0f}"),
        ("... at the least", lambda s: f"{s.stretches:,.0f}"),
        ("jumps", lambda s: f"{s.seeks:,.0f}"),
        ("frames decoded, at most", lambda s: f"{s.frames_decoded:,.0f}"),
        ("... per frame that clips span", lambda s: f"{s.closure:.3f}"),
        ("steps of a lane that stay on a worker", lambda s: f"{s.same_reader:.1%}"),
    ),
    (
        ("fetched by a node", lambda s: in_bytes(s.node_bytes)),
        ("... least", lambda s: in_bytes(s.node_bytes_min)),
        ("... most", lambda s: in_bytes(s.node_bytes_max)),
        ("segments fetched", lambda s: f"{s.segments:,.0f}"),
        ("... by several nodes", lambda s: f"{s.segments_shared:,.0f}"),
        ("share of bytes fetched again", lambda s: f"{s.bytes_shared:.1%}"),
        ("a node's before the first batch", lambda s: in_bytes(s.first_batch_bytes)),
        ("a node's cache, at the peak", lambda s: in_bytes(s.cache_peak_bytes)),
    ),
    (
        ("open decoders of a worker, at most", lambda s: f"{s.open_decoders:,.0f}"),
        ("... their memory, about", lambda s: in_bytes(s.reader_decoder_bytes)),
        ("... on a node", lambda s: in_bytes(s.node_decoder_bytes)),
    ),
)


def _print(summary: dict[str, Any], columns: Sequence[Any], warnings: Sequence[str]) -> None:
    from rich.table import Table

    from onetake.cli.console import table_console

    console = table_console()
    world = summary["world"]
    title = (
        f"{summary['videos']:,} videos, {world['nodes']} x {world['ranks']} ranks x {world['workers']} workers, "
        f"global batch {world['global_batch']:,}"
    )
    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    for _ in columns:
        table.add_column(justify="right", no_wrap=True)
    for rows in _ROWS:
        for name, shown in rows:
            table.add_row(name, *map(shown, columns))
        table.add_section()
    console.print(table)
    for warning in warnings:
        console.print(f"warning: {warning}")
