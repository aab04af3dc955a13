"""What can be set in a running epoch, and the tuner that sets it: the clips stay the same, whatever it does."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from onetake import VideoDataset, VideoLoader
from onetake.core.errors import SpecError
from onetake.core.tuner import BOTTLENECKS, Bounds
from onetake.stream.counters import Spent
from onetake.stream.stalls import StallClock
from onetake.stream.tuning import LoaderTuner
from tests.helpers import SPEC, make_loader, record

# Depth


@pytest.mark.parametrize("workers, batch_size", [(2, 4), (3, 1), (3, 30), (4, 30)])
@pytest.mark.parametrize("depths", [(8, 1), (1, 8), (2, 6, 1, 3)], ids=str)
@pytest.mark.filterwarnings("ignore:global batch")
def test_depth_changes_in_mid_epoch_and_no_batch_is_lost(numbered, workers, batch_size, depths):
    expected = [record(batch) for batch in make_loader(numbered, batch_size=batch_size)]
    loader = make_loader(numbered, workers, {"prefetch_factor": depths[0]}, batch_size=batch_size)
    seen = []
    for number, batch in enumerate(loader):
        seen.append(record(batch))
        if number % 3 == 0:
            loader.prefetch_factor = depths[number // 3 % len(depths)]
    assert seen == expected
    assert loader.prefetch_factor in depths


@pytest.mark.filterwarnings("ignore:global batch")
def test_persistent_workers_take_a_new_depth_into_the_next_epoch(numbered):
    plain = make_loader(numbered)
    expected = [[record(batch) for batch in plain] for _ in range(2)]
    loader = make_loader(numbered, 3, {"prefetch_factor": 5, "persistent_workers": True})
    assert [record(batch) for batch in loader] == expected[0]
    loader.prefetch_factor = 1
    assert [record(batch) for batch in loader] == expected[1]


def test_a_raised_depth_is_filled_at_once(numbered):
    loader = make_loader(numbered, 2, {"prefetch_factor": 1})
    batches = iter(loader)
    next(batches)
    loader.prefetch_factor = 5
    ahead = (1 + 2 * 5) * 4
    deadline = time.monotonic() + 60
    while loader.stats()["clips_delivered"] < ahead and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert loader.stats()["clips_delivered"] == ahead


def test_depth_needs_workers_and_a_number(numbered):
    with pytest.raises(SpecError, match="no workers to prefetch with; give num_workers="):
        make_loader(numbered).prefetch_factor = 3
    with pytest.raises(SpecError, match="prefetch_factor=0: must be a whole number, at least 1"):
        make_loader(numbered, 2).prefetch_factor = 0


# Predownload


@pytest.mark.parametrize("workers, context", [(0, None), (2, "fork"), (2, "spawn")])
def test_predownload_is_live(numbered, tmp_path, workers, context):
    """At first one clip per worker is fetched ahead, and then all that there are."""
    loader = make_loader(
        numbered,
        workers,
        {"multiprocessing_context": context, "prefetch_factor": 1} if workers else {},
        remote=numbered,
        local=tmp_path,
        predownload=1,
        num_canonical_lanes=4 * max(workers, 1),
    )
    assert loader.dataset.predownload == 1

    def cached():
        return len(list(tmp_path.rglob("*.bytes")))

    batches = iter(loader)
    next(batches)
    time.sleep(1)
    before = cached()
    assert before < loader.dataset.num_shards
    loader.dataset.predownload = 10_000
    deadline = time.monotonic() + 60
    while cached() < loader.dataset.num_shards and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cached() == loader.dataset.num_shards
    batches.close()


def test_predownload_is_checked(numbered):
    with pytest.raises(SpecError, match="predownload=-1: must be a whole number, at least 0"):
        make_loader(numbered).dataset.predownload = -1


@pytest.mark.parametrize("shuffle_by", ["segment", "video"])
def test_nothing_is_fetched_ahead_where_that_is_said(numbered, tmp_path, shuffle_by):
    remote = {"remote": numbered, "local": tmp_path, "predownload": 0, "frame_size": 32, "shuffle_by": shuffle_by}
    loader = VideoLoader(VideoDataset(clips=SPEC, batch_size=3, num_canonical_lanes=1, **remote))
    dataset, used = loader.dataset, set()
    for batch in loader:
        used |= {dataset.spanner[clip][0] for clip in batch["clip_id"].tolist()}
        assert len(list(tmp_path.rglob("*.bytes"))) == len(used)
    assert len(used) == dataset.num_shards


# Stalls


class Clock:
    """A perf_counter that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("onetake.stream.stalls.perf_counter", clock)
    return clock


