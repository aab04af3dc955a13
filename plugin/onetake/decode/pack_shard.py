"""One shard of a pack, made by itself from packets of the source: the same bytes whoever makes it, and when."""

from __future__ import annotations

import hashlib
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from onetake.core.errors import FileChangedError, OnetakeError, VideoError
from onetake.core.index import CONTAINER, UNCHECKED, PacketTable, Video, packet_check
from onetake.core.packing import MAX_SHARD_BYTES, Cut, PackSpec, TranscodeSpec
from onetake.decode.mds import shard_entry, write_shard
from onetake.decode.remux import locate, remux
from onetake.decode.segment import byte_range
from onetake.decode.sound import Sound, open_sound
from onetake.decode.source import open_source
from onetake.decode.store import PACKETS_BIN
from onetake.decode.transcode import Transcoded, transcode
from onetake.storage.base import Storage
from onetake.storage.open import open_storage

__all__ = ["Failure", "PackedSegment", "PackedShard", "Places", "SegmentPlan", "ShardPlan", "pack_shard", "shard_name"]

_storage = lru_cache(maxsize=16)(open_storage)  # with its connections, which take long to make
_GAP = 1 << 20  # bytes between two packets that are read along rather than asked for anew


@dataclass(frozen=True, slots=True)
class Places:
    """Where the videos, their index and the pack are: paths or URLs."""

    videos: str
    index: str
    out: str


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """A segment to be packed.

    Attributes:
        video: its video.
        cut: which rows and frames; rows are counted from the first of ``tables`` on.
        is_whole: the video is packed as the file that it is.
        tables: where packets.bin holds the packet tables that it is cut from: (offset, length, packets).
        metadata: the video's columns.
    """

    video: Video
    cut: Cut
    is_whole: bool
    tables: tuple[tuple[int, int, int], ...]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard to be made: its number, and what it holds."""

    number: int
    segments: tuple[SegmentPlan, ...]


@dataclass(frozen=True, slots=True)
class PackedSegment:
    """What the pack's index has to say of a segment.

    Attributes:
        video: the video, as it is in the pack.
        row: a value per name; see ``IndexedVideo.rows``.
        key_frames, key_pts: of its own keyframes.
        table: its packet table as bytes; offsets are those in the shard.
        stop_frame: the first frame that it does not carry; the number of the video's frames where it carries all.
        last_pts: when the frame before that is shown.
        lost: frames that did not decode, so that the one before stands for them (of transcoded videos).
    """

    video: Video
    row: dict[str, int]
    key_frames: tuple[int, ...]
    key_pts: tuple[int, ...]
    table: bytes
    stop_frame: int
    last_pts: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class PackedShard:
    """A shard that was written.

    Attributes:
        number: its number.
        entry: what MDS's index says of it.
        digest: BLAKE2b of its bytes, 16 of them, in hexadecimal.
        segments: what it holds.
    """

    number: int
    entry: dict[str, Any]
    digest: str
    segments: tuple[PackedSegment, ...]

    @property
    def num_bytes(self) -> int:
        """What it weighs."""
        return int(self.entry["raw_data"]["bytes"])

    def to_dict(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        segments = []
        for segment in self.segments:
            video = asdict(segment.video) | {"extradata": b64encode(segment.video.extradata).decode()}
            segments.append(asdict(segment) | {"video": video, "table": b64encode(segment.table).decode()})
        return {"number": self.number, "entry": self.entry, "digest": self.digest, "segments": segments}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PackedShard:
        """Inverse of ``to_dict``; raises KeyError, TypeError or ValueError for anything else."""
        segments = []
        for item in value["segments"]:
            video = Video(**{**item["video"], "extradata": b64decode(item["video"]["extradata"]),
                             "time_base": tuple(item["video"]["time_base"])})  # fmt: skip
            keys = {name: tuple(item[name]) for name in ("key_frames", "key_pts")}
            segments.append(PackedSegment(**{**item, **keys, "video": video, "table": b64decode(item["table"])}))
        return cls(value["number"], value["entry"], value["digest"], tuple(segments))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a shard could not be made: what is wrong with which video ("" if that is not what failed)."""

    number: int
    video_id: str
    reason: str


def shard_name(number: int) -> str:
    """The file of a shard, as MDSWriter calls it."""
    return f"shard.{number:05d}.mds"


