"""Simulated epochs against brute force: every batch gone through clip by clip, with dicts and loops."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from math import comb
from typing import Any

import numpy as np
import pytest

from onetake.core.clips import ClipSpec
from onetake.core.errors import SpecError
from onetake.core.index import CONTAINER, PACKETS, Keyframes, Video, VideoIndex
from onetake.core.lane_counts import nearest_lanes
from onetake.core.order import num_batches
from onetake.core.simulate import Simulation, simulate
from onetake.core.simulate_clips import Clips, Cluster, segment_bytes
from onetake.core.simulate_costs import expected_distinct
from tests.core.grids import plain_video

SEGMENT, GOP, FRAME_BYTES = 30, 12, 100


def video(number: int, frames: int, kind: str = PACKETS) -> Video:
    return plain_video(
        number,
        frames,
        kind=kind,
        file_bytes=100_000 + number,
        codec=("h264", "hevc")[number % 2],
        time_base=(1, 1000),
        duration=frames * 40,
        frame_ticks=40,
        height=48,
    )


def make_index(lengths: list[int], kind: str = PACKETS) -> tuple[VideoIndex, Keyframes]:
    """Videos in segments of 30 frames, with a keyframe every 12 frames and at each segment's start."""
    rows = [
        (number, first, min(SEGMENT, length - first))
        for number, length in enumerate(lengths)
        for first in range(0, length, SEGMENT)
    ]
    of_video, first_frame, num_frames = np.array(rows, np.int64).T
    keys = [range(first, first + num, GOP) for _, first, num in rows]
    frame = np.array([key for segment in keys for key in segment], np.int64)
    count = np.array([len(segment) for segment in keys], np.int64)
    zeros = np.zeros(len(rows), np.int64)
    index = VideoIndex(
        generation="g",
        videos=tuple(video(number, length, kind) for number, length in enumerate(lengths)),
        video=of_video,
        first_frame=first_frame,
        num_frames=num_frames,
        first_pts=first_frame * 40,
        byte_offset=first_frame * FRAME_BYTES,
        byte_length=num_frames * FRAME_BYTES,
        table_offset=zeros,
        table_length=zeros,
        num_packets=num_frames,
        num_keyframes=count,
    )
    return index, Keyframes(np.concatenate([[0], np.cumsum(count)]), frame, frame * 40)


def keyframes_up_to(frame: int) -> list[int]:
    return [key for first in range(0, frame + 1, SEGMENT) for key in range(first, first + SEGMENT, GOP)]


