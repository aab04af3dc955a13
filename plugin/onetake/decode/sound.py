"""Sound that goes with a segment: packets of the file's audio streams, copied as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from onetake.core.errors import VideoError
from onetake.core.index import Video
from onetake.decode.container import open_video
from onetake.decode.remote_file import RemoteFile
from onetake.storage.base import Storage

__all__ = ["Sound", "open_sound"]

_BEFORE_SECONDS = 1  # containers are sought by another stream's clock, and roughly
_AFTER_SECONDS = 30  # pictures so far behind a stretch tell that a sound track has no more of it


@dataclass(frozen=True, slots=True)
class Sound:
    """Audio packets of a stretch of a file.

    Attributes:
        streams: the file's audio streams; valid while it is open.
        packets: (number of the stream, seconds from the stretch's start, packet), in the order of time.
    """

    streams: tuple[Stream, ...]
    packets: tuple[tuple[int, float, Packet], ...]


@contextmanager
def open_sound(storage: Storage, video: Video, start: float, stop: float) -> Iterator[Sound]:
    """The packets that begin from ``start`` to ``stop``, in seconds of the file's clock. Of a bucket's file, its header
    and that stretch are fetched.

    Raises:
        VideoError: the file can't be demuxed.
        FileNotFoundError: it is not there.
        FileChangedError: it is not the file that was indexed, or was replaced while it was read.
        StorageError: it can't be read.
    """
    file = RemoteFile(storage, video.file, video.file_bytes) if storage.root is None else storage.root / video.file
    with ExitStack() as stack:
        try:
            container = stack.enter_context(open_video(file, video.video_id))
            streams = tuple(container.streams.audio)
            packets = tuple(sorted(_packets(container, streams, start, stop), key=lambda item: item[1]))
        except (av.error.FFmpegError, VideoError) as error:
            if isinstance(file, RemoteFile) and file.error:
                raise file.error from None
            if isinstance(error, VideoError):
                raise
            raise VideoError(video.video_id, f"its sound cannot be demuxed ({error}); pack without --audio") from None
        if isinstance(file, RemoteFile) and file.error:
            raise file.error
        yield Sound(streams, packets)


def _packets(
    container: InputContainer, streams: Sequence[Stream], start: float, stop: float
) -> Iterator[tuple[int, float, Packet]]:
    """See ``Sound``; in the order of the file."""
    if not streams:
        return
    if start > _BEFORE_SECONDS:
        container.seek(int((start - _BEFORE_SECONDS) * av.time_base), backward=True)
    numbers = {stream.index: number for number, stream in enumerate(streams)}
    ended: set[int] = set()
    for packet in container.demux(*streams, *container.streams.video):
        if packet.pts is None or not packet.size:
            continue
        seconds = float(packet.pts * packet.time_base)
        if packet.stream.index not in numbers:
            if seconds >= stop + _AFTER_SECONDS:
                return
        elif seconds >= stop:
            ended.add(packet.stream.index)
            if len(ended) == len(streams):
                return
        elif seconds >= start:
            yield numbers[packet.stream.index], seconds - start, packet
