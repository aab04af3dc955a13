"""One video, indexed where it is: read by header bytes if it may be, else whole."""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import numpy as np

from onetake.core.errors import IndexFileError, SourceError, VideoError
from onetake.core.index import CONTAINER, MAX_SEGMENT_PACKETS, Keyframes
from onetake.decode.check import Checked, check_video
from onetake.decode.headers import HEADER_SUFFIXES, SparseCopy, Unsettled, check_by_headers, header_budget
from onetake.decode.index_writer import IndexedVideo
from onetake.decode.numbering import segment_rows
from onetake.decode.probe import scan_video
from onetake.decode.segment import byte_range
from onetake.decode.validate import safe_path, video_problem
from onetake.storage.base import Entry, Storage

__all__ = ["How", "NoRoomError", "check_name", "index_remote_video", "index_video"]

_SPARE_BYTES = 64 << 20  # of the disk, that copies leave free


class NoRoomError(SourceError):
    """The disk has no room for a file's copy."""


@dataclass(frozen=True, slots=True)
class How:
    """What an index is made of videos by; see ``index_videos``."""

    segment_seconds: float
    stream_index: int | None = None
    verify: bool = False


def check_name(file: str) -> None:
    """Raise VideoError if an index can't hold the name of a file."""
    try:
        safe_path(file)
        file.encode()
    except (IndexFileError, UnicodeEncodeError):
        raise VideoError(file, "an index cannot hold this file name; rename it") from None


def index_video(
    folder: Path, file: str, segment_seconds: float, stream_index: int | None = None, verify: bool = False
) -> IndexedVideo:
    """Index one file of a folder; see ``index_videos``.

    Raises:
        VideoError: it can't be used.
    """
    check_name(file)
    path = folder / file
    return _cut(check_video(path, scan_video(path, file, file, stream_index), verify), segment_seconds)


def index_remote_video(storage: Storage, entry: Entry, how: How, scratch: Path | None) -> tuple[IndexedVideo, int]:
    """Index one file of a storage that is no folder of this machine.

    An MP4 or MOV is indexed from its header bytes and a few packets (see ``decode.headers``). Where that does not
    settle how it is read, and for every other format, the file is fetched in one request, and its copy deleted at once.

    Args:
        storage: where it is.
        entry: the file.
        how: how it is indexed.
        scratch: the folder for copies. None: the system's temporary one (``TMPDIR``).

    Returns:
        The video, and how many bytes were read.

    Raises:
        VideoError: it can't be used.
        NoRoomError: the disk is too small for its copy.
        OSError, SourceError: it can't be read.
    """
    check_name(entry.file)
    suffix = PurePosixPath(entry.file).suffix.lower()
    bytes_read, checked = 0, None
    with TemporaryDirectory(prefix="onetake-", dir=scratch) as folder:
        path = Path(folder, f"video{suffix}")
        budget = header_budget(entry.size)
        if suffix in HEADER_SUFFIXES and not how.verify and entry.size > budget:
            with SparseCopy(storage, entry, path, budget) as copy:
                with suppress(Unsettled, VideoError):  # headers alone may look like a damaged file
                    checked = check_by_headers(copy, how.stream_index)
                bytes_read = copy.bytes_read
        if checked is None:
            _copy(storage, entry, path)
            bytes_read += entry.size
            checked = check_video(path, scan_video(path, entry.file, entry.file, how.stream_index), how.verify)
    checked = replace(checked, video=replace(checked.video, version=entry.version))
    return _cut(checked, how.segment_seconds), bytes_read


def _copy(storage: Storage, entry: Entry, path: Path) -> None:
    """Fetch a whole file.

    Raises:
        NoRoomError: there is no room for it.
        OSError, SourceError: it can't be read.
    """
    no_room = NoRoomError(
        f"there is no room for its {entry.size} bytes in {path.parent.parent}, where it is read: make room"
    )
    if shutil.disk_usage(path.parent).free < entry.size + _SPARE_BYTES:
        raise no_room
    try:
        storage.copy(entry.file, 0, entry.size, path, entry.version)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_room from None
        raise
    if path.stat().st_size != entry.size:
        raise OSError(f"{entry.file} ended while it was read")


def _cut(checked: Checked, segment_seconds: float) -> IndexedVideo:
    """A checked video, cut into segments.

    Raises:
        VideoError: a segment has too many packets, or what is known of the video can't be.
    """
    video, table = checked.video, checked.table
    problem = video_problem(video)
    if problem:
        raise VideoError(video.file, f"{problem} can't be right; encode it again")
    starts = segment_rows(table, video.time_base, segment_seconds)
    first = np.maximum(table.frame[starts], 0)
    first[0] = 0
    counts = np.diff(first, append=video.num_frames)
    rows, tables, keys = [], [], []
    for start, stop, first_frame, num_frames in zip(
        starts.tolist(), [*starts[1:].tolist(), len(table)], first.tolist(), counts.tolist(), strict=True
    ):
        part = table[start:stop]
        if len(part) > MAX_SEGMENT_PACKETS:
            raise VideoError(
                video.file, f"{len(part)} packets without a keyframe among them; encode it again with some"
            )
        shown_keys = part.clean_key_rows[part.frame[part.clean_key_rows] >= 0]
        keys.append((part.frame[shown_keys], part.pts[shown_keys]))
        offset, length = (0, video.file_bytes) if video.kind == CONTAINER else byte_range(part)
        rows.append(
            {
                "first_frame": first_frame,
                "num_frames": num_frames,
                "first_pts": int(table.pts[table.frame == first_frame][0]),
                "byte_offset": offset,
                "byte_length": length,
                "num_packets": len(part),
                "num_keyframes": len(part.key_rows),
            }
        )
        tables.append(part.to_bytes())
    keyframes = Keyframes(
        start=np.cumsum([0, *(len(frames) for frames, _ in keys)]),
        frame=np.concatenate([frames for frames, _ in keys]),
        pts=np.concatenate([pts for _, pts in keys]),
    )
    return IndexedVideo(video, tuple(rows), keyframes, tuple(tables), checked.damaged)
