"""Which videos there are to index: those of a folder or a bucket, or those that a manifest names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from onetake.core.errors import SourceError, SpecError, VideoError
from onetake.decode.container import VIDEO_SUFFIXES
from onetake.decode.index_video import check_name
from onetake.decode.manifest import Manifest, is_manifest, read_manifest
from onetake.decode.splits import split_videos
from onetake.decode.work import WORK
from onetake.storage.base import Entry, Storage
from onetake.storage.open import open_storage

__all__ = ["Listing", "Refusal", "list_videos", "refusals_in_words"]

_REQUESTS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was left out of the index, a file or a span of it: the file's path below the videos' folder, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Videos to index.

    Attributes:
        videos: the place that they are in.
        manifest: what is said of them.
        entries: their files.
        refused: files that can't be looked at, named or found.
    """

    videos: Storage
    manifest: Manifest
    entries: list[Entry]
    refused: list[Refusal]


def list_videos(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    split_by: str | None,
    shares: Mapping[str, float],
) -> Listing:
    """The videos of a source, and their splits; see ``decode.build.index_videos`` and ``decode.splits``.

    Raises:
        SourceError: there are none, or a row of the manifest can't be right.
        SpecError: ``root`` is given without a manifest.
    """
    if is_manifest(source):
        manifest = split_videos(read_manifest(source, root), split_by, shares)
        videos = open_storage(manifest.root)
        videos.check()
        return _named(videos, manifest)
    if root is not None:
        raise SpecError(f"root={os.fspath(root)!r} goes with a manifest, and {os.fspath(source)} is none")
    videos = open_storage(os.fspath(source))
    refused: list[Refusal] = []
    entries = _found(videos, refused)
    manifest = Manifest.of_files(os.fspath(source), [entry.file for entry in entries])
    return Listing(videos, split_videos(manifest, split_by, shares), entries, refused)


def _named(videos: Storage, manifest: Manifest) -> Listing:
    def look(file: str) -> Entry | str:
        try:
            return videos.stat(file)
        except FileNotFoundError:
            return "there is no such file"
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"

    entries, refused = [], []
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
        for number, found in enumerate(threads.map(look, manifest.files)):
            if isinstance(found, Entry):
                entries.append(found)
            else:
                refused.append(Refusal(manifest.files[number], found + manifest.place(number)))
    return Listing(videos, manifest, entries, refused)


def _found(videos: Storage, refused: list[Refusal]) -> list[Entry]:
    """The video files of a place; what can't be looked at or named goes to ``refused``."""
    entries = []
    for entry in videos.list(lambda file, reason: refused.append(Refusal(file, reason))):
        path = PurePosixPath(entry.file)
        if path.suffix.lower() not in VIDEO_SUFFIXES or path.name.startswith(".") or path.parts[0] == WORK:
            continue
        try:
            check_name(entry.file)
        except VideoError as error:
            refused.append(Refusal(entry.file, error.reason))
        else:
            entries.append(entry)
    if not entries:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        reasons = f"\n{refusals_in_words(refused)}" if refused else ""
        raise SourceError(
            f"no video files in {videos.location}: files are found by their suffixes, {suffixes}{reasons}"
        )
    return entries


def refusals_in_words(refused: list[Refusal]) -> str:
    """The first ten, one a line."""
    return "\n".join(f"  {refusal.file}: {refusal.reason}" for refusal in refused[:10])
