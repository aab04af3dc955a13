"""What runs of `onetake train` need in tests: videos, overrides that make a run small, callbacks that tell or fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from onetake import ClipSpec, VideoDataset, VideoLoader, index_videos
from onetake.decode.synthetic import DIRECTIONS, write_drift_video

# For the videos below; as many lanes as any run here needs, so that none warns.
SMALL = (
    "model.network=onetake.cli.demo_model.DriftNetwork",
    "data.frame_size=[32,32]",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.num_canonical_lanes=4",
    "clips.num_frames=4",
    "clips.stride=2",
    "trainer.max_steps=2",
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
)
CLASSIFY = ("+experiment=classify", "trainer=cpu", *SMALL)


def write_videos(folder: Path, parts: tuple[str, ...] = ("train", "val")) -> None:
    """PART/DIRECTION/0.mp4 of 4 seconds for each part, indexed."""
    for seed, part in enumerate(parts):
        for direction in DIRECTIONS:
            path = folder / part / direction / "0.mp4"
            path.parent.mkdir(parents=True)
            write_drift_video(path, direction, seconds=4, size=(64, 48), gop=25, seed=seed)
        index_videos(folder / part, segment_seconds=2, workers=1)


class Diary(pl.Callback):
    """Writes the clip IDs of every training batch, as a JSON line, to ``<path>-<rank>``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        with Path(f"{self._path}-{trainer.global_rank}").open("a") as file:
            print(json.dumps(batch["clip_id"].tolist()), file=file)


def diary(path: Path) -> tuple[str, str]:
    """The overrides that have a run keep a Diary."""
    return f"+callbacks.diary._target_={Diary.__module__}.Diary", f"+callbacks.diary.path={path}"


def read_diary(path: Path, rank: int = 0) -> list[list[int]]:
    """The clip IDs, batch by batch, that a rank was trained on."""
    return [json.loads(line) for line in Path(f"{path}-{rank}").read_text().splitlines()]


def plain_ids(videos: Path, epochs: int, batch_size: int = 2) -> list[list[int]]:
    """What a plain loop, with the settings of CLASSIFY, sees of the videos of ``write_videos``."""
    dataset = VideoDataset(
        local=videos / "train", clips=ClipSpec(4, 2), frame_size=(32, 32), batch_size=batch_size, num_canonical_lanes=4
    )
    loader = VideoLoader(dataset)
    return [batch["clip_id"].tolist() for _ in range(epochs) for batch in loader]


class Bug(pl.Callback):
    """Something that nobody expects."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise ZeroDivisionError("the test stops here")


def broken_model(**arguments: Any) -> None:
    """A constructor that fails in a way that no argument explains."""
    raise ZeroDivisionError("the test stops here")
