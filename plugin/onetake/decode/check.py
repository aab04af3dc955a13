"""The check that decides how a video is read: decode stretches of it in every way, and compare the pictures."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import CONTAINER, PACKETS, PacketTable, Video
from onetake.decode.decoder import SKIPPABLE_CODECS, ClipDecoder, new_counters
from onetake.decode.source import ContainerSource, open_source

__all__ = ["check_video"]

RANDOM_STARTS = 6
MAX_FRAMES = 32  # decoded from each start
SKIP_STRIDE = 5


def check_video(path: Path, video: Video, table: PacketTable) -> Video:
    """The video with the kind, codec options and rotation by which its frames come out right.

    From the first, the last and six random keyframes, each with a fresh decoder, up to 32 frames are decoded from
    the container, as any player does, and compared picture by picture with what packets alone give: plainly, and
    with pictures skipped that no one needs. H.264 whose reordering only the container knows is tried with the
    option ``strict=1``. What packets alone don't get right is of kind CONTAINER.

    Raises:
        VideoError: even the container does not show the frames that its packets announce, or nothing decodes.
    """
    starts = _starts(table)
    truth, rotation, pix_fmt = _truth(path, video, table, starts)
    video = replace(video, rotation=rotation, pix_fmt=pix_fmt)
    if video.kind == PACKETS:
        for options in ("", "strict=1") if video.codec == "h264" else ("",):
            candidate = replace(video, codec_options=options)
            if _same(path, candidate, table, starts, truth):
                return candidate
    video = replace(video, kind=CONTAINER)
    if not _same(path, video, table, starts, truth):
        raise VideoError(video.video_id, "decodes differently after a seek; encode it again")
    return video


def _starts(table: PacketTable) -> list[int]:
    """Keyframe rows to start from: the first, the last, and random ones, the same at every run."""
    rows = table.key_rows
    rows = rows[(table.frame[rows] >= 0) | (rows == rows[0])]
    inner = rows[1:-1]
    picked = np.random.default_rng(len(table)).permutation(len(inner))[:RANDOM_STARTS]
    return sorted({int(rows[0]), int(rows[-1]), *inner[picked].tolist()})


def _stretch(table: PacketTable, start: int) -> tuple[list[int], PacketTable]:
    """The frames to compare from keyframe row ``start`` on, and the table up to the last packet they need."""
    first = max(int(table.frame[start]), 0)
    stop = min(first + MAX_FRAMES, int(table.frame.max()) + 1)
    rows = np.flatnonzero((table.frame >= first) & (table.frame < stop))
    return list(range(first, stop)), table[: int(rows.max()) + 1]


def _digest(picture: VideoFrame) -> bytes:
    try:
        pixels = picture.to_ndarray()
    except ValueError:  # a pixel format that numpy cannot hold as it is
        pixels = picture.to_ndarray(format="rgb24")
    shape = f"{picture.format.name} {pixels.shape} ".encode()
    return hashlib.blake2b(shape + pixels.tobytes(), digest_size=16).digest()


def _truth(path: Path, video: Video, table: PacketTable, starts: list[int]) -> tuple[dict[int, bytes], int, str]:
    """Digests by frame number, decoded from the container alone; the rotation and pixel format of its frames."""
    found: dict[int, bytes] = {}
    rotation, pix_fmt = 0, video.pix_fmt
    for start in starts:
        frames, part = _stretch(table, start)
        pts = [int(table.pts[np.flatnonzero(table.frame == frame)[0]]) for frame in frames]
        source = ContainerSource(video, part, path)
        try:
            codec, packets = source.start(start)
            came: list[tuple[int, bytes]] = []
            for packet in (*(packet for _, packet in packets), None):
                for picture in codec.decode(packet):
                    if picture.pts is None or picture.pts >= pts[0]:
                        came.append((picture.pts if picture.pts is not None else -1, _digest(picture)))
                        rotation, pix_fmt = int(picture.rotation), picture.format.name
                if len(came) > len(frames):
                    break
        except (av.error.FFmpegError, DecodeError) as error:
            reason = error.reason if isinstance(error, DecodeError) else str(error.strerror)
            raise VideoError(
                video.video_id, f"does not decode from frame {frames[0]} on ({reason}); encode it again"
            ) from None
        finally:
            source.close()
        if [time for time, _ in came[: len(pts)]] != pts:
            reason = f"from frame {frames[0]} on, the frames shown are not those that its packets announce"
            raise VideoError(video.video_id, f"{reason}; put it into an MP4 or MKV file, or encode it again")
        found.update((frame, digest) for frame, (_, digest) in zip(frames, came, strict=False))
    return found, -rotation % 360, pix_fmt


def _same(path: Path, video: Video, table: PacketTable, starts: list[int], truth: dict[int, bytes]) -> bool:
    """Whether ``video``, as it says of itself, decodes to the true pictures from every start."""
    for start in starts:
        frames, part = _stretch(table, start)
        plans = [frames]
        if video.codec in SKIPPABLE_CODECS:
            plans.append(frames[SKIP_STRIDE - 1 :: SKIP_STRIDE])
        for plan in plans:
            if not plan:
                continue
            source = open_source(video, part, path)
            decoder = ClipDecoder(video, source, _digest, new_counters(), plan)
            try:
                if decoder.read(plan) != [truth[frame] for frame in plan]:
                    return False
            except (VideoError, av.error.FFmpegError):
                return False
            finally:
                decoder.close()
    return True
