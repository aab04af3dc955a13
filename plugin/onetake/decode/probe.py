"""What one video file holds: demuxed from front to back, nothing decoded."""

from __future__ import annotations

import mmap
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from onetake.core.errors import VideoError
from onetake.core.index import CONTAINER, DISCARD, KEYFRAME, PACKETS, PacketTable, Video
from onetake.decode.container import decoding_stream, open_video

__all__ = ["number_frames", "scan_video", "segment_rows"]

MAX_PIXELS = 8192 * 8192
# A Matroska block header or an AVI chunk header stands between where a packet is said to be and its payload.
_HEADER_BYTES = 64

Int64Array = NDArray[np.int64]


def scan_video(path: Path, video_id: str, file: str) -> tuple[Video, PacketTable]:
    """Demux a file: its video's parameters, and the packet table of the whole of it.

    The video's kind is PACKETS where every packet's bytes were found in the file in one piece, else CONTAINER;
    whether they decode without the container is not known yet (see ``decode.check``).

    Raises:
        VideoError: the file is no video, is damaged or cut off, or its packets do not tell the order in which
            its frames are shown.
    """
    stat = path.stat()
    if not stat.st_size:
        raise VideoError(video_id, "the file is empty; remove it or copy it again")
    with (
        open_video(path, video_id) as container,
        path.open("rb") as raw,
        mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        ends = _announced_end(data) if "matroska" in container.format.name else 0
        if ends > stat.st_size:
            reason = f"cut off: its header announces {ends} bytes, the file holds {stat.st_size}; copy it again"
            raise VideoError(video_id, reason)
        stream = decoding_stream(container, video_id)
        codec = stream.codec_context
        if not (codec.width and codec.height):
            raise VideoError(
                video_id, "no picture size is known, so the stream is damaged or encrypted; encode it again"
            )
        if codec.width * codec.height > MAX_PIXELS:
            raise VideoError(
                video_id,
                f"pictures of {codec.width} x {codec.height} are over the limit of {MAX_PIXELS} pixels",
            )
        rows: list[tuple[int, int, int, int]] = []
        whole = True
        use_dts = not codec.has_b_frames
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                position = packet.pos if packet.pos is not None else -1
                if packet.is_corrupt or position + packet.size > stat.st_size:
                    raise VideoError(video_id, f"cut off or damaged at byte {position}; copy it again")
                pts = packet.pts if packet.pts is not None or not use_dts else packet.dts
                if pts is None:
                    reason = "its packets carry no presentation times; put it into an MP4 or MKV file"
                    raise VideoError(video_id, reason)
                if whole:
                    offset = data.find(bytes(packet), position, position + packet.size + _HEADER_BYTES)
                    whole = position >= 0 and offset >= 0
                flags = KEYFRAME * packet.is_keyframe | DISCARD * packet.is_discard
                rows.append((offset if whole else position, packet.size, pts, flags))
        except av.error.FFmpegError as error:
            raise VideoError(video_id, f"cannot be demuxed ({error.strerror}); copy or encode it again") from None
        if not rows:
            raise VideoError(video_id, "holds no video packet; remove it")
        offset_, size, pts_, flags_ = np.array(rows, np.int64).T
        announced, held = stream.frames, len(rows)
        if "mp4" in container.format.name:  # what an edit list cuts away has no entry, but is announced
            announced = len(stream.index_entries)
        elif container.format.name == "avi":  # a frame that was dropped at capture is announced, and takes its time
            held = max(held, int(pts_.max()) + 1)
        if announced > held:
            reason = f"cut off: its header announces {announced} frames, the file holds {held}; copy it again"
            raise VideoError(video_id, reason)
        table = PacketTable(offset_, size, pts_, number_frames(video_id, pts_, flags_), _start_flags(pts_, flags_))
        shown = np.sort(pts_[table.frame >= 0])
        steps = np.diff(shown)
        step = int(np.median(steps)) if len(steps) else 0
        video = Video(
            video_id=video_id,
            file=file,
            file_bytes=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            kind=PACKETS if whole else CONTAINER,
            num_frames=int(table.frame.max()) + 1,
            codec=codec.codec.canonical_name,
            decoder=codec.name,
            codec_options="",
            extradata=bytes(codec.extradata or b""),
            time_base=(stream.time_base.numerator, stream.time_base.denominator),
            duration=int(shown[-1] - shown[0]) + step,
            frame_ticks=step if np.all(steps == step) else 0,
            width=codec.width,
            height=codec.height,
            rotation=0,
            pix_fmt=codec.pix_fmt or "",
            color_matrix="",
            color_range="",
            stream_index=stream.index,
            container=container.format.name,
        )
    return video, table


def _announced_end(data: mmap.mmap) -> int:
    """Where a Matroska file says that it ends; 0 where it does not say, as in a live recording."""
    end = 0
    for element in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # the EBML header, the segment
        width = 9 - data[end + 4 : end + 5].ljust(1)[0].bit_length()
        size = int.from_bytes(data[end + 4 : end + 4 + width], "big") - (1 << 7 * width)
        if data[end : end + 4] != element or width > 8 or size == (1 << 7 * width) - 1:
            return 0
        end += 4 + width + size
    return end


def number_frames(video_id: str, pts: Int64Array, flags: Int64Array) -> Int64Array:
    """Frame numbers of packets in decode order: ranks by pts among those that are shown, -1 for the others.

    Raises:
        VideoError: nothing is shown, or two shown packets have the same pts.
    """
    frame = np.full(len(pts), -1, np.int64)
    shown = np.flatnonzero((flags & DISCARD) == 0)
    if not len(shown):
        raise VideoError(video_id, "every frame is cut away by its edit list; remove it")
    by_pts = shown[np.argsort(pts[shown], kind="stable")]
    twins = np.flatnonzero(np.diff(pts[by_pts]) == 0)
    if len(twins):
        reason = f"two packets are shown at the same time (pts {pts[by_pts[twins[0]]]}), so frames have no numbers"
        raise VideoError(video_id, f"{reason}; put it into an MP4 or MKV file again")
    frame[by_pts] = np.arange(len(by_pts))
    return frame


def _start_flags(pts: Int64Array, flags: Int64Array) -> NDArray[np.uint8]:
    """Flags with KEYFRAME left only where a decoder can start: keyframes rise in pts, the first packet is one."""
    key_rows = np.flatnonzero(flags & KEYFRAME)
    highest = np.maximum.accumulate(pts[key_rows]) if len(key_rows) else key_rows
    late = key_rows[1:][pts[key_rows[1:]] <= highest[:-1]] if len(key_rows) else key_rows
    flags = flags.copy()
    flags[late] &= ~KEYFRAME
    flags[0] |= KEYFRAME
    return flags.astype(np.uint8)


def segment_rows(table: PacketTable, time_base: tuple[int, int], segment_seconds: float) -> Int64Array:
    """Rows at which segments start: the first row, then the first keyframe at least ``segment_seconds`` on."""
    ticks = segment_seconds * time_base[1] / time_base[0]
    starts = [0]
    for row in table.key_rows[1:].tolist():
        if table.frame[row] >= 0 and table.pts[row] - table.pts[starts[-1]] >= ticks:
            starts.append(row)
    return np.array(starts, np.int64)
