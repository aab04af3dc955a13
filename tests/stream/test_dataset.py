"""What a VideoDataset delivers: the right frames, each clip once, in samples of the promised form."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from onetake import ClipSpec, VideoDataset, VideoLoader, VideoStream
from onetake.core.errors import SpecError
from onetake.decode.build import index_videos
from onetake.decode.synthetic import read_number, write_numbered_video
from tests.conftest import real_videos
from tests.helpers import SPEC, decode_all, make_loader, record


@pytest.fixture(scope="module")
def frames(numbered):
    """Every video's frames, by a full sequential decode."""
    return {
        path.relative_to(numbered).as_posix(): decode_all(path)
        for path in numbered.rglob("*.*")
        if path.suffix in {".mp4", ".mkv", ".ts"}
    }


def check(batch, frames):
    """The delivered frames are those of a full decode at the frame numbers that the batch names."""
    for pixels, video_id, numbers in zip(batch["video"], batch["video_id"], batch["frame_index"], strict=True):
        for picture, number in zip(pixels, numbers.tolist(), strict=True):
            got = picture.permute(1, 2, 0).numpy()
            assert np.array_equal(got, frames[video_id][number]), (video_id, number)
            assert read_number(got) == number


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("where", ["in place", "cached"])
def test_every_clip_exactly_once_and_bit_exact_with_workers(numbered, tmp_path, frames, where, context):
    place = {} if where == "in place" else {"remote": numbered, "local": tmp_path / "cache"}
    loader = make_loader(numbered, 2, {"multiprocessing_context": context}, **place)
    seen = []
    for batch in loader:
        check(batch, frames)
        seen += record(batch)
    assert sorted(clip for clip, *_ in seen) == list(range(loader.dataset.num_clips))
    starts = {(video, start) for _, video, start, _ in seen}
    assert starts == {
        (video, start)
        for video, pictures in frames.items()
        for start in range(0, len(pictures) - SPEC.extent + 1, SPEC.hop_frames)
    }


@pytest.mark.parametrize("spec", [ClipSpec(1), ClipSpec(8, 1, 5), ClipSpec(3, 8, 7), ClipSpec(16, 4)], ids=str)
@pytest.mark.parametrize("shuffle_by", ["segment", "video", None])
def test_every_clip_spec_in_process(numbered, frames, spec, shuffle_by):
    loader = make_loader(numbered, clips=spec, shuffle=shuffle_by is not None, shuffle_by=shuffle_by or "segment")
    seen = []
    for batch in loader:
        check(batch, frames)
        seen += record(batch)
    assert sorted(clip for clip, *_ in seen) == list(range(loader.dataset.num_clips))


