"""One experiment as Hydra overrides, as a Composer recipe and as plain Python: the same clips in the same order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from onetake import ClipSpec, VideoDataset, VideoLoader
from onetake.cli.demo_report import read_run
from onetake.core.shipped import shipped_folder
from tests.lightning.train_runs import diary, read_diary, write_videos

EPOCHS = 2
# Everything that is not said here is the doors' own default, which must be the same.
CLIPS = {"num_frames": 6, "stride": 2}

pytestmark = pytest.mark.filterwarnings("ignore:8 lanes start in the middle of a video")  # there is little of it here


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("doors")
    write_videos(folder / "videos")
    return folder


def onetake_train(folder: Path, *arguments: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [Path(sys.executable).with_name("onetake"), "train", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def by_python(folder) -> list[list[int]]:
    dataset = VideoDataset(
        local=folder / "videos" / "train", clips=ClipSpec(**CLIPS), frame_size=(32, 32), batch_size=8
    )
    loader = VideoLoader(dataset, num_workers=1)
    return [batch["clip_id"].tolist() for _ in range(EPOCHS) for batch in loader]


def test_hydra_sees_what_plain_python_sees(folder, by_python):
    onetake_train(
        folder,
        "+experiment=classify",
        "trainer=cpu",
        f"trainer.max_epochs={EPOCHS}",
        "model.network=onetake.cli.demo_model.DriftNetwork",
        "data.frame_size=[32,32]",
        "data.num_workers=1",
        *(f"clips.{name}={value}" for name, value in CLIPS.items()),
        *diary(folder / "hydra"),
    )
    assert read_diary(folder / "hydra") == by_python


def test_a_recipe_sees_what_plain_python_sees(folder, by_python):
    recipe = OmegaConf.merge(
        OmegaConf.load(shipped_folder("recipes") / "classify.yaml"),
        {"callbacks": {"onetake.cli.demo_composer.DiaryCallback": {"path": str(folder / "composer")}}},
    )
    OmegaConf.save(recipe, folder / "mine.yaml")
    onetake_train(
        folder,
        "mine.yaml",
        f"max_duration={EPOCHS}ep",
        "model.network=onetake.cli.demo_model.DriftNetwork",
        "variables.frame_size=[32,32]",
        "variables.num_workers=1",
        *(f"variables.{name}={value}" for name, value in CLIPS.items()),
    )
    assert [event["clips"] for event in read_run(folder / "composer").batches.values()] == by_python
