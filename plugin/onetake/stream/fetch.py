"""One segment from where the videos are into a cache: its bytes, and the table that says what they are."""

from __future__ import annotations

import numpy as np

from onetake.core.errors import FileChangedError, SourceError
from onetake.core.index import CONTAINER, UNCHECKED, PacketTable, Video
from onetake.decode.segment import byte_range
from onetake.storage.base import Storage, StorageError
from onetake.stream.shard import VideoShard

__all__ = ["check_video", "fetch_segment", "unreachable"]


def fetch_segment(videos: Storage, video: Video, table: PacketTable, shard: VideoShard) -> None:
    """Fetch a segment's bytes, in one request, or its whole file if the video is of kind CONTAINER.

    Args:
        videos: where the video is.
        video: the segment's video.
        table: the packets that its clips need.
        shard: says where its files are to be. They are there whole, or not at all.

    Raises:
        SourceError: the video is not there, or not as it was indexed.
        StorageError: the place can't be read, for a reason that may pass.
        CacheError: the cache can't be written; its cause is the OSError.
    """
    start, length = (0, video.file_bytes) if video.kind == CONTAINER else byte_range(table)
    header = len(table).to_bytes(8, "little") + start.to_bytes(8, "little")
    with shard.filling(f"a segment of video {video.video_id!r}") as (table_path, path):
        table_path.write_bytes(header + table.to_bytes())
        try:
            found = videos.copy(video.file, start, length, path, _pinned(videos, video, table))
        except FileNotFoundError:
            raise _missing(videos, video) from None
        except FileChangedError:
            raise SourceError(
                f"video {video.video_id!r} in {videos.location} is no longer the object that was indexed, or "
                "was replaced while it was read: run `onetake index` again"
            ) from None
        _refuse_other_size(videos, video, found.size)
        if path.stat().st_size != length:
            raise SourceError(f"video {video.video_id!r} ended while it was fetched; run `onetake index` again")


def _pinned(videos: Storage, video: Video, table: PacketTable) -> str | None:
    """The version that alone will do. Where packets have check sums, any will: an index serves copies of its videos.
    Where some have none, it was made from a bucket, and names the object's version."""
    in_bucket = videos.root is None
    return video.version if in_bucket and np.any(table.flags & UNCHECKED) else None


def check_video(videos: Storage, video: Video) -> None:
    """See that a video is there, as it was indexed.

    Raises:
        SourceError: it is not, or the place can't be read.
    """
    try:
        size = videos.stat(video.file).size
    except FileNotFoundError:
        raise _missing(videos, video) from None
    except StorageError as error:
        raise unreachable(videos, video, error) from None
    _refuse_other_size(videos, video, size)


def unreachable(videos: Storage, video: Video, error: StorageError) -> SourceError:
    """What a StorageError means for a video, once no further attempt is made."""
    return SourceError(
        f"video {video.video_id!r} cannot be read from {videos.location} ({error.strerror}): check the place and the "
        "network, or raise download_retry="
    )


def _missing(videos: Storage, video: Video) -> SourceError:
    return SourceError(
        f"video {video.video_id!r} is in the index, but not in {videos.location}: "
        "put it back, or run `onetake index` again"
    )


def _refuse_other_size(videos: Storage, video: Video, size: int) -> None:
    if size != video.file_bytes:
        raise SourceError(
            f"video {video.video_id!r} in {videos.location} has {size} bytes, {video.file_bytes} when it was "
            "indexed: it changed; run `onetake index` again"
        )
