"""The DataSpec as Composer's Trainer meets it: counts, microbatches, what is made on the device, evaluation."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.transforms import v2

from onetake import VideoDataset, VideoLoader, VideoStream
from onetake.composer import video_data_spec
from onetake.core.errors import IndexFileError, SpecError
from tests.composer.training import DATASET, Recorder, make_trainer
from tests.helpers import SPEC, make_loader, record

COMMON = DATASET | {"batch_size": 4}
RANDOM = v2.Compose([v2.RandomCrop(32), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])


def train(data, model=None, **trainer):
    model = model or Recorder()
    make_trainer(model, data, **trainer).fit()
    return model


def by_clip(batches):
    """Videos by clip, pads left out."""
    return {
        clip: video
        for batch in batches
        for clip, video, pad in zip(batch["clip_id"].tolist(), batch["video"], batch["is_pad"].tolist(), strict=True)
        if not pad
    }


def test_it_holds_a_real_video_loader_and_counts_whole_batches(numbered):
    data = video_data_spec(numbered, num_workers=1, loader={"prefetch_factor": 3}, **COMMON)
    loader = data.dataloader
    assert type(loader) is VideoLoader
    assert (loader.num_workers, loader.prefetch_factor, loader.batch_size) == (1, 3, 4)
    assert data.num_samples == 4 * len(loader)


def test_pads_are_counted(numbered):
    """A rank's share of the last batch may hold nothing else, and Composer divides by the count."""
    data = video_data_spec(numbered, **COMMON | {"batch_size": 64, "num_canonical_lanes": 64})
    *_, last = data.dataloader
    assert last["is_pad"].any()
    assert data.get_num_samples_in_batch(last) == 64
    last["is_pad"][:] = True
    assert data.get_num_samples_in_batch(last) == 64
    assert [data.get_num_samples_in_batch(part) for part in data.split_batch(last, 48)] == [48, 16]


BATCH = {
    "clip_id": torch.arange(5),
    "video": torch.arange(10).view(5, 2),
    "names": list("abcde"),
    "pairs": (1, 2, 3, 4, 5),
    "scale": 0.5,
    "text": "hello",
    "zero": torch.tensor(3),
    "none": None,
    "deep": {"x": torch.arange(5), "flag": True},
}


@pytest.mark.parametrize(("size", "lengths"), [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (5, [5]), (8, [5])])
def test_batches_split_by_sample(numbered, size, lengths):
    data = video_data_spec(numbered, **COMMON)
    parts = data.split_batch(BATCH, size)
    assert [data.get_num_samples_in_batch(part) for part in parts] == lengths
    torch.testing.assert_close(torch.cat([part["video"] for part in parts]), BATCH["video"])
    torch.testing.assert_close(torch.cat([part["deep"]["x"] for part in parts]), BATCH["clip_id"])
    for name in ("names", "pairs"):
        assert [entry for part in parts for entry in part[name]] == list(BATCH[name])
        assert {type(part[name]) for part in parts} == {type(BATCH[name])}
    for part in parts:
        assert part.keys() == BATCH.keys()
        assert [part[name] for name in ("scale", "text", "zero", "none")] == [0.5, "hello", BATCH["zero"], None]
        assert part["deep"]["flag"] is True


def test_what_cannot_be_split_is_named(numbered):
    data = video_data_spec(numbered, **COMMON)
    batch = {"clip_id": torch.arange(4), "classes": torch.zeros(10)}
    assert data.split_batch(batch, 4) == [batch]
    with pytest.raises(SpecError, match="the batch's 'classes' holds 10 entries for 4 samples"):
        data.split_batch(batch, 3)


def test_counts_without_clip_ids(numbered):
    data = video_data_spec(numbered, **COMMON)
    assert data.get_num_samples_in_batch({"scale": 1.0, "inner": {"text": "a", "x": torch.zeros(3, 2)}}) == 3


def test_batches_that_are_no_dicts_are_composers(numbered):
    loader = {"collate_fn": lambda samples: torch.stack([sample["video"] for sample in samples])}
    data = video_data_spec(numbered, loader=loader, **COMMON)
    model = train(data, max_duration="2ba", device_train_microbatch_size=2)
    assert [batch.dtype for batch in model.train_batches] == [torch.uint8] * 4
    assert data.get_num_samples_in_batch((torch.zeros(3, 2), torch.zeros(3))) == 3


@pytest.mark.parametrize("microbatch", [1, 3, 4])
def test_microbatches_hold_what_the_batch_does(numbered, microbatch):
    data = video_data_spec(numbered, device_transform=copy.deepcopy(RANDOM), **COMMON)
    whole = by_clip(train(data, max_duration="3ba").train_batches)
    data = video_data_spec(numbered, device_transform=copy.deepcopy(RANDOM), **COMMON)
    torch.manual_seed(microbatch)
    parts = train(data, max_duration="3ba", device_train_microbatch_size=microbatch)
    assert [len(batch["clip_id"]) for batch in parts.train_batches][:2] == (
        [3, 1] if microbatch == 3 else [microbatch] * 2
    )
    parts = by_clip(parts.train_batches)
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[clip], whole[clip]) for clip in whole)


