"""The check that decides how a video is read: it is decoded in every way, and the pictures compared.

What a full sequential decode of the container shows is the truth. Most files' packets tell by their times what that
will be; then stretches of it are decoded, from the first, the last and six random keyframes. Where the packets do not
tell, or a stretch comes out otherwise, and with ``verify``, all of it is decoded, and frames are numbered as they come
out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from onetake.core.errors import DecodeError, VideoError
from onetake.core.index import CONTAINER, KEYFRAME, LATE, PACKETS, RECOVERED, PacketTable, Video
from onetake.decode.colour import colour_tags, hdr_name, not_convertible
from onetake.decode.decoder import NO_SKIP, SKIPPABLE_CODECS, ClipDecoder, can_skip, new_counters
from onetake.decode.numbering import number_by_output, start_rows, with_times
from onetake.decode.probe import Scan
from onetake.decode.source import ContainerSource, PacketSource, open_source

__all__ = ["MAX_FRAMES", "Checked", "can_sample", "check_stretches", "check_video", "sample_starts", "stretch"]

RANDOM_STARTS = 6
MAX_FRAMES = 32  # decoded from each start, without ``verify``
SKIP_STRIDES = (5,)
VERIFY_STRIDES = (2, 3, 5, 8)
# Keyframes further apart are looked for by decoding: containers may lack their flags.
MAX_KEYFRAME_DISTANCE = 600


@dataclass
class _Truth:
    """What the container's frames are, of the whole video or of stretches of it.

    Attributes:
        rows: the packet of each frame, in the order in which frames came.
        digests: of the pictures, by row.
        key_rows: rows of pictures that the decoder takes for keyframes.
        broken: rows that did not decode, or not without errors.
        picture: one of the pictures.
    """

    rows: list[int] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)
    key_rows: list[int] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)
    picture: VideoFrame | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check found.

    Attributes:
        video: the video, with the kind and options by which its frames come out right.
        table: its packets, with its frames' numbers, and keyframes that are some.
        damaged: how many of the packets that were decoded did not decode, or not without errors.
    """

    video: Video
    table: PacketTable
    damaged: int


def check_video(path: Path, scan: Scan, verify: bool = False) -> Checked:
    """How a video is read so that its frames come out right.

    From keyframes on, each time with a fresh decoder, up to 32 frames are decoded from what packets alone give, and
    from the container: plainly, and with pictures skipped that no one needs. H.264 whose reordering only the
    container knows is tried with the option ``strict=1``. Errors are to be reported by the decoder, unless it reports
    some where there are none. What packets alone don't get right is of kind CONTAINER, and a keyframe that nothing
    gets right is none.

    Args:
        path: the file.
        scan: what demuxing told.
        verify: decode and compare everything.

    Raises:
        VideoError: most of it does not decode, or it decodes differently at every time.
    """
    video, table = scan.video, scan.table
    if can_sample(scan) and not verify:
        checked = check_stretches(path, scan, sorted(set(sample_starts(table))), MAX_FRAMES)
        if checked is not None:
            return checked
    truth = _decode(path, scan)
    table = number_by_output(table, truth.rows)
    keys = np.array(truth.key_rows, np.int64)
    flagged = np.flatnonzero(table.flags & KEYFRAME)
    if not len(keys) or len(flagged) < len(table) // 5:
        keys = np.union1d(keys, flagged)
    table = start_rows(table, keys.astype(np.int64))
    limit = len(table) if verify else MAX_FRAMES
    found = _settle(path, scan, table, table.key_rows.tolist(), truth, limit)
    if found is None:
        raise VideoError(video.video_id, "decodes differently from one time to the next; encode it again")
    video, failing = found
    table = _without(path, video, table, scan, failing, truth)
    return _finish(video, table, scan, truth)


def can_sample(scan: Scan) -> bool:
    """Whether a few stretches of the video can say how all of it is read."""
    table = scan.table
    return scan.numbered and not scan.torn and len(table) <= MAX_KEYFRAME_DISTANCE * len(table.key_rows)


def check_stretches(path: Path, scan: Scan, starts: list[int], limit: int) -> Checked | None:
    """``check_video`` by ``limit`` frames from each of the keyframe rows ``starts`` on; None if all must be decoded."""
    truth = _sample(path, scan, starts, limit)
    found = None if truth is None else _settle(path, scan, scan.table, starts, truth, limit)
    if truth is None or found is None or found[1]:
        return None
    picture, video = truth.picture, scan.video
    if picture is None or (picture.width, picture.height) != (video.width, video.height):
        return None  # its header is another's, and its size may change
    return _finish(found[0], scan.table, scan, truth)


