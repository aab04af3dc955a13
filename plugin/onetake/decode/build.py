"""Building an index: every video of a folder is demuxed and checked, in several processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onetake.core.errors import IndexFileError, SourceError, SpecError, VideoError
from onetake.core.index import CONTAINER, MAX_SEGMENT_PACKETS, Keyframes, VideoIndex
from onetake.decode.check import check_video
from onetake.decode.container import VIDEO_SUFFIXES
from onetake.decode.engine import Crashed, check_engine, run_all
from onetake.decode.index_writer import IndexedVideo, check_target, write_index
from onetake.decode.numbering import segment_rows
from onetake.decode.probe import scan_video
from onetake.decode.segment import byte_range
from onetake.decode.store import read_header, read_index, read_keyframes, read_table, read_table_bytes
from onetake.decode.validate import safe_path, video_problem

__all__ = ["IndexReport", "Refusal", "index_video", "index_videos"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that was left out of the index: its path below the videos' folder, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What ``index_videos`` did.

    Attributes:
        out: the folder of the index.
        index: the index, as written.
        reused: videos that had not changed since they were last indexed.
        refused: files left out.
        damaged: of the videos newly indexed, those of which packets that don't decode were met, and how many.
    """

    out: Path
    index: VideoIndex
    reused: int
    refused: tuple[Refusal, ...]
    damaged: dict[str, int]


def index_videos(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    segment_seconds: float = 60.0,
    stream_index: int | None = None,
    verify: bool = False,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Index the videos of a folder where they are; no video is changed or copied.

    Files that can't be used are left out and reported. Videos whose size and modification time are those of an
    index that is already in ``out`` are taken from it.

    Args:
        source: a folder; searched with its subfolders, for the usual suffixes of video files.
        out: folder for the index. None: beside the videos, in ``source``.
        segment_seconds: how long a segment is at least; it ends at the next keyframe.
        stream_index: the number, in each file, of the video stream to index. None: the one that players choose.
        verify: decode every frame of every video, in order and from every keyframe, and compare; takes several times
            as long as decoding once. Otherwise a few stretches of each video are compared.
        engine: "local", or "ray": the Ray cluster that this process has joined, that ``RAY_ADDRESS`` names or that runs
            on this machine; its nodes must see the videos under the same path.
        workers: files at once. None: one per CPU. With more than one, call it under ``if __name__ == "__main__"``,
            since processes are spawned.
        progress: called as (videos done, videos in all, file) after every file.

    Raises:
        SourceError: the folder is missing or empty, all its files are refused, or ``out`` can't be written or holds
            another program's index.
        SpecError: an argument is out of range.
    """
    folder = Path(source)
    target = folder if out is None else Path(out)
    if not segment_seconds > 0:
        raise SpecError(f"segment_seconds={segment_seconds}: must be above 0")
    check_engine(engine, workers)
    files = _list_videos(folder)
    check_target(target)
    how = {"segment_seconds": segment_seconds, "stream_index": stream_index}
    done = {} if verify else _unchanged(folder, files, target, how)
    todo = [file for file in files if file not in done]
    refused: list[Refusal] = []
    reused = len(done)
    finished = reused
    index_one = partial(_try, folder.absolute(), how={**how, "verify": verify})
    for file, result in run_all(index_one, todo, engine, workers):
        finished += 1
        if isinstance(result, IndexedVideo):
            done[file] = result
        else:
            reason = "the decoder crashes on it; encode it again" if isinstance(result, Crashed) else result
            refused.append(Refusal(file, reason))
        if progress:
            progress(finished, len(files), file)
    refused.sort(key=lambda refusal: refusal.file)
    if not done:
        reasons = "\n".join(f"  {refusal.file}: {refusal.reason}" for refusal in refused[:10])
        raise SourceError(f"none of the {len(files)} video files in {folder} can be used:\n{reasons}")
    try:
        index = write_index(target, list(done.values()), how)
    except OSError as error:
        raise SourceError(
            f"the index cannot be written to {target} ({error.strerror}): name another folder with --out (out=)"
        ) from None
    damaged = {file: found.damaged for file, found in sorted(done.items()) if found.damaged}
    return IndexReport(target, index, reused, tuple(refused), damaged)


def index_video(
    folder: Path, file: str, segment_seconds: float, stream_index: int | None = None, verify: bool = False
) -> IndexedVideo:
    """Index one file of ``folder``; see ``index_videos``.

    Raises:
        VideoError: it can't be used.
    """
    path = folder / file
    try:
        safe_path(file)
        file.encode()
    except (IndexFileError, UnicodeEncodeError):
        raise VideoError(file, "an index cannot hold this file name; rename it") from None
    checked = check_video(path, scan_video(path, file, file, stream_index), verify)
    video, table = checked.video, checked.table
    problem = video_problem(video)
    if problem:
        raise VideoError(file, f"{problem} can't be right; encode it again")
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
            raise VideoError(file, f"{len(part)} packets without a keyframe among them; encode it again with some")
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


def _list_videos(folder: Path) -> list[str]:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise SourceError(f"the videos' folder {folder} {what}: give the folder that holds the video files")
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not files:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise SourceError(f"no video files in {folder}: files are found by their suffixes, {suffixes}")
    return files


def _unchanged(folder: Path, files: list[str], target: Path, how: dict[str, Any]) -> dict[str, IndexedVideo]:
    """What an index that is already there knows about files that have not changed since."""
    try:
        header, index = read_header(target), read_index(target)
        keyframes = read_keyframes(target, index)
    except IndexFileError:
        return {}
    if any(header.get(name) != value for name, value in how.items()):
        return {}
    wanted = set(files)
    firsts = np.searchsorted(index.video, np.arange(len(index.videos) + 1)).tolist()
    known = {}
    for number, video in enumerate(index.videos):
        if video.file not in wanted:
            continue
        stat = (folder / video.file).stat()
        if (stat.st_size, str(stat.st_mtime_ns)) != (video.file_bytes, video.version):
            continue
        segments = range(firsts[number], firsts[number + 1])
        own = slice(keyframes.start[firsts[number]], keyframes.start[firsts[number + 1]])
        starts = keyframes.start[firsts[number] : firsts[number + 1] + 1] - own.start
        names = ("first_frame", "num_frames", "first_pts", "byte_offset", "byte_length", "num_packets", "num_keyframes")
        rows = tuple({name: int(getattr(index, name)[s]) for name in names} for s in segments)
        try:
            for s in segments:
                read_table(target, index, s)
        except IndexFileError:
            continue
        tables = tuple(read_table_bytes(target, index, s) for s in segments)
        keys = Keyframes(starts, keyframes.frame[own], keyframes.pts[own])
        known[video.file] = IndexedVideo(video, rows, keys, tables)
    return known


def _try(folder: Path, file: str, how: dict[str, Any]) -> IndexedVideo | str:
    try:
        return index_video(folder, file, **how)
    except VideoError as error:
        return error.reason
    except OSError as error:
        return f"cannot be read ({error.strerror})"
