"""Metadata in samples and batches: numbers, texts, lists and what is missing; one stream and several."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from onetake import ClipSpec, VideoStream
from onetake.composer import video_data_spec
from onetake.core.errors import SpecError
from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video
from tests.helpers import make_loader

ROWS = """\
{"path": "a.mp4", "label": 1, "caption": "one", "score": 0.5, "seen": true, "tags": ["x", "y"], "rank": 1}
{"path": "b.mp4", "label": 2, "caption": "two", "score": null, "seen": false, "tags": [], "rank": null}
{"path": "c.mp4", "label": 3, "caption": "three", "score": 1.5, "seen": true, "tags": ["z"], "rank": 3}
"""


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    for name, frames in (("a.mp4", 48), ("b.mp4", 60), ("c.mp4", 36)):
        write_numbered_video(folder / name, frames, gop=12)
    (folder / "videos.jsonl").write_text(ROWS)
    index_videos(folder / "videos.jsonl", workers=1, segment_seconds=1)
    return folder


def said(sample):
    own = {"video", "video_id", "start_frame", "frame_index", "pts_seconds", "clip_id", "valid", "is_pad", "occurrence"}
    return {name: value for name, value in sample.items() if name not in own}


def test_every_column_is_a_key_of_the_sample(annotated):
    dataset = make_loader(annotated).dataset
    samples = {sample["video_id"]: said(sample) for sample in map(dataset.__getitem__, range(dataset.num_clips))}
    assert samples["a.mp4"] == {
        "label": 1, "caption": "one", "score": 0.5, "seen": True, "tags": ["x", "y"], "rank": 1
    }  # fmt: skip
    assert samples["b.mp4"].pop("score") is not None
    assert samples["b.mp4"] == {"label": 2, "caption": "two", "seen": False, "tags": [], "rank": None}
    assert math.isnan(dataset[4]["score"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches(annotated, workers):
    rows = {"a.mp4": (1, "one", ["x", "y"]), "b.mp4": (2, "two", []), "c.mp4": (3, "three", ["z"])}
    loader = make_loader(annotated, workers, {"pin_memory": False})
    for batch in loader:
        kinds = {
            name: value.dtype if isinstance(value, torch.Tensor) else type(value) for name, value in said(batch).items()
        }
        assert kinds == {
            "label": torch.int64,
            "caption": list,
            "score": torch.float64,
            "seen": torch.bool,
            "tags": list,
            "rank": list,  # whether or not a sample of this batch lacks it
        }
        found = zip(batch["label"].tolist(), batch["caption"], batch["tags"], strict=True)
        assert list(found) == [rows[video_id] for video_id in batch["video_id"]]
        assert batch["rank"] == [None if name == "b.mp4" else rows[name][0] for name in batch["video_id"]]
        assert batch["score"].isnan().tolist() == [name == "b.mp4" for name in batch["video_id"]]


def test_where_none_is_missing_the_column_is_a_tensor(annotated):
    (batch, *_) = make_loader(annotated, where=[("rank", ">", 0)])
    assert isinstance(batch["rank"], torch.Tensor)


def test_columns(annotated):
    assert said(make_loader(annotated, columns=["caption", "label"]).dataset[0]) == {"caption": "one", "label": 1}
    assert said(make_loader(annotated, columns=[]).dataset[0]) == {}
    stream = VideoStream(local=annotated, columns=["label"])
    assert said(make_loader(annotated, streams=[stream], columns=["caption"]).dataset[0]) == {"label": 1}
    with pytest.raises(SpecError, match="columns=: the index of .* has no column 'capton'; did you mean 'caption'"):
        make_loader(annotated, columns=["capton"])
    with pytest.raises(SpecError, match="must be a list of names of metadata columns"):
        make_loader(annotated, columns="label")


def test_transforms_see_metadata_and_may_make_tensors_of_them(annotated):
    def one_hot(sample, generator):
        return {**sample, "tags": torch.tensor([tag in sample["tags"] for tag in "xyz"])}

    for batch in make_loader(annotated, sample_transform=one_hot):
        assert batch["tags"].shape == (len(batch["label"]), 3)


def test_a_stream_without_a_column_lacks_it(annotated, numbered):
    streams = [VideoStream(local=annotated, columns=["label", "caption", "score"]), VideoStream(local=numbered)]
    loader = make_loader(annotated, streams=streams, clips=ClipSpec(4, 9), frame_size=(48, 64))
    labels = {}
    for batch in loader:
        assert isinstance(batch["score"], torch.Tensor)
        labels |= dict(zip(batch["video_id"], zip(batch["label"], batch["caption"], strict=True), strict=True))
    assert labels["b.mp4"] in [(2, "two"), (None, None)]  # both have one of that name
    assert labels["e.ts"] == (None, None)


def test_streams_must_agree_on_what_a_column_holds(annotated, tmp_path):
    write_numbered_video(tmp_path / "a.mp4", 48, gop=12)
    (tmp_path / "videos.csv").write_text("path,label\na.mp4,cat\n")
    index_videos(tmp_path / "videos.csv", workers=1)
    streams = [VideoStream(local=annotated), VideoStream(local=tmp_path)]
    with pytest.raises(
        SpecError, match="metadata column 'label' holds int64 in one of the streams= and string in another"
    ):
        make_loader(annotated, streams=streams)
    assert make_loader(annotated, streams=[streams[0], VideoStream(local=tmp_path, columns=[])]).dataset.num_clips


def test_composer_splits_what_batches_hold_as_lists(annotated):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = video_data_spec(annotated, clips=ClipSpec(4, 3), batch_size=4, frame_size=None, num_canonical_lanes=4)
    batch = next(iter(spec.dataloader))
    parts = spec.split_batch(batch, 2)
    assert [tags for part in parts for tags in part["tags"]] == batch["tags"]
    assert [rank for part in parts for rank in part["rank"]] == batch["rank"]
    assert [len(part["caption"]) for part in parts] == [2, 2]
