"""No work twice: what an epoch opens, seeks, decodes and fetches, counted."""

from __future__ import annotations

import numpy as np
import pytest

from onetake import ClipSpec
from onetake.decode.build import index_videos
from onetake.decode.store import read_table
from onetake.decode.synthetic import write_numbered_video
from tests.helpers import make_loader, record

SPECS = [ClipSpec(4, 3), ClipSpec(8, 1), ClipSpec(8, 2, 9)]


def lane_runs(dataset, epoch=0):
    """(segment, first frame wanted, last frame wanted) of each stretch that a lane reads of a segment."""
    order = dataset.epoch_order(epoch)
    stream = dataset.streams[0]
    starts = order.lanes.starts()
    runs = []
    for lane in range(order.lanes.count):
        clips = order.clip_ids(np.arange(starts[lane], starts[lane + 1]))
        shards = np.searchsorted(np.cumsum(dataset.samples_per_shard), clips, side="right")
        for shard in dict.fromkeys(shards.tolist()):
            mine = clips[shards == shard] - int(dataset.sample_offset_per_shard[shard])
            first = int(stream.layout.first_clip[stream.segments[shard]])
            frames = [stream.clips.start_frame(first + int(clip)) for clip in (mine[0], mine[-1])]
            runs.append((int(stream.segments[shard]), frames[0], frames[1] + stream.clips.extent - 1))
    return runs


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_one_open_and_at_most_one_jump_a_run_and_nothing_decoded_in_vain(numbered, spec, workers):
    loader = make_loader(numbered, workers, clips=spec, drop_last=True)
    assert loader.dataset.lanes_advice(workers) is None
    for _ in loader:
        pass
    dataset, stats = loader.dataset, loader.stats()
    delivered = len(loader) * 4
    runs = lane_runs(dataset)
    index = dataset.streams[0].index
    allowed = 0
    for segment, first, last in runs:
        table = read_table(numbered, index, segment)
        keys = table.frame[table.key_rows]
        allowed += last + 1 - int(keys[keys <= first].max())
    assert stats["opens"] <= len(runs)
    assert stats["opens"] >= len(runs) - (dataset.num_clips - delivered)
    assert stats["seeks"] <= len(runs)
    assert stats["frames_decoded"] <= 1.02 * allowed
    assert stats["clips_delivered"] == delivered
    assert stats["frames_delivered"] == delivered * spec.num_frames


@pytest.mark.parametrize("workers", [0, 2])
def test_more_lanes_than_segments_share_them_each_with_a_decoder_that_goes_on(tmp_path, workers):
    """Two videos of one segment each, each read by six lanes or seven: nothing is opened again."""
    for name in ("a.mp4", "b.mp4"):
        write_numbered_video(tmp_path / name, 500, gop=20)
    index_videos(tmp_path, segment_seconds=60, workers=1)
    loader = make_loader(tmp_path, workers, clips=ClipSpec(4, 2, 5), batch_size=2, num_canonical_lanes=12)
    for _ in loader:
        pass
    dataset, stats = loader.dataset, loader.stats()
    runs = lane_runs(dataset)
    assert (len(dataset.shards), dataset.num_clips) == (2, 2 * 99)
    assert 12 <= len(runs) <= 13  # a lane may go over from one video to the other
    assert stats["opens"] == len(runs)
    assert stats["seeks"] <= len(runs)
    assert stats["frames_decoded"] <= sum(last + 1 - first + 20 for _, first, last in runs)


def test_overlapping_clips_convert_no_frame_twice(numbered):
    dense = ClipSpec(8, 1, 2)
    loader = make_loader(numbered, clips=dense, num_canonical_lanes=1, batch_size=1, shuffle=False)
    distinct = sum(
        len({f for clip in range(dense.num_clips(v.num_frames)) for f in dense.frame_index(2 * clip).tolist()})
        for v in loader.dataset.streams[0].index.videos
    )
    for _ in loader:
        pass
    stats = loader.stats()
    segments = len(loader.dataset.shards)
    assert stats["frames_delivered"] > 3 * distinct
    assert stats["frames_converted"] <= distinct + segments * dense.extent  # clips over a cut are read on each side


def test_pictures_that_no_one_needs_are_not_decoded(numbered):
    strided, dense = (make_loader(numbered, clips=spec) for spec in (ClipSpec(4, 8), ClipSpec(32, 1)))
    counts = []
    for loader in (strided, dense):
        for _ in loader:
            pass
        counts.append(loader.stats()["frames_decoded"])
    assert counts[0] < 0.9 * counts[1]


def test_stats_add_up_over_workers_and_count_waits(numbered):
    alone, together = make_loader(numbered, 0), make_loader(numbered, 2)
    for loader in (alone, together):
        for _ in loader:
            pass
    one, other = alone.stats(), together.stats()
    assert {k: v for k, v in one.items() if "seconds" not in k} == {
        k: v for k, v in other.items() if "seconds" not in k
    }
    assert one["batches"] == len(alone)
    for stats in (one, other):
        assert 0 < stats["longest_wait_seconds"] <= stats["wait_seconds"]
        assert 0 < stats["first_wait_seconds"] < stats["wait_seconds"]
        assert stats["decode_seconds"] > 0
        assert stats["transform_seconds"] == 0
    assert one["bytes_read"] > 0


def test_lanes_that_do_not_divide_are_said_with_a_number_that_does(numbered):
    loader = make_loader(numbered, 3)
    with pytest.warns(UserWarning, match="global batch 4 x 3 workers does not divide the 8 canonical lanes.*=12 fits"):
        seen = [record(batch) for batch in loader]
    assert seen == [record(batch) for batch in make_loader(numbered)]