class Host:
    """torch.cuda where no GPU is in use."""

    @staticmethod
    def is_initialized():
        return False


def test_waits_are_summed_and_first_ones_told_apart(clock):
    stalls = StallClock(Host)
    for _ in range(2):
        stalls.begin()
        for wait, work in ((5, 1), (2, 1), (0.5, 3)):
            stalls.asked()
            clock.now += wait
            stalls.got()
            clock.now += work
    assert stalls.stall_seconds == 15
    assert stalls.first_seconds == 10
    assert stalls.longest_seconds == 5
    assert list(stalls.steps) == [(1, 2), (1, 0.5)] * 2


class Gpu:
    """torch.cuda of a device that has work queued until ``busy_until``."""

    def __init__(self, clock):
        self.clock, self.busy_until = clock, 0.0

    def is_initialized(self):
        return True

    def Event(self, enable_timing):  # noqa: N802
        return GpuEvent(self)


class GpuEvent:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.reached = max(self.gpu.clock.now, self.gpu.busy_until)

    def query(self):
        return self.gpu.clock.now >= self.reached

    def elapsed_time(self, end):
        return (end.reached - self.reached) * 1000


def test_a_wait_counts_only_while_the_gpu_stands_idle(clock):
    gpu = Gpu(clock)
    stalls = StallClock(gpu)
    stalls.begin()
    for queued, wait in ((0, 0), (10, 4), (10, 16), (1, 5)):
        gpu.busy_until = clock.now + queued
        stalls.asked()
        clock.now += wait
        stalls.got()
    clock.now += 100
    stalls.settle()
    # The wait of 4 s is hidden behind 10 s of work; of 16 s, 6 are not; of 5 s, 4 are not.
    assert [step.stall_seconds for step in stalls.steps] == [0, 6, 4]
    assert stalls.stall_seconds == 10


def test_what_the_gpu_has_not_come_to_is_counted_later(clock):
    gpu = Gpu(clock)
    stalls = StallClock(gpu)
    stalls.begin()
    for _ in range(3):
        stalls.asked()
        stalls.got()
        gpu.busy_until = clock.now + 10
    assert len(stalls.steps) == 0
    clock.now += 11
    stalls.settle()
    assert len(stalls.steps) == 2


# The tuner on a loader


def train(loader, tuner=None, step_seconds=0.0, pause=None):
    """(records, [(stall fraction, predownload, prefetch_factor)] by window) of an epoch."""
    seen, windows = [], []
    for number, batch in enumerate(loader):
        seen.append(record(batch))
        time.sleep(step_seconds)
        if pause and number % 8 == 7:
            time.sleep(pause)
        if tuner and (logged := tuner.step()):
            windows.append(logged)
    return seen, windows


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_slow_remote_more_is_fetched_ahead_and_the_clips_stay_the_same(numbered, tmp_path, slow_remote, workers):
    arguments = {"clips": replace(make_loader(numbered).dataset.streams[0].clips, hop=4), "batch_size": 2}
    expected = [record(batch) for batch in make_loader(numbered, **arguments, num_canonical_lanes=4)]
    loader = make_loader(
        numbered,
        workers,
        {"prefetch_factor": 1} if workers else {},
        remote=numbered,
        local=tmp_path,
        predownload=1,
        num_canonical_lanes=4,
        **arguments,
    )
    tuner = LoaderTuner(loader, every=8)
    seen, windows = train(loader, tuner, step_seconds=0.03)
    assert seen == expected
    assert windows[-1]["data/predownload"] > 1
    assert any("workers for downloads: predownload 1 -> 2" in reason for _, reason in tuner.changes)
    assert {window["data/bottleneck"] for window in windows} >= {1.0}


def stall(loader, clock, seconds):
    """Let every batch of ``loader`` take ``seconds`` of a clock that is set by hand."""
    asked = loader.clock.asked

    def ask():
        asked()
        clock.now += seconds

    loader.clock.asked = ask