@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.name)
def test_real_videos(path, tmp_path):
    index_videos(_only(path, tmp_path / "videos"), segment_seconds=3, workers=1)
    reference = decode_all(path)
    loader = make_loader(tmp_path / "videos", clips=ClipSpec(8, stride=5), num_canonical_lanes=4)
    count = 0
    for batch in loader:
        for pixels, numbers in zip(batch["video"], batch["frame_index"].tolist(), strict=True):
            for picture, number in zip(pixels, numbers, strict=True):
                assert np.array_equal(picture.permute(1, 2, 0).numpy(), reference[number]), number
                count += 1
    assert count >= 8 * ((len(reference) - 36) // 40 + 1)


def _only(path, folder):
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_random_access_equals_reading_in_order(numbered):
    loader = make_loader(numbered)
    in_order = {clip: rest for batch in loader for clip, *rest in record(batch)}
    dataset = loader.dataset
    for clip in np.random.default_rng(0).permutation(dataset.num_clips)[:40].tolist():
        sample = dataset[clip]
        batch = torch.utils.data.default_collate([sample])
        assert record(batch) == [(clip, *in_order[clip])]
    assert dataset[-1]["clip_id"] == dataset.num_clips - 1


def test_sample_form(numbered):
    sample = make_loader(numbered, frame_size=(48, 64)).dataset[3]
    forms = {
        name: (value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value)
        for name, value in sample.items()
    }
    assert forms == {
        "video": (torch.uint8, (4, 3, 48, 64)),
        "video_id": str,
        "start_frame": int,
        "frame_index": (torch.int64, (4,)),
        "pts_seconds": (torch.float64, (4,)),
        "clip_id": int,
        "valid": bool,
        "is_pad": bool,
    }
    assert sample["frame_index"].tolist() == [sample["start_frame"] + 3 * i for i in range(4)]
    assert sample["pts_seconds"].tolist() == pytest.approx([n / 25 for n in sample["frame_index"].tolist()])


def test_layout_cthw_is_the_same_video_turned(numbered):
    one, other = (make_loader(numbered, layout=layout).dataset[5]["video"] for layout in ("TCHW", "CTHW"))
    assert torch.equal(one.transpose(0, 1), other)
    assert other.is_contiguous()


def test_batches_fit_one_step_for_collate_and_sample_transforms(numbered):
    def label(sample, generator):
        draw = int(torch.randint(1000, (), generator=generator))
        return {"x": sample["video"], "label": len(sample["video_id"]), "clip": sample["clip_id"], "draw": draw}

    def pair(samples):
        return torch.stack([s["x"] for s in samples]), [(s["clip"], s["label"], s["draw"]) for s in samples]

    runs = []
    for workers in (0, 2):
        loader = make_loader(numbered, workers, {"collate_fn": pair}, sample_transform=label)
        runs.append([rows for video, rows in loader if video.shape == (4, 4, 3, 96, 128)])
    assert runs[0] == runs[1]
    assert len(runs[0]) == len(loader)
    assert len({draw for rows in runs[0] for _, _, draw in rows}) > 20


def test_random_transforms_depend_on_the_sample_alone(numbered):
    from torchvision.transforms import v2

    arguments = {"transform": v2.RandomCrop(32), "frame_size": (48, 64)}
    dataset = make_loader(numbered, **arguments).dataset
    before = torch.get_rng_state()
    assert torch.equal(dataset[3]["video"], dataset[3]["video"])
    assert torch.equal(torch.get_rng_state(), before)
    alone = {r[0]: r for batch in make_loader(numbered, **arguments) for r in record(batch)}
    together = {r[0]: r for batch in make_loader(numbered, 2, **arguments) for r in record(batch)}
    assert alone == together
    loader = make_loader(numbered, **arguments)
    list(loader)
    second_epoch = {r[0]: r for batch in loader for r in record(batch)}
    changed = sum(second_epoch[clip] != alone[clip] for clip in alone)
    assert changed > len(alone) // 2


def test_several_streams_with_clips_of_their_own(numbered):
    streams = [
        VideoStream(local=numbered, name="dense", clips=ClipSpec(4, 1)),
        VideoStream(local=numbered, name="sparse", clips=ClipSpec(4, 8)),
    ]
    loader = make_loader(numbered, streams=streams)
    seen = [r for batch in loader for r in record(batch)]
    assert sorted(clip for clip, *_ in seen) == list(range(loader.dataset.num_clips))
    dense = int(loader.dataset.streams[0].layout.num_clips.sum())
    sample = loader.dataset[dense]
    assert (sample["frame_index"] - sample["start_frame"]).tolist() == [0, 8, 16, 24]


def test_last_batch_is_filled_or_dropped(numbered):
    filled = make_loader(numbered, batch_size=16, num_canonical_lanes=16)
    pads = [int(batch["is_pad"].sum()) for batch in filled]
    short = -filled.dataset.num_clips % 16
    assert short
    assert pads == [0] * (len(filled) - 1) + [short]
    dropped = make_loader(numbered, batch_size=16, num_canonical_lanes=16, drop_last=True)
    ids = [clip for batch in dropped for clip, *_ in record(batch)]
    assert len(dropped) == len(filled) - 1
    assert len(set(ids)) == len(ids) == 16 * len(dropped)


def test_epochs_differ_and_are_the_same_in_every_run(numbered):
    loader, again = make_loader(numbered), make_loader(numbered, 2)
    first, second = ([record(batch) for batch in loader] for _ in range(2))
    assert first != second
    assert [[record(batch) for batch in again] for _ in range(2)] == [first, second]


def test_one_lane_without_shuffling_is_the_order_of_the_index(numbered):
    loader = make_loader(numbered, shuffle=False, num_canonical_lanes=1)
    assert [clip for batch in loader for clip, *_ in record(batch)] == list(range(loader.dataset.num_clips))


def test_the_dataset_iterates_by_itself_and_in_a_plain_dataloader(numbered):
    dataset = make_loader(numbered).dataset
    alone = [[sample["clip_id"] for sample in dataset] for _ in range(2)]
    plain = torch.utils.data.DataLoader(make_loader(numbered).dataset, batch_size=4, num_workers=1)
    assert [[clip for batch in plain for clip in batch["clip_id"].tolist()] for _ in range(2)] == alone
    assert alone[0] != alone[1]


REFUSED = [
    ({"drop_last": True, "batch_size": 1000, "num_canonical_lanes": 4}, "drop_last=True with fewer clips than"),
    ({"frame_sizes": 32}, "VideoDataset has no argument frame_sizes=; did you mean 'frame_size'"),
    ({"download_retries": 3}, "VideoDataset has no argument download_retries=; did you mean 'download_retry'"),
    ({"clips": None}, "no clips= given"),
    ({"clips": 16}, "must be a ClipSpec"),
    ({"clips": ClipSpec(400, 2)}, "extends over 799 frames, the longest video has 300"),
    ({"frame_size": (0, 4)}, r"frame_size=\(0, 4\)"),
    ({"layout": "HWC"}, "must be one of 'TCHW', 'CTHW'"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"shuffle_by": "frame"}, "must be one of 'segment', 'video', 'shard'"),
    ({"num_canonical_lanes": 0}, "num_canonical_lanes=0"),
    ({"replication": 2}, "replication=2: must divide the number of ranks, 1"),
    ({"replication": 0}, "replication=0: must be a whole number, at least 1"),
    ({"resume": "maybe"}, "must be one of 'strict', 'continue'"),
    ({"shuffle_algo": "py1e"}, "use shuffle_by="),
    ({"num_canonical_nodes": 2}, "use num_canonical_lanes="),
    ({"sampling_granularity": 2}, "whole segments"),
]


