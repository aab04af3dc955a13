"""What an index that is being built has so far, so that a run that was killed is gone on with.

WORK/lock           held by the run that is at work
WORK/<hash>.json    a video that is done; the hash is of what it was made from
WORK/scratch/       copies of files that are being read
WORK/previous/      the index that a bucket holds
WORK/index/         the index that is to be put into a bucket
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from onetake.core.errors import IndexFileError, SourceError
from onetake.core.index import FORMAT_VERSION, Keyframes, PacketTable, Video
from onetake.decode.index_video import How
from onetake.decode.index_writer import IndexedVideo
from onetake.decode.validate import video_problem
from onetake.storage.base import Entry, Storage

__all__ = ["WORK", "Work", "open_work"]

WORK = ".onetake-index"


class Work:
    """A folder of work; see ``open_work``.

    Attributes:
        folder: where it is. It belongs to onetake, whatever it lies in.
        scratch: a subfolder, empty at the start.
    """

    def __init__(self, folder: Path, source: Storage, how: How) -> None:
        self.folder = folder
        self.scratch = folder / "scratch"
        self._key = [FORMAT_VERSION, source.location, asdict(how)]

    def _path(self, entry: Entry) -> Path:
        key = json.dumps([*self._key, entry.file, entry.size, entry.version])
        return self.folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.json"

    def keep(self, entry: Entry, indexed: IndexedVideo) -> None:
        """Keep a video that is done."""
        path = self._path(entry)
        part = path.with_suffix(".part")
        part.write_text(_to_json(indexed))
        part.replace(path)

    def known(self, entry: Entry) -> IndexedVideo | None:
        """What an earlier run made of a file, if that is still what it is."""
        try:
            indexed = _from_json(self._path(entry).read_text())
        except (OSError, ValueError, KeyError, TypeError, IndexFileError):
            return None
        fits = (indexed.video.file, indexed.video.file_bytes) == (entry.file, entry.size)
        return indexed if fits and not video_problem(indexed.video) else None

    def holds_videos(self) -> bool:
        """Whether anything was kept."""
        return any(self.folder.glob("*.json"))


@contextmanager
def open_work(source: Storage, out: Storage, how: How) -> Iterator[Work]:
    """The work on an index: below ``out`` if that is a folder, else in the user's cache (``XDG_CACHE_HOME``).

    It is deleted at the end. After an error, what is done stays for the next run.

    Raises:
        SourceError: another run is at work on it, or the folder can't be written.
    """
    folder = _cache_folder(source, out) if out.root is None else out.root / WORK
    work = Work(folder, source, how)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("wb")
    except OSError as error:
        raise SourceError(f"{folder} cannot be written ({error.strerror}), where work is kept") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SourceError(
                f"another `onetake index` is at work on {out.location}: wait for it, or name another place with --out"
            ) from None
        for name in ("scratch", "previous", "index"):  # a run that was killed leaves these
            shutil.rmtree(folder / name, ignore_errors=True)
        work.scratch.mkdir()
        try:
            yield work
        except BaseException:
            shutil.rmtree(work.scratch if work.holds_videos() else folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _cache_folder(source: Storage, out: Storage) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = hashlib.blake2b(repr((source.location, out.location)).encode(), digest_size=8).hexdigest()
    return Path(cache, "onetake", f"index-{key}")


def _to_json(indexed: IndexedVideo) -> str:
    keyframes = indexed.keyframes
    return json.dumps(
        {
            "video": {**asdict(indexed.video), "extradata": b64encode(indexed.video.extradata).decode()},
            "rows": indexed.rows,
            "keyframes": [getattr(keyframes, name).tolist() for name in Keyframes.__slots__],
            "tables": [b64encode(table).decode() for table in indexed.tables],
            "damaged": indexed.damaged,
        }
    )


def _from_json(text: str) -> IndexedVideo:
    """Inverse of ``_to_json``.

    Raises:
        ValueError, KeyError, TypeError, IndexFileError: it is none.
    """
    found = json.loads(text)
    video = found["video"]
    video |= {"extradata": b64decode(video["extradata"]), "time_base": tuple(video["time_base"])}
    rows, tables = tuple(found["rows"]), tuple(b64decode(table) for table in found["tables"])
    for row, table in zip(rows, tables, strict=True):
        PacketTable.from_bytes(table, row["num_packets"])
    keyframes = Keyframes(*(np.array(values, np.int64) for values in found["keyframes"]))
    return IndexedVideo(Video(**video), rows, keyframes, tables, found["damaged"])
