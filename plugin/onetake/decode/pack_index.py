"""The index of a pack: MDS's own, and ours, whose packet tables point into the shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onetake.core.errors import IndexFileError, VideoError
from onetake.core.index import Keyframes, VideoIndex
from onetake.decode.index_writer import Annotations, IndexedVideo, write_index
from onetake.decode.mds import index_bytes
from onetake.decode.pack_shard import PackedSegment, PackedShard
from onetake.decode.store import HEADER, INDEX_FOLDER, PACK_INDEX_FILES, SHARDS
from onetake.decode.validate import safe_path

__all__ = ["PACK_FILES", "PackedShards", "read_shards", "write_pack_index"]

# Below the pack's root, in the order in which they are written: what makes a pack of the shards comes last.
PACK_FILES = (*(f"{INDEX_FOLDER}/{name}" for name in PACK_INDEX_FILES), HEADER)

_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("bytes", pa.int64()),
        ("hash", pa.string()),
        ("stop_frame", pa.list_(pa.int64())),
        ("last_pts", pa.list_(pa.int64())),
    ]
)


@dataclass(frozen=True, slots=True)
class PackedShards:
    """The shards of a pack, and the S segments that they hold, in the order of its index.

    Attributes:
        files: of each shard, its path below the pack's root.
        num_bytes: int64 [shards].
        digests: of each shard, BLAKE2b of its bytes, 16 of them, in hexadecimal.
        shard_of_segment: int64 [S], never falling.
        stop_frame: int64 [S], the first frame of its video that a segment does not carry.
        last_pts: int64 [S], when the frame before that is shown, in ticks of the video's clock.
    """

    files: tuple[str, ...]
    num_bytes: NDArray[np.int64]
    digests: tuple[str, ...]
    shard_of_segment: NDArray[np.int64]
    stop_frame: NDArray[np.int64]
    last_pts: NDArray[np.int64]


def write_pack_index(root: Path, shards: Sequence[PackedShard], pack: dict[str, Any], annotations: Annotations) -> None:
    """Write ``PACK_FILES``; the same shards give the same bytes.

    Args:
        root: a folder on this machine.
        shards: all of the pack's, by number.
        pack: what the header is to say of the pack, "key" among it.
        annotations: what the index of the videos says of them besides.

    Raises:
        VideoError: a video's segments can't be told to be of one video.
    """
    folder = root / INDEX_FOLDER
    folder.mkdir(parents=True)
    rows = [
        {
            "file": shard.entry["raw_data"]["basename"],
            "bytes": shard.num_bytes,
            "hash": shard.digest,
            "stop_frame": [segment.stop_frame for segment in shard.segments],
            "last_pts": [segment.last_pts for segment in shard.segments],
        }
        for shard in shards
    ]
    metadata = {"onetake": json.dumps({"key": pack["key"]})}
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA.with_metadata(metadata)), folder / SHARDS, compression="zstd")
    segments: dict[str, list[PackedSegment]] = {}
    for shard in shards:
        for segment in shard.segments:
            segments.setdefault(segment.video.video_id, []).append(segment)
    lost = {video_id: sum(segment.lost for segment in own) for video_id, own in segments.items()}
    pack = {
        **pack,
        "shards": len(shards),
        "bytes": sum(shard.num_bytes for shard in shards),
        "damaged": {video_id: count for video_id, count in sorted(lost.items()) if count},
    }
    write_index(folder, [_indexed(own) for own in segments.values()], {"pack": pack}, annotations)
    (root / HEADER).write_bytes(index_bytes([shard.entry for shard in shards]))


def _indexed(segments: Sequence[PackedSegment]) -> IndexedVideo:
    video = segments[0].video
    if any(segment.video != video for segment in segments):
        raise VideoError(video.video_id, "its segments were encoded with different headers; take another --codec")
    return IndexedVideo(
        video,
        tuple(segment.row for segment in segments),
        Keyframes(
            start=np.cumsum([0, *(len(segment.key_frames) for segment in segments)]),
            frame=np.array([frame for segment in segments for frame in segment.key_frames], np.int64),
            pts=np.array([pts for segment in segments for pts in segment.key_pts], np.int64),
        ),
        tuple(segment.table for segment in segments),
    )


def read_shards(folder: Path, index: VideoIndex, header: dict[str, Any]) -> PackedShards:
    """The shards of a pack; nothing that is read is trusted.

    Args:
        folder: of its index.
        index: that index.
        header: its header.

    Raises:
        IndexFileError: shards.parquet is missing, damaged, or of another pack.
    """
    try:
        table = pq.read_table(folder / SHARDS)
        if not table.schema.equals(_SCHEMA):
            raise ValueError("not the columns of shards")
        stamp = json.loads((table.schema.metadata or {}).get(b"onetake", b"{}"))
        if stamp.get("key") != header["pack"]["key"]:
            raise ValueError("it is of another pack")
        stops, pts = (table[name].combine_chunks() for name in ("stop_frame", "last_pts"))
        sizes = table["bytes"].to_numpy().astype(np.int64)
        counts = stops.value_lengths().to_numpy()
        shards = PackedShards(
            tuple(str(safe_path(file)) for file in table["file"].to_pylist()),
            sizes,
            tuple(table["hash"].to_pylist()),
            np.repeat(np.arange(len(sizes)), counts),
            *(column.flatten().to_numpy().astype(np.int64) for column in (stops, pts)),
        )
        if not len(shards.stop_frame) == len(shards.last_pts) == index.num_segments:
            raise ValueError("shards and segments don't match")
        last = sizes[shards.shard_of_segment] - index.byte_length  # a sum could run over
        if np.any(sizes < 0) or np.any(index.byte_offset > last) or np.any(shards.stop_frame > index.video_frames):
            raise ValueError("a segment lies outside its shard")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise IndexFileError(f"{folder / SHARDS} is damaged ({error}): pack again, into another folder") from None
    return shards
