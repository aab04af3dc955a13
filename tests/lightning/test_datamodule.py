"""VideoDataModule as a user meets it: what it accepts, builds once, and makes on the device."""

from __future__ import annotations

import copy
import warnings

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torchvision.transforms import v2

from onetake import ClipSpec, VideoStream
from onetake.core.errors import IndexFileError, SpecError
from onetake.core.shipped import shipped_folder
from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from onetake.lightning import VideoDataModule
from tests.helpers import SPEC, record

COMMON = {"clips": SPEC, "frame_size": (48, 64), "batch_size": 4, "num_canonical_lanes": 4}


class Keeper(pl.LightningModule):
    """Keeps the batches it is given, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.train_batches: list = []
        self.val_batches: list = []

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.val_batches.append(batch)
        return batch["clip_id"].sum()

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(root, **arguments):
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        **{"max_epochs": 1, "num_sanity_val_steps": 0, **arguments},
    )


def test_floats_are_made_on_the_device_and_uint8_travels(numbered, tmp_path):
    model, data = Keeper(), VideoDataModule(numbered, **COMMON)
    trainer(tmp_path, max_steps=2).fit(model, datamodule=data)
    batch = model.train_batches[0]
    assert batch["video"].dtype == torch.float32
    assert tuple(batch["video"].shape) == (4, 4, 3, 48, 64)
    data = VideoDataModule(numbered, **COMMON)
    data.setup("fit")
    original = next(iter(data.train_dataloader()))
    assert original["video"].dtype == torch.uint8
    torch.testing.assert_close(original["video"] / 255, batch["video"])


def videos_by_clip(batches):
    return {
        clip: video
        for batch in batches
        for clip, video, pad in zip(batch["clip_id"].tolist(), batch["video"], batch["is_pad"], strict=True)
        if not pad
    }


def test_device_transforms_draw_per_sample_by_the_samples_own_seed(numbered, tmp_path):
    flip = v2.Compose([v2.RandomCrop(32), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    runs = []
    for batch_size in (4, 2):
        model = Keeper()
        data = VideoDataModule(numbered, device_transform=copy.deepcopy(flip), **COMMON | {"batch_size": batch_size})
        torch.manual_seed(batch_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer(tmp_path).fit(model, datamodule=data)
        runs.append(videos_by_clip(model.train_batches))
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][clip], runs[1][clip]) for clip in runs[0])
    same = VideoDataModule(numbered, device_transform=lambda video: torch.rand(1), **COMMON)
    model = Keeper()
    trainer(tmp_path, max_steps=1).fit(model, datamodule=same)
    assert len(set(model.train_batches[0]["video"].flatten().tolist())) == 4


def test_per_batch_calls_the_transform_once(numbered, tmp_path):
    calls = []

    def transform(video):
        calls.append(tuple(video.shape))
        return video.float()

    data = VideoDataModule(numbered, device_transform=transform, per_batch=True, **COMMON)
    trainer(tmp_path, max_steps=2).fit(Keeper(), datamodule=data)
    assert calls == [(4, 4, 3, 48, 64)] * 2


def test_validation_is_unshuffled_fixed_whole_and_not_augmented(numbered, tmp_path):
    def spoil(video):
        return torch.zeros_like(video)

    data = VideoDataModule(numbered, numbered, transform=spoil, val_batch_size=3, **COMMON)
    model = Keeper()
    trainer(tmp_path, max_epochs=2, limit_train_batches=2).fit(model, datamodule=data)
    ids = [clip for batch in model.val_batches for clip in batch["clip_id"][~batch["is_pad"]].tolist()]
    num_clips = len(ids) // 2
    assert len(model.val_batches[0]["clip_id"]) == 3
    assert ids[:num_clips] == ids[num_clips:]
    assert sorted(ids[:num_clips]) == list(range(num_clips))
    assert all(batch["video"].max() == 0 for batch in model.train_batches)
    assert all(batch["video"].max() > 0 for batch in model.val_batches)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_other_stages(numbered, tmp_path, stage):
    name = {"validate": "val"}.get(stage, stage)
    data = VideoDataModule(**{name: numbered}, **COMMON)
    model = Keeper()
    run = getattr(trainer(tmp_path), stage)
    run(model, datamodule=data)
    assert sum(int((~batch["is_pad"]).sum()) for batch in model.val_batches) == len(videos_by_clip(model.val_batches))


SOURCES = {
    "path": lambda folder: folder,
    "text": str,
    "stream": lambda folder: VideoStream(local=folder),
    "streams": lambda folder: [VideoStream(local=folder), VideoStream(local=folder, clips=ClipSpec(4, 5), name="b")],
    "mapping": lambda folder: {"local": folder, "shuffle_seed": 3},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources(numbered, tmp_path, kind):
    data = VideoDataModule(SOURCES[kind](numbered), **COMMON)
    model = Keeper()
    trainer(tmp_path, max_steps=2).fit(model, datamodule=data)
    assert [len(record(batch)) for batch in model.train_batches] == [4, 4]


def test_setup_builds_once_and_teardown_lets_go(numbered):
    data = VideoDataModule(numbered, **COMMON)
    data.setup("fit")
    loader = data.train_dataloader()
    data.setup("fit")
    assert data.train_dataloader() is loader
    data.teardown("fit")
    data.setup("fit")
    assert data.train_dataloader() is not loader


def test_a_second_fit_starts_from_the_first_clip_again(numbered, tmp_path):
    data = VideoDataModule(numbered, **COMMON)
    seen = []
    for _ in range(2):
        model = Keeper()
        trainer(tmp_path, max_steps=3).fit(model, datamodule=data)
        seen.append([record(batch) for batch in model.train_batches])
    assert seen[0] == seen[1]


def test_a_collate_fn_of_ones_own_is_left_alone(numbered, tmp_path):
    loader = {"collate_fn": lambda samples: torch.stack([sample["video"] for sample in samples])}
    model = Keeper()
    trainer(tmp_path, max_steps=1).fit(model, datamodule=VideoDataModule(numbered, loader=loader, **COMMON))
    assert model.train_batches[0].dtype == torch.uint8


def test_environment_is_left_as_it_was(numbered, tmp_path, monkeypatch):
    import os

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    trainer(tmp_path, max_steps=1).fit(Keeper(), datamodule=VideoDataModule(numbered, **COMMON))
    assert "LOCAL_RANK" not in os.environ
    assert os.environ["WORLD_SIZE"] == "1"


def test_errors_name_what_to_do(tmp_path):
    with pytest.raises(SpecError, match="needs videos: give train="):
        VideoDataModule()
    data = VideoDataModule(tmp_path, **COMMON)
    with pytest.raises(IndexFileError, match="run `onetake index`"):
        data.setup("fit")


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("each", [2, "all"])
def test_samples_of_several_clips(numbered, tmp_path, each, per_batch):
    about = {**COMMON, "clips_per_sample": each, "max_memory": "1gb", "per_batch": per_batch}
    model, data = Keeper(), VideoDataModule(numbered, numbered, **about)
    trainer(tmp_path, max_steps=1, limit_val_batches=1).fit(model, datamodule=data)
    for batch in (*model.train_batches, *model.val_batches):
        assert isinstance(batch["video"], list if each == "all" else torch.Tensor)
        for clips, frames in zip(batch["video"], batch["frame_index"], strict=True):
            assert clips.dtype == torch.float32
            assert clips.max() <= 1
            assert tuple(clips.shape) == (len(frames), 4, 3, 48, 64)
            assert len(frames) == each or each == "all"


@pytest.mark.parametrize(
    ("argument", "value"),
    [("device_transform", 5), ("val_device_transform", "x"), ("per_batch", None), ("loader", [1]), ("transform", 5)],
)
def test_wrong_arguments_are_refused_by_name(numbered, argument, value):
    with pytest.raises(SpecError, match=f"^{argument}="):
        VideoDataModule(**{"train": numbered, **COMMON, argument: value}).setup("fit")


def test_splits_filters_and_columns_pass_through(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        write_numbered_video(tmp_path / name, 48, gop=12)
    rows = "a.mp4,0,train\nb.mp4,1,train\nc.mp4,1,val\nd.mp4,1,train\n"
    (tmp_path / "videos.csv").write_text("path,label,split\n" + rows)
    index_videos(tmp_path / "videos.csv", workers=1)
    folder = str(tmp_path)
    with initialize_config_dir(str(shipped_folder("configs")), version_base=None):
        config = compose(
            "train",
            [
                f"data.train={{local: {folder}, split: train, exclude: [d.mp4]}}",
                f"data.val={{local: {folder}, split: val}}",
                'data.where=[[label, ">=", 1]]',
                "data.columns=[label]",
                "data.num_workers=0",
                "data.frame_size=[48,64]",
                "data.batch_size=2",
                "data.num_canonical_lanes=2",
                "clips={num_frames: 4, stride: 3}",
            ],
        )
    data = instantiate(config.data)
    data.setup("fit")
    for loader, video in ((data.train_dataloader(), "b.mp4"), (data.val_dataloader(), "c.mp4")):
        (*_, batch) = loader
        assert set(batch["video_id"]) == {video}
        assert batch["label"].tolist() == [1, 1]
        assert "split" not in batch
