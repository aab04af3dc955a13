"""What an index may say of a video: an index may come from anyone, so nothing in it is believed."""

from __future__ import annotations

from pathlib import PurePosixPath

import av
from av.codec import Codec

from onetake.core.errors import IndexFileError
from onetake.core.index import CONTAINER, PACKETS, Video
from onetake.decode.container import CODECS, MAX_PIXELS
from onetake.decode.decoder import NO_SKIP

__all__ = ["safe_path", "video_problem"]

OPTIONS = frozenset({"err_detect=explode", "strict=1", NO_SKIP})  # see ``decode.check``
MAX_EXTRADATA = 1 << 20
MAX_TICKS = 1 << 60  # so that sums of a few times fit 64 bits
MAX_FRAMES = 2**31 - 1


def safe_path(file: str) -> PurePosixPath:
    """``file`` as a path below the videos' folder.

    Raises:
        IndexFileError: it would lead out of that folder.
    """
    path = PurePosixPath(file)
    if (
        not file
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in file
        or "\0" in file
        or path.parts[0].endswith(":")
    ):
        raise IndexFileError(f"the index names a file outside the videos' folder: {file!r}; do not use this index")
    return path


def video_problem(video: Video) -> str | None:
    """What can't be true of ``video``, in words; None if nothing is found.

    Raises:
        IndexFileError: its file would lie outside the videos' folder.
    """
    safe_path(video.file)
    numerator, denominator = video.time_base
    problems = {
        "its name": not video.video_id,
        "the size of its file": video.file_bytes < 1,
        "its kind": video.kind not in (PACKETS, CONTAINER),
        "the number of its frames": not 1 <= video.num_frames <= MAX_FRAMES,
        "its codec": video.codec not in CODECS or _codec_of(video.decoder) != video.codec,
        "the options of its decoder": not set(filter(None, video.codec_options.split(","))) <= OPTIONS,
        "its codec's header": len(video.extradata) > MAX_EXTRADATA,
        "its clock": not (0 < numerator <= MAX_FRAMES and 0 < denominator <= MAX_FRAMES),
        "its duration": not (0 <= video.duration <= MAX_TICKS and 0 <= video.frame_ticks <= MAX_TICKS),
        "its size": video.width < 1 or video.height < 1 or video.width * video.height > MAX_PIXELS,
        "its rotation": video.rotation not in (0, 90, 180, 270),
        "its stream": not 0 <= video.stream_index <= MAX_FRAMES,
    }
    return next((what for what, wrong in problems.items() if wrong), None)


def _codec_of(decoder: str) -> str:
    """The codec of a decoder of FFmpeg's for video; "" for what is none."""
    try:
        codec = Codec(decoder, "r")
    except (av.error.FFmpegError, ValueError):
        return ""
    return codec.canonical_name if codec.type == "video" and codec.name == decoder else ""
