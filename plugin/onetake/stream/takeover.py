"""Folders of the cache on disk: which are ours, and what an earlier run left in them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from sqlite3 import Connection
from time import time, time_ns

from onetake.core.errors import CacheError
from onetake.decode.store import PACK_INDEX_FILES
from onetake.stream.shard import SEGMENT_SUFFIXES, TABLE_SUFFIX, cached_bytes

__all__ = ["MARKER", "claim_folder", "is_ours", "our_folders", "take_over", "throw_away"]

MARKER = ".onetake-cache"
_PART = re.compile(r"\..+(\.bytes|\.table|\.mds)\..*part")  # of a segment that is being fetched
_OPENING_SECONDS = 3600
_TEXT = "Segments of videos that onetake fetched, and may delete at any time.\n"


def claim_folder(folder: Path) -> None:
    """Make a cache folder, and mark it as ours. Nothing is ever deleted in a folder without the mark.

    Raises:
        CacheError: there is a folder of that name which isn't ours.
        OSError: it can't be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MARKER).exists():
        os.utime(folder / MARKER)
        return
    if any(folder.iterdir()):
        raise CacheError(
            f"{folder} is not a cache of onetake's: it lacks the file {MARKER}. Move away what is in it, or give "
            "another local="
        )
    (folder / MARKER).write_text(_TEXT)


def is_ours(folder: Path) -> bool:
    """Whether a folder is there, and marked."""
    return (folder / MARKER).is_file() and not folder.is_symlink()


def our_folders(root: Path) -> list[str]:
    """Names of the cache folders below ``root``."""
    return sorted(entry.name for entry in root.iterdir() if is_ours(entry))


def take_over(db: Connection, root: Path, folder: int, name: str) -> None:
    """Bring the ledger of a folder that nobody uses into line with what is there; half-fetched files are deleted."""
    known = {row[0] for row in db.execute("SELECT name FROM segments WHERE folder = ?", (folder,))}
    there, tables = set(), set()
    with os.scandir(root / name) as entries:
        for entry in entries:
            if _PART.fullmatch(entry.name):
                os.unlink(entry.path)
            elif entry.name.endswith(TABLE_SUFFIX):
                tables.add(entry.name.removesuffix(TABLE_SUFFIX))
            elif entry.name.endswith(SEGMENT_SUFFIXES):
                there.add(entry.name)
    for stem in tables - {Path(segment).stem for segment in there}:
        (root / name / stem).with_suffix(TABLE_SUFFIX).unlink(missing_ok=True)
    db.executemany("DELETE FROM segments WHERE folder = ? AND name = ?", ((folder, gone) for gone in known - there))
    found = ((folder, segment, cached_bytes(root / name / segment), time_ns()) for segment in sorted(there - known))
    db.executemany("INSERT INTO segments (folder, name, bytes, used_at) VALUES (?, ?, ?, ?)", found)


def throw_away(folder: Path) -> bool:
    """Delete a cache folder that holds no segment any more, unless somebody may be about to open it; what isn't ours
    stays."""
    if time() - (folder / MARKER).stat().st_mtime < _OPENING_SECONDS:
        return False
    for name in (*PACK_INDEX_FILES, MARKER):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
    return True
