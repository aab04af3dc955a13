"""Clips of long videos as a streaming dataset, in canonical lane order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from onetake.core.batching import APART
from onetake.core.clips import ClipSpec
from onetake.core.draw import SHUFFLE_GROUPS, default_groups
from onetake.core.errors import OnetakeError, SourceError, SpecError, VideoError
from onetake.core.seeds import sample_seed
from onetake.core.tuner import PREDOWNLOAD_BATCHES
from onetake.core.values import check_callables, check_choice, check_count, check_flags
from onetake.decode.scale import FrameSize, check_frame_size, check_scaling
from onetake.stream.arguments import check_spec
from onetake.stream.cached import CachedDataset
from onetake.stream.caching import open_caches
from onetake.stream.checks import (
    check_cache_limit,
    check_clips_per_sample,
    check_full_batch,
    check_host_arguments,
    check_replication,
    check_streams,
    choose_lanes,
    warn_of_long_segments,
    weigh_streams,
)
from onetake.stream.compat import World
from onetake.stream.counters import Count, Counters, Spent, spending
from onetake.stream.damage import ON_ERROR, Damage, check_bad_fraction
from onetake.stream.memory import plan_memory
from onetake.stream.metadata import SampleMetadata
from onetake.stream.ranks import joined_ranks
from onetake.stream.reader import ClipPlace, LaneReader, LaneTurn
from onetake.stream.sample import (
    LAYOUTS,
    Clip,
    Sample,
    SampleForm,
    SampleTransform,
    Transform,
    make_sample,
    transformed,
    zeros,
)
from onetake.stream.selection import Selection
from onetake.stream.stream import VideoStream
from onetake.stream.whole_videos import VideoMemory
from onetake.stream.work import ClipRef, WorkerFailure

__all__ = ["VideoDataset"]

_ATTEMPTS = 8  # to fetch a segment that keeps being evicted before it is read


class VideoDataset(CachedDataset):
    """Clips of long videos: each video is decoded once, front to back, while batches mix many of them.

    A sample is a dict: "video" uint8 [T, C, H, W] (or as ``layout`` says; what ``transform`` returns, if given),
    "video_id" str, "start_frame" int, "frame_index" int64 [T] (a number comes several times where the clips' ``fps``
    is above the video's), "pts_seconds" float64 [T] (when each of these frames is shown), "clip_id" int (the clip's
    number in this dataset), "valid" bool, "is_pad" bool (True: repeated to fill the epoch's last batch);
    "occurrence" int (how often the epoch had the clip before), where a stream's weight repeats clips; and the metadata
    of the index (see ``stream.metadata``).

    Iterate it through ``VideoLoader``. ``dataset[i]`` gives clip i, as in the present epoch, at the cost of a seek.

    Args:
        streams: where the videos are; or, for one stream, ``remote``, ``local``, ``split``, ``index``.
        where, columns, exclude, spans: which videos, and what of them, for streams that don't say; see VideoStream.
        clips: which clips, for streams that don't say.
        frame_size: (height, width), scaled to cover and centre-cropped; an int, the short side; None, native.
        scaling: "fast", or "exact", nearer to a resize of the RGB frames, and slower.
        layout: "TCHW", or "CTHW" as torchvision's video models take it.
        clips_per_sample: above 1, a sample holds K consecutive clips of a video: "video" is [K, T, C, H, W] (or
            [K, C, T, H, W]), "frame_index" and "pts_seconds" are [K, T], "start_frame" is the first one's, and what
            else counts clips counts samples: "clip_id", ``clips_per_video``, ``predownload``. Clips at a video's end
            that don't fill a sample are left out. "all": a sample is a video, with all its clips; batches then hold
            lists of those three tensors, and ``max_memory`` has to be given.
        transform: called with the uint8 frames of a sample; what it returns takes their place. torch's, numpy's and
            Python's global generators are seeded for it by (seed, epoch, stream, video, start frame).
        sample_transform: called with (sample, generator), after ``transform``; returns the sample. The
            generator is a torch.Generator, seeded likewise.
        batch_size: samples per batch and rank.
        shuffle: False: lanes share out the order of the index, a stretch for each; with one lane, that is the order.
        shuffle_seed: seeds the order and the samples' transforms.
        shuffle_by: "segment", "video" (each drained before the next), or "shard" (of a pack: its segments are shuffled
            among themselves). None: "shard" for packs, "segment" for videos in place, where the two are the same.
        num_canonical_lanes: L, how many streams of clips are read side by side in all (see ``core.order``).
            None: the global batch size, times up to 8.
        drop_last: leave out the epoch's last, incomplete global batch instead of filling it with repeats.
        predownload: clips per worker whose segments are fetched ahead; 0: each when its clip is next. None: 8 batches.
        cache_limit: bytes (or "100gb") that this dataset's cache may take; what is read in place is not in it.
            None: 80% of the disk's free space, shared by all datasets of the machine that leave it open.
        max_memory: bytes (or "8gb") of a node's memory that open decoders may hold; with ``clips_per_sample="all"``,
            that and all samples that are there at once. None: no bound.
        on_error: "raise" stops at a clip that doesn't decode; "substitute" gives the nearest clip of its video that
            does (zeros, if none does), with "valid" False and the frames that it shows, and logs each video once.
        max_bad_fraction: the share of such clips that is borne: of those so far, but of 1000, or an epoch's, at least.
        resume: "strict" refuses a state whose order is not this dataset's; "continue" warns, and goes on at the
            same sample of the new order.
        **kwargs: further arguments of streaming.StreamingDataset, such as ``batching_method`` (see ``core.batching``).
            Those that lanes replace are refused.

    Raises:
        SpecError: an argument is out of range.
        CacheError: the cache is too small, can't be used, or would delete the only copy of the videos.
        SourceError, IndexFileError: the videos or their index are not there, or not as they were.
    """

    def __init__(
        self,
        *,
        streams: Sequence[VideoStream] | None = None,
        remote: str | PathLike[str] | None = None,
        local: str | PathLike[str] | None = None,
        split: str | None = None,
        index: str | PathLike[str] | None = None,
        where: Sequence[Any] | None = None,
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        spans: str | None = None,
        clips: ClipSpec | None = None,
        frame_size: FrameSize = (256, 256),
        scaling: str = "fast",
        layout: str = "TCHW",
        clips_per_sample: int | str = 1,
        transform: Transform | None = None,
        sample_transform: SampleTransform | None = None,
        batch_size: int = 8,
        shuffle: bool = True,
        shuffle_seed: int = 17,
        shuffle_by: str | None = None,
        num_canonical_lanes: int | None = None,
        drop_last: bool = False,
        predownload: int | None = None,
        cache_limit: int | str | None = None,
        max_memory: int | str | None = None,
        on_error: str = "raise",
        max_bad_fraction: float = 0.01,
        resume: str = "strict",
        **kwargs: Any,
    ) -> None:
        check_host_arguments(kwargs, VideoDataset)
        check_choice("layout", layout, LAYOUTS)
        check_clips_per_sample(clips_per_sample, max_memory)
        if shuffle_by is not None:
            check_choice("shuffle_by", shuffle_by, SHUFFLE_GROUPS)
        check_choice("on_error", on_error, ON_ERROR)
        check_bad_fraction(max_bad_fraction)
        check_choice("resume", resume, ("strict", "continue"))
        check_count("batch_size", batch_size)
        check_count("shuffle_seed", shuffle_seed, 0)
        if num_canonical_lanes is not None:
            check_count("num_canonical_lanes", num_canonical_lanes)
        check_flags(shuffle=shuffle, drop_last=drop_last)
        check_callables(transform=transform, sample_transform=sample_transform)
        check_spec(clips)
        if (streams is None) == (remote is None and local is None):
            raise SpecError("give either streams=, or remote= and/or local= for one stream")
        if streams is None:
            streams = [VideoStream(remote=remote, local=local, split=split, index=index)]
        check_streams(streams)
        selection = Selection.of(split, where, columns, exclude, spans)
        world = World.detect()
        streams = [copy(stream) for stream in streams]  # a stream may serve several datasets
        for number, stream in enumerate(streams):
            stream.scaling, stream.clips_per_sample = check_scaling(scaling), clips_per_sample
            stream.open(world, number, clips, check_frame_size(frame_size), selection)
        if len({stream.local for stream in streams}) < len(streams):
            raise SpecError("two of the streams= have the same remote=, local=, clips= and filters: leave one out")
        weigh_streams(streams, kwargs.get("epoch_size"), shuffle_seed)
        replication = check_replication(kwargs.get("replication"), world.num_ranks)
        global_batch = batch_size * world.num_ranks // replication
        method = kwargs.get("batching_method", "random")
        if drop_last:
            check_full_batch(streams, batch_size if method == "device_per_stream" else global_batch, method)
        lanes = choose_lanes(streams, global_batch, num_canonical_lanes, method, warn=world.is_leader)
        if world.is_leader and shuffle and shuffle_by != "video":
            warn_of_long_segments(streams, lanes[0] * lanes[1], method)
        times = len(streams) if method in APART else 1
        self.memory = plan_memory(streams, world, replication, lanes[0] * lanes[1], times, global_batch, max_memory)
        predownload = PREDOWNLOAD_BATCHES * batch_size if predownload is None else predownload
        check_count("predownload", predownload, 0)
        if cache_limit is not None:
            cache_limit = check_cache_limit(cache_limit, streams)
        ranks_of_node = max(world.ranks_per_node, replication)  # that read different lanes, and those again
        lanes_of_node = -(-lanes[0] * lanes[1] * times * ranks_of_node // world.num_ranks)
        self.metadata = SampleMetadata(streams)
        self.form = SampleForm(layout, clips_per_sample)
        self.transform = transform
        self.sample_transform = sample_transform
        self.shuffle_by = shuffle_by or default_groups(stream.shard_of_segment for stream in streams)
        self.drop_last = drop_last
        self.resume = resume
        self._damage = Damage(on_error, max_bad_fraction, sum(len(stream.index.videos) for stream in streams))
        self._reader: LaneReader | None = None
        self._latest: object = None  # iteration in this process
        host = dict(
            streams=streams,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_seed=shuffle_seed,
            predownload=predownload,
            **kwargs,
        )
        with joined_ranks() as gather:
            cache_limit, name = open_caches(gather, streams, world, cache_limit, lanes_of_node, predownload)
            self._init_host(name, host)
        self.cache_limit = cache_limit
        self._init_order(lanes)

    def _init_host(self, name: str, arguments: dict[str, Any]) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                super().__init__(name=name, **arguments)
                return
            except FileExistsError:  # another job took the same shared memory at the same moment
                if World.detect().num_ranks > 1 or time.monotonic() > deadline:
                    raise
            except ValueError as error:
                raise SpecError(f"VideoDataset: {error}") from error
            for stream in arguments["streams"]:
                stream.forget_weights()
            time.sleep(0.5)

    # Iterating.

    def __iter__(self) -> Iterator[Sample]:
        if get_worker_info() is None:
            if not self._begun:
                self.begin_epoch()
            self._begun = False
        self._latest = latest = object()
        try:
            self._close_reader()  # an abandoned iteration's
            self.let_all_shards_go()
            yield from super().__iter__()
        except OnetakeError as error:
            if get_worker_info() is None or not self.is_driven:
                raise
            yield WorkerFailure(error)  # torch would turn it into its own text; the loader raises it as it is
        finally:
            if self._latest is latest:  # else what there is to close is a later one's, which may be in the middle
                self._close_reader()
                self.let_all_shards_go()

    def _lane_reader(self) -> LaneReader:
        if self._reader is None or self._reader.inherited:
            self._reader = LaneReader(self._own_counters())
        return self._reader

    def _close_reader(self) -> None:
        if self._reader is not None and not self._reader.inherited:
            self._reader.close_all()

    # Samples.

    def get_item(self, sample_id: int, retry: int = _ATTEMPTS) -> Sample:
        """Sample number ``sample_id`` of the dataset, fetching its segment if need be.

        Raises:
            DecodeError, SourceError: the clip's frames can't be had; names the video and the remedy.
        """
        ref = sample_id if isinstance(sample_id, ClipRef) else ClipRef(sample_id)
        try:
            clip, valid = self._read(ref, retry), True
        except VideoError as error:
            if not self._damage.substitutes:
                raise
            clip, valid = self._substitute(ref, error), False
        sample = make_sample(clip, self.form, ref, valid, self.repeats)
        sample |= self.metadata.of(self._place(ref, self._epoch)[1], clip.frames)
        if self.transform is None and self.sample_transform is None:
            return sample
        with spending(self._lane_reader().counters, Spent.TRANSFORM):
            seed = self.sample_seed(ref, self._epoch, ref.occurrence, ref.is_pad, clip.frames[0])
            return transformed(sample, self.transform, self.sample_transform, seed)

    def _read(self, ref: ClipRef, retry: int = _ATTEMPTS) -> Clip:
        """Decode a clip, fetching its segment if need be."""
        reader = self._lane_reader()
        shard_id, place = self._place(ref, self._epoch)
        turn = None if ref.lane is None else LaneTurn(ref.lane, ref.seq, partial(self._coming, ref, place))
        video: list[torch.Tensor] = []

        def allocate(num_frames: int, height: int, width: int) -> list[NDArray[np.uint8]]:
            video[:] = [self.form.empty(place.spec, num_frames, height, width)]
            return self.form.pictures(video[0])

        with ExitStack() as brought:
            for _ in range(retry):
                try:
                    with spending(reader.counters, Spent.DECODE):
                        frames, seconds = reader.read(place, turn, allocate)
                    return Clip(video[0], place.video_id, frames, seconds)
                except FileNotFoundError:
                    with spending(reader.counters, Spent.DOWNLOAD):
                        self.bring_now(shard_id)
                        brought.callback(self.let_shard_go, shard_id)
        raise SourceError(
            f"the segment of video {place.video_id!r} leaves the cache before it can be read: see that nothing else "
            f"deletes files in {place.stream.local}"
        )

    def _substitute(self, ref: ClipRef, error: VideoError) -> Clip:
        """What takes the place of a clip that doesn't decode.

        Raises:
            DamageError: there are too many of them.
        """
        place = self._place(ref, self._epoch)[1]
        counters = self._lane_reader().counters
        video, clips = self._video_of(int(ref))
        clip = self._damage.substitute(int(ref), self._epoch, clips, video, error, lambda n: self._read(ClipRef(n)))
        if clip is None:
            clip = zeros(place, self.form)
            counters[Count.CLIPS_DELIVERED] += 1
        counters[Count.CLIPS_SUBSTITUTED] += 1
        self._damage.check_share(self._counters_of_workers, self.num_clips // self.rank_world.num_ranks, error)
        return clip

    def _coming(self, ref: ClipRef, place: ClipPlace) -> list[int]:
        """The clips that the lane of ``ref`` reads from it on, before it goes to another run; see LaneTurn."""
        assert ref.lane is not None
        clips = self.epoch_order(self._epoch).coming(ref.seq, ref.lane)
        return (clips - int(ref) + place.clip_in_segment).tolist()

    def sample_seed(
        self,
        clip_id: int,
        epoch: int,
        occurrence: int = 0,
        is_pad: bool = False,
        start_frame: int | None = None,
    ) -> int:
        """The seed of a sample's random transforms; see ``core.seeds``. Where every epoch has the same samples in the
        same order, as in validation, they are also drawn for alike. Without ``start_frame``, the clip's first frame in
        that epoch, a packet table may have to be read."""
        place = self._place(clip_id, epoch)[1]
        if start_frame is None:
            start_frame = place.start_frame
        if self.sampling_method == "fixed" and not self.shuffle:
            epoch = 0
        times = 2 * occurrence + int(is_pad)
        return sample_seed(self.shuffle_seed, epoch, place.stream.name, place.video_id, start_frame, times)

    def check_memory(self, num_workers: int, batches: int = 1) -> None:
        """Raise SpecError where ``num_workers`` per rank, or ``batches`` of whole videos, may hold more than
        ``max_memory``; loaders call it."""
        if isinstance(self.memory, VideoMemory):
            self.memory.check(self.rank_world.ranks_per_node, num_workers, batches)
        elif self.memory is not None:
            self.memory.check(int(np.prod(self.lanes)), self.global_batch_size, max(num_workers, 1))

    # Counting.

    def share_counters(self, num_workers: int) -> torch.Tensor:
        """Counters that all workers write and this process reads: int64 [workers, Counts and Spents]."""
        self._reader = None  # it counts elsewhere
        self._counters_of_workers = torch.zeros((max(num_workers, 1), len(Count) + len(Spent)), dtype=torch.int64)
        return self._counters_of_workers.share_memory_()

    def _own_counters(self) -> Counters:
        shared = getattr(self, "_counters_of_workers", None)
        if shared is None:
            shared = self.share_counters(1)
        worker = get_worker_info()
        return shared[worker.id if worker and worker.id < len(shared) else 0].numpy()

    def waited_for_shard(self, nanoseconds: int) -> None:
        self._lane_reader().counters[Spent.DOWNLOAD] += nanoseconds

    def failure(self, shard_id: int) -> Exception:
        stream, shard = self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id]
        try:
            stream.check_segment(shard)
        except OnetakeError as error:
            return error
        place = ClipPlace(stream, shard, *shard.locate(0))
        return SourceError(
            f"a segment of video {place.video_id!r} could not be fetched from {stream.videos_location}; "
            "the worker that tried says why"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reader": None, "_order": None, "_latest": None}
