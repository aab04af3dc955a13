"""One dataset's part in the caches below one folder, which it shares with other datasets, workers and jobs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from heapq import merge
from pathlib import Path
from time import monotonic, time_ns
from typing import NamedTuple

from onetake.core.errors import CacheError
from onetake.stream.cache import Room, default_limit, limit_on_shared_disk
from onetake.stream.ledger import Database, Ledger, guard
from onetake.stream.nodes import NodeMark
from onetake.stream.shard import cached_bytes, remove_cached
from onetake.stream.takeover import is_ours, our_folders, take_over, throw_away

__all__ = ["CachedSegment", "SharedCache", "Standing"]

_CLEARING_SECONDS = 1.0
_OF_ONE_PROCESS = ("_pid", "_holds", "_cleared", "_mark")


class CachedSegment(NamedTuple):
    """A segment in the cache: its folder below the root, and the name of its file."""

    folder: str
    name: str


class Standing(Enum):
    """How it stands with a segment that was asked for."""

    HELD = "it is there, and stays until it is let go"
    YOURS = "there is room for it: whoever asked fetches it, and says how that went"
    UNDER_WAY = "another fetches it"
    NO_ROOM = "others hold all that would have to go"


@dataclass(slots=True)
class _Hold:
    """Why this process holds a segment: so many samples ahead, and so many decoders, need it."""

    ahead: int = 0
    opened: int = 0
    finished: bool = False


class SharedCache:
    """The folders that a dataset has below one root. Any thread may use it; it can be pickled, and used after a fork.

    Args:
        root: the folder of caches.
        folders: the dataset's own, by name, and how many bytes of each are no segments.
        limit: bytes that these may take; None: what the machine has for all datasets without a limit of their own.
        reserve: bytes that this process's lanes may have open.

    Raises:
        CacheError: (all methods) the cache can't be read or written.
    """

    def __init__(self, root: Path, folders: dict[str, int], limit: int | None, reserve: int) -> None:
        self._ledger = Ledger(root)
        self._folders = folders
        self._own_limit = limit
        self._reserve = reserve
        self._ids: dict[str, int] = {}
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._holds: dict[CachedSegment, _Hold] = {}
        self._cleared = 0.0
        self._mark: NodeMark | None = None

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_ONE_PROCESS}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def root(self) -> Path:
        """The folder of caches."""
        return self._ledger.root

    # Opening.

    def open(self, for_node: bool) -> int:
        """Take part: take over what earlier runs left, and see that there is room beside the others.

        Args:
            for_node: whether to see, for all processes of this machine, that no other uses the folder.

        Returns:
            The limit, in bytes.

        Raises:
            CacheError: there is no room, or another machine uses the folder.
        """
        if for_node:
            try:
                self._mark = NodeMark(self._ledger.folder / "nodes")
            except OSError as error:
                raise CacheError(
                    f"the cache {self.root} can't be used ({error}): see that local= can be written by this user, or "
                    "give another"
                ) from error
        with self._ledger.transaction() as db:
            self._ledger.clear_away_the_dead(db)
            self._register(db)
            first = not db.execute("SELECT 1 FROM leases WHERE own_limit IS NULL").fetchone()
            if self._own_limit is None and first:
                self._settle_limit(db)
            rows = [(self._ledger.owner, self._ids[name], self._own_limit, self._reserve) for name in self._folders]
            db.executemany("INSERT INTO leases VALUES (?, ?, ?, ?)", rows)
            room = self._room(db)
            limit = self._limit(db)
            if room.fixed + room.reserve > limit:
                raise CacheError(
                    f"no room in the cache {self.root}: it may take {limit:,} bytes, and the datasets that share "
                    f"it may have {room.fixed + room.reserve:,} bytes open at once, {self._reserve:,} of them by this "
                    "process: make room on the disk, raise cache_limit=, or lower num_canonical_lanes="
                )
            self._evict(db, self._scope(db), room.held - room.limit)
        return limit

    def _register(self, db: Database) -> None:
        idle = "SELECT 1 FROM leases JOIN folders ON id = folder WHERE name = ?"
        for name in {*self._folders, *our_folders(self.root)}:
            if db.execute(idle, (name,)).fetchone():
                continue
            db.execute("INSERT OR IGNORE INTO folders (name) VALUES (?)", (name,))
            number = db.execute("SELECT id FROM folders WHERE name = ?", (name,)).fetchone()[0]
            take_over(db, self.root, number, name)
        for name, number, held in db.execute("SELECT name, id, held FROM folders").fetchall():
            if name in self._folders:
                self._ids[name] = number
                db.execute("UPDATE folders SET fixed = ? WHERE id = ?", (self._folders[name], number))
                continue
            if db.execute("SELECT 1 FROM leases WHERE folder = ?", (number,)).fetchone():
                continue
            if not is_ours(self.root / name) or (not held and throw_away(self.root / name)):
                db.execute("DELETE FROM segments WHERE folder = ?", (number,))
                db.execute("DELETE FROM folders WHERE id = ?", (number,))

    def _settle_limit(self, db: Database) -> None:
        held = self._room(db).held
        limit = default_limit(shutil.disk_usage(self.root).free, held)
        db.execute("INSERT OR REPLACE INTO settings VALUES ('limit', ?)", (limit,))

    # Room.

    def _scope(self, db: Database) -> list[int]:
        """Numbers of the folders that share the limit."""
        if self._own_limit is not None:
            return list(self._ids.values())
        shared = (
            "SELECT id FROM folders WHERE id IN (SELECT folder FROM leases WHERE own_limit IS NULL) "
            "OR id NOT IN (SELECT folder FROM leases)"
        )
        return [number for (number,) in db.execute(shared)]

    def _limit(self, db: Database) -> int:
        """What the folders that share the limit may hold where nobody else fills the disk."""
        if self._own_limit is not None:
            return self._own_limit
        return int(db.execute("SELECT TOTAL(value) FROM settings WHERE name = 'limit'").fetchone()[0])

    def _room(self, db: Database) -> Room:
        scope = _listed(self._scope(db))
        held, fixed = db.execute(f"SELECT TOTAL(held), TOTAL(fixed) FROM folders WHERE id IN {scope}").fetchone()
        opened, ahead = db.execute(
            "SELECT TOTAL(bytes * is_open), TOTAL(bytes * (1 - is_open)) FROM (SELECT bytes, MAX(is_open) AS is_open "
            f"FROM pins CROSS JOIN segments USING (folder, name) WHERE folder IN {scope} GROUP BY folder, name)"
        ).fetchone()
        (reserve,) = db.execute(
            f"SELECT TOTAL(most) FROM (SELECT MAX(reserve) AS most FROM leases WHERE folder IN {scope} GROUP BY owner)"
        ).fetchone()
        limit = self._limit(db)
        if self._own_limit is None:
            free = shutil.disk_usage(self.root).free
            limit = limit_on_shared_disk(limit, free, int(held + fixed), int(fixed + reserve))
        return Room(limit, int(held + fixed), int(fixed), int(opened), int(ahead), int(reserve))

    def _evict(self, db: Database, scope: list[int], size: int, urgent: bool = False) -> int:
        """Delete segments of ``size`` bytes in all, at least; how many bytes that freed, 0 if there aren't so many."""
        chosen: set[tuple[int, str, str]] = set()
        freed = 0
        victims = self._victims(db, scope, urgent)
        while freed < size:
            victim = next(victims, None)
            if victim is None:
                return 0
            *segment, weight = victim
            if tuple(segment) not in chosen:
                chosen.add(tuple(segment))
                freed += weight
        for number, folder, name in chosen:
            remove_cached(self.root / folder / name)
            db.execute("DELETE FROM segments WHERE folder = ? AND name = ?", (number, name))
        return freed

    def _victims(self, db: Database, scope: list[int], urgent: bool) -> Iterator[tuple[int, str, str, int]]:
        """(folder's number, folder, name, bytes) of what may go, the first to go in front; read as far as is needed.

        What nobody will read soon: segments that this epoch is through with, and those of folders without a dataset;
        then the others, but for those that are held; then, for an urgent one, those held ahead, the last ones first.
        """
        folders = db.execute("SELECT id, name, epoch, id IN (SELECT folder FROM leases) FROM folders").fetchall()
        names = {number: name for number, name, _, _ in folders}
        # Named, as each gives the rows in order: sorting a million of them for every segment would take seconds.
        free = (
            "SELECT used_at, folder, name, bytes FROM segments s INDEXED BY {} WHERE folder = ? {} AND fetcher IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM pins p WHERE p.folder = s.folder AND p.name = s.name) ORDER BY used_at"
        )
        every, through = free.format("coldest", ""), free.format("coldest_finished", "AND finished = ?")
        ours = [(number, epoch, used) for number, _, epoch, used in folders if number in scope]
        passes = (
            [
                db.execute(through, (number, epoch or -1)) if used else db.execute(every, (number,))
                for number, epoch, used in ours
            ],
            [db.execute(every, (number,)) for number, _, used in ours if used],
        )
        for queries in passes:
            for _, number, name, size in merge(*queries):
                yield number, names[number], name, size
        if urgent:
            ahead = (
                "SELECT folder, name, bytes FROM pins CROSS JOIN segments USING (folder, name) WHERE fetcher IS NULL "
                f"AND folder IN {_listed(scope)} GROUP BY folder, name HAVING MAX(is_open) = 0 ORDER BY used_at DESC"
            )
            for number, name, size in db.execute(ahead):
                yield number, names[number], name, size

    # Holding.

    def hold_ahead(self, segment: CachedSegment, most_bytes: int, urgent: bool) -> Standing:
        """Ask for a segment that weighs ``most_bytes`` at most. Held, or to be fetched, it stays until ``let_go``.

        Args:
            urgent: a lane waits for it; see ``Room.must_go``.
        """
        with guard:
            hold = self._known_holds().get(segment)
            if hold is not None and not urgent:
                hold.ahead += 1
                return Standing.HELD
        with self._ledger.transaction() as db:
            standing = self._ask(db, segment, most_bytes, urgent)
            if standing in (Standing.UNDER_WAY, Standing.NO_ROOM) and monotonic() > self._cleared + _CLEARING_SECONDS:
                self._cleared = monotonic()
                if self._ledger.clear_away_the_dead(db):
                    standing = self._ask(db, segment, most_bytes, urgent)
            if standing in (Standing.HELD, Standing.YOURS):
                self._known_holds().setdefault(segment, _Hold()).ahead += 1
                self._pin(db, segment, urgent)
        return standing

    def _ask(self, db: Database, segment: CachedSegment, most_bytes: int, urgent: bool) -> Standing:
        number, path = self._ids[segment.folder], self.root / segment.folder / segment.name
        key = (number, segment.name)
        row = db.execute("SELECT fetcher FROM segments WHERE folder = ? AND name = ?", key).fetchone()
        if row is not None and row[0] is not None:
            return Standing.UNDER_WAY
        size = cached_bytes(path)
        if row is not None and size:
            db.execute("UPDATE segments SET used_at = ? WHERE folder = ? AND name = ?", (time_ns(), *key))
            return Standing.HELD
        db.execute("DELETE FROM segments WHERE folder = ? AND name = ?", key)  # its files are gone, or damaged
        must_go = self._room(db).must_go(most_bytes, urgent)
        if must_go is None or (must_go and not self._evict(db, self._scope(db), must_go, urgent)):
            return Standing.NO_ROOM
        db.execute(
            "INSERT INTO segments (folder, name, bytes, used_at, fetcher) VALUES (?, ?, ?, ?, ?)",
            (*key, most_bytes, time_ns(), self._ledger.owner),
        )
        return Standing.YOURS

    def _pin(self, db: Database, segment: CachedSegment, is_open: bool) -> None:
        db.execute(
            "INSERT INTO pins VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET is_open = MAX(is_open, excluded.is_open)",
            (self._ids[segment.folder], segment.name, self._ledger.owner, is_open),
        )

    def fetched(self, segment: CachedSegment) -> None:
        """Say that a segment that was ``YOURS`` is there."""
        size = cached_bytes(self.root / segment.folder / segment.name)
        with self._not_fetched_for_ever(segment), self._ledger.transaction() as db:
            db.execute(
                "UPDATE segments SET bytes = ?, used_at = ?, fetcher = NULL WHERE folder = ? AND name = ?",
                (size, time_ns(), self._ids[segment.folder], segment.name),
            )

    def failed(self, segment: CachedSegment) -> None:
        """Say that a segment that was ``YOURS`` could not be fetched."""
        with self._not_fetched_for_ever(segment), self._ledger.transaction() as db:
            self._forget_segment(db, segment)

    def _forget_segment(self, db: Database, segment: CachedSegment) -> None:
        self._known_holds().pop(segment, None)
        key = (self._ids[segment.folder], segment.name)
        db.execute("DELETE FROM segments WHERE folder = ? AND name = ?", key)

    @contextmanager
    def _not_fetched_for_ever(self, segment: CachedSegment) -> Iterator[None]:
        """Where it can't be said how a fetch went (the disk may be full), say later that it failed: all who want the
        segment wait until something is said."""
        try:
            yield
        except BaseException:
            self._ledger.later(partial(self._forget_segment, segment=segment))
            raise

    def make_room_on_disk(self, size: int) -> bool:
        """The disk is full before the limit is reached: let segments go, of any folder; whether there were enough."""
        with self._ledger.transaction() as db:
            folders = [number for (number,) in db.execute("SELECT id FROM folders")]
            self._ledger.clear_away_the_dead(db)
            return self._evict(db, folders, size) > 0

    def open_held(self, segment: CachedSegment) -> None:
        """Hold a segment that a lane reads from now on, if it is there."""
        with self._ledger.transaction() as db:
            key = (self._ids[segment.folder], segment.name)
            if db.execute("SELECT 1 FROM segments WHERE folder = ? AND name = ?", key).fetchone():
                self._known_holds().setdefault(segment, _Hold()).opened += 1
                self._pin(db, segment, True)

    def let_go(self, segment: CachedSegment, ahead: int = 0, opened: int = 0, finished: bool = False) -> None:
        """Hold a segment for fewer samples ahead, or decoders; ``finished`` where the epoch is through with it."""

        def drop(db: Database) -> None:
            if not self._counted(segment, 0, 0, False):
                return
            hold = self._known_holds().pop(segment)
            key = (self._ids[segment.folder], segment.name)
            db.execute("DELETE FROM pins WHERE folder = ? AND name = ? AND owner = ?", (*key, self._ledger.owner))
            db.execute("UPDATE segments SET used_at = ? WHERE folder = ? AND name = ?", (time_ns(), *key))
            if hold.finished:
                epoch = "(SELECT epoch FROM folders WHERE id = folder)"
                db.execute(f"UPDATE segments SET finished = {epoch} WHERE folder = ? AND name = ?", key)

        if guard.is_mine:  # the garbage collector closes an iteration, in the middle of a transaction
            is_free = self._counted(segment, ahead, opened, finished)
        else:
            with guard:
                is_free = self._counted(segment, ahead, opened, finished)
        if is_free:
            self._ledger.soon(drop)

    def _counted(self, segment: CachedSegment, ahead: int, opened: int, finished: bool) -> bool:
        """Take holds away; whether nothing holds the segment any more."""
        hold = self._known_holds().get(segment)
        if hold is None:
            return False
        hold.ahead -= ahead
        hold.opened -= opened
        hold.finished |= finished
        return hold.ahead <= 0 and hold.opened <= 0

    def let_go_of_all(self) -> None:
        """Hold nothing any more."""

        def drop(db: Database) -> None:
            self._known_holds().clear()
            db.execute("DELETE FROM pins WHERE owner = ?", (self._ledger.owner,))

        if self._known_holds():
            self._ledger.soon(drop)

    def begin_epoch(self, epoch: int) -> None:
        """From now on, what an epoch has finished is what this one (counted from 0) has."""
        with self._ledger.transaction() as db:
            rows = [(epoch + 1, number, epoch + 1) for number in self._ids.values()]
            db.executemany("UPDATE folders SET epoch = ? WHERE id = ? AND epoch != ?", rows)
            self._ledger.clear_away_the_dead(db)  # the last epoch's workers

    def held_bytes(self) -> int:
        """What the folders that share this one's limit hold, indexes included."""
        with self._ledger.transaction() as db:
            return self._room(db).held

    def end(self) -> None:
        """Take no part any more; see ``Ledger.end``."""
        if self._mark is not None and self._pid == os.getpid():
            self._mark.end()
        self._ledger.end()

    def _known_holds(self) -> dict[CachedSegment, _Hold]:
        if self._pid != os.getpid():
            self._forget()
        return self._holds


def _listed(numbers: list[int]) -> str:
    return f"({', '.join(map(str, numbers))})"