@dataclass(frozen=True, slots=True)
class _Made:
    """A segment's sample of the shard, before its place in it is known; see ``Transcoded``."""

    video: Video
    data: bytes
    table: PacketTable
    lost: int = 0


def pack_shard(places: Places, spec: PackSpec, plan: ShardPlan) -> PackedShard | Failure:
    """Make one shard and put it into the pack; runs in any process, and on any machine that sees ``places``."""
    video_id = ""
    try:
        videos, index = _storage(places.videos), _storage(places.index)
        made = []
        for segment in plan.segments:
            video_id = segment.video.video_id
            made.append(_make(videos, index, segment, spec))
        video_id = ""
        return _write(_storage(places.out), spec, plan, made)
    except VideoError as error:
        return Failure(plan.number, error.video_id, error.reason)
    except (OnetakeError, OSError) as error:
        return Failure(plan.number, video_id, str(error))


def _write(out: Storage, spec: PackSpec, plan: ShardPlan, made: Sequence[_Made | Transcoded]) -> PackedShard:
    samples = []
    for segment, item in zip(plan.segments, made, strict=True):
        first = item.table.pts[item.table.frame == segment.cut.first_frame]
        samples.append(
            {
                "metadata": segment.metadata,
                "num_frames": segment.cut.num_frames,
                "start_frame": segment.cut.first_frame,
                "start_seconds": float(item.video.to_seconds(first)[0]),
                "video": item.data,
                "video_id": item.video.video_id,
            }
        )
    total = sum(len(item.data) for item in made)
    if total > MAX_SHARD_BYTES:
        raise VideoError(
            made[0].video.video_id,
            f"{total} bytes that cannot be cut are too much for one MDS shard, which counts in 32 bits; "
            "pack with --transcode, or put it into an MP4 or MKV file",
        )
    shard = write_shard(samples, spec.hashes, spec.shard_bytes)
    name = shard_name(plan.number)
    with tempfile.TemporaryDirectory(prefix="onetake-pack-") as folder:
        part = Path(folder, name)
        part.write_bytes(shard.data)
        out.write(name, part)
    entry = shard_entry(name, shard.data, len(samples), spec.hashes, spec.shard_bytes)
    parts = zip(plan.segments, made, shard.video_starts, strict=True)
    digest = hashlib.blake2b(shard.data, digest_size=16).hexdigest()
    return PackedShard(plan.number, entry, digest, tuple(_describe(*part) for part in parts))


def _describe(plan: SegmentPlan, made: _Made | Transcoded, start: int) -> PackedSegment:
    cut, table = plan.cut, made.table
    video = replace(made.video, version="")  # the pack is the same wherever its videos were
    if video.kind == CONTAINER:
        place = start, len(made.data)
    else:
        table = replace(table, offset=table.offset + start)
        place = byte_range(table)
    stop = cut.first_frame + cut.num_frames
    keys = table.clean_key_rows
    own = keys[(table.frame[keys] >= cut.first_frame) & (table.frame[keys] < stop)]
    row = {
        "first_frame": cut.first_frame,
        "num_frames": cut.num_frames,
        "first_pts": int(table.pts[table.frame == cut.first_frame][0]),
        "byte_offset": place[0],
        "byte_length": place[1],
        "num_packets": len(table),
        "num_keyframes": int(np.count_nonzero(table.frame[table.key_rows] < stop)),
    }
    last_pts = int(table.pts[table.frame == cut.stop_frame - 1][0])
    frames, pts = tuple(table.frame[own].tolist()), tuple(table.pts[own].tolist())
    return PackedSegment(video, row, frames, pts, table.to_bytes(), cut.stop_frame, last_pts, made.lost)