def _finish(video: Video, table: PacketTable, scan: Scan, truth: _Truth) -> Checked:
    picture = truth.picture
    assert picture is not None
    if not_convertible(picture):
        raise VideoError(video.video_id, not_convertible(picture))
    color_matrix, color_range = colour_tags(picture)
    video = replace(
        with_times(video, table),
        rotation=round(-picture.rotation / 90) * 90 % 360,
        pix_fmt=picture.format.name,
        color_matrix=color_matrix,
        color_range=color_range,
        transfer=hdr_name(picture),
    )
    return Checked(video, _as_kind(video, table, scan), len(truth.broken))


def _as_kind(video: Video, table: PacketTable, scan: Scan) -> PacketTable:
    return table if video.kind == PACKETS else replace(table, offset=scan.positions)


def sample_starts(table: PacketTable) -> list[int]:
    """Keyframe rows to start from: the first, the last, and random ones, the same at every run."""
    rows = table.key_rows
    inner = rows[1:-1]
    picked = np.random.default_rng(len(table)).permutation(len(inner))[:RANDOM_STARTS]
    return [int(rows[0]), int(rows[-1]), *inner[picked].tolist()]


def stretch(table: PacketTable, start: int, limit: int) -> tuple[list[int], PacketTable]:
    """The frames to compare from keyframe row ``start`` on, and the table from there to the last packet they need."""
    first = _first_right(table, start)
    following = table.key_rows[np.searchsorted(table.key_rows, start, side="right") :]
    stop = int(table.frame.max()) + 1
    if len(following) and limit >= len(table):
        stop = int(table.frame[following[0]])
    stop = min(first + limit, stop)
    rows = np.flatnonzero((table.frame >= first) & (table.frame < stop))
    return list(range(first, stop)), table[start : table.end_of(int(rows.max()) if len(rows) else start)]


def _first_right(table: PacketTable, start: int) -> int:
    """The first frame to be expected from a start at row ``start``."""
    if not start:
        return 0  # not the first keyframe's: what is shown before that may be no part of the video
    if table.flags[start] & LATE:
        start += int(np.flatnonzero(table.flags[start:] & RECOVERED)[0])
    return int(table.frame[start])


def _digest(picture: VideoFrame) -> bytes:
    try:
        odd = picture.width % 2 or picture.height % 2
        pixels = picture.to_ndarray(format="rgb48le" if odd else None)
    except ValueError:  # a pixel format that numpy cannot hold as it is
        pixels = picture.to_ndarray(format="rgb48le")
    shape = f"{picture.format.name} {pixels.shape} ".encode()
    return hashlib.blake2b(shape + pixels.tobytes(), digest_size=16).digest()


def _pictures(source: PacketSource, broken: list[int]) -> Iterator[VideoFrame]:
    """Every picture from the source's first row on, damage passed over; rows that show some go to ``broken``."""
    codec, packets = source.start(0)
    row = 0
    try:
        for row, packet in packets:
            try:
                yield from codec.decode(packet)
            except (av.error.FFmpegError, EOFError):
                broken.append(row)
        yield from codec.decode(None)
    except (av.error.FFmpegError, EOFError, VideoError):
        broken.append(row)


def _sample(path: Path, scan: Scan, starts: list[int], limit: int) -> _Truth | None:
    """The truth of the stretches from ``starts`` on; None if it is not what the packets' times say."""
    video, table, truth = scan.video, scan.table, _Truth()
    for start in starts:
        frames, part = stretch(table, start, limit)
        source = ContainerSource(video, replace(part, offset=scan.positions[start : start + len(part)]), path)
        broken: list[int] = []
        came = []
        try:
            for picture in _pictures(source, broken):
                truth.picture = picture
                if picture.pts is None or picture.is_corrupt:
                    return None
                if part.frame[picture.pts] >= frames[0]:
                    came.append(int(part.frame[picture.pts]))
                    truth.digests[start + picture.pts] = _digest(picture)
                if len(came) == len(frames):
                    break
        except VideoError:
            return None
        finally:
            source.close()
        if broken or came != frames:
            return None
    return truth


def _decode(path: Path, scan: Scan) -> _Truth:
    """The truth of the whole video.

    Raises:
        VideoError: more of its packets fail to decode than not.
    """
    video, table, truth = scan.video, scan.table, _Truth()
    source = ContainerSource(video, replace(table, offset=scan.positions), path)
    try:
        for picture in _pictures(source, truth.broken):
            row = picture.pts
            if row is None or row in truth.digests:
                raise VideoError(video.video_id, "a packet of it holds several frames; encode it again")
            truth.rows.append(row)
            truth.digests[row] = _digest(picture)
            if picture.key_frame:
                truth.key_rows.append(row)
            if picture.is_corrupt:
                truth.broken.append(row)
            truth.picture = picture
    finally:
        source.close()
    if not truth.rows or len(truth.broken) > len(table) // 2:
        raise VideoError(
            video.video_id, f"{len(truth.broken)} of its {len(table)} packets do not decode; copy or encode it again"
        )
    return truth


