"""An epoch from a real S3 server, in a process of its own, over a cache smaller than the videos: every clip exact, all
bytes fetched as the order's law says; and the same where the network is slow and fails, and the server starts again."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from onetake.core.errors import CacheError
from onetake.decode.build import index_videos
from onetake.decode.store import INDEX_FILES, PACKETS_BIN
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.s3 import make_client
from tests.helpers import decode_all, make_loader
from tests.proxy import BREAKS, Proxy, proxied
from tests.servers import moto_server

BUCKET = "videos"
LANES, WORKERS = 4, 2
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(8):
        options = {"crf": str(number + 1)}  # large, and each with noise of its own
        write_numbered_video(folder / f"{number}.mp4", 100, gop=20, width=320, height=192, options=options)
    assert not index_videos(folder, segment_seconds=0.8, workers=1).refused
    return folder


@contextmanager
def server_of(folder: Path, log: Path) -> Iterator[str]:
    """A server that has the files of ``folder``."""
    with moto_server(log) as url:
        client = make_client(endpoint_url=url, **KEYS)
        client.create_bucket(Bucket=BUCKET)
        for path in folder.iterdir():
            client.put_object(Bucket=BUCKET, Key=path.name, Body=path.read_bytes())
        yield url


@pytest.fixture
def server(videos, tmp_path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of a server that has the videos, and what kills it."""
    with ExitStack() as stack:
        yield stack.enter_context(server_of(videos, tmp_path / "log")), stack.close


@pytest.fixture
def proxy(s3, server, monkeypatch) -> Iterator[Proxy]:
    with proxied(server[0]) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        yield proxy


def make(cache: Path, **arguments: Any):
    settings = {"batch_size": 2, "num_canonical_lanes": LANES, "predownload": 1, **arguments}
    return make_loader(None, WORKERS, remote=f"s3://{BUCKET}", local=cache, **settings)


@pytest.fixture
def limit(proxy, tmp_path) -> int:
    """The smallest cache limit that is allowed, read from the error; far less than the videos have."""
    with pytest.raises(CacheError, match="too small") as error:
        make(tmp_path / "probe", cache_limit=1)
    found = re.search(r"with the index ([\d,]+) bytes", str(error.value))
    proxy.requests.clear()
    return int(found[1].replace(",", ""))


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """What the files of a folder weighed, looked at from outside, over and over."""
    seen: list[int] = []
    stop = Event()

    def look() -> None:
        while not stop.wait(0.01):
            before, after = sizes(folder), sizes(folder)
            # Each of these was there between the two looks, so all of them at once.
            seen.append(sum(before[file] for file in before.keys() & after.keys()))

    thread = Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def sizes(folder: Path) -> dict[int, int]:
    """Bytes of each file, by inode."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(path, name))
            except FileNotFoundError:
                continue
            found[status.st_ino] = status.st_size
    return found


def check_epoch(loader, videos: Path, after_batch=lambda number: None) -> None:
    """Every clip is delivered once, with the pictures that a decode of the whole video gives."""
    frames = {path.name: decode_all(path) for path in videos.glob("*.mp4")}
    clips: list[int] = []
    for number, batch in enumerate(loader):
        after_batch(number)
        for row, video_id in enumerate(batch["video_id"]):
            if batch["is_pad"][row]:
                continue
            clips.append(int(batch["clip_id"][row]))
            wanted = [frames[video_id][frame] for frame in batch["frame_index"][row].tolist()]
            got = batch["video"][row].permute(0, 2, 3, 1).numpy()
            assert np.array_equal(got, np.stack(wanted)), (video_id, int(batch["start_frame"][row]))
    assert sorted(clips) == list(range(loader.dataset.num_clips))


def check_fetched(proxy: Proxy, loader, videos: Path) -> None:
    """Each segment's range was fetched once, and at most once more for each cut between lanes."""
    begun: Counter[tuple[str, tuple[int, int]]] = Counter()
    broken: set[tuple[str, tuple[int, int]]] = set()
    for request in proxy.gets(".mp4"):
        if request.how not in ("206", "truncate"):
            continue
        start, stop = request.range
        if (request.path, request.range) in broken:  # the rest of what broke off
            broken.remove((request.path, request.range))
        else:
            begun[request.path, request.range] += 1
        if request.how == "truncate":
            broken.add((request.path, (start + request.sent, stop)))
    assert not broken
    segments = len(loader.dataset.shards)
    assert len(begun) == segments
    assert begun.total() <= segments + LANES - 1
    of_index = {name: sum(request.sent for request in proxy.gets(name)) for name in INDEX_FILES}
    size = {name: (videos / name).stat().st_size for name in INDEX_FILES}
    for name in ("videos.parquet", "segments.parquet"):
        assert size[name] <= of_index[name] < 2 * size[name]  # once; and what broke off
    # With a segment's table comes that of the next one, in which its clips end.
    assert of_index[PACKETS_BIN] <= 2 * size[PACKETS_BIN] * (segments + LANES - 1) / segments * 1.1


def test_a_shuffled_epoch_over_a_cache_smaller_than_the_videos(proxy, limit, videos, tmp_path):
    assert limit < 0.7 * sum(path.stat().st_size for path in videos.glob("*.mp4"))
    loader = make(tmp_path / "cache", cache_limit=limit)
    with watched(tmp_path / "cache") as seen:
        check_epoch(loader, videos)
    assert len(seen) > 20
    assert max(seen) <= limit
    check_fetched(proxy, loader, videos)


def test_the_same_over_a_network_that_is_slow_and_fails_and_a_server_that_starts_again(
    server, proxy, limit, videos, tmp_path
):
    hows = cycle(BREAKS)
    every_20th = cycle([False] * 19 + [True])
    proxy.spoil = lambda method, path: next(hows) if next(every_20th) else None
    proxy.latency = lambda number: 0.05 + number * 7 % 16 / 100
    loader = make(tmp_path / "cache", cache_limit=limit)
    with server_of(videos, tmp_path / "log of the second") as second, watched(tmp_path / "cache") as seen:

        def start_again(number: int) -> None:
            if number == 8:
                proxy.down = True
                server[1]()
                proxy.upstream = urlsplit(second).netloc
                Thread(target=lambda: (time.sleep(2), setattr(proxy, "down", False)), daemon=True).start()

        check_epoch(loader, videos, start_again)
    assert not proxy.down
    assert {"503", "500", "reset", "truncate"} <= {request.how for request in proxy.requests}
    assert max(seen) <= limit
    check_fetched(proxy, loader, videos)
