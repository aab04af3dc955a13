"""What users give that can't be right is refused by its name, before anything is read or started."""

from __future__ import annotations

from pathlib import Path

import pytest

from onetake import VideoDataset, VideoLoader, VideoStream, index_videos
from onetake.core.errors import OnetakeError, SpecError
from onetake.stream.opening import open_dataset
from tests.helpers import SPEC, make_loader

WRONG = {
    "path": [5, 1.5, True, "", b"x", [], ["videos"], {}, object()],
    "text": [5, 1.5, True, b"x", ["train"], {}, object()],
    "flag": [None, 1, 0, "yes", "", [], object()],
    "callable": [5, "resize", [], {}, True],
    "count": [-1, 1.5, float("nan"), True, "2", [], {}, object()],
    "seconds": [0, -1, float("nan"), True, "60", [], object()],
    "spec": [5, "16x4", {"num_frames": 16}, [SPEC], True],
    "streams": [[], [1], 5, "videos", {"local": "videos"}, ["videos"], object()],
    "size": [-1, 1.5, True, "many", b"x", [], {}, object()],
    "choice": [5, True, "other", [], object()],
}
OF_STREAMS = {
    "remote": "path",
    "local": "path",
    "index": "path",
    "split": "text",
    "name": "text",
    "clips": "spec",
    "download_retry": "count",
    "download_timeout": "seconds",
}
OF_DATASETS = {name: kind for name, kind in OF_STREAMS.items() if name != "name"} | {
    "streams": "streams",
    "transform": "callable",
    "sample_transform": "callable",
    "batch_size": "count",
    "shuffle": "flag",
    "shuffle_seed": "count",
    "shuffle_by": "choice",
    "num_canonical_lanes": "count",
    "drop_last": "flag",
    "predownload": "count",
    "layout": "choice",
    "scaling": "choice",
    "on_error": "choice",
    "resume": "choice",
    "sampling_method": "choice",
    "replication": "count",
    "epoch_size": "size",
}
OF_LOADERS = {"num_workers": "count", "collate_fn": "callable", "prefetch_factor": "count"}
OF_INDEXES = {
    "source": "path",
    "out": "path",
    "segment_seconds": "seconds",
    "workers": "count",
    "stream_index": "count",
    "verify": "flag",
    "engine": "choice",
}


def rows(arguments):
    return [(name, value) for name, kind in arguments.items() for value in WRONG[kind]]


@pytest.mark.parametrize(("name", "value"), rows(OF_STREAMS))
def test_streams(numbered, name, value):
    with pytest.raises(SpecError, match=f"{name}="):
        VideoStream(**{"local": numbered, name: value})


@pytest.mark.parametrize(("name", "value"), rows(OF_DATASETS))
def test_datasets(numbered, name, value):
    place = {} if name == "streams" else {"local": numbered}
    with pytest.raises(SpecError, match=f"{name}="):
        VideoDataset(**{"clips": SPEC, "num_canonical_lanes": 8, **place, name: value})


@pytest.mark.parametrize(("name", "value"), rows(OF_LOADERS))
def test_loaders(numbered, name, value):
    dataset = make_loader(numbered).dataset
    with pytest.raises(SpecError, match=f"{name}="):
        VideoLoader(dataset, **{name: value})


@pytest.mark.parametrize(("name", "value"), rows(OF_INDEXES))
def test_indexes(tmp_path, name, value):
    with pytest.raises(SpecError, match=f"{name}="):
        index_videos(**{"source": tmp_path, name: value})


@pytest.mark.parametrize("value", [5, 1.5, True, b"x", {1}, object()])
def test_sources_of_adapters(value):
    with pytest.raises(SpecError, match="must be a folder, a VideoStream, several of them, or a dict of arguments"):
        open_dataset(value, batch_size=2, training=True)


def test_places_that_are_not_there_are_named(numbered, tmp_path):
    file = tmp_path / "a.mp4"
    file.touch()
    for place in (tmp_path / "nowhere", file, tmp_path):
        for arguments in ({"local": place}, {"local": numbered, "index": place}):
            with pytest.raises(OnetakeError) as caught:
                VideoDataset(**arguments, clips=SPEC)
            assert str(place) in str(caught.value)
    with pytest.raises(OnetakeError, match="^split='vall': "):
        VideoDataset(local=numbered, split="vall", clips=SPEC)


def test_options_of_torch_that_do_not_go_together(numbered):
    dataset = make_loader(numbered).dataset
    with pytest.raises(SpecError, match=r"VideoLoader\(persistent_workers=True\): not what torch's DataLoader takes"):
        VideoLoader(dataset, persistent_workers=True)
    with pytest.raises(SpecError, match=r"VideoLoader\(num_wokers=3\).*unexpected keyword argument 'num_wokers'"):
        VideoLoader(dataset, num_wokers=3)


@pytest.mark.parametrize("name", ["transform", "sample_transform"])
def test_a_transform_without_return(numbered, name):
    with pytest.raises(SpecError, match=f"^{name}= returned None"):
        make_loader(numbered, **{name: lambda *_: None}).dataset[0]


def test_paths_may_be_of_any_kind(numbered):
    for place in (numbered, str(numbered), Path(numbered), f"file://{numbered}"):
        assert VideoDataset(streams=[VideoStream(local=place)], clips=SPEC, num_canonical_lanes=8).num_clips