# Ways to read it.


def _candidates(scan: Scan) -> Iterator[Video]:
    """The ways to read a video, the best first.

    What decoders put in the place of lost pictures depends on all that they decoded before, so then none is skipped.
    Started at a keyframe of an open GOP, FFmpeg's H.264 decoder may find errors where there are none, so then they
    are not reported.
    """
    video = scan.video
    reports = ("",) if scan.is_open else ("err_detect=explode", "")
    strict = ("", "strict=1") if video.codec == "h264" else ("",)
    skipping = ("",) if video.codec not in SKIPPABLE_CODECS else (NO_SKIP,) if scan.torn else ("", NO_SKIP)
    for kind in (PACKETS, CONTAINER) if video.kind == PACKETS else (CONTAINER,):
        for late in strict if kind == PACKETS else ("",):
            for skip in skipping:
                for errors in reports:
                    options = ",".join(option for option in (errors, late, skip) if option)
                    yield replace(video, kind=kind, codec_options=options)


def _settle(
    path: Path, scan: Scan, table: PacketTable, starts: list[int], truth: _Truth, limit: int
) -> tuple[Video, list[int]] | None:
    """The best way to read the video, and the starts from which even that fails; None if the first is among them."""
    best: tuple[Video, list[int]] | None = None
    for candidate in _candidates(scan):
        failing: list[int] = []
        for start in starts:
            if not _same(path, candidate, _as_kind(candidate, table, scan), start, truth, limit):
                failing.append(start)
                if start == starts[0] or (best is not None and len(failing) >= len(best[1])):
                    break
        else:
            best = candidate, failing
            if not failing:
                break
    return best


def _same(path: Path, video: Video, table: PacketTable, start: int, truth: _Truth, limit: int) -> bool:
    """Whether ``video``, as it says of itself, decodes to the true pictures from ``start`` on.

    It may refuse frames where the truth is broken, too.
    """
    frames, part = stretch(table, start, limit)
    row_of = {int(part.frame[row]): start + row for row in range(len(part))}
    broken = any(start <= row < start + len(part) for row in truth.broken)
    plans = [frames]
    if can_skip(video):
        strides = VERIFY_STRIDES if limit > MAX_FRAMES else SKIP_STRIDES
        plans += [frames[stride - 1 :: stride] for stride in strides]
    for plan in filter(None, plans):
        try:
            source = open_source(video, part, path)
        except VideoError:
            return False
        decoder = ClipDecoder(video, source, _digest, new_counters(), plan)
        try:
            for frame in plan:
                try:
                    (digest,) = decoder.read([frame])
                except DecodeError:
                    if broken:
                        continue
                    return False
                if digest != truth.digests[row_of[frame]]:
                    return False
        finally:
            decoder.close()
    return True


# Keyframes that are none.


def _without(
    path: Path, video: Video, table: PacketTable, scan: Scan, failing: list[int], truth: _Truth
) -> PacketTable:
    """The table without the keyframes from which decoding fails; those from which it recovers are marked as LATE."""
    flags = table.flags.copy()
    flags[failing] &= ~np.uint8(KEYFRAME)
    table = replace(table, flags=flags)
    reached = -1
    for start in failing:
        if start <= reached:  # between a keyframe and where it recovers no other one may stand
            continue
        row = _recovery(path, video, _as_kind(video, table, scan), start, truth)
        if row is None:
            continue
        flags = table.flags.copy()
        flags[start] |= KEYFRAME | LATE
        flags[row] |= RECOVERED
        late = replace(table, flags=flags)
        if _same(path, video, _as_kind(video, late, scan), start, truth, len(table)):
            table, reached = late, row
    return table


def _recovery(path: Path, video: Video, table: PacketTable, start: int, truth: _Truth) -> int | None:
    """The row of the frame from which on a decoder that starts at ``start`` is right; None if there is none."""
    frames, part = stretch(table, start, len(table))
    source = open_source(video, part, path)
    broken: list[int] = []
    try:
        digests = {start + picture.pts: _digest(picture) for picture in _pictures(source, broken)}
    finally:
        source.close()
    if broken:
        return None
    row_of = {int(part.frame[row]): start + row for row in range(len(part))}
    right = None
    for frame in reversed(frames):
        row = row_of[frame]
        if digests.get(row) != truth.digests[row]:
            break
        right = row
    return right if right is not None and table.frame[right] - frames[0] <= len(frames) // 2 else None
