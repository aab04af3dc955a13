from __future__ import annotations

import atexit
import gc
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.base import Entry
from onetake.storage.local import LocalStorage
from onetake.storage.s3 import make_client
from tests.servers import local_ray, moto_server

# Tests share few cores with the workers that they start; threads that wait for one another would rule the time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # ranks meet on loopback, not on what the host's name resolves to
torch.set_num_threads(1)

# The same examples in every run, however slow the machine is; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")

DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
MANY_FILES = 200  # open ones, and shared memory


@pytest.fixture(autouse=True)
def leave_nothing_behind() -> Iterator[None]:
    """Composer leaves its process group and environment, Hydra its settings of logging; the next test, of another
    framework, must not see them. What was trained with, Composer and torch keep until the process ends, trainers closed
    or not: a thousand tests would open more files than a process may."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)
    if engine := sys.modules.get("composer.core.engine"):
        atexit.unregister(engine.Engine._close)
    if states := sys.modules.get("torch.distributed.checkpoint.state_dict"):
        states._get_fqns.cache_clear()
    if len(os.listdir("/proc/self/fd")) > MANY_FILES:
        gc.collect()  # datasets that hang on their trainers in a circle
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in DISTRIBUTED:
        os.environ.pop(name, None)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("onetake") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos of one size whose frames carry their numbers, indexed in segments of 3 s (75 frames)."""
    folder = tmp_path_factory.mktemp("numbered")
    (folder / "sub").mkdir()
    write_numbered_video(folder / "a.mp4", 230, gop=48)
    write_numbered_video(folder / "b.mp4", 260, gop=25, first_pts=1000, audio=True)
    write_numbered_video(folder / "sub" / "c.mkv", 200, codec="libx265", gop=40)
    write_numbered_video(folder / "sub" / "d.mp4", 300, gop=250, bframes=3)
    write_numbered_video(folder / "e.ts", 150, gop=50)
    write_numbered_video(folder / "f.mp4", 180, gop=20, bframes=0)
    write_numbered_video(folder / "short.mp4", 5)
    report = index_videos(folder, segment_seconds=3, workers=1)
    assert not report.refused
    return folder


def real_videos() -> list[Path]:
    """The real videos to test over, if there are any."""
    folder = Path(os.environ.get("ONETAKE_TEST_VIDEOS") or Path(__file__).parents[2] / "shared" / "videos")
    return sorted(path for path in folder.glob("*") if path.suffix in {".mp4", ".avi", ".mkv", ".webm", ".mov"})


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray of this machine with two workers, which this process has joined."""
    with local_ray():
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server on loopback."""
    with moto_server(tmp_path_factory.mktemp("s3") / "log") as url:
        yield url


@pytest.fixture(scope="session")
def s3_client(s3_server: str) -> Any:
    """A client of that server, for tests to look behind what they test."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return make_client(endpoint_url=s3_server, **keys)


BUCKET_NUMBERS = itertools.count()


@pytest.fixture
def s3(s3_server: str, s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a bucket of that server, for whose use the environment is set, out of the files of a folder, if one is
    given: its URL."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("S3_ENDPOINT_URL", s3_server)

    def make(folder: Path | None = None) -> str:
        bucket = f"bucket-{next(BUCKET_NUMBERS)}"
        s3_client.create_bucket(Bucket=bucket)
        for path in () if folder is None else sorted(folder.rglob("*")):
            if path.is_file():
                s3_client.put_object(Bucket=bucket, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
        return f"s3://{bucket}"

    return make


@pytest.fixture
def slow_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment takes a fifth of a second to be fetched."""
    copy = LocalStorage.copy

    def slow(*arguments: Any) -> Entry:
        time.sleep(0.2)
        return copy(*arguments)

    monkeypatch.setattr(LocalStorage, "copy", slow)
