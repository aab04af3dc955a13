"""Annotated spans: clips within them, never across an end; or samples that say which they overlap."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest
import torch

from onetake import ClipSpec, VideoStream
from onetake.composer import video_data_spec
from onetake.core.errors import ResumeError, SpecError
from onetake.decode.build import index_videos
from onetake.decode.pack import pack_videos
from onetake.decode.synthetic import read_number, write_numbered_video
from tests.helpers import check_going_on, make_loader, record

SPANS = [  # file, start, stop, verb, weight
    ("a.mp4", 10, 80, "open", 1),
    ("a.mp4", 23, 150, "shut", 2),
    ("a.mp4", 23, 150, "shut again", 2),
    ("b.mkv", 0, 9, "short", ""),
    ("b.mkv", 50, 75, "one segment", 3),
    ("b.mkv", 74, 170, "to the end", 4),
    ("c.mp4", 30, 33, "too short", 5),
]
CLIPS = ClipSpec(4, 2, 6)  # of 7 frames


@pytest.fixture(scope="module")
def spanned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spanned")
    write_numbered_video(folder / "a.mp4", 160, gop=12, bframes=3)
    write_numbered_video(folder / "b.mkv", 170, gop=25, codec="libx265")  # open GOPs
    write_numbered_video(folder / "c.mp4", 60, gop=60)
    write_numbered_video(folder / "d.mp4", 40, gop=20)
    rows = "".join(",".join(map(str, row)) + "\n" for row in SPANS)
    (folder / "spans.csv").write_text("path,start_frame,stop_frame,verb,weight\n" + rows)
    report = index_videos(folder / "spans.csv", workers=1, segment_seconds=1)
    assert (report.spans, len(report.index.videos)) == (7, 3)
    return folder


def expected(starts_of=lambda start, stop: range(start, stop - 6, 6)):
    return Counter((file, at, verb) for file, start, stop, verb, _ in SPANS for at in starts_of(start, stop))


def delivered(loader):
    found, ids = Counter(), []
    for batch in loader:
        rows = zip(batch["video_id"], batch["frame_index"].tolist(), batch["verb"], batch["video"], strict=True)
        for number, (video_id, frames, verb, video) in enumerate(rows):
            assert [read_number(picture.numpy()) for picture in video] == frames
            if not batch["is_pad"][number]:
                found[video_id, frames[0], verb] += 1
                ids.append(int(batch["clip_id"][number]))
    assert len(set(ids)) == len(ids) == loader.dataset.num_clips
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["in place", "cached"])
def test_clips_lie_within_spans(spanned, tmp_path, where, workers):
    place = {} if where == "in place" else {"remote": spanned, "local": tmp_path}
    loader = make_loader(spanned, workers, clips=CLIPS, spans="sample", **place)
    assert delivered(loader) == expected()


@pytest.mark.parametrize(
    "spec", [ClipSpec(4, fps="12.5", hop_seconds="0.24"), ClipSpec(4, 2, 6, align="keyframe")], ids=["time", "keyframe"]
)
def test_other_grids(spanned, spec):
    found = delivered(make_loader(spanned, clips=spec, spans="sample"))
    if spec.by_time:
        assert found == expected()
    bounds = {verb: (start, stop) for _, start, stop, verb, _ in SPANS}
    assert {verb for _, _, verb in found} >= {"open", "shut", "to the end"}
    assert all(bounds[verb][0] <= start and start + 6 < bounds[verb][1] for _, start, verb in found)


def test_random_clips_of_each_span(spanned):
    loader = make_loader(spanned, clips=ClipSpec(4, 2, 6, clips_per_video=2, jitter=True), spans="sample")
    epochs = []
    for _ in range(2):
        found = delivered(loader)
        assert Counter(verb for _, _, verb in found.elements()) == {
            "open": 2, "shut": 2, "shut again": 2, "short": 1, "one segment": 2, "to the end": 2
        }  # fmt: skip
        epochs.append(found)
    assert epochs[0] != epochs[1]


def test_metadata_of_spans_and_filters_by_them(spanned):
    whole = make_loader(spanned, clips=CLIPS, spans="sample").dataset
    assert whole[0]["verb"] == "open"
    assert whole[0]["weight"] == 1
    loader = make_loader(spanned, clips=CLIPS, spans="sample", where=[("weight", ">", 1), ("video_id", "!=", "a.mp4")])
    batches = list(loader)
    assert {verb for batch in batches for verb in batch["verb"]} == {"one segment", "to the end"}
    assert all(isinstance(batch["weight"], torch.Tensor) for batch in batches)
    for batch in batches:
        for number, clip in enumerate(batch["clip_id"].tolist()):  # numbered as they are without a filter
            sample = whole[clip]
            assert (sample["verb"], sample["start_frame"]) == (batch["verb"][number], int(batch["start_frame"][number]))
    assert "verb" not in make_loader(spanned, clips=CLIPS, spans="sample", columns=["weight"]).dataset[0]
    with pytest.raises(SpecError, match="where='weight > 9' leaves none of the 7 spans in") as caught:
        make_loader(spanned, clips=CLIPS, spans="sample", where=[("weight", ">", 9)])
    assert "spans='sample'" in str(caught.value)


def test_videos_are_drained_one_after_another(spanned):
    loader = make_loader(spanned, clips=CLIPS, spans="sample", shuffle_by="video", num_canonical_lanes=1, batch_size=1)
    order = [batch["video_id"][0] for batch in loader]
    assert sum(one != other for one, other in pairwise(order)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_resume(spanned, workers):
    about = {"clips": CLIPS, "spans": "sample"}
    loader = make_loader(spanned, workers, **about)
    epochs = [[record(batch) for batch in loader] for _ in range(2)]
    check_going_on(spanned, workers, epochs, 5, **about)
    with pytest.raises(ResumeError, match=re.escape("spans was ['sample'] and is now None")):
        make_loader(spanned, clips=CLIPS).load_state_dict(make_loader(spanned, **about).state_dict())


def test_samples_say_which_spans_they_overlap(spanned):
    loader = make_loader(spanned, 2, clips=ClipSpec(4, 2, 20), spans="attach", columns=["verb"])
    count = 0
    for batch in loader:
        assert isinstance(batch["spans"], list)
        for video_id, frames, spans in zip(
            batch["video_id"], batch["frame_index"].tolist(), batch["spans"], strict=True
        ):
            assert spans == [
                {"start_frame": start, "stop_frame": stop, "verb": verb}
                for file, start, stop, verb, _ in SPANS
                if file == video_id and start <= frames[-1] and stop > frames[0]
            ]
            count += len(spans)
    assert count > 20
    assert loader.dataset.num_clips == sum(len(range(0, frames - 6, 20)) for frames in (160, 170, 60))


def test_composer_splits_spans(spanned):
    spec = video_data_spec(
        spanned, clips=ClipSpec(4, 2, 20), spans="attach", batch_size=4, frame_size=None, num_canonical_lanes=4
    )
    batch = next(iter(spec.dataloader))
    parts = spec.split_batch(batch, 1)
    assert [spans for part in parts for spans in part["spans"]] == batch["spans"]


def test_streams_with_spans_beside_others(spanned, numbered):
    streams = [VideoStream(local=spanned, spans="attach"), VideoStream(local=numbered)]
    loader = make_loader(spanned, streams=streams, clips=ClipSpec(4, 2, 20))
    for batch in loader:
        for video_id, spans in zip(batch["video_id"], batch["spans"], strict=True):
            assert not spans or video_id in ("a.mp4", "b.mkv", "c.mp4")
    streams = [VideoStream(local=spanned, spans="sample"), VideoStream(local=numbered)]
    loader = make_loader(spanned, streams=streams, clips=ClipSpec(4, 2, 20))
    verbs = {verb for batch in loader for verb in batch["verb"]}
    assert {None, "open"} <= verbs


def test_without_spans(numbered):
    for spans in ("sample", "attach"):
        with pytest.raises(SpecError, match=f"spans='{spans}': the index of .* has no spans"):
            make_loader(numbered, spans=spans)
    with pytest.raises(SpecError, match=re.escape("VideoStream(spans='all'): must be 'sample' or 'attach'")):
        VideoStream(local=numbered, spans="all")


def test_spans_that_are_all_too_short(spanned):
    with pytest.raises(SpecError, match="no span in .* is long enough for a clip: .*, the longest span has 127"):
        make_loader(spanned, clips=ClipSpec(128), spans="sample")


def test_packs_attach_spans_and_are_not_for_clips_within_them(spanned, tmp_path):
    pack_videos(spanned, tmp_path / "pack", shard_size="1mb", workers=1)
    with pytest.raises(
        SpecError, match='spans="sample" is not for packs: use the videos themselves, or spans="attach"'
    ):
        make_loader(tmp_path / "pack", spans="sample")
    loaders = [make_loader(folder, clips=ClipSpec(4, 2, 20), spans="attach") for folder in (spanned, tmp_path / "pack")]
    spans = [{clip: loader.dataset[clip]["spans"] for clip in range(loader.dataset.num_clips)} for loader in loaders]
    assert spans[0] == spans[1]
    assert any(spans[0].values())


def test_manifest_videos_index_and_spans_in_buckets(spanned, s3, tmp_path):
    videos, index = s3(spanned), s3()
    rows = f"{videos}/a.mp4,10,80,open,val\nb.mkv,50,75,shut,train\ngone.mp4,1,2,x,val\n"
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "spans.csv").write_text("path,start_frame,stop_frame,verb,split\n" + rows)
    report = index_videos(s3(tmp_path / "list") + "/spans.csv", index, root=videos, workers=1)
    assert [refusal.reason for refusal in report.refused] == ["there is no such file (spans.csv, line 4)"]
    loader = make_loader(
        None, clips=CLIPS, remote=videos, index=index, local=tmp_path / "cache", spans="sample", split="val"
    )
    assert {(video, verb) for video, _, verb in delivered(loader)} == {("a.mp4", "open")}