def test_slow_validation_changes_nothing(numbered, clock):
    """Steps of 1 s that wait 1/100 s for their batch; after every eighth, 10 minutes of validation."""
    loader = make_loader(numbered, 2, {"prefetch_factor": 3})
    before = loader.dataset.predownload
    tuner = LoaderTuner(loader, every=8)
    windows = []
    stall(loader, clock, 0.01)
    for number, _ in enumerate(loader):
        clock.now += 1
        if number % 8 == 7:
            clock.now += 600
        if logged := tuner.step():
            windows.append(logged)
    assert tuner.changes == []
    assert len(windows) >= 3
    assert [window["data/bottleneck"] for window in windows] == [0] * len(windows)
    assert [window["data/stall_fraction"] for window in windows] == pytest.approx([0.01 / 1.01] * len(windows))
    assert (loader.dataset.predownload, loader.prefetch_factor) == (before, 3)


@pytest.mark.parametrize("place, bottleneck", [("in place", "uneven"), ("cached", "download")])
def test_only_downloads_are_blamed_on_downloads(numbered, tmp_path, clock, place, bottleneck):
    """In place, workers wait for the host's threads at times, and no setting of a cache helps."""
    where = {"remote": numbered, "local": tmp_path} if place == "cached" else {}
    loader = make_loader(numbered, 2, **where)
    stall(loader, clock, 1)
    tuner = LoaderTuner(loader, every=4)
    found = set()
    for _ in loader:
        clock.now += 1
        loader._worker_counters[0, Spent.DOWNLOAD] += 10**9
        if logged := tuner.step():
            found.add(BOTTLENECKS[int(logged["data/bottleneck"])])
    assert found == {bottleneck}


def test_what_only_the_user_can_mend_is_said_once_for_all_to_see(numbered, clock, caplog):
    loader = make_loader(numbered, 0)
    stall(loader, clock, 1)
    tuner = LoaderTuner(loader, every=2)
    for _ in loader:
        clock.now += 1
        tuner.step()
    # At level WARNING, which Python prints unless told otherwise.
    (message,) = (record for record in caplog.records if record.name == "onetake.stream.tuning")
    assert message.getMessage() == f"step 6: {tuner.changes[0][1]}"
    assert "for decoding in the training process itself: give num_workers=" in tuner.changes[0][1]


def test_bounds_follow_memory_and_cache(numbered, tmp_path):
    in_place = make_loader(numbered, 2)
    next(iter(in_place))
    bounds = LoaderTuner(in_place).bounds
    assert not bounds.downloads
    assert bounds.max_predownload == in_place.dataset.predownload
    assert 1 < bounds.max_prefetch_factor <= 64
    in_place.batch_bytes = 10**15
    assert LoaderTuner(in_place).bounds.max_prefetch_factor == 2  # no more than is taken already
    tuner = LoaderTuner(in_place)
    in_place.batch_bytes = 10**6
    most = tuner.bounds.max_prefetch_factor
    in_place.prefetch_factor = most
    assert tuner.bounds.max_prefetch_factor == most  # memory that batches in flight will take is not free
    small, large = (
        LoaderTuner(make_loader(numbered, 2, remote=numbered, local=tmp_path / limit, cache_limit=limit)).bounds
        for limit in ("4mb", "30mb")
    )
    assert small.downloads
    assert small.min_predownload == 4
    assert small.max_predownload < large.max_predownload


def test_only_our_loaders_are_tuned(numbered):
    with pytest.raises(SpecError, match="tunes a VideoLoader, and training reads a list: give the Trainer"):
        LoaderTuner([])
    with pytest.raises(SpecError, match="every=0: must be a whole number, at least 1"):
        LoaderTuner(make_loader(numbered), every=0)
    with pytest.raises(SpecError, match="every=1001: must be at most 1000"):
        LoaderTuner(make_loader(numbered), every=1001)


def test_settings_beyond_the_bounds_are_left_where_they_are(numbered):
    loader = make_loader(numbered, 2, {"prefetch_factor": 4})
    tuner = LoaderTuner(loader, every=4, bounds=Bounds(1, 1, 1, 4))
    train(loader, tuner)
    assert loader.prefetch_factor == 4
