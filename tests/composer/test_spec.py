"""The DataSpec as Composer's Trainer meets it: counts, microbatches, what is made on the device, evaluation."""

from __future__ import annotations

import copy
from collections import namedtuple

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


Size = namedtuple("Size", "height width")


def add_tuples(sample, generator):
    """Fields that torch collates to a tuple of batches."""
    clip = sample["clip_id"]
    return sample | {
        "pair": (clip, -clip),
        "size": Size(torch.full((2,), clip), str(clip)),
        "nested": [(f"a{clip}", [clip, 0.5])],
        "empty": (),
    }


@pytest.mark.parametrize(("batch_size", "size"), [(2, 1), (3, 2), (4, 2)])
def test_tuples_of_samples_split_by_sample(numbered, batch_size, size):
    """As many entries in a tuple as samples in the batch must not make one of the other."""
    arguments = COMMON | {"batch_size": batch_size, "num_canonical_lanes": batch_size}
    data = video_data_spec(numbered, sample_transform=add_tuples, **arguments)
    batch = next(iter(data.dataloader))
    parts = data.split_batch(batch, size)
    assert [data.get_num_samples_in_batch(part) for part in parts] == [size] * (batch_size // size) + (
        [batch_size % size] if batch_size % size else []
    )
    for part in parts:
        clips = part["clip_id"]
        assert torch.equal(part["pair"][0], clips)
        assert torch.equal(part["pair"][1], -clips)
        assert isinstance(part["size"], Size)
        assert torch.equal(part["size"].height, clips[:, None].expand(-1, 2))
        assert list(part["size"].width) == [str(clip) for clip in clips.tolist()]
        ((names, (numbers, halves)),) = part["nested"]
        assert list(names) == [f"a{clip}" for clip in clips.tolist()]
        assert torch.equal(numbers, clips)
        assert halves.tolist() == [0.5] * len(clips)
        assert len(part["empty"]) == 0
    assert sorted(clip for part in parts for clip in part["clip_id"].tolist()) == sorted(batch["clip_id"].tolist())


def test_lists_of_a_collate_function_hold_an_entry_per_sample(numbered):
    """A list of as many tensors as samples, each of as many entries, is split by what the user says it is."""

    def collate(samples):
        return {"clip_id": torch.tensor([s["clip_id"] for s in samples]), "rows": [torch.arange(4) for _ in samples]}

    data = video_data_spec(numbered, loader={"collate_fn": collate}, **COMMON)
    parts = data.split_batch(next(iter(data.dataloader)), 2)
    assert [[len(row) for row in part["rows"]] for part in parts] == [[4, 4], [4, 4]]


REPLICATED = [
    lambda folder: ((folder,), {"replication": 2}),
    lambda folder: (({"local": folder, "replication": 2},), {}),
]


@pytest.mark.parametrize("given", REPLICATED, ids=["argument", "mapping"])
def test_replicas_are_refused(numbered, given):
    source, more = given(numbered)
    with pytest.raises(SpecError, match="replication=2: Composer counts the samples of every replica.*leave it out"):
        video_data_spec(*source, **COMMON, **more)
    assert video_data_spec(numbered, replication=1, **COMMON).num_samples


@pytest.mark.parametrize("kind", ["dataset", "loader"])
def test_replicas_of_what_is_ready_are_refused(numbered, kind):
    loader = make_loader(numbered)
    loader.dataset.replication = 2  # as its constructor does; several ranks would have to be there for it
    with pytest.raises(SpecError, match="replication=2"):
        video_data_spec(loader if kind == "loader" else loader.dataset)


AGAINST = [("shuffle", True), ("num_canonical_lanes", 8), ("sampling_method", "balanced")]


@pytest.mark.parametrize(("name", "value"), AGAINST)
def test_what_evaluation_sets_by_itself_is_not_overridden_in_silence(numbered, name, value):
    rest = DATASET | {"num_canonical_lanes": None}
    with pytest.raises(SpecError, match=f"training=False, {name}={value!r}.*leave it out"):
        video_data_spec(numbered, training=False, **rest | {name: value})
    said = video_data_spec({"local": numbered, name: value}, training=False, **rest).dataloader.dataset
    lanes = said.lanes[0] * said.lanes[1]
    assert {"shuffle": said.shuffle, "sampling_method": said.sampling_method, "num_canonical_lanes": lanes}[
        name
    ] == value
    agreeing = video_data_spec(numbered, training=False, shuffle=False, sampling_method="fixed", **rest)
    assert agreeing.dataloader.dataset.shuffle is False


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


class OfSeveralClips(Recorder):
    def forward(self, batch):
        self.train_batches.append(batch)
        return sum((self.weight - clips.mean()).square().sum() for clips in batch["video"])


@pytest.mark.parametrize("each", [2, "all"])
def test_samples_of_several_clips(numbered, each):
    """Also cut into microbatches."""
    about = COMMON | {"clips_per_sample": each, "max_memory": "1gb", "num_canonical_lanes": 4}
    data = video_data_spec(numbered, **about, sample_transform=add_tuples)
    model = train(data, OfSeveralClips(), max_duration="1ba", device_train_microbatch_size=3)
    parts = model.train_batches
    assert [[len(part[name]) for name in ("video", "frame_index", "video_id")] for part in parts] == [[3] * 3, [1] * 3]
    assert [len(part["pair"][0]) for part in parts] == [3, 1]
    for part in parts:
        for clips, frames in zip(part["video"], part["frame_index"], strict=True):
            assert clips.dtype == torch.float32
            assert tuple(clips.shape[:3]) == (len(frames), 4, 3)
            assert len(frames) == each or each == "all"


@pytest.mark.parametrize(("argument", "value"), [("device_transform", 5), ("per_batch", None), ("loader", [1])])
def test_wrong_arguments_are_refused_by_name(numbered, argument, value):
    with pytest.raises(SpecError, match=f"^{argument}="):
        video_data_spec(numbered, **COMMON, **{argument: value})
