"""What several tests share: reference decoding, and records of what a loader delivered."""

from __future__ import annotations

import json
import warnings
import zlib
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from onetake import ClipSpec, VideoDataset, VideoLoader
from onetake.core.state import read_state

SPEC = ClipSpec(num_frames=4, stride=3)


def decode_all(path: Path) -> list[np.ndarray]:
    """Every frame of a file, by a full sequential decode: uint8 RGB [H, W, 3]. Shares no code with onetake."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def record(batch: dict[str, Any]) -> list[tuple[int, str, int, int]]:
    """A batch as (clip ID, video ID, start frame, checksum of the pixels) per sample, pads left out."""
    return [
        (clip, video_id, start, zlib.crc32(pixels.contiguous().numpy().tobytes()))
        for clip, video_id, start, pixels, pad in zip(
            batch["clip_id"].tolist(),
            batch["video_id"],
            batch["start_frame"].tolist(),
            batch["video"],
            batch["is_pad"].tolist(),
            strict=True,
        )
        if not pad
    ]


def make_loader(
    folder: Path, num_workers: int = 0, loader: dict[str, Any] | None = None, **dataset: Any
) -> VideoLoader:
    """A loader over the videos of ``folder`` in place, small and with lanes that suit 1 and 2 workers."""
    arguments = {"clips": SPEC, "frame_size": None, "batch_size": 4, "num_canonical_lanes": 8, **dataset}
    if not {"streams", "remote"} & arguments.keys():
        arguments["local"] = folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lanes that don't divide are one of the things tested
        return VideoLoader(VideoDataset(**arguments), num_workers, **(loader or {}))


def bytes_in(folder: Path, pattern: str = "*") -> int:
    """What the files below it weigh, while others write and delete them."""
    total = 0
    for path in folder.rglob(pattern):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def check_going_on(folder: Path, workers: int, epochs: list[list[Any]], trained: int, **dataset: Any) -> None:
    """Stop an epoch after ``trained`` batches: its state names the clips of the two batches that follow, of all lanes,
    and a loader that goes on from it gives the rest of the first of ``epochs``, and then the second."""
    stopped = make_loader(folder, workers, **dataset)
    running = iter(stopped)
    assert [record(batch) for batch in islice(running, trained)] == epochs[0][:trained]
    state = json.loads(json.dumps(stopped.state_dict()))
    running.close()
    upcoming = [(video, start) for batch in epochs[0][trained : trained + 2] for _, video, start, _ in batch]
    assert sorted(cursor for cursor in read_state(state)[3] if cursor) == sorted(upcoming)
    resumed = make_loader(folder, workers, **dataset)
    resumed.load_state_dict(state)
    assert [record(batch) for batch in resumed] == epochs[0][trained:]
    assert [record(batch) for batch in resumed] == epochs[1]