@pytest.mark.parametrize("arguments, message", REFUSED, ids=[next(iter(a)) for a, _ in REFUSED])
def test_impossible_arguments_are_refused_by_name(numbered, arguments, message):
    with pytest.raises(SpecError, match=message):
        VideoDataset(local=numbered, **{"clips": SPEC, "batch_size": 4, **arguments})


def test_videos_too_short_for_a_clip_are_counted_and_said(numbered, caplog):
    dataset = make_loader(numbered).dataset
    assert dataset.streams[0].num_short_videos == 1
    assert "1 of the 7 videos" in caplog.text
    assert "shorter than a clip (10 frames)" in caplog.text


def test_either_streams_or_a_place(numbered):
    with pytest.raises(SpecError, match="either streams="):
        VideoDataset(clips=SPEC)
    with pytest.raises(SpecError, match="needs remote="):
        VideoStream(clips=SPEC)


def test_little_video_for_the_batch_size_is_said(numbered):
    with pytest.warns(UserWarning, match="little video for this batch size"):
        VideoDataset(local=numbered, clips=SPEC, batch_size=8)


def test_a_segment_that_a_lane_reads_for_a_thousand_steps_is_said(tmp_path):
    write_numbered_video(tmp_path / "still.mp4", 1002, width=64, height=64, gop=2000)
    index_videos(tmp_path, workers=1)
    one_lane = {"local": tmp_path, "clips": ClipSpec(num_frames=1), "batch_size": 1, "num_canonical_lanes": 1}
    with pytest.warns(UserWarning, match=r"up to 1002 clips of one segment in a row \(still.mp4@0 in .*--transcode"):
        VideoDataset(**one_lane)
    meant = {"shuffle_by": "video"}, {"shuffle": False}
    remedies = {"num_canonical_lanes": 2}, {"clips": ClipSpec(num_frames=1, clips_per_video=1000)}
    for other in (*meant, *remedies):
        VideoDataset(**one_lane | other)  # a warning would be an error


def test_loader_refuses_what_the_dataset_decides(numbered):
    dataset = make_loader(numbered).dataset
    with pytest.raises(SpecError, match="say it to the VideoDataset"):
        VideoLoader(dataset, batch_size=3)
    with pytest.raises(SpecError, match="in_order=False.*could not be resumed"):
        VideoLoader(dataset, in_order=False)
    with pytest.raises(SpecError, match="must be a VideoDataset"):
        VideoLoader([1, 2, 3])


def test_high_dynamic_range_is_warned_of(tmp_path, caplog):
    tags = {"color_trc": "arib-std-b67", "colorspace": "bt2020nc", "color_primaries": "bt2020"}
    write_numbered_video(tmp_path / "hdr.mp4", 30, options=tags)
    write_numbered_video(tmp_path / "plain.mp4", 30)
    index_videos(tmp_path, workers=1)
    with caplog.at_level(logging.WARNING, logger="onetake"):
        make_loader(tmp_path)
    (told,) = [record.getMessage() for record in caplog.records if "HDR" in record.getMessage()]
    assert "1 of the 2 videos" in told
    assert "(HLG, first of all 'hdr.mp4')" in told


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_that_no_batch_can_hold_are_said_by_their_videos(tmp_path, workers):
    write_numbered_video(tmp_path / "a.mp4", 20)
    write_numbered_video(tmp_path / "b.mp4", 20, width=192)
    index_videos(tmp_path, workers=1)
    about = {"shuffle": False, "batch_size": 2, "num_canonical_lanes": 2}
    loader = make_loader(tmp_path, workers, **about)
    with pytest.raises(SpecError, match=r"^a batch cannot hold video 'a.mp4' of shape .* beside 'b.mp4' of shape"):
        next(iter(loader))
    (batch,) = make_loader(tmp_path, workers, **about, frame_size=(48, 64))
    assert batch["video"].shape == (2, 4, 3, 48, 64)
