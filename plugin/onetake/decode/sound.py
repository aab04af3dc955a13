"""Sound that goes with a segment: packets of the file's audio streams, copied as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.packet import Packet
from av.stream import Stream

from onetake.core.errors import VideoError
from onetake.decode.container import open_video

__all__ = ["Sound", "open_sound"]

_BEFORE_SECONDS = 1  # containers are sought by another stream's clock, and roughly


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
def open_sound(path: Path, video_id: str, start: float, stop: float) -> Iterator[Sound]:
    """The packets that begin from ``start`` to ``stop``, in seconds of the file's clock.

    Raises:
        VideoError: the file can't be demuxed.
    """
    with open_video(path, video_id) as container:
        streams = tuple(container.streams.audio)
        numbers = {stream.index: number for number, stream in enumerate(streams)}
        packets = []
        try:
            if streams and start > _BEFORE_SECONDS:
                container.seek(int((start - _BEFORE_SECONDS) * av.time_base), backward=True)
            ended: set[int] = set()
            for packet in container.demux(*streams) if streams else ():
                if packet.pts is None or not packet.size:
                    continue
                seconds = float(packet.pts * packet.time_base)
                if seconds >= stop:
                    ended.add(packet.stream.index)
                    if len(ended) == len(streams):
                        break
                elif seconds >= start:
                    packets.append((numbers[packet.stream.index], seconds - start, packet))
        except av.error.FFmpegError as error:
            raise VideoError(video_id, f"its sound cannot be demuxed ({error}); pack without --audio") from None
        yield Sound(streams, tuple(sorted(packets, key=lambda item: item[1])))