def test_floats_are_made_on_the_device_and_uint8_travels(numbered):
    (batch,) = train(video_data_spec(numbered, **COMMON), max_duration="1ba").train_batches
    assert batch["video"].dtype == torch.float32
    original = next(iter(video_data_spec(numbered, **COMMON).dataloader))
    assert original["video"].dtype == torch.uint8
    torch.testing.assert_close(original["video"] / 255, batch["video"])


def test_draws_are_those_of_lightnings_data_module(numbered):
    from onetake.lightning import VideoDataModule

    module = VideoDataModule(numbered, device_transform=copy.deepcopy(RANDOM), **COMMON)
    module.setup("fit")
    theirs = [module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader()]
    data = video_data_spec(numbered, device_transform=copy.deepcopy(RANDOM), **COMMON)
    ours = train(data, max_duration="1ep").train_batches
    assert [record(batch) for batch in ours] == [record(batch) for batch in theirs]


def test_every_epoch_draws_anew_in_training_and_alike_in_evaluation(numbered):
    def draw(video):
        return torch.rand(1)

    data = video_data_spec(numbered, device_transform=draw, **COMMON)
    evaluation = video_data_spec(
        numbered, device_transform=draw, training=False, **DATASET | {"num_canonical_lanes": None}
    )
    model = train(data, max_duration="2ep", eval_dataloader=evaluation, eval_interval="1ep")
    half = len(model.train_batches) // 2
    first, second = by_clip(model.train_batches[:half]), by_clip(model.train_batches[half:])
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[clip], second[clip]) for clip in first)
    half = len(model.eval_batches) // 2
    assert [batch["clip_id"].tolist() for batch in model.eval_batches[:half]] == [
        batch["clip_id"].tolist() for batch in model.eval_batches[half:]
    ]
    first, second = by_clip(model.eval_batches[:half]), by_clip(model.eval_batches[half:])
    assert sorted(first) == list(range(evaluation.dataloader.dataset.num_clips))
    assert all(torch.equal(first[clip], second[clip]) for clip in first)


def test_prediction(numbered):
    data = video_data_spec(numbered, training=False, **DATASET | {"num_canonical_lanes": None})
    model = Recorder()
    outputs = make_trainer(model, None).predict(data)
    assert len(outputs) == len(data.dataloader)
    assert model.eval_batches[0]["video"].dtype == torch.float32


SOURCES = {
    "path": lambda folder: folder,
    "text": str,
    "stream": lambda folder: VideoStream(local=folder),
    "streams": lambda folder: [VideoStream(local=folder)],
    "mapping": lambda folder: {"local": folder, "batch_size": 4},
    "dataset": lambda folder: VideoDataset(local=folder, **COMMON),
    "loader": make_loader,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources(numbered, kind):
    rest = {} if kind in ("dataset", "loader") else COMMON
    model = train(video_data_spec(SOURCES[kind](numbered), **rest), max_duration="2ba")
    assert [len(batch) for batch in model.seen] == [4, 4]


def test_errors_name_what_to_do(numbered, tmp_path):
    loader = make_loader(numbered)
    for argument in ({"batch_size": 4}, {"num_workers": 0}, {"loader": {"pin_memory": True}}, {"shuffle": False}):
        ((name, value),) = argument.items()
        with pytest.raises(SpecError) as failure:
            video_data_spec(loader, **argument)
        assert (
            str(failure.value)
            == f"video_data_spec({name}={value!r}): leave it out, or give it to the VideoLoader in source="
        )
    with pytest.raises(SpecError, match="clips=.*leave it out, or give it to the VideoDataset in source="):
        video_data_spec(loader.dataset, clips=SPEC)
    with pytest.raises(SpecError, match="give either streams=, or remote="):
        video_data_spec(**COMMON)
    with pytest.raises(IndexFileError, match="run `onetake index`"):
        video_data_spec(tmp_path, **COMMON)


def test_workers_that_stay_are_for_one_trainer(numbered):
    loader = make_loader(numbered, 1, {"persistent_workers": True})
    data = video_data_spec(loader)
    assert train(data, max_duration="1ep").seen
    with pytest.raises(ValueError, match="has an active iterator"):
        video_data_spec(loader)


def test_per_batch_calls_the_transform_once(numbered):
    shapes = []

    def transform(video):
        shapes.append(tuple(video.shape))
        return video.float()

    data = video_data_spec(numbered, device_transform=transform, per_batch=True, **COMMON | {"frame_size": (32, 48)})
    train(data, max_duration="2ba")
    assert shapes == [(4, 4, 3, 32, 48)] * 2
