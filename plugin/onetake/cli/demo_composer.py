"""The demo's run with Composer: the recipe that comes with onetake, told of the demo's videos, clips and network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from omegaconf import OmegaConf

from onetake.cli.demo_settings import NETWORK, Diary, RunSettings
from onetake.core.shipped import shipped_folder


class DiaryCallback(Callback):
    """Tells a diary of the start and the batches trained on.

    Args:
        path: the diary's file.
    """

    def __init__(self, path: str) -> None:
        self._diary = Diary(Path(path))

    def fit_start(self, state: State, logger: Logger) -> None:
        self._diary.start(state.train_dataloader.dataset)

    def batch_end(self, state: State, logger: Logger) -> None:
        time = state.timestamp  # counts the batch already
        self._diary.batch(int(time.batch), int(time.epoch), float(state.loss), state.batch)


def write_recipe(settings: RunSettings, steps: int, checkpoints: Path) -> Path:
    """The recipe of a run that goes on from the latest of ``checkpoints``, where there is one; returns its file."""
    recipe: Any = OmegaConf.load(shipped_folder("recipes") / "classify.yaml")
    changes = {
        "variables": {
            "videos": settings.videos,
            "num_frames": settings.num_frames,
            "stride": settings.stride,
            "frame_size": [settings.frame_size, settings.frame_size],
            "num_workers": settings.num_workers,
        },
        "run_name": "demo",
        "seed": settings.seed,
        "max_duration": f"{steps}ba",
        "eval_loader": None,
        "device_train_batch_size": settings.batch_size,
        "device_train_microbatch_size": settings.batch_size,
        "model": {"network": NETWORK},
        "callbacks": {f"{__name__}.{DiaryCallback.__name__}": {"path": str(settings.diary)}},
        "progress_bar": False,
        "save_folder": str(checkpoints),
        "save_interval": f"{settings.checkpoint_every}ba",
        "autoresume": True,
    }
    path = Path(settings.folder) / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.merge(recipe, changes), path)
    return path
