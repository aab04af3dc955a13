"""What ``onetake inspect`` found, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from onetake.cli.console import in_bytes, in_time, table_console

__all__ = ["print_summary"]

_NAMES = 6  # of codecs, sizes, ... that a row shows
_BAR = 40  # characters
_STRETCHES = 20  # of damaged packets that are shown of a file


def print_summary(summary: Mapping[str, Any]) -> None:
    """What the dataset holds, how its keyframes are spread, which clips it gives."""
    console = table_console()
    console.print(_dataset(summary))
    console.print(_keyframes(summary))
    console.print(_clips(summary["clips"]))
    if "measured" in summary:
        console.print(_measured(summary["measured"]))
    if "check" in summary:
        console.print(_check(summary["check"]))
        if summary["check"]["wrong"]:
            console.print(_wrong(summary["check"]["wrong"]))


def _dataset(summary: Mapping[str, Any]) -> Table:
    table = _table(summary["source"])
    table.add_row("videos", f"{summary['videos']:,}")
    table.add_row("segments", f"{summary['segments']:,}")
    table.add_row("frames", f"{summary['frames']:,}")
    table.add_row("playing time", in_time(summary["seconds"]))
    table.add_row("bytes", in_bytes(summary["bytes"]))
    table.add_section()
    for name in ("codecs", "pixel_formats", "containers", "kinds", "sizes", "frame_rates", "rotated", "hdr"):
        if summary[name]:
            title = {"sizes": "sizes (height x width)"}.get(name, name.replace("_", " "))
            table.add_row(title, _counts(summary[name]))
    if summary["columns"]:
        table.add_row("metadata", ", ".join(f"{name} ({kind})" for name, kind in summary["columns"].items()))
    if summary["splits"]:
        table.add_row("splits", ", ".join(f"{name} ({count:,})" for name, count in summary["splits"].items()))
    if summary["spans"]:
        table.add_row("annotated spans", f"{summary['spans']:,}")
    table.add_section()
    table.add_row("length of a video", _spread(summary["video_seconds"], in_time))
    table.add_row("bit rate", _spread(summary["bits_per_second"], lambda rate: f"{rate / 1e6:.3g} Mbit/s"))
    table.add_row("length of a segment", _spread(summary["segment_seconds"], in_time))
    table.add_row("bytes of a segment", _spread(summary["segment_bytes"], in_bytes))
    table.add_row("index, a packet", f"{summary['index_bytes_per_packet']:.2f} B")
    return table


def _keyframes(summary: Mapping[str, Any]) -> Table:
    table = _table("frames from a keyframe to the next")
    counts = summary["keyframe_distances"]
    most, total = max(counts.values()), sum(counts.values())
    for name, count in counts.items():
        table.add_row(
            name, f"{'█' * max(round(_BAR * count / most), count > 0):{_BAR}} {count:,} ({count / total:.1%})"
        )
    table.add_section()
    table.add_row("in all", _spread(summary["keyframe_distance"], _number))
    return table


def _clips(clips: Mapping[str, Any]) -> Table:
    table = _table("clips (" + ", ".join(f"{name}={value}" for name, value in clips["spec"].items()) + ")")
    table.add_row("clips", f"{clips['clips']:,}")
    if clips["clips_per_epoch"] != clips["clips"]:
        table.add_row("... that an epoch takes", f"{clips['clips_per_epoch']:,}")
    table.add_row("clips of a video", _spread(clips["clips_of_videos"], _number))
    without = f"{clips['videos_without']:,}"
    if clips["examples"]:
        more = ", ..." if clips["videos_without"] > len(clips["examples"]) else ""
        without += f": {', '.join(clips['examples'])}{more}"
    table.add_row("videos without a clip", without)
    if clips["costed"]:
        table.add_section()
        table.add_row("frames from a clip's first to its last", f"{clips['frames_spanned']:.1f}")
        table.add_row("frames decoded for one, in order, at most", f"{clips['decoded_in_order']:.1f}")
        table.add_row("... sought at random", f"{clips['decoded_at_random']:.1f}")
        table.add_row("bytes fetched for one, in order", in_bytes(clips["bytes_in_order"]))
    return table


def _measured(measured: Mapping[str, Any]) -> Table:
    costs = (measured["in_order"], measured["at_random"])
    table = Table("a clip, on average", "in order", "at random", title="measured, by one thread", title_justify="left")
    table.add_row("milliseconds", *(f"{cost['ms']:.1f}" for cost in costs))
    table.add_row("frames decoded", *(f"{cost['frames_decoded']:.1f}" for cost in costs))
    table.add_row("bytes of packets", *(in_bytes(cost["bytes_read"]) for cost in costs))
    table.add_row("decoders opened, and jumps", *(f"{cost['opens']:.2f}" for cost in costs))
    table.add_section()
    table.add_row("clips decoded", *(f"{cost['clips']:,}" for cost in costs))
    table.add_row("clips that are damaged", *(f"{cost['damaged']:,}" for cost in costs))
    return table


def _check(check: Mapping[str, Any]) -> Table:
    table = _table("compared with the index")
    table.add_row("files", f"{check['files']:,}")
    table.add_row("packets", f"{check['packets']:,}")
    table.add_row("... without a check sum", f"{check['packets_without_check']:,}")
    table.add_row("bytes", in_bytes(check["bytes"]))
    table.add_row("files touched since", f"{check['other_version']:,}")
    table.add_row("files that differ", f"{len(check['wrong']):,}")
    return table


def _wrong(files: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("file", "what is wrong", "frames", "bytes of the file", title="not as indexed", title_justify="left")
    for file in files:
        name = file["file"]
        if file["reason"]:
            table.add_row(name, file["reason"], "", "")
        for damage in file["damaged"][:_STRETCHES]:
            what = f"{damage['packets']:,} damaged packet{'s' * (damage['packets'] > 1)}"
            if damage["video_id"] != name:
                what += f" of {damage['video_id']}"
            frames = _range(damage["first_frame"], damage["last_frame"])
            last_byte = None if damage["byte_stop"] is None else damage["byte_stop"] - 1
            table.add_row(name, what, frames, _range(damage["byte_offset"], last_byte))
        more = len(file["damaged"]) - _STRETCHES
        if more > 0:
            table.add_row(name, f"{more:,} more such places", "", "")
    return table


def _range(first: int | None, last: int | None) -> str:
    """Numbers that can be looked for: without commas."""
    if first is None:
        return "-"
    return str(first) if first == last else f"{first}-{last}"


def _table(title: str) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    return table


def _counts(counts: Mapping[str, int]) -> str:
    """How many videos there are of each kind; just the kind, if there is but one."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:_NAMES]]
    if len(counts) > _NAMES:
        rest = list(counts.values())[_NAMES:]
        shown.append(f"{len(rest):,} others ({sum(rest):,})")
    return ", ".join(shown)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == round(value) else f"{value:.1f}"


def _spread(spread: Mapping[str, float], words: Callable[[float], str]) -> str:
    values = {name: words(value) for name, value in spread.items()}
    if len(set(values.values())) == 1:
        return values["mean"]
    return f"{values['least']} to {values['most']}, median {values['median']}, mean {values['mean']}"
