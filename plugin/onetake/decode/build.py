"""Building an index: every video of a folder or a bucket is demuxed and checked, several at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from onetake.core.errors import IndexFileError, SourceError, SpecError, VideoError
from onetake.core.index import Keyframes, VideoIndex
from onetake.core.values import check_count, check_flags, check_path, check_seconds
from onetake.decode.annotate import annotate
from onetake.decode.engine import Crashed, check_engine, run_all
from onetake.decode.index_video import How, NoRoomError, index_remote_video, index_video
from onetake.decode.index_writer import Annotations, IndexedVideo, check_target, put_index, write_index
from onetake.decode.listing import Refusal, list_videos, refusals_in_words
from onetake.decode.splits import check_shares
from onetake.decode.store import INDEX_FILES, read_header, read_index, read_keyframes, read_table, read_table_bytes
from onetake.decode.work import Work, open_work
from onetake.storage.base import Entry, Storage
from onetake.storage.local import LocalStorage
from onetake.storage.open import is_url, open_storage

__all__ = ["IndexProgress", "IndexReport", "IndexedVideo", "Refusal", "index_video", "index_videos"]

_REMOTE_FILES_PER_CPU = 4  # at once: they wait for bytes most of the time


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far an index is.

    Attributes:
        file: the file that was done last.
        files, total_files: done, and in all; those that an earlier run has done count as done.
        bytes, total_bytes: what these files hold.
        bytes_read: what was read of them, in this run.
    """

    file: str
    files: int
    total_files: int
    bytes: int
    total_bytes: int
    bytes_read: int


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What ``index_videos`` did.

    Attributes:
        out: the folder or URL of the index.
        index: the index, as written.
        reused: videos that had not changed since they were last indexed, or that an interrupted run had done.
        refused: files and spans left out, and folders that can't be looked at.
        damaged: of the videos newly indexed, those of which packets that don't decode were met, and how many.
        bytes_read: bytes of videos that were read.
        splits: of each split, its videos; empty where the videos are not split.
        spans: annotated spans of videos.
    """

    out: str
    index: VideoIndex
    reused: int
    refused: tuple[Refusal, ...]
    damaged: dict[str, int]
    bytes_read: int
    splits: dict[str, int]
    spans: int


def index_videos(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    split: Mapping[str, float] | None = None,
    split_by: str | None = None,
    segment_seconds: float = 60.0,
    stream_index: int | None = None,
    verify: bool = False,
    engine: str = "local",
    workers: int | None = None,
    progress: Callable[[IndexProgress], None] | None = None,
) -> IndexReport:
    """Index the videos of a folder, a bucket or a manifest where they are; no video is changed or kept.

    Files that can't be used are left out and reported. Videos whose size and version (modification time, or ETag) are
    those of an index that is already in ``out`` are taken from it. A run that was interrupted is gone on with.

    In a bucket, MP4 and MOV files are indexed from their headers and a few packets: at most 2 MB or 2% of the file are
    read, whichever is more. What can't be settled so, and every other format, is read whole, through a copy that is
    deleted at once: of as many files at a time as there are ``workers``.

    A manifest is a table with a column ``path`` and, if wanted, ``video_id`` (None: the path). Its other columns are
    metadata of the videos. Where it has ``start_seconds`` and ``stop_seconds``, or ``start_frame`` and ``stop_frame``,
    its rows are about spans of videos, as many as one likes of each, and the other columns are the spans' metadata.
    Seconds are counted from the video's first frame; a span holds what is on screen at any time from its start to its
    stop. Without a start it begins with the video, without a stop it ends with it, as does one that would end later.

    Args:
        source: a folder or a URL, searched with its subfolders for the usual suffixes of video files; or a manifest, a
            file .csv, .jsonl or .parquet.
        out: folder or URL for the index. None: beside the videos, where they are in a folder.
        root: the folder or URL below which the files of a manifest are. None: the manifest's.
        split: of each split but "train", its share of the videos, such as ``{"val": 0.02}``; which videos are in it is
            decided by hash, and stays when videos are added.
        split_by: the column of the manifest by whose values videos are split. Without ``split``, it names each one's
            split, as does a column "split" in any case. None: the videos' IDs.
        segment_seconds: how long a segment is at least; it ends at the next keyframe.
        stream_index: the number, in each file, of the video stream to index. None: the one that players choose.
        verify: decode every frame of every video, in order and from every keyframe, and compare; takes several times
            as long as decoding once. Otherwise a few stretches of each video are compared.
        engine: "local", or "ray": the Ray cluster that this process has joined, that ``RAY_ADDRESS`` names or that
            runs on this machine; its nodes must see a folder under the same path.
        workers: files at once, each with a process of its own. None: one per CPU; four per CPU where the videos are in
            a bucket, since then a process waits most of the time. Over slow links, hundreds may pay; each takes about
            100 MB of memory. With more than one, call it under ``if __name__ == "__main__"``, since processes are
            spawned.
        progress: called after every file.

    Raises:
        SourceError: the source is missing or empty, all its files are refused, or ``out`` can't be written, holds
            another program's index, or is being written by another run; or a row of the manifest can't be right, by
            its line.
        SpecError: an argument is out of range or missing.
    """
    check_path("source", source, optional=False)
    check_path("out", out)
    check_seconds("segment_seconds", segment_seconds)
    check_flags(verify=verify)
    check_engine(engine, workers)
    if stream_index is not None:
        check_count("stream_index", stream_index, 0)
    place = os.fspath(source if root is None else root)
    if out is None and is_url(place):
        raise SpecError(f"{place} is in a bucket: name a folder or a URL for the index with --out (out=)")
    shares = check_shares(split)
    listing = list_videos(source, root, split_by, shares)
    videos, entries, refused = listing.videos, listing.entries, listing.refused
    target = videos if out is None else open_storage(os.fspath(out))
    check_target(target)
    how = How(segment_seconds, stream_index, verify)
    settings = {"segment_seconds": segment_seconds, "stream_index": stream_index}
    with open_work(videos, target, how) as work:
        done = {} if verify else _unchanged(target, work, entries, settings)
        for entry in entries:
            if entry.file not in done and (known := work.known(entry)):
                done[entry.file] = known
        reused, total = len(done), sum(entry.size for entry in entries)
        far = IndexProgress("", reused, len(entries), sum(video.video.file_bytes for video in done.values()), total, 0)
        todo = [entry for entry in entries if entry.file not in done]
        if workers is None and engine == "local" and videos.root is None:
            workers = _REMOTE_FILES_PER_CPU * (os.cpu_count() or 1)
        # Workers may have another working directory.
        place_of_all = videos if videos.root is None else LocalStorage(videos.root.absolute())
        index_one = partial(_index_one, place_of_all, how, None if engine == "ray" else work.scratch)
        for entry, result in _index_all(videos, index_one, todo, engine, workers):
            if isinstance(result, _Indexed):
                work.keep(entry, result.video)
                done[entry.file] = result.video
                far = replace(far, bytes_read=far.bytes_read + result.bytes_read)
            else:
                refused.append(Refusal(entry.file, result))
            far = replace(far, file=entry.file, files=far.files + 1, bytes=far.bytes + entry.size)
            if progress:
                progress(far)
        if not done:
            raise SourceError(
                f"none of the video files in {videos.location} can be used:\n{refusals_in_words(refused)}"
            )
        indexed, annotations, left_out = annotate(listing.manifest, list(done.values()))
        refused += [Refusal(*span) for span in left_out]
        refused.sort(key=lambda refusal: refusal.file)
        index = _write(target, work, indexed, settings, annotations)
    damaged = {file: found.damaged for file, found in sorted(done.items()) if found.damaged}
    return IndexReport(
        target.location,
        index,
        reused,
        tuple(refused),
        damaged,
        far.bytes_read,
        annotations.splits,
        annotations.num_spans,
    )


# What is known already.


def _unchanged(
    target: Storage, work: Work, entries: list[Entry], settings: dict[str, float | int | None]
) -> dict[str, IndexedVideo]:
    """What an index that is already there knows about files that have not changed since."""
    folder = target.root
    if folder is None:
        folder = work.folder / "previous"
        folder.mkdir()
        try:
            for name in INDEX_FILES:
                target.copy(name, 0, target.stat(name).size, folder / name)
        except OSError:
            return {}
    try:
        header, index = read_header(folder), read_index(folder)
        keyframes = read_keyframes(folder, index)
    except IndexFileError:
        return {}
    if any(header.get(name) != value for name, value in settings.items()):
        return {}
    wanted = {(entry.file, entry.size, entry.version) for entry in entries}
    firsts = np.searchsorted(index.video, np.arange(len(index.videos) + 1)).tolist()
    known = {}
    for number, video in enumerate(index.videos):
        if (video.file, video.file_bytes, video.version) not in wanted:
            continue
        segments = range(firsts[number], firsts[number + 1])
        own = slice(keyframes.start[firsts[number]], keyframes.start[firsts[number + 1]])
        starts = keyframes.start[firsts[number] : firsts[number + 1] + 1] - own.start
        names = ("first_frame", "num_frames", "first_pts", "byte_offset", "byte_length", "num_packets", "num_keyframes")
        rows = tuple({name: int(getattr(index, name)[s]) for name in names} for s in segments)
        try:
            for s in segments:
                read_table(folder, index, s)
        except IndexFileError:
            continue
        tables = tuple(read_table_bytes(folder, index, s) for s in segments)
        keys = Keyframes(starts, keyframes.frame[own], keyframes.pts[own])
        known[video.file] = IndexedVideo(video, rows, keys, tables)
    return known


# What is done.


@dataclass(frozen=True, slots=True)
class _Indexed:
    video: IndexedVideo
    bytes_read: int


def _index_one(videos: Storage, how: How, scratch: Path | None, entry: Entry) -> _Indexed | str | SourceError:
    """A file's place in the index, or the reason why it has none."""
    try:
        if videos.root is None:
            return _Indexed(*index_remote_video(videos, entry, how, scratch))
        video = index_video(videos.root, entry.file, how.segment_seconds, how.stream_index, how.verify)
        return _Indexed(video, video.video.file_bytes)
    except VideoError as error:
        return error.reason
    except SourceError as error:
        return error
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _index_all(
    videos: Storage,
    function: Callable[[Entry], _Indexed | str | SourceError],
    entries: list[Entry],
    engine: str,
    workers: int | None,
) -> Iterator[tuple[Entry, _Indexed | str]]:
    """(file, what ``function`` made of it), in any order.

    Raises:
        SourceError: a file may not be accessed, and nothing else may be either.
    """
    crowded = []
    for entry, result in run_all(function, entries, engine, workers):
        if isinstance(result, NoRoomError):
            crowded.append(entry)
            continue
        if isinstance(result, SourceError):
            videos.check()  # if credentials have expired, the file is not at fault
        yield entry, _or_reason(result)
    for entry, result in run_all(function, crowded, engine, 1):  # whose copies had no room beside one another
        yield entry, _or_reason(result)


def _or_reason(result: _Indexed | str | SourceError | Crashed) -> _Indexed | str:
    if isinstance(result, Crashed):
        return "the decoder crashes on it; encode it again"
    return str(result) if isinstance(result, SourceError) else result


def _write(
    target: Storage,
    work: Work,
    videos: list[IndexedVideo],
    settings: dict[str, float | int | None],
    annotations: Annotations,
) -> VideoIndex:
    try:
        if target.root is not None:
            return write_index(target.root, videos, settings, annotations)
        folder = work.folder / "index"
        index = write_index(folder, videos, settings, annotations)
        put_index(target, folder)
    except OSError as error:
        raise SourceError(
            f"the index cannot be written to {target.location} ({error.strerror or error}): "
            "name another folder with --out (out=)"
        ) from None
    return index
