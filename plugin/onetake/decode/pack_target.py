"""The place that a pack is written to: nothing of anyone else's is touched, and what is done is not done again."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onetake.core.errors import SourceError
from onetake.decode.pack_index import PACK_FILES
from onetake.decode.pack_shard import PackedShard, shard_name
from onetake.decode.store import HEADER, INDEX_FOLDER
from onetake.storage.base import Storage

__all__ = ["PackTarget"]

_WORK = f"{INDEX_FOLDER}/work"  # there only until the pack is done
_BEGUN, _LOCK = f"{_WORK}/pack.json", f"{_WORK}/lock.json"
_OURS = re.compile(rf"(shard\.\d{{5,}}\.mds|index\.json|{INDEX_FOLDER}/.*)")
_PART = re.compile(r"(.*/|)\.([^/]+)\.\d+\.part")  # what a killed process leaves of a file it was writing
_STALE_SECONDS = 3600  # a lock of another machine that was not renewed for so long is nobody's


class PackTarget:
    """A pack that is being written.

    Args:
        storage: its root.
        key: what it is a pack of, and how: a hash.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._owner = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The only one that writes there.

        Raises:
            SourceError: another process does, or it can't be written.
        """
        with self._locked():
            try:
                yield
            except OSError as error:
                raise SourceError(
                    f"the pack cannot be written to {self._storage.location} ({error.strerror or error}): what is "
                    "there is kept; mend that, and run the same command again"
                ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        root = self._storage.root
        if root is None:
            with self._locked_by_object():
                yield
            return
        try:
            root.mkdir(parents=True, exist_ok=True)
            folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"the pack cannot be written to {root} ({error.strerror}): name another folder") from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except OSError:
            raise self._taken("another process of this machine") from None
        else:
            yield
        finally:
            os.close(folder)

    @contextmanager
    def _locked_by_object(self) -> Iterator[None]:
        """In a bucket, an object says who writes; it is renewed with every shard."""
        holder = self._read(_LOCK)
        if holder is not None and not _is_gone(holder):
            raise self._taken(f"another process ({holder.get('owner')})")
        self._renew()
        renewed = self._read(_LOCK)
        if renewed is None or renewed.get("owner") != self._owner:
            raise self._taken("another process, which began at this moment,")
        try:
            yield
        finally:
            if (self._read(_LOCK) or {}).get("owner") == self._owner:
                self._storage.delete(_LOCK)

    def _renew(self) -> None:
        if self._storage.root is None:
            self._write(_LOCK, {"owner": self._owner, "seconds": time.time()})

    def _taken(self, who: str) -> SourceError:
        return SourceError(
            f"{who} writes a pack to {self._storage.location}: wait for it, or name another folder "
            f"(if it is none, delete {_LOCK})"
        )

    def begin(self) -> dict[str, Any] | None:
        """See what is there already: the header of our index where it is the whole pack, else None.

        Raises:
            SourceError: something else is there, or another pack.
        """
        sizes = {entry.file: entry.size for entry in self._storage.list()}
        files = sizes.keys() - {_LOCK}
        parts = {file for file in files if _PART.fullmatch(file)}
        for file in sorted(files):
            if not _OURS.fullmatch(_PART.sub(r"\1\2", file)):
                raise SourceError(
                    f"{self._storage.location} holds {file}, which is no part of a pack: name a new or empty folder"
                )
        done, begun = self._read(f"{INDEX_FOLDER}/index.json"), self._read(_BEGUN)
        known = begun or (done or {}).get("pack")
        if files - parts and (not isinstance(known, dict) or known.get("key") != self._key):
            raise SourceError(
                f"{self._storage.location} holds a pack of another index, or one made with other options: name another "
                "folder, or go on with the same ones"
            )
        for file in parts:
            self._storage.delete(file)
        if "index.json" in files and done is not None:
            self._check_shards(sizes)
            self._clean_up(files)
            return done
        if begun is None:
            self._write(_BEGUN, {"key": self._key})
        return None

    def packed(self, number: int) -> PackedShard | None:
        """A shard that an earlier run has finished."""
        value = self._read(_journal(number))
        if value is None:
            return None
        try:
            shard = PackedShard.from_dict(value)
            size = self._storage.stat(shard_name(number)).size
        except (KeyError, TypeError, ValueError, FileNotFoundError):
            return None
        return shard if size == shard.num_bytes else None

    def record(self, shard: PackedShard) -> None:
        """Note that a shard is written.

        Raises:
            SourceError: another process has taken the place meanwhile.
        """
        if self._storage.root is None:
            holder = self._read(_LOCK)
            if holder is not None and holder.get("owner") != self._owner:
                raise self._taken(f"another process ({holder.get('owner')})")
        self._write(_journal(shard.number), shard.to_dict())
        self._renew()

    def finish(self, folder: Path) -> None:
        """Put the index there, whose files lie in ``folder``: that makes a pack of the shards."""
        for file in PACK_FILES:
            self._storage.write(file, folder / file)
        self._clean_up({entry.file for entry in self._storage.list()})

    def _clean_up(self, files: set[str]) -> None:
        work = {file for file in files if file.startswith(f"{_WORK}/")} - {_BEGUN, _LOCK}
        for file in [*sorted(work), _BEGUN]:  # the one that tells whose the others are comes last
            self._storage.delete(file)
        root = self._storage.root
        if root is not None and (root / _WORK).is_dir():
            (root / _WORK).rmdir()

    def _check_shards(self, sizes: dict[str, int]) -> None:
        """Raise SourceError unless all shards that MDS's index names are there."""
        try:
            shards = [shard["raw_data"] for shard in (self._read(HEADER) or {})["shards"]]
            expected = {shard["basename"]: shard["bytes"] for shard in shards}
        except (KeyError, TypeError):
            raise SourceError(
                f"{self._storage.location}/{HEADER} is damaged: delete it, and run the same command again"
            ) from None
        for file, size in expected.items():
            if sizes.get(file) != size:
                now = "is missing" if file not in sizes else f"has {sizes[file]} bytes, {size} when it was packed"
                raise SourceError(
                    f"the pack in {self._storage.location} was finished, but {file} {now}: copy it there again, or "
                    f"delete {HEADER} and run the same command again"
                )

    def _read(self, file: str) -> dict[str, Any] | None:
        try:
            value = json.loads(self._storage.read_all(file))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _write(self, file: str, value: dict[str, Any]) -> None:
        with tempfile.NamedTemporaryFile("w", prefix="onetake-pack-") as part:
            json.dump(value, part)
            part.flush()
            self._storage.write(file, Path(part.name))


def _journal(number: int) -> str:
    return f"{_WORK}/{number:05d}.json"


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names is dead: known of this machine's, assumed of others that are silent."""
    try:
        host, pid, _ = str(holder["owner"]).split()
        if host != socket.gethostname():
            return time.time() - float(holder["seconds"]) > _STALE_SECONDS
        if int(pid) == os.getpid():  # of a container that was started again, under the same name
            return True
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (KeyError, ValueError, PermissionError):
        return False
    return False
