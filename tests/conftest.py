from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.local import LocalStorage

# Tests share few cores with the workers that they start; threads that wait for one another would rule the time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # ranks meet on loopback, not on what the host's name resolves to
torch.set_num_threads(1)

DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def leave_nothing_behind() -> Iterator[None]:
    """Composer leaves its process group and environment, Hydra its settings of logging; the next test, of another
    framework, must not see them."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)
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
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    )
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def slow_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment takes a fifth of a second to be fetched."""
    copy = LocalStorage.copy

    def slow(*arguments: Any) -> None:
        time.sleep(0.2)
        copy(*arguments)

    monkeypatch.setattr(LocalStorage, "copy", slow)
