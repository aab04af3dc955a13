"""A zoo of small odd videos, made on the spot: what cameras, editors, encoders and broken disks leave behind.

``ZOO`` has an entry per file; ``write_zoo`` writes them. Every picture of a file differs from every other one, so
that a wrong frame never equals the right one. ``facts`` says what FFmpeg finds in a file, and each entry's ``claims``
are facts that make the file what it is meant to be. The reference is what a full sequential decode by PyAV gives:
``sequential`` with all details, ``reference`` as RGB arrays. Shares no code with onetake.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.nal import pictures
from tests.zoo_codecs import H264, HEVC, OTHERS
from tests.zoo_containers import CONTAINERS, DAMAGED, TIMES
from tests.zoo_fields import FIELDS
from tests.zoo_make import ZooFile

__all__ = ["ZOO", "Shown", "ZooFile", "facts", "reference", "sequential", "write_zoo"]


ZOO: dict[str, ZooFile] = {**H264, **FIELDS, **HEVC, **OTHERS, **CONTAINERS, **TIMES, **DAMAGED}


def write_zoo(folder: Path, names: Iterable[str] | None = None) -> list[Path]:
    """Write the files called ``names`` (None: all) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in ZOO if names is None else names:
        ZOO[name].write(folder / name)
        paths.append(folder / name)
    return paths


# What FFmpeg says


@dataclass(frozen=True)
class Shown:
    """One picture of a sequential decode: ``pixels`` are uint8 RGB ``[H, W, 3]``."""

    pts: int | None
    pixels: np.ndarray
    is_corrupt: bool
    kind: str
    is_interlaced: bool
    rotation: int
    pix_fmt: str


@dataclass
class _Decoded:
    shown: list[Shown]
    errors: int


def _decode(path: Path, stream_index: int | None) -> _Decoded:
    found = _Decoded([], 0)
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video") if stream_index is None else container.streams[stream_index]
        stream.codec_context.thread_count = 1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return found
                frames = packet.decode()
            except av.error.FFmpegError:  # of a packet, or (and then no more come) of the container
                found.errors += 1
                continue
            found.shown += [
                Shown(
                    frame.pts,
                    frame.to_ndarray(format="rgb24"),
                    bool(frame.is_corrupt),
                    "?IPBSipb"[frame.pict_type],
                    bool(frame.interlaced_frame),
                    int(frame.rotation),
                    frame.format.name,
                )
                for frame in frames
            ]


def sequential(path: Path, stream_index: int | None = None) -> list[Shown]:
    """Every picture that a full decode from front to back shows, at one thread, in the order in which they come.

    A packet that the decoder refuses is passed over, as players do.
    """
    return _decode(path, stream_index).shown


def reference(path: Path, stream_index: int | None = None) -> list[np.ndarray]:
    """The pictures of ``sequential``: uint8 RGB ``[H, W, 3]``."""
    return [shown.pixels for shown in sequential(path, stream_index)]


def facts(path: Path) -> dict[str, Any]:
    """What a file is.

    Of the file: format, codec, tag, streams (first letters of their kinds), entries (keyframes in the container's own
    index). Of packets: packets, keys, discarded, twins (that have the pts of another one), no_pts, reordered (pts
    don't rise), leading (shown before the keyframe that they follow), bundles (of VP9 and AV1: that hold several
    pictures), slices (NAL unit types of H.264 and HEVC). Of what a sequential decode shows: frames, corrupt, errors,
    unsorted (pts don't rise), uneven (steps between pts differ), first_pts, sizes, pix_fmt, kinds, interlaced,
    rotation.
    """
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        context = stream.codec_context
        known = {
            "format": container.format.name.split(",")[0],
            "codec": context.codec.canonical_name,
            "tag": context.codec_tag,
            "streams": "".join(sorted(s.type[0] for s in container.streams)),
        }
        packets = [packet for packet in container.demux(stream) if packet.size]
        known["entries"] = sum(entry.is_keyframe for entry in stream.index_entries)
        bundles = [_pictures_held(known["codec"], bytes(packet)) for packet in packets]
    decoded = _decode(path, None)
    shown = decoded.shown
    times = [packet.pts for packet in packets]
    stamped = [time for time in times if time is not None]
    frame_times = [frame.pts for frame in shown if frame.pts is not None]
    key_time, leading = None, 0
    for packet in packets:
        if packet.is_keyframe:
            key_time = packet.pts
        elif None not in (key_time, packet.pts):
            leading += packet.pts < key_time
    return {
        **known,
        "packets": len(packets),
        "keys": sum(packet.is_keyframe for packet in packets),
        "discarded": sum(packet.is_discard for packet in packets),
        "twins": len(stamped) - len(set(stamped)),
        "no_pts": len(times) - len(stamped),
        "reordered": stamped != sorted(stamped),
        "leading": leading,
        "bundles": sum(held > 1 for held in bundles),
        "slices": _slice_types(path),
        "frames": len(shown),
        "corrupt": sum(frame.is_corrupt for frame in shown),
        "errors": decoded.errors,
        "unsorted": frame_times != sorted(frame_times),
        "sizes": sorted({frame.pixels.shape[1::-1] for frame in shown}),
        "pix_fmt": shown[0].pix_fmt if shown else "",
        "kinds": "".join(sorted({frame.kind for frame in shown})),
        "interlaced": sum(frame.is_interlaced for frame in shown),
        "rotation": shown[0].rotation if shown else 0,
        "first_pts": frame_times[0] if frame_times else None,
        "uneven": len(set(np.diff(frame_times).tolist())) > 1,
    }


def _pictures_held(codec: str, data: bytes) -> int:
    """Coded pictures in a packet of VP9 (a superframe) or AV1 (a temporal unit); 1 for other codecs."""
    if codec == "vp9":
        marker = data[-1]
        length = 2 + ((marker & 7) + 1) * ((marker >> 3 & 3) + 1)
        return (marker & 7) + 1 if marker >> 5 == 6 and data[-length:][0] == marker else 1
    if codec != "av1":
        return 1
    at, held = 0, 0
    while at < len(data):
        kind, has_extension = data[at] >> 3 & 15, data[at] >> 2 & 1
        at += 1 + has_extension
        size, shift, more = 0, 0, True
        while more:
            size |= (data[at] & 127) << shift
            more = bool(data[at] & 128)
            at, shift = at + 1, shift + 7
        held += kind in (3, 6)  # a frame header, a frame
        at += size
    return held


def _slice_types(path: Path) -> tuple[int, ...]:
    try:
        return tuple(sorted({kind for picture in pictures(path) for kind in picture.types}))
    except ValueError:  # another codec, or damaged
        return ()
