"""Every error onetake raises on purpose. Each message names the thing at fault and the remedy.

OnetakeError
├── SpecError        (ValueError)    an argument, or a combination of arguments, that cannot work
├── SourceError                      a folder or file of videos that is missing or holds nothing
│   └── FileChangedError             ... or was replaced since it was last looked at
├── IndexFileError                   an index that is missing, damaged, stale or of another version
├── VideoError                       one video that cannot be used; carries ``video_id``
│   └── DecodeError                  ... at one frame of it; carries ``frame`` and ``byte_offset``
├── DamageError                      more clips don't decode than ``max_bad_fraction`` allows
├── CacheError       (ValueError)    a cache that is too small, or that would delete a user's only copy
├── ResumeError                      a saved state that does not fit the data or the settings
├── ConfigError      (ValueError)    a recipe or config that cannot work; names the key
└── MissingExtraError (ImportError)  an optional package that is not installed
"""

from __future__ import annotations

__all__ = [
    "CacheError",
    "ConfigError",
    "DamageError",
    "DecodeError",
    "FileChangedError",
    "IndexFileError",
    "MissingExtraError",
    "OnetakeError",
    "ResumeError",
    "SourceError",
    "SpecError",
    "VideoError",
]


class OnetakeError(Exception):
    """Base of all errors raised by onetake."""


class SpecError(OnetakeError, ValueError):
    """An argument, or a combination of arguments, that cannot work."""


class SourceError(OnetakeError):
    """A folder or file of videos is missing, or holds nothing that can be used."""


class FileChangedError(SourceError):
    """A file was replaced since it was last looked at, or while it was read."""


class IndexFileError(OnetakeError):
    """An index is missing, damaged, out of date, or of another version."""


class VideoError(OnetakeError):
    """One video cannot be used.

    Attributes:
        video_id: the video's ID, as in the index.
        reason: what is wrong, without the video's name.
    """

    def __init__(self, video_id: str, reason: str) -> None:
        super().__init__(video_id, reason)  # both in args, so that the error survives pickling
        self.video_id = video_id
        self.reason = reason

    def __str__(self) -> str:
        return f"video {self.video_id!r}: {self.reason}"


class DecodeError(VideoError):
    """A frame of a video could not be decoded.

    Attributes:
        frame: the frame's number in presentation order.
        byte_offset: where its packet stands in the video's file; None if not known.
    """

    def __init__(self, video_id: str, reason: str, frame: int, byte_offset: int | None = None) -> None:
        super().__init__(video_id, reason)
        self.args = (video_id, reason, frame, byte_offset)
        self.frame = frame
        self.byte_offset = byte_offset

    def __str__(self) -> str:
        where = f"frame {self.frame}"
        if self.byte_offset is not None:
            where += f" (byte {self.byte_offset})"
        return f"video {self.video_id!r}, {where}: {self.reason}"


class DamageError(OnetakeError):
    """More clips do not decode than ``max_bad_fraction`` allows."""


class CacheError(OnetakeError, ValueError):
    """The cache is too small, shared wrongly, or would delete a user's only copy."""


class ResumeError(OnetakeError):
    """A saved state does not fit the data or the settings it is loaded with."""


class ConfigError(OnetakeError, ValueError):
    """A recipe or config that cannot work: an unknown key, a value that is missing or none."""


class MissingExtraError(OnetakeError, ImportError):
    """An optional package is not installed; names the extra that brings it."""
