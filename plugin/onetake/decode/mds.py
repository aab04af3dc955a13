"""Shards in streaming's MDS format, version 2, which ``streaming.StreamingDataset`` reads.

Its own writer keeps shards in memory and numbers them as they come; here each is made by itself, by any worker.
``tests/stream/test_pack.py`` proves that both give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["COLUMNS", "MdsShard", "index_bytes", "shard_entry", "write_shard"]

# Column: (MDS's name of its encoding, its bytes; None where they vary). Sorted, as in the file.
COLUMNS: dict[str, tuple[str, int | None]] = {
    "metadata": ("json", None),  # the video's columns in the index
    "num_frames": ("int", 8),  # the segment's own frames; those that follow are the overlap
    "start_frame": ("int", 8),  # the number, in the video, of the first frame shown
    "start_seconds": ("float64", 8),  # when the video shows it
    "video": ("bytes", None),  # a file of its own: MP4, MOV or Matroska, or the whole video as it was
    "video_id": ("str", None),
}


@dataclass(frozen=True, slots=True)
class MdsShard:
    """A shard's bytes, and where in them each sample's video starts."""

    data: bytes
    video_starts: tuple[int, ...]


def write_shard(samples: Sequence[dict[str, Any]], hashes: Sequence[str], size_limit: int) -> MdsShard:
    """A shard of ``samples``, each of which has a value for every one of ``COLUMNS``."""
    config = json.dumps(_config(hashes, size_limit), sort_keys=True).encode()
    parts, starts = [], []
    for sample in samples:
        values = {name: _encode(encoding, sample[name]) for name, (encoding, _) in COLUMNS.items()}
        lengths = [len(values[name]) for name, (_, size) in COLUMNS.items() if size is None]
        head = struct.pack(f"<{len(lengths)}I", *lengths)
        names = list(COLUMNS)
        starts.append(len(head) + sum(len(values[name]) for name in names[: names.index("video")]))
        parts.append(b"".join([head, *values.values()]))
    begin = 4 + 4 * (len(parts) + 1) + len(config)
    offsets = begin + np.cumsum([0, *map(len, parts)], dtype=np.int64)
    header = struct.pack("<I", len(parts)) + offsets.astype("<u4").tobytes() + config
    video_starts = (offsets[:-1] + np.array(starts, np.int64)).tolist()
    return MdsShard(b"".join([header, *parts]), tuple(video_starts))


def shard_entry(file: str, data: bytes, samples: int, hashes: Sequence[str], size_limit: int) -> dict[str, Any]:
    """What MDS's index says of a shard."""
    found = {name: hashlib.new(name, data, usedforsecurity=False).hexdigest() for name in hashes}
    raw = {"basename": file, "bytes": len(data), "hashes": found}
    return {"samples": samples, "raw_data": raw, "zip_data": None, **_config(hashes, size_limit)}


def index_bytes(entries: Sequence[dict[str, Any]]) -> bytes:
    """MDS's ``index.json``."""
    return json.dumps({"version": 2, "shards": list(entries)}, sort_keys=True).encode()


def _config(hashes: Sequence[str], size_limit: int) -> dict[str, Any]:
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": list(hashes),
        "size_limit": size_limit,
        "column_names": list(COLUMNS),
        "column_encodings": [encoding for encoding, _ in COLUMNS.values()],
        "column_sizes": [size for _, size in COLUMNS.values()],
    }


def _encode(encoding: str, value: Any) -> bytes:
    if encoding == "json":
        return json.dumps(value).encode()
    if encoding == "str":
        return str(value).encode()
    if encoding == "bytes":
        return bytes(value)
    return struct.pack("<q" if encoding == "int" else "<d", value)
