"""What is in the caches below one folder, and who holds it: an SQLite file that all processes of the machine share.

A process that is killed leaves its rows behind; whoever needs room, or opens the cache, clears them away. In a
transaction files go before their rows, and come after them: one that is cut off leaves rows without files, which weigh
nothing, but never files that no one knows of.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onetake.core.errors import CacheError
from onetake.stream.owners import Owner, is_alive
from onetake.stream.shard import remove_cached

__all__ = ["LEDGER_FOLDER", "Ledger"]

LEDGER_FOLDER = ".onetake"
_BUSY_SECONDS = 600  # another job may be deleting what a lower limit leaves no room for
_SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value INTEGER);
CREATE TABLE IF NOT EXISTS folders (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE,
    fixed INTEGER DEFAULT 0, -- bytes that are no segments
    held INTEGER DEFAULT 0, -- bytes of its segments
    epoch INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS leases (
    owner TEXT, folder INTEGER,
    own_limit INTEGER, -- the dataset's; NULL: the machine's
    reserve INTEGER);
CREATE TABLE IF NOT EXISTS segments (
    folder INTEGER, name TEXT, bytes INTEGER, used_at INTEGER,
    finished INTEGER DEFAULT 0, -- the epoch that has read it to its end, counted from 1
    fetcher TEXT, -- who is fetching it; NULL: it is there
    PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS coldest ON segments (folder, used_at);
CREATE INDEX IF NOT EXISTS coldest_finished ON segments (folder, finished, used_at);
CREATE TABLE IF NOT EXISTS pins (
    folder INTEGER, name TEXT, owner TEXT, is_open INTEGER,
    PRIMARY KEY (folder, name, owner)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS came AFTER INSERT ON segments BEGIN
    UPDATE folders SET held = held + NEW.bytes WHERE id = NEW.folder; END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE OF bytes ON segments BEGIN
    UPDATE folders SET held = held + NEW.bytes - OLD.bytes WHERE id = NEW.folder; END;
CREATE TRIGGER IF NOT EXISTS went AFTER DELETE ON segments BEGIN
    UPDATE folders SET held = held - OLD.bytes WHERE id = OLD.folder;
    DELETE FROM pins WHERE folder = OLD.folder AND name = OLD.name; END;
"""

Database = sqlite3.Connection
Work = Callable[[Database], object]


class _Guard:
    """Keeps SQLite to one thread at a time, and out of forks: a child would find its locks taken for ever."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None  # that is inside

    def __enter__(self) -> None:
        self._lock.acquire()
        self._thread = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._thread = None
        self._lock.release()

    @property
    def is_mine(self) -> bool:
        """Whether this thread is inside: the garbage collector may call from there."""
        return self._thread == threading.get_ident()


guard = _Guard()
os.register_at_fork(before=guard.__enter__, after_in_parent=guard.__exit__, after_in_child=guard.__exit__)


class Ledger:
    """The ledger of the caches below one folder. Any thread may use it; it can be pickled, and used after a fork.

    Args:
        root: the folder; exists.

    Raises:
        CacheError: (all methods) the ledger can't be read or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._forget()

    def _forget(self) -> None:
        self._pid: int | None = None
        self._db: Database | None = None
        self._owner: Owner | None = None
        self._postponed: deque[Work] = deque()
        self._inherited: list[Database | None] = []

    def __getstate__(self) -> Path:
        return self.root

    def __setstate__(self, root: Path) -> None:
        self.root = root
        self._forget()

    @property
    def folder(self) -> Path:
        """Where the ledger itself is."""
        return self.root / LEDGER_FOLDER

    @property
    def owner(self) -> str:
        """This process's name in the ledger, once it has made a transaction."""
        assert self._owner is not None
        return self._owner.name

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """All of it or nothing, and nothing of anyone else between."""
        try:
            with guard:
                db = self._connected()
                db.execute("BEGIN IMMEDIATE")
                try:
                    postponed = list(self._postponed)
                    for work in postponed:
                        work(db)
                    yield db
                    db.execute("COMMIT")
                    for _ in postponed:  # not before: what is rolled back is still to be done
                        self._postponed.popleft()
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
        except (sqlite3.Error, OSError) as error:
            raise CacheError(
                f"the ledger of the cache {self.root} can't be used ({error}): see that local= can be written, on a "
                "disk of this machine that is not full; if the ledger is damaged, end the jobs that use it, and "
                f"delete {self.folder}"
            ) from error

    def later(self, work: Work) -> None:
        """Do ``work`` with the next transaction."""
        self._postponed.append(work)

    def soon(self, work: Work) -> None:
        """Do ``work`` in a transaction: at once, or where this thread is in the middle of another, with the next."""
        if guard.is_mine:
            self.later(work)
            return
        with self.transaction() as db:
            work(db)

    def end(self) -> None:
        """Be as a process that is gone. The garbage collector may call it, also in the middle of a transaction: what
        is held here is cleared away by whoever comes next."""
        if self._pid == os.getpid() and self._owner is not None:
            self._owner.end()

    def __del__(self) -> None:
        self.end()

    def clear_away_the_dead(self, db: Database) -> bool:
        """Free what processes that are gone held, and delete what they were fetching; whether there were any."""
        owners = self.folder / "owners"
        dead = [name for (name,) in db.execute("SELECT name FROM owners") if not is_alive(owners, name)]
        for name in dead:
            fetching = "SELECT f.name, s.name FROM segments s JOIN folders f ON f.id = s.folder WHERE s.fetcher = ?"
            for folder, segment in db.execute(fetching, (name,)).fetchall():
                for part in (self.root / folder).glob(f".{Path(segment).stem}.*.part"):
                    part.unlink(missing_ok=True)
                remove_cached(self.root / folder / segment)
            db.execute("DELETE FROM segments WHERE fetcher = ?", (name,))
            db.execute("DELETE FROM leases WHERE owner = ?", (name,))
            db.execute("DELETE FROM pins WHERE owner = ?", (name,))
            db.execute("DELETE FROM owners WHERE name = ?", (name,))
            (owners / name).unlink(missing_ok=True)
        return bool(dead)

    def _connected(self) -> Database:
        if self._db is None or self._pid != os.getpid():
            # That of the process this one was forked from stays open: closing it would end transactions over there.
            inherited = [*self._inherited, self._db]
            self._forget()
            self._inherited = inherited
            (self.folder / "owners").mkdir(parents=True, exist_ok=True)
            # Whatever the system loses when it crashes can be told from the files: no need to wait for the disk.
            path = self.folder / "ledger.sqlite"
            db = sqlite3.connect(path, _BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            db.executescript(f"PRAGMA page_size = 1024; PRAGMA synchronous = OFF; BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            owner = Owner(self.folder / "owners")
            db.execute("INSERT INTO owners VALUES (?)", (owner.name,))
            self._pid, self._db, self._owner = os.getpid(), db, owner
        return self._db
