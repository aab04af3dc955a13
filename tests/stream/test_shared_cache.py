"""One cache for several datasets, workers and jobs: what is held stays, what is over goes, the dead hold nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest

from onetake import ClipSpec, VideoStream
from onetake.core.errors import CacheError
from onetake.decode.build import index_videos
from onetake.storage.local import LocalStorage
from onetake.stream import nodes
from onetake.stream.ledger import LEDGER_FOLDER, Ledger
from onetake.stream.shared_cache import CachedSegment, SharedCache, Standing
from onetake.stream.takeover import MARKER, claim_folder
from tests.helpers import bytes_in, make_loader, record
from tests.servers import quiet_port

CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from onetake.stream import nodes
from tests.helpers import make_loader, record
remote, local, workers, batches, node = Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]
if node:
    nodes.node_id = lambda: node
loader = make_loader(remote, int(workers), remote=remote, local=local, predownload=4)
seen = []
for number, batch in enumerate(loader):
    seen += record(batch)
    if number + 1 == int(batches):
        print("waits", flush=True)
        time.sleep(60)
print(len(seen), flush=True)
"""


@contextmanager
def another_job(
    remote: Path, local: Path, workers: int = 0, batches: int = 0, node: str = ""
) -> Iterator[subprocess.Popen]:
    """A job that reads an epoch; or some batches, and then waits."""
    arguments = [str(Path(__file__).parents[2]), str(remote), str(local), str(workers), str(batches), node]
    job = subprocess.Popen([sys.executable, "-W", "ignore", "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            job.kill()
        job.wait(20)
        job.stdout.close()


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """What a folder weighs at most, seen from outside, again and again."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            most[0] = max(most[0], bytes_in(folder))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def remote(numbered, tmp_path_factory) -> Path:
    """Videos in segments of a second, but for one that is fetched whole and would rule the limit."""
    folder = tmp_path_factory.mktemp("remote")
    for name in ("a.mp4", "b.mp4", "f.mp4"):
        os.link(numbered / name, folder / name)
    index_videos(folder, segment_seconds=1, workers=1)
    return folder


def held(cache: SharedCache) -> int:
    """Segments that anyone holds."""
    with cache._ledger.transaction() as db:
        return db.execute("SELECT COUNT(*) FROM pins").fetchone()[0]


def smallest_limit(remote: Path, local: Path, **arguments) -> int:
    with pytest.raises(CacheError, match="is too small") as error:
        make_loader(remote, remote=remote, local=local, cache_limit=1, **arguments)
    return int(str(error.value).split("with the index ")[1].split(" bytes")[0].replace(",", ""))


@pytest.fixture
def small_cache(tmp_path) -> Iterator[SharedCache]:
    """A cache with room for four segments of 10 bytes, of which one may be open; and its folder."""
    claim_folder(tmp_path / "ours")
    cache = SharedCache(tmp_path, {"ours": 0}, 40, 10)
    cache.open(for_node=False)
    yield cache
    cache.end()


def put(cache: SharedCache, name: str, urgent: bool = False, size: int = 10) -> Standing:
    """Fetch a segment of so many bytes, if there is room."""
    segment = CachedSegment("ours", f"{name}.mds")
    standing = cache.hold_ahead(segment, size, urgent)
    if standing is Standing.YOURS:
        (cache.root / "ours" / f"{name}.table").write_bytes(bytes(1))
        (cache.root / "ours" / f"{name}.mds").write_bytes(bytes(size - 1))
        cache.fetched(segment)
    return standing


def let_go(cache: SharedCache, name: str, finished: bool = False) -> None:
    cache.let_go(CachedSegment("ours", f"{name}.mds"), ahead=1, finished=finished)


def there(cache: SharedCache) -> str:
    return "".join(sorted(path.stem for path in (cache.root / "ours").glob("*.mds")))


def test_what_was_used_longest_ago_leaves_first_and_what_is_held_stays(small_cache):
    for name in "abcd":
        assert put(small_cache, name, urgent=True) is Standing.YOURS
        if name != "b":
            let_go(small_cache, name)
    assert put(small_cache, "a") is Standing.HELD
    let_go(small_cache, "a")
    for name, left in zip("ef", ("abde", "abef"), strict=True):
        assert put(small_cache, name, urgent=True) is Standing.YOURS
        let_go(small_cache, name)
        assert there(small_cache) == left


def test_what_the_epoch_is_through_with_leaves_before_what_it_has_yet_to_read(small_cache):
    small_cache.begin_epoch(0)
    for name in "abcd":
        put(small_cache, name, urgent=True)
        let_go(small_cache, name, finished=name in "cd")
    for name, left in zip("ef", ("abde", "abef"), strict=True):
        put(small_cache, name, urgent=True)
        let_go(small_cache, name)
        assert there(small_cache) == left
    small_cache.begin_epoch(1)  # it has yet to read all
    put(small_cache, "g", urgent=True)
    assert there(small_cache) == "befg"


def test_what_is_fetched_ahead_leaves_room_for_a_lane(small_cache):
    assert [put(small_cache, name) for name in "abcd"] == [*[Standing.YOURS] * 3, Standing.NO_ROOM]
    assert put(small_cache, "e", urgent=True) is Standing.YOURS
    assert put(small_cache, "f", urgent=True) is Standing.YOURS  # what was fetched last, ahead, goes for it
    assert there(small_cache) == "abef"


def test_a_segment_is_fetched_by_one_and_the_others_wait(small_cache):
    segment = CachedSegment("ours", "a.mds")
    other = SharedCache(small_cache.root, {"ours": 0}, 40, 10)
    other.open(for_node=False)
    assert small_cache.hold_ahead(segment, 10, True) is Standing.YOURS
    assert other.hold_ahead(segment, 10, True) is Standing.UNDER_WAY
    small_cache.failed(segment)
    assert other.hold_ahead(segment, 10, True) is Standing.YOURS
    other.end()  # as if it had been killed
    assert small_cache.hold_ahead(segment, 10, True) is Standing.YOURS


def test_two_holders_hold_until_both_have_let_go(small_cache):
    other = SharedCache(small_cache.root, {"ours": 0}, 40, 10)
    other.open(for_node=False)
    put(small_cache, "a", urgent=True)
    assert put(other, "a") is Standing.HELD
    let_go(small_cache, "a")
    for name in "bcde":
        put(small_cache, name, urgent=True)
        let_go(small_cache, name)
    assert "a" in there(small_cache)
    let_go(other, "a")
    for name in "fghi":
        put(small_cache, name, urgent=True)
        let_go(small_cache, name)
    assert there(small_cache) == "fghi"


def test_lanes_of_all_datasets_must_have_room(small_cache):
    with pytest.raises(CacheError, match="it may take 40 bytes, and the datasets that share it may have 41 bytes open"):
        SharedCache(small_cache.root, {"ours": 0}, 40, 31).open(for_node=False)
    SharedCache(small_cache.root, {"ours": 0}, 40, 30).open(for_node=False)


@pytest.mark.parametrize("urgent", [False, True])
def test_a_fetch_costs_as_much_among_many_segments_as_among_few(small_cache, urgent):
    steps = {}
    for count in (100, 3000):
        rows = [(f"{number:05d}.mds", number, number % 2) for number in range(count)]
        with small_cache._ledger.transaction() as db:
            db.execute("DELETE FROM segments")
            db.executemany("INSERT INTO segments (folder, name, bytes, used_at, finished) VALUES (1, ?, 1, ?, ?)", rows)
            db.execute("UPDATE folders SET epoch = 1")
            spent = []
            db.set_progress_handler(lambda spent=spent: spent.append(1), 10)
        small_cache._own_limit = count
        assert put(small_cache, "new", urgent) is Standing.YOURS
        let_go(small_cache, "new")
        with small_cache._ledger.transaction() as db:
            db.set_progress_handler(None, 0)
        steps[count] = len(spent)
    assert 0 < steps[3000] < 2 * steps[100]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_smallest_limit_serves_an_epoch_and_is_never_exceeded(remote, tmp_path, workers):
    arguments = {"num_canonical_lanes": 2, "predownload": 1, "batch_size": 1}
    limit = smallest_limit(remote, tmp_path / "probe", **arguments)
    loader = make_loader(remote, workers, remote=remote, local=tmp_path / "cache", cache_limit=limit, **arguments)
    with watched(tmp_path / "cache") as most:
        seen = [record(batch) for _ in range(2) for batch in loader]
    plain = make_loader(remote, **arguments)
    assert seen == [record(batch) for _ in range(2) for batch in plain]
    assert 0 < most[0] <= limit
    assert len(list((tmp_path / "cache").rglob("*.bytes"))) < loader.dataset.num_shards


def test_two_jobs_share_what_they_fetch_and_a_killed_one_leaves_its_room(remote, tmp_path):
    with another_job(remote, tmp_path, workers=2, batches=1) as job:
        assert job.stdout.readline() == "waits\n"
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bytes")}
        assert before
        loader = make_loader(remote, 2, remote=remote, local=tmp_path)
        reading = iter(loader)
        seen = record(next(reading))
        os.kill(job.pid, signal.SIGKILL)
        job.wait(20)
        seen += [sample for batch in reading for sample in record(batch)]
        cache = loader.dataset.streams[0].cache
        for _ in range(200):  # its workers look every few seconds whether it is still there
            cache.begin_epoch(0)
            if held(cache) == 0:
                break
            threading.Event().wait(0.1)
    assert held(cache) == 0
    assert sorted(seen) == sorted(sample for batch in make_loader(remote) for sample in record(batch))
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bytes")}
    assert after.items() >= before.items()  # none was fetched again
    assert not list(tmp_path.rglob("*.part"))


def test_two_jobs_read_the_same_clips_at_the_same_time(remote, tmp_path):
    with another_job(remote, tmp_path) as job:
        loader = make_loader(remote, remote=remote, local=tmp_path, predownload=4)
        count = sum(len(record(batch)) for batch in loader)
        assert int(job.stdout.readline()) == count == loader.dataset.num_clips


def test_what_is_left_for_later_is_done_by_the_first_transaction_that_holds(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.transaction():  # opens it
        pass
    ledger.later(lambda db: db.execute("INSERT INTO settings VALUES ('left', 1)"))
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        raise ZeroDivisionError
    for _ in range(2):  # and by no other one: the name would be there twice
        with ledger.transaction() as db:
            assert db.execute("SELECT value FROM settings WHERE name = 'left'").fetchall() == [(1,)]


def test_a_machine_does_not_share_a_cache_with_another(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "_WATCH_SECONDS", 60.0)  # until it is refused, at the first touch
    with another_job(remote, tmp_path, batches=1, node="another-boot") as job:
        assert job.stdout.readline() == "waits\n"
        with pytest.raises(CacheError, match="in use by another machine .*Give a local= on a disk of this machine"):
            make_loader(remote, remote=remote, local=tmp_path)
    monkeypatch.setattr(nodes, "_WATCH_SECONDS", 4.0)
    loader = make_loader(remote, remote=remote, local=tmp_path)  # it is gone, as its mark tells
    assert sum(len(record(batch)) for batch in loader) == loader.dataset.num_clips


def test_a_folder_that_another_user_has_is_refused(remote, tmp_path, monkeypatch):
    (tmp_path / LEDGER_FOLDER / "nodes" / "ours").mkdir(parents=True)  # root may write anywhere, but not here
    monkeypatch.setattr(nodes, "node_id", lambda: "ours")
    with pytest.raises(CacheError, match=f"the cache {tmp_path} can't be used .*written by this user, or give another"):
        make_loader(remote, remote=remote, local=tmp_path)


def test_a_folder_that_is_not_ours_is_left_alone(remote, tmp_path):
    stranger = tmp_path / "0123456789abcdef"
    stranger.mkdir()
    (stranger / "00000000.bytes").write_bytes(bytes(100))
    make_loader(remote, remote=remote, local=tmp_path)
    assert [path.name for path in stranger.iterdir()] == ["00000000.bytes"]
    (name,) = (path.name for path in tmp_path.iterdir() if (path / MARKER).exists())
    claimed = tmp_path / "other" / name
    claimed.mkdir(parents=True)
    (claimed / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match=f"{name} is not a cache of onetake's.*give another local="):
        make_loader(remote, remote=remote, local=tmp_path / "other")
    assert (claimed / "notes.txt").read_text() == "mine"


@pytest.fixture
def disk_of(monkeypatch):
    """A disk that has room for a number of bytes of segments, and is full beyond."""

    def limit(root: Path, room: int) -> None:
        copy = LocalStorage.copy

        def copy_until_full(self, file, start, length, target, *others):
            if ".bytes." in target.name and bytes_in(root) + length > room:
                target.write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return copy(self, file, start, length, target, *others)

        monkeypatch.setattr(LocalStorage, "copy", copy_until_full)

    return limit


def test_on_a_disk_that_is_full_segments_make_room_for_others(remote, tmp_path, disk_of):
    arguments = {"num_canonical_lanes": 4, "predownload": 2, "batch_size": 2}
    room = smallest_limit(remote, tmp_path / "probe", **arguments)
    disk_of(tmp_path / "cache", room)
    loader = make_loader(remote, remote=remote, local=tmp_path / "cache", **arguments)
    assert sum(len(record(batch)) for batch in loader) == loader.dataset.num_clips
    assert bytes_in(tmp_path / "cache") <= room
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(remote, tmp_path, disk_of, workers):
    disk_of(tmp_path / "cache", 0)
    loader = make_loader(remote, workers, remote=remote, local=tmp_path / "cache")
    message = rf"cannot be written to the cache {tmp_path}/cache/\w+ \(No space left on device\): make room"
    with pytest.raises(CacheError, match=message):
        list(loader)
    assert not list(tmp_path.rglob("*.part")) + list(tmp_path.rglob("*.bytes")) + list(tmp_path.rglob("*.table"))


def test_what_a_killed_job_left_half_fetched_is_deleted(remote, tmp_path):
    loader = make_loader(remote, remote=remote, local=tmp_path)
    folder = Path(loader.dataset.streams[0].local)
    list(loader)
    del loader
    (folder / ".00000099.bytes.123.part").write_bytes(b"half")
    (folder / "00000099.table").write_bytes(b"without its bytes")
    kept = sorted(folder.glob("*.bytes"))
    make_loader(remote, remote=remote, local=tmp_path)
    assert not list(folder.glob("*00000099*"))
    assert sorted(folder.glob("*.bytes")) == kept


def test_without_a_limit_all_datasets_share_a_part_of_the_disk(remote, tmp_path, caplog):
    with caplog.at_level("INFO", "onetake"):
        train = make_loader(remote, remote=remote, local=tmp_path)
    val = make_loader(remote, remote=remote, local=tmp_path, clips=ClipSpec(4, stride=2))
    limit = train.dataset.cache_limit
    assert f"the cache {tmp_path} may take {limit:,} bytes (80% of the free disk" in caplog.text
    assert val.dataset.cache_limit == limit
    before = [loader.dataset.streams[0].cache.held_bytes() for loader in (train, val)]
    list(train)
    fetched = sum(path.stat().st_size for kind in ("*.bytes", "*.table") for path in tmp_path.rglob(kind))
    after = [loader.dataset.streams[0].cache.held_bytes() for loader in (train, val)]
    assert before[0] == before[1] == after[0] - fetched == after[1] - fetched


RANK = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from onetake.core.errors import CacheError
from tests.helpers import make_loader
remote, local = Path(sys.argv[2]), Path(sys.argv[3])
try:
    make_loader(remote, remote=remote, local=local, cache_limit=1 if os.environ["RANK"] == "1" else "1gb")
except CacheError as error:
    print(error, flush=True)
"""


def test_a_cache_that_one_rank_cannot_use_stops_them_all(remote, tmp_path):
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(quiet_port())}
    arguments = [sys.executable, "-W", "ignore", "-c", RANK, str(Path(__file__).parents[2]), str(remote), str(tmp_path)]
    ranks = [
        subprocess.Popen(
            arguments,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(20)
    assert said[0].startswith("another rank can't use its cache: cache_limit=1 bytes is too small")
    assert said[1].startswith("cache_limit=1 bytes is too small")


def test_a_limit_for_streams_in_several_caches_is_refused(remote, tmp_path):
    streams = [VideoStream(remote=remote, local=tmp_path / name) for name in "ab"]
    with pytest.raises(CacheError, match="cache_limit= with several local= .*give all streams the same one"):
        make_loader(remote, streams=streams, cache_limit="1gb")


def test_a_damaged_ledger_is_named_with_the_remedy(remote, tmp_path):
    (tmp_path / LEDGER_FOLDER).mkdir()
    (tmp_path / LEDGER_FOLDER / "ledger.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(CacheError, match=f"if the ledger is damaged, end the jobs that use it, and delete {tmp_path}"):
        make_loader(remote, remote=remote, local=tmp_path)


def test_an_iteration_that_is_left_holds_nothing(remote, tmp_path):
    loader = make_loader(remote, remote=remote, local=tmp_path)
    reading = iter(loader)
    list(islice(reading, 2))
    assert held(loader.dataset.streams[0].cache) > 0
    reading.close()
    assert held(loader.dataset.streams[0].cache) == 0
