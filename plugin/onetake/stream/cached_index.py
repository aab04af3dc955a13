"""A node's copy of an index whose videos are fetched into a cache."""

from __future__ import annotations

from pathlib import Path

from streaming.base.util import wait_for_file_to_exist
from streaming.base.world import World

from onetake.core.errors import CacheError, IndexFileError
from onetake.decode.index_source import IndexSource
from onetake.decode.store import INDEX_FILES, read_header
from onetake.stream.takeover import claim_folder

__all__ = ["copy_index"]

_TICK_SECONDS = 0.05
_WAIT_SECONDS = 300


def copy_index(source: IndexSource, folder: Path, world: World) -> None:
    """Bring an index into the cache, all but the packet tables, which are read by range.

    Args:
        source: the index.
        folder: where the copy is to be; of the same generation, it is taken as it is.
        world: this process's place; on each node one process copies, the others wait for it.

    Raises:
        CacheError: the cache can't be written.
        IndexFileError: there is a copy, but of another index; or it was rebuilt meanwhile.
        SourceError: the index can't be read.
    """
    marker = folder / INDEX_FILES[-1]
    if world.is_local_leader:
        try:
            claim_folder(folder)
            if not marker.exists():
                source.copy_tables(folder)
        except OSError as error:
            raise CacheError(f"the cache {folder} cannot be written ({error.strerror}): check local=") from None
    else:
        wait_for_file_to_exist(
            str(marker), _TICK_SECONDS, _WAIT_SECONDS, f"the node's first process did not copy the index to {marker}"
        )
    if read_header(folder)["generation"] != source.generation:
        raise IndexFileError(f"the cached index in {folder} is damaged: delete that folder")
