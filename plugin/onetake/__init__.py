"""onetake streams clips of long videos into PyTorch training; every video is decoded once, front to back.

Importing this package loads nothing else: each public name is imported when it is first used, so that the
core can be used without torch and `onetake --help` answers at once.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onetake.core.clips import ClipSpec
    from onetake.decode.build import index_videos
    from onetake.decode.pack import pack_videos
    from onetake.stream.dataset import VideoDataset
    from onetake.stream.loader import VideoLoader
    from onetake.stream.stream import VideoStream

__version__ = "0.1.0"

__all__ = ["ClipSpec", "VideoDataset", "VideoLoader", "VideoStream", "__version__", "index_videos", "pack_videos"]

_MODULES = {
    "ClipSpec": "onetake.core.clips",
    "VideoDataset": "onetake.stream.dataset",
    "VideoLoader": "onetake.stream.loader",
    "VideoStream": "onetake.stream.stream",
    "index_videos": "onetake.decode.build",
    "pack_videos": "onetake.decode.pack",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value  # the next access does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