def _make(videos: Storage, index: Storage, plan: SegmentPlan, spec: PackSpec) -> _Made | Transcoded:
    table = PacketTable.concatenate(
        [
            PacketTable.from_bytes(index.read(PACKETS_BIN, offset, length), packets)
            for offset, length, packets in plan.tables
        ]
    )[plan.cut.start_row : plan.cut.stop_row]
    video = plan.video
    try:
        if plan.is_whole:
            return _Made(video, _whole_file(videos, video, table), table)
        with _sound(videos, plan, table, spec) as sound:
            if spec.transcode is None:
                return _muxed(video, table, _read_packets(videos, video, table), plan.cut, sound)
            made = _transcode(videos, plan, table, spec.transcode)
            if sound is None:
                return made
            offsets = zip(made.table.offset.tolist(), made.table.size.tolist(), strict=True)
            payloads = [made.data[offset : offset + size] for offset, size in offsets]
            return replace(_muxed(made.video, made.table, payloads, plan.cut, sound), lost=made.lost)
    except FileNotFoundError:
        raise VideoError(video.video_id, "is not there any more; put it back, and run the command again") from None
    except FileChangedError:
        raise VideoError(
            video.video_id, "it changed since it was indexed; run `onetake index` again, and pack into another folder"
        ) from None


def _muxed(video: Video, table: PacketTable, payloads: Sequence[bytes], cut: Cut, sound: Sound | None) -> _Made:
    data = remux(video, table, payloads, cut.first_frame, sound)
    table = replace(
        table,
        offset=locate(video, data, payloads),
        flags=table.flags & np.uint8(~UNCHECKED & 0xFF),  # now they are known
        check=np.array([packet_check(payload) for payload in payloads], np.uint32),
    )
    return _Made(video, data, table)


@contextmanager
def _sound(storage: Storage, plan: SegmentPlan, table: PacketTable, spec: PackSpec) -> Iterator[Sound | None]:
    """What is heard while a segment is seen, where sound is to be kept."""
    if not spec.audio:
        yield None
        return
    video, cut = plan.video, plan.cut
    ends = np.array([table.pts[table.frame == frame][0] for frame in (cut.first_frame, cut.stop_frame - 1)])
    start, last = video.to_seconds(ends).tolist()
    with open_sound(storage, video, start, last + video.seconds / video.num_frames) as sound:
        yield sound


def _transcode(storage: Storage, plan: SegmentPlan, table: PacketTable, spec: TranscodeSpec) -> Transcoded:
    video = plan.video
    if storage.root is not None:
        return transcode(video, open_source(video, table, storage.root / video.file), plan.cut, spec)
    start, length = (0, video.file_bytes) if video.kind == CONTAINER else byte_range(table)
    with tempfile.TemporaryDirectory(prefix="onetake-pack-") as folder:
        path = Path(folder, "video")
        storage.copy(video.file, start, length, path)
        return transcode(video, open_source(video, table, path, start), plan.cut, spec)


def _whole_file(storage: Storage, video: Video, table: PacketTable) -> bytes:
    """The file's bytes, which hold the packets of ``table``."""
    with tempfile.TemporaryDirectory(prefix="onetake-pack-") as folder:
        path = Path(folder, "video")
        storage.copy(video.file, 0, video.file_bytes, path)
        source = open_source(video, table, path)
        try:
            for _ in source.start(0)[1]:
                pass  # each packet is compared with the index's check sum
        finally:
            source.close()
        return path.read_bytes()


def _read_packets(storage: Storage, video: Video, table: PacketTable) -> list[bytes]:
    """The packets' bytes, in few requests.

    Raises:
        VideoError: they are not those that were indexed.
    """
    order = np.argsort(table.offset)
    starts, stops = table.offset[order], (table.offset + table.size)[order]
    reached = np.maximum.accumulate(stops)
    first = np.flatnonzero(np.append(True, starts[1:] > reached[:-1] + _GAP))  # of each run of near packets
    payloads = [b""] * len(table)
    version = video.version if np.any(table.flags & UNCHECKED) else None  # nothing else tells whether they changed
    for begin, end in zip(first.tolist(), [*first[1:].tolist(), len(order)], strict=True):
        start = int(starts[begin])
        data = memoryview(storage.read(video.file, start, int(reached[end - 1]) - start, version))
        for row in order[begin:end].tolist():
            at = int(table.offset[row]) - start
            payloads[row] = bytes(data[at : at + int(table.size[row])])
    for row, payload in enumerate(payloads):
        if not table.has_bytes(row, payload):
            where = f"at byte {int(table.offset[row])} (frame {int(table.frame[row])})"
            raise VideoError(
                video.video_id,
                f"{where} its bytes are not those that were indexed: it changed, or is damaged; copy it again, or run "
                "`onetake index` again and pack into another folder",
            )
    return payloads
