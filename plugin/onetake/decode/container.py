"""Opening containers that nobody vouches for."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard
from av.video.stream import VideoStream

from onetake.core.errors import VideoError
from onetake.decode.remote_file import RemoteFile
from onetake.storage.base import StorageError

__all__ = ["CODECS", "HEADER_BYTES", "MAX_PIXELS", "VIDEO_SUFFIXES", "decoding_stream", "open_video"]

# Demuxers for files that hold one video. Playlists, concat scripts and image patterns, which open further files
# or URLs, are not among them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,ivf,h264,hevc,m4v,mpegvideo,obu,av1,dv,nut"
)
MAX_STREAMS = 64
MAX_PIXELS = 8192 * 8192  # of a picture; a decoder asked for more refuses
# A Matroska block header or an AVI chunk header stands between where a packet is said to be and its payload.
HEADER_BYTES = 64
# What cameras, editors and the web use. FFmpeg's decoders of rarer formats see less testing, and fewer need them.
CODECS = frozenset(
    "h264 hevc vvc vp8 vp9 av1 mpeg1video mpeg2video mpeg4 msmpeg4v2 msmpeg4v3 h263 flv1 wmv1 wmv2 wmv3 vc1 theora "  # noqa: SIM905
    "mjpeg prores dnxhd ffv1 huffyuv ffvhuff utvideo dvvideo cinepak".split()
)
VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in "mp4 m4v mov mkv webm avi ts m2ts mts mpg mpeg flv wmv asf ogv mxf 3gp".split()  # noqa: SIM905
)


def open_video(file: Path | RemoteFile, video_id: str, window: tuple[int, int] | None = None) -> InputContainer:
    """Open a container for reading, local files and listed formats only.

    Args:
        file: the file that it is; or, if it has a path, that holds it.
        video_id: the video's name in errors.
        window: (start, length) of the bytes in the file that are the container. None: all.

    Raises:
        VideoError: it is no video container, or FFmpeg cannot read it.
        FileNotFoundError: there is no such file.
        StorageError: it can't be read.
    """
    place: str | RemoteFile
    if isinstance(file, RemoteFile):
        place = file
    elif not file.is_file():
        raise FileNotFoundError(file)
    else:
        place = f"file:{file}"  # or "12:30.mp4" would name a protocol
        if window is not None:
            place = f"subfile,,start,{window[0]},end,{sum(window)},,:{place}"
    try:
        return av.open(
            place,
            options={"protocol_whitelist": "file,subfile", "format_whitelist": FORMATS},
            metadata_errors="replace",
        )
    except StorageError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            video_id, f"not a readable video file ({reason}); remove it, or copy or encode it again"
        ) from None


def decoding_stream(container: InputContainer, video_id: str, stream_index: int | None = None) -> VideoStream:
    """The container's video stream to decode, set to one thread, all others discarded.

    Raises:
        VideoError: there is no (such) video stream.
    """
    videos = [s for s in container.streams.video if s.codec_context is not None]
    if stream_index is not None:
        videos = [s for s in videos if s.index == stream_index]
    if not videos:
        reason = "holds no video stream that can be decoded; remove it"
        if stream_index is not None:
            reason = f"holds no video stream with number {stream_index}; leave out the number, or remove the file"
        raise VideoError(video_id, reason)
    if len(container.streams) > MAX_STREAMS:
        raise VideoError(video_id, f"holds {len(container.streams)} streams, over the limit of {MAX_STREAMS}")
    best = container.streams.best("video")
    stream = best if best in videos else videos[0]
    name = stream.codec_context.codec.canonical_name
    if name not in CODECS:
        raise VideoError(video_id, f"codec {name} is not among those that are read; encode it again")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1
    return stream
