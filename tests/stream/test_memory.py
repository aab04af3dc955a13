"""What open decoders hold of memory: known beforehand, bounded on demand, and never more of them than was said."""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from onetake import ClipSpec, VideoStream
from onetake.core.errors import SpecError
from onetake.core.memory import decoder_bytes
from onetake.stream.memory import LaneMemory
from onetake.stream.reader import RANDOM_ACCESS_DECODERS
from tests.benchmarks import bench_memory
from tests.helpers import make_loader

# Measured by tests/benchmarks/bench_memory.py: MB of resident memory by which a process grows for each open decoder.
MEASURED = [
    ("h264", 720, 13.9),
    ("h264", 1080, 23.4),
    ("hevc", 720, 18.7),
    ("hevc", 1080, 41.0),
    ("vp9", 720, 8.3),
    ("vp9", 1080, 17.8),
    ("av1", 720, 14.8),
    ("av1", 1080, 31.6),
]


@pytest.mark.parametrize(("codec", "height", "megabytes"), MEASURED, ids=lambda value: str(value))
def test_what_is_said_of_a_decoder_is_near_what_was_measured(codec, height, megabytes):
    said = decoder_bytes(codec, height * 16 // 9, height, "yuv420p")
    assert 0.7 * megabytes * 1e6 < said < 1.3 * megabytes * 1e6


def test_pixel_formats_and_other_codecs():
    eight, ten, full = (decoder_bytes("hevc", 1920, 1080, name) for name in ("yuv420p", "yuv420p10le", "yuv444p"))
    assert 1.9 < ten / eight < 2
    assert ten == full
    for codec, pix_fmt in (("prores", "yuv422p10le"), ("h264", ""), ("", "nonsense")):
        assert decoder_bytes(codec, 640, 360, pix_fmt) > 5 * 640 * 360


def test_the_benchmark_runs(monkeypatch):
    monkeypatch.setattr(bench_memory, "NUM_FRAMES", 12)
    done = CliRunner().invoke(bench_memory.main, ["--codec", "h264", "--tall", "360", "--decoders", "2"])
    assert done.exit_code == 0, done.output
    assert "640x360" in done.output


def memory(segment_bytes, segment_clips, **more):
    arrays = [np.array(values, np.int64) for values in (segment_bytes, segment_clips)]
    about = {
        "repeats": np.ones(len(segment_bytes), np.int64),
        "num_clips": sum(segment_clips),
        "num_nodes": 1,
        "ranks_per_node": 1,
        "replication": 1,
        "limit": None,
    }
    return LaneMemory(*arrays, **about | more)


def most_at_once(given, lanes, seed):
    """By brute force: the heaviest set of segments that lanes can read at once, were they to meet so."""
    order = np.random.default_rng(seed).permutation(len(given.segment_clips))
    seq = np.repeat(order, given.segment_clips[order])
    runs = np.array_split(seq, lanes)
    return sum(int(given.segment_bytes[run].max()) for run in runs if len(run))


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_segments_holds_more_than_is_said(seed):
    draw = np.random.default_rng(seed)
    given = memory(draw.integers(1, 100, 9).tolist(), draw.integers(1, 12, 9).tolist())
    for lanes in (1, 2, 3, 8, 20):
        if lanes > given.num_clips:
            continue
        said = given.at_most(lanes)
        assert most_at_once(given, lanes, seed) <= said <= lanes * given.segment_bytes.max()


def test_few_heavy_segments_do_not_count_for_every_lane():
    given = memory([1000, *[1] * 9], [5] * 10)
    assert given.at_most(10) == 2 * 1000 + 8  # its 5 clips are cut by one lane's end, at most
    assert given.at_most(50) == 5 * 1000 + 45
    twice = replace(given, repeats=np.array([2, *[1] * 9]))
    assert twice.at_most(10) == 4 * 1000 + 6


def test_nodes_share_the_lanes_and_replicas_read_them_again():
    given = memory([10] * 40, [4] * 40, num_nodes=3)
    assert [given.decoders(lanes) for lanes in (1, 3, 8)] == [1, 1, 3]
    assert given.at_most(8) == 30
    assert replace(given, replication=2).decoders(8) == 6


def test_it_is_said_before_the_first_batch(numbered, caplog):
    caplog.set_level(logging.INFO, logger="onetake.stream.memory")
    make_loader(numbered)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "onetake.stream.memory"]
    assert said.startswith("8 lanes keep up to 8 decoders open on a node (8 in each rank, dealt to its workers)")
    assert said.endswith("MB of memory")