def walk(clips: Clips, cluster: Cluster, lanes: tuple[int, int], epoch: int, drop_last: bool) -> dict[str, Any]:
    """The same numbers, clip by clip."""
    order, _ = clips.epoch(epoch, lanes)
    index, layout = clips.index, clips.layout
    starts = order.lanes.starts()
    spec = clips.spec
    overlap = not spec.by_time and spec.hop_frames < spec.extent
    found: dict[str, Any] = defaultdict(int)
    open_lanes: dict[Any, dict[int, list[int]]] = defaultdict(dict)
    most_open: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    needed: dict[int, set[int]] = defaultdict(set)
    steps_of_video: dict[int, set[int]] = defaultdict(set)
    stretches: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    use: dict[Any, list[int]] = defaultdict(list)
    last_reader: dict[int, Any] = {}
    followed = stayed = 0
    distinct = []
    total = num_batches(len(order), cluster.global_batch, drop_last)
    ends: dict[tuple[int, int, int], int] = {}
    for step in range(total):
        batch = order.samples(step * cluster.global_batch, (step + 1) * cluster.global_batch)
        videos = set()
        for place, (clip, lane, seq, pad) in enumerate(
            zip(batch.clip_id.tolist(), batch.lane.tolist(), batch.seq.tolist(), batch.is_pad.tolist(), strict=True)
        ):
            rank, worker = place // cluster.batch_size, step % cluster.readers
            node, reader = rank // cluster.ranks, (rank, worker)
            segment = int(np.searchsorted(layout.clips_before, clip, side="right")) - 1
            number = clip - int(layout.clips_before[segment])
            shift = int(clips._shifts(epoch)[index.video[segment]])
            frames = layout.frames(segment, number, shift, lambda: pytest.fail("no timeline is needed"))
            first, last = frames[0], frames[-1]
            begin_frame = int(index.first_frame[segment])
            keys = [key for key in keyframes_up_to(last) if begin_frame <= key <= first]
            mine, known = open_lanes[reader], open_lanes[reader].get(lane)
            if known is None or not known[0] <= seq < known[1]:
                coming = order.coming(seq, lane)
                mine[lane] = known = [seq, seq + len(coming), -1]
                found["opens"] += 1
                found["seeks"] += keys[-1] > begin_frame
                begin = keys[-1]
            elif keys[-1] > known[2] + 1:
                found["seeks"] += 1
                begin = keys[-1]
            else:
                begin = known[2] + 1
            found["frames_decoded"] += last + 1 - begin
            if not overlap:
                for one, other in pairwise(frames):
                    between = [key for key in keyframes_up_to(last) if one < key <= other]
                    if between and between[-1] > one + 1:
                        found["seeks"] += 1
                        found["frames_decoded"] -= between[-1] - 1 - one
            mine[lane] = [seq + 1, known[1], last, int(clips.decoder_bytes[index.video[segment]])]
            sizes = [opened[3] for opened in mine.values()]
            most_open[reader] = [
                max(most_open[reader][0], len(sizes)),
                max(most_open[reader][1], sum(sizes)),
            ]
            if mine[lane][0] == mine[lane][1]:
                del mine[lane]
            needed[node].add(segment)
            occurrence = (lane, segment, int(batch.occurrence[place]))
            use[node, occurrence].append(step)
            if step == 0:
                found[f"first {node}"] = sum(int(clips.bytes[s]) for s in needed[node])
            if pad:
                continue
            videos.add(int(index.video[segment]))
            steps_of_video[int(index.video[segment])].add(step)
            stretches[occurrence].append(step)
            before = ends.get(occurrence, first - 1)
            found["frames_spanned"] += last - max(before, first - 1)
            ends[occurrence] = last
            if lane in last_reader:
                followed, stayed = followed + 1, stayed + (last_reader[lane] == reader)
            last_reader[lane] = reader
        distinct.append(len(videos))
    assert starts[-1] == len(order)
    streaks = sum(step - 1 not in steps for steps in steps_of_video.values() for step in steps)
    by_node = [sum(int(clips.bytes[s]) for s in needed[node]) for node in range(cluster.nodes)]
    lasting = [steps[-1] - steps[0] + 1 for steps in stretches.values()]
    peaks = []
    for node in range(cluster.nodes):
        for step in range(total):
            there = {
                occurrence[1]
                for (owner, occurrence), steps in use.items()
                if owner == node and steps[0] - cluster.steps_ahead <= step <= steps[-1]
            }
            peaks.append(sum(int(clips.bytes[s]) for s in there))
    held: dict[int, int] = defaultdict(int)
    for (rank, _), (_, size) in most_open.items():
        held[rank // cluster.ranks] += size
    firsts = [value for key, value in found.items() if key.startswith("first ")]
    all_segments = set().union(*needed.values())
    return {
        "opens": found["opens"],
        "seeks": found["seeks"],
        "frames_decoded": found["frames_decoded"],
        "frames_spanned": found["frames_spanned"],
        "distinct_videos": float(np.mean(distinct)),
        "stay_steps": sum(map(len, steps_of_video.values())) / streaks,
        "stretch_steps": float(np.mean(lasting)),
        "stretches": len(lasting),
        "same_reader": stayed / followed if followed else 1.0,
        "node_bytes_min": min(by_node),
        "node_bytes_max": max(by_node),
        "segments": len(all_segments),
        "segments_shared": sum(sum(s in own for own in needed.values()) > 1 for s in all_segments),
        "first_batch_bytes": max(firsts),
        "cache_peak_bytes": max(peaks),
        "open_decoders": max(most for most, _ in most_open.values()),
        "reader_decoder_bytes": max(most for _, most in most_open.values()),
        "node_decoder_bytes": max(held.values()),
        "node_bytes": sum(by_node) / cluster.nodes,
        "bytes_shared": 1 - sum(int(clips.bytes[s]) for s in all_segments) / sum(by_node),
    }


LENGTHS = [100, 61, 30, 250, 7, 90, 145]
SPECS = [
    ClipSpec(4, 2),
    ClipSpec(4, 1, 2),
    ClipSpec(3, 2, 25),
    ClipSpec(4, 5),
    ClipSpec(2, 29),  # more than one keyframe in between
    ClipSpec(4, 2, clips_per_video=3),
    ClipSpec(4, 2, jitter=True),
    ClipSpec(2, 2, align="keyframe"),
    ClipSpec(4, fps="25/2"),
]
WORLDS = [
    (Cluster(1, 1, 0, 4), (4, 2)),  # divides
    (Cluster(1, 1, 2, 4), (4, 2)),
    (Cluster(2, 2, 2, 1, predownload=1), (4, 2)),
    (Cluster(1, 1, 3, 4), (4, 2)),  # does not
    (Cluster(2, 1, 2, 3), (4, 2)),
    (Cluster(3, 1, 1, 2, predownload=5), (7, 1)),
    (Cluster(1, 2, 2, 4), (3, 1)),  # more clips in a batch than lanes
    (Cluster(1, 1, 2, 4), (1, 1)),
    (Cluster(1, 1, 1, 8, predownload=1), (8, 8)),  # several lanes in a segment
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "-".join(f"{k}={v}" for k, v in spec.to_dict().items()))
@pytest.mark.parametrize(("cluster", "lanes"), WORLDS)
def test_an_epoch_is_what_a_walk_over_its_batches_counts(spec, cluster, lanes):
    clips = Clips(*make_index(LENGTHS), spec, seed=3)
    for epoch, drop_last in ((0, False), (1, True)):
        if drop_last and clips.num_clips < cluster.global_batch:
            continue
        simulation, series = simulate(clips, cluster, lanes, epoch, drop_last=drop_last)
        expected = walk(clips, cluster, lanes, epoch, drop_last)
        assert {name: getattr(simulation, name) for name in expected} == pytest.approx(expected)
        assert simulation.lanes == lanes[0] * lanes[1]
        assert simulation.closure == simulation.frames_decoded / simulation.frames_spanned
        assert simulation.steps == simulation.steps_simulated == len(series.step)
        assert series.distinct.mean() == pytest.approx(simulation.distinct_videos)
        assert series.node_bytes.mean() == simulation.node_bytes


@pytest.mark.parametrize("shuffle", [{"shuffle": False}, {"shuffle_by": "video"}, {"seed": 5}], ids=str)
def test_every_way_of_shuffling(shuffle):
    clips = Clips(*make_index(LENGTHS), ClipSpec(4, 2), **shuffle)
    cluster, lanes = Cluster(1, 2, 2, 2), (4, 2)
    expected = walk(clips, cluster, lanes, 0, False)
    simulation, _ = simulate(clips, cluster, lanes)
    assert {name: getattr(simulation, name) for name in expected} == pytest.approx(expected)


def test_lanes_that_divide_open_each_stretch_once_and_others_more_often():
    clips = Clips(*make_index(LENGTHS), ClipSpec(4, 1, 2), seed=3)
    good, _ = simulate(clips, Cluster(1, 1, 2, 4), (4, 2), drop_last=True)
    bad, _ = simulate(clips, Cluster(1, 1, 3, 4), (4, 2), drop_last=True)
    assert (good.opens, good.same_reader) == (good.stretches, 1)
    assert bad.opens > 2 * bad.stretches
    assert bad.same_reader < 0.5
    assert bad.closure > 1.5 * good.closure
    assert bad.distinct_videos == good.distinct_videos


def test_a_part_of_the_steps_is_gone_through_as_runs_that_are_resumed_there():
    clips = Clips(*make_index(LENGTHS * 4), ClipSpec(4, 1, 2), seed=3)
    cluster, lanes = Cluster(1, 1, 2, 4), (4, 2)
    whole, _ = simulate(clips, cluster, lanes)
    part, series = simulate(clips, cluster, lanes, max_steps=81)
    size, last = 20, whole.steps - 20
    assert series.step.tolist() == [start + k for start in (0, last // 3, 2 * last // 3, last) for k in range(size)]
    assert (part.steps, part.steps_simulated) == (whole.steps, 80)
    assert part.opens < whole.opens
    assert part.distinct_videos == pytest.approx(whole.distinct_videos, rel=0.1)
    assert part.cache_peak_bytes <= whole.cache_peak_bytes
    assert simulate(clips, cluster, lanes, max_steps=whole.steps)[0] == whole
    assert simulate(clips, cluster, lanes, max_steps=1)[0].steps_simulated == 1


def test_expected_distinct_is_the_exact_probability():
    counts = np.array([1, 1, 3, 7, 20], np.int64)
    total = int(counts.sum())
    for draws in (1, 2, 13, 31, 32):
        exact = sum(1 - comb(total - n, draws) / comb(total, draws) for n in counts.tolist())
        assert expected_distinct(counts, draws) == pytest.approx(exact, rel=1e-9)
    assert expected_distinct(np.full(1000, 1000, np.int64), 256) == pytest.approx(1000 * (1 - 0.999**256), rel=1e-3)


def test_segments_weigh_what_their_clips_reach():
    index, keyframes = make_index([100, 5])
    layout = Clips(index, keyframes, ClipSpec(4, 2, 8)).layout  # clips of 7 frames at 0, 8, ... 88
    assert segment_bytes(layout).tolist() == [31 * FRAME_BYTES, 33 * FRAME_BYTES, 35 * FRAME_BYTES, 0, 0]
    long = Clips(index, keyframes, ClipSpec(36, 2, 8)).layout  # 71 frames, at 0, 8, 16 and 24
    assert segment_bytes(long).tolist() == [95 * FRAME_BYTES, 0, 0, 0, 0]


def test_a_video_that_only_its_container_reads_is_fetched_whole_for_each_segment():
    index, keyframes = make_index([100, 5], CONTAINER)
    clips = Clips(index, keyframes, ClipSpec(4, 2, 8))
    assert segment_bytes(clips.layout).tolist() == [100_000] * 3 + [0, 0]


@pytest.mark.parametrize(
    ("lanes", "stride", "good"), [(64, 16, [64]), (65, 16, [64, 80]), (7, 16, [16]), (16, 16, [16]), (1, 3, [3])]
)
def test_lanes_that_fit(lanes, stride, good):
    assert sorted(nearest_lanes(lanes, 1, stride, 1)) == good


def test_the_mean_of_epochs_keeps_the_highest_peaks():
    clips = Clips(*make_index(LENGTHS), ClipSpec(4, 2))
    epochs = [simulate(clips, Cluster(1, 1, 1, 4), (4, 2), epoch)[0] for epoch in range(3)]
    mean = Simulation.mean(epochs)
    assert len({epoch.distinct_videos for epoch in epochs}) == 3
    assert mean.distinct_videos == pytest.approx(np.mean([epoch.distinct_videos for epoch in epochs]))
    assert mean.cache_peak_bytes == max(epoch.cache_peak_bytes for epoch in epochs)
    assert mean.steps == epochs[0].steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cluster(nodes=0), "nodes=0: must be at least 1"),
        (lambda: Cluster(workers=-1), "workers=-1: must be at least 0"),
        (lambda: Cluster(predownload=0), "predownload=0: must be at least 1"),
        (lambda: Clips(*make_index([20]), ClipSpec(21)), "no video of the index has a clip: the longest has 20 frames"),
        (
            lambda: simulate(Clips(*make_index([20]), ClipSpec(5)), Cluster(batch_size=5), (5, 1), drop_last=True),
            "a global batch of 5 is more than the 4 clips of an epoch",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()
