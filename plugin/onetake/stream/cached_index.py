"""A node's copy of an index whose videos are fetched into a cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from streaming.base.util import wait_for_file_to_exist
from streaming.base.world import World

from onetake.core.errors import CacheError, IndexFileError
from onetake.decode.store import INDEX_FILES, PACKETS_BIN, read_header
from onetake.stream.takeover import claim_folder

__all__ = ["copy_index"]

_TICK_SECONDS = 0.05


def copy_index(source: Path, folder: Path, generation: str, world: World) -> None:
    """Bring an index into the cache, all but the packet tables, which are read by range.

    Args:
        source: folder of the index.
        folder: where the copy is to be; of the same generation, it is taken as it is.
        generation: the index's.
        world: this process's place; on each node one process copies, the others wait for it.

    Raises:
        CacheError: the cache can't be written.
        IndexFileError: there is a copy, but of another index.
    """
    marker = folder / INDEX_FILES[-1]
    if world.is_local_leader:
        try:
            claim_folder(folder)
            for name in INDEX_FILES:
                if name != PACKETS_BIN and not (folder / name).exists():
                    part = folder / f".{name}.part"
                    shutil.copyfile(source / name, part)
                    part.replace(folder / name)
        except OSError as error:
            raise CacheError(f"the cache {folder} cannot be written ({error.strerror}): check local=") from None
    else:
        wait_for_file_to_exist(
            str(marker), _TICK_SECONDS, 60, f"the node's first process did not copy the index to {marker}"
        )
    if read_header(folder)["generation"] != generation:
        raise IndexFileError(f"the cached index in {folder} is damaged: delete that folder")