def test_pictures_that_are_kept_count(numbered):
    def held(**dataset):
        return int(make_loader(numbered, max_memory="8gb", **dataset).dataset.memory.segment_bytes.max())

    small = held(clips=ClipSpec(1), frame_size=(10, 10))
    assert held(clips=ClipSpec(16, 2), frame_size=(10, 10)) - small == 15 * 300
    assert held(clips=ClipSpec(4, 5, 3), frame_size=(10, 10)) - small == 15 * 300  # of 16 frames, 15 may be asked for
    assert held(clips=ClipSpec(8, fps=5), frame_size=(10, 10)) - small == 7 * 300


LIMITS = [
    # lanes that fit, of 16 with a global batch of 4 -> what is said
    (12, "num_canonical_lanes=12 fits with a number of workers per rank that divides 3$"),
    (7, "num_canonical_lanes=4 fits with one worker per rank$"),
    (2.5, "num_canonical_lanes=2 fits with one worker per rank$"),
    (0.9, "not even one lane fits, which takes .* bytes"),
]


@pytest.mark.filterwarnings("ignore:global batch")
@pytest.mark.parametrize(("fits", "message"), LIMITS, ids=[str(fits) for fits, _ in LIMITS])
def test_too_many_lanes_are_refused_with_the_number_that_fits(numbered, fits, message):
    known = make_loader(numbered, max_memory="8gb").dataset.memory
    limit = int(fits * known.segment_bytes.max())
    with pytest.raises(SpecError, match=message) as failure:
        make_loader(numbered, max_memory=limit, num_canonical_lanes=16)
    assert f"max_memory={limit:,} bytes is too small: 16 lanes keep 16 decoders" in str(failure.value)
    if fits >= 1:
        lanes = int(str(failure.value).split("num_canonical_lanes=")[1].split()[0])
        loader = make_loader(numbered, max_memory=limit, num_canonical_lanes=lanes)
        assert len(next(iter(loader))["clip_id"]) == 4


def test_workers_among_which_lanes_wander_are_refused(numbered):
    one = make_loader(numbered, max_memory="8gb").dataset.memory.segment_bytes.max()
    for workers in (0, 1, 2):
        make_loader(numbered, workers, max_memory=int(8 * one)).dataset.check_memory(workers)
    loader = make_loader(numbered, 3, max_memory=int(23.9 * one))
    with pytest.raises(SpecError, match="4 x 3 workers does not divide the 8 canonical.*num_canonical_lanes=12 fits"):
        next(iter(loader))
    make_loader(numbered, 3, max_memory=int(24 * one)).dataset.check_memory(3)


def test_the_lanes_of_a_checkpoint_count(numbered):
    one = make_loader(numbered, max_memory="8gb").dataset.memory.segment_bytes.max()
    state = make_loader(numbered, num_canonical_lanes=16).state_dict()
    loader = make_loader(numbered, max_memory=int(8 * one))
    loader.load_state_dict(state)
    with pytest.raises(SpecError, match="16 lanes keep 16 decoders"):
        next(iter(loader))


@pytest.mark.parametrize("limit", [0, -1, "lots", "1 of them", True, 1.5])
def test_bounds_that_are_none(numbered, limit):
    with pytest.raises(SpecError, match=r'max_memory=.*: must be a number of bytes, or a text such as "8gb"'):
        make_loader(numbered, max_memory=limit)


def test_streams_have_pictures_of_their_own_size(numbered):
    streams = [VideoStream(local=numbered, name=str(size), frame_size=(size, size), clips=ClipSpec(size))
               for size in (8, 16)]  # fmt: skip
    dataset = make_loader(numbered, streams=streams, max_memory="8gb").dataset
    small, large = np.split(dataset.memory.segment_bytes, [len(dataset.streams[0].segments)])
    assert large.max() - small.max() == 3 * (16**3 - 8**3)


class CountsOpen:
    """A sample's transform that notes how many segments this process has open, and which process that is."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, sample, generator):
        sample["open"] = 0
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # closed by now, by another thread
                sample["open"] += os.readlink(f"/proc/self/fd/{fd}").startswith(self.folder)
        sample["pid"] = os.getpid()
        return sample


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_decoders_are_open_than_was_said(numbered, workers):
    loader = make_loader(numbered, workers, sample_transform=CountsOpen(numbered), max_memory="8gb")
    if not workers:
        for clip in range(0, 40, 5):
            loader.dataset[clip]
    most: Counter[int] = Counter()
    for batch in loader:
        for pid, count in zip(batch["pid"].tolist(), batch["open"].tolist(), strict=True):
            most[pid] = max(most[pid], count)
    processes = max(workers, 1)
    assert len(most) == processes
    said = loader.dataset.memory.decoders(8)
    assert said == 8
    assert all(said // processes <= count <= said // processes + RANDOM_ACCESS_DECODERS for count in most.values())
    assert workers == 0 or sum(most.values()) == said
