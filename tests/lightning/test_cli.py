"""LightningCLI takes VideoDataModule as it is, with the arguments of its datasets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from torchvision.transforms import v2

from onetake import ClipSpec
from onetake.lightning import VideoDataModule
from onetake.lightning.classifier import VideoClassifier
from onetake.stream.classify import FolderLabels
from tests.lightning.train_runs import write_videos

# Lightning 2.6 registers its instantiators in a way that newer versions of jsonargparse would rather not see.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = """
seed_everything: 17
trainer:
  accelerator: cpu
  max_steps: 2
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 1
model:
  network: onetake.cli.demo_model.NarrowVideoResNet
  num_classes: 4
data:
  val: {videos}/val
  batch_size: 2
  num_canonical_lanes: 4
  clips:
    num_frames: 4
    stride: 3
  transform:
    class_path: torchvision.transforms.v2.RandomHorizontalFlip
    init_args:
      p: 1.0
  sample_transform:
    class_path: onetake.stream.classify.FolderLabels
    init_args:
      videos: {videos}/train
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


@pytest.fixture
def command(videos, tmp_path, monkeypatch):
    """Runs ``fit`` with a YAML config, some flags, and further ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # which seeding sets, taken back afterwards
        monkeypatch.setenv(name, "0")
    Path("fit.yaml").write_text(CONFIG.format(videos=videos))
    flags = [f"--data.train={videos}/train", "--data.frame_size=[32,32]", "--data.clips.num_frames=8"]

    def command(*further: str) -> LightningCLI:
        monkeypatch.setattr(sys, "argv", ["train.py", "fit", "--config=fit.yaml", *flags, *further])
        return LightningCLI(VideoClassifier, VideoDataModule)

    return command


def test_fit_from_a_config_and_flags(command):
    cli = command("--data.shuffle_seed=5")
    assert cli.trainer.global_step == 2
    dataset = cli.trainer.train_dataloader.dataset
    assert dataset.streams[0].clips == ClipSpec(8, 3)
    assert (dataset.batch_size, dataset.shuffle_seed, dataset.lanes[0] * dataset.lanes[1]) == (2, 5, 4)
    assert tuple(dataset[0]["video"].shape) == (8, 3, 32, 32)
    assert isinstance(dataset.transform, v2.RandomHorizontalFlip)
    assert isinstance(dataset.sample_transform, FolderLabels)


FORMS = ["--data.frame_size=32", "--data.frame_size=null", '--data.clips={"num_frames": 5}']


@pytest.mark.parametrize("flag", FORMS)
def test_other_forms_of_a_flag(command, flag):
    cli = command(flag, "--trainer.max_steps=1")
    assert cli.trainer.global_step == 1


CLIPS_BY_TIME = [
    # flags, the spec
    (["fps=8"], ClipSpec(8, fps=8)),
    (["fps=12.5", "hop_seconds=0.1"], ClipSpec(8, fps="25/2", hop_seconds="1/10")),
    (["fps=30000/1001", "clips_per_video=2"], ClipSpec(8, fps="30000/1001", clips_per_video=2)),
    (
        ["fps=8", "hop_seconds=1001/6000", "align=keyframe"],
        ClipSpec(8, fps=8, hop_seconds="1001/6000", align="keyframe"),
    ),
    (["fps=8", "jitter=true"], ClipSpec(8, fps=8, jitter=True)),
]


@pytest.mark.parametrize("flags, spec", CLIPS_BY_TIME, ids=[" ".join(flags) for flags, _ in CLIPS_BY_TIME])
def test_clips_by_time(command, flags, spec):
    cli = command("--data.clips.stride=null", "--trainer.max_steps=1", *(f"--data.clips.{flag}" for flag in flags))
    assert cli.trainer.global_step == 1
    assert cli.trainer.train_dataloader.dataset.streams[0].clips == spec


def test_streams_and_mappings_are_taken(videos, command):
    stream = {"class_path": "onetake.VideoStream", "init_args": {"local": f"{videos}/train"}}
    mapping = {"local": f"{videos}/val", "frame_size": [16, 16]}
    Path("more.yaml").write_text(yaml.safe_dump({"data": {"train": stream, "val": mapping}}))
    cli = command("--config=more.yaml")
    assert cli.trainer.global_step == 2
    assert cli.trainer.train_dataloader.dataset[0]["video"].shape[-1] == 32
    assert cli.trainer.val_dataloaders.dataset[0]["video"].shape[-1] == 16


def test_print_config_shows_the_arguments_of_the_dataset(command, capsys):
    with pytest.raises(SystemExit) as exited:
        command("--print_config")
    assert exited.value.code == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    clips = data["clips"]
    assert {name: clips.pop(name) for name in ("num_frames", "stride", "jitter")} == {
        "num_frames": 8,
        "stride": 3,
        "jitter": False,
    }
    assert clips == dict.fromkeys(("hop", "fps", "hop_seconds", "clips_per_video", "align"))
    assert (data["frame_size"], data["layout"], data["shuffle_by"]) == ([32, 32], "TCHW", None)


def test_an_unknown_argument_is_refused(command, capsys):
    with pytest.raises(SystemExit) as exited:
        command("--data.batchsize=4")
    assert exited.value.code == 2
    assert "data.batchsize" in capsys.readouterr().err
