"""Clips of long videos as a streaming dataset, in canonical lane order."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from onetake.core.clips import ClipSpec
from onetake.core.errors import CacheError, OnetakeError, ResumeError, SourceError, SpecError
from onetake.core.order import SHUFFLE_GROUPS, EpochOrder, num_batches, segment_order
from onetake.core.seeds import sample_seed
from onetake.core.state import STATE_VERSION, Cursor, check_order, pack_cursors, read_state
from onetake.decode.decoder import Count, Counters
from onetake.decode.scale import FrameSize, check_frame_size
from onetake.stream.checks import (
    check_cache_limit,
    check_choice,
    check_count,
    check_open_segments,
    choose_lanes,
    refuse_replaced,
)
from onetake.stream.compat import HostDataset, World
from onetake.stream.randomness import seeded
from onetake.stream.reader import ClipPlace, LaneReader
from onetake.stream.stream import VideoStream
from onetake.stream.work import ClipRef, WorkerClips, WorkerFailure

__all__ = ["VideoDataset"]

Sample = dict[str, Any]

_ATTEMPTS = 8  # to fetch a segment that keeps being evicted before it is read


class VideoDataset(HostDataset):
    """Clips of long videos: each video is decoded once, front to back, while batches mix many of them.

    A sample is a dict: "video" uint8 [T, C, H, W] (or as ``layout`` says; what ``transform`` returns, if given),
    "video_id" str, "start_frame" int, "frame_index" int64 [T], "pts_seconds" float64 [T], "clip_id" int (the
    clip's number in this dataset), "valid" bool, "is_pad" bool (True: repeated to fill the epoch's last batch).

    Iterate it through ``VideoLoader``. ``dataset[i]`` gives clip i, at the cost of a seek.

    Args:
        streams: where the videos are; or, for one stream, ``remote``, ``local``, ``split``, ``index``.
        clips: which clips, for streams that don't say.
        frame_size: (height, width), scaled to cover and centre-cropped; an int, the short side; None, native.
        layout: "TCHW", or "CTHW" as torchvision's video models take it.
        transform: called with the uint8 frames; what it returns takes their place. torch's, numpy's and Python's
            global generators are seeded for it by (seed, epoch, stream, video, start frame).
        sample_transform: called with (sample, generator), after ``transform``; returns the sample. The
            generator is a torch.Generator, seeded likewise.
        batch_size: samples per batch and rank.
        shuffle: False gives the order of the index.
        shuffle_seed: seeds the order and the samples' transforms.
        shuffle_by: "segment" or "video" (each drained before the next); "shard" is "segment" for videos in place.
        num_canonical_lanes: L, how many streams of clips are read side by side in all (see ``core.order``).
            None: the global batch size, times up to 8.
        drop_last: leave out the epoch's last, incomplete global batch instead of filling it with repeats.
        predownload: clips per worker whose segments are fetched ahead. None: 8 batches.
        cache_limit: bytes (or "100gb") that cached segments may take. None: no limit.
        resume: "strict" refuses a state whose order is not this dataset's; "continue" warns, and goes on at the
            same sample of the new order.
        **kwargs: further arguments of streaming.StreamingDataset. Those that lanes replace are refused.

    Raises:
        SpecError: an argument is out of range.
        CacheError: the cache is too small, or would delete the only copy of the videos.
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
        clips: ClipSpec | None = None,
        frame_size: FrameSize = (256, 256),
        layout: str = "TCHW",
        transform: Callable[[torch.Tensor], Any] | None = None,
        sample_transform: Callable[[Sample, torch.Generator], Sample] | None = None,
        batch_size: int = 8,
        shuffle: bool = True,
        shuffle_seed: int = 17,
        shuffle_by: str = "segment",
        num_canonical_lanes: int | None = None,
        drop_last: bool = False,
        predownload: int | None = None,
        cache_limit: int | str | None = None,
        resume: str = "strict",
        **kwargs: Any,
    ) -> None:
        refuse_replaced(kwargs)
        check_choice("layout", layout, ("TCHW", "CTHW"))
        check_choice("shuffle_by", shuffle_by, SHUFFLE_GROUPS)
        check_choice("resume", resume, ("strict", "continue"))
        check_count("batch_size", batch_size)
        check_count("shuffle_seed", shuffle_seed, 0)
        if num_canonical_lanes is not None:
            check_count("num_canonical_lanes", num_canonical_lanes)
        if clips is not None and not isinstance(clips, ClipSpec):
            raise SpecError(f"clips={clips!r}: must be a ClipSpec, such as ClipSpec(num_frames=16, stride=4)")
        if (streams is None) == (remote is None and local is None):
            raise SpecError("give either streams=, or remote= and/or local= for one stream")
        if streams is None:
            streams = [VideoStream(remote=remote, local=local, split=split, index=index)]
        world = World.detect()
        streams = [copy(stream) for stream in streams]  # a stream may serve several datasets
        for number, stream in enumerate(streams):
            stream.open(world, number, clips, check_frame_size(frame_size), split)
        if len({stream.local for stream in streams}) < len(streams):
            raise SpecError("two of the streams= have the same remote=, local= and clips=: leave one out")
        global_batch = batch_size * world.num_ranks // (kwargs.get("replication") or 1)
        lanes = choose_lanes(streams, global_batch, num_canonical_lanes, warn=world.is_leader)
        predownload = 8 * batch_size if predownload is None else predownload
        check_count("predownload", predownload)
        if cache_limit is not None:
            cache_limit = check_cache_limit(cache_limit, streams)
            check_open_segments(cache_limit, streams, -(-lanes[0] * lanes[1] // world.num_nodes), predownload)
        self.layout = layout
        self.transform = transform
        self.sample_transform = sample_transform
        self.shuffle_by = shuffle_by
        self.drop_last = drop_last
        self.resume = resume
        self._reader: LaneReader | None = None
        self._begun = self._iterated = False
        host = dict(
            streams=streams,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_seed=shuffle_seed,
            predownload=predownload,
            cache_limit=cache_limit,
            **kwargs,
        )
        self._init_host(host)
        self._clips_per_segment = np.asarray(self.samples_per_shard, np.int64)
        # (epoch, first sample, slots, phases, 1 once a loader drives the dataset); workers of any start method see it.
        self._point = torch.tensor([0, 0, *lanes, 0], dtype=torch.int64).share_memory_()

    def _init_host(self, arguments: dict[str, Any]) -> None:
        """streaming takes a cache for in use until the workers of a job that was killed have noticed."""
        deadline = time.monotonic() + 20
        while True:
            try:
                super().__init__(**arguments)
                return
            except FileExistsError:  # another job took the same name at the same moment
                if World.detect().num_ranks > 1 or time.monotonic() > deadline:
                    raise
            except ValueError as error:
                if "Reused local directory" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise CacheError(
                        f"another dataset of this machine uses the same cache ({arguments['streams'][0].local}): "
                        "give each a local= of its own. If none is running, delete what one left in /dev/shm"
                    ) from None
            for stream in arguments["streams"]:
                stream.forget_weights()
            time.sleep(0.5)

    # Size and order.

    @property
    def global_batch_size(self) -> int:
        """Samples that all ranks together get in a step."""
        assert isinstance(self.batch_size, int)
        return self.batch_size * self.rank_world.num_ranks

    @property
    def num_clips(self) -> int:
        """Clips in an epoch, repeats not counted."""
        return int(self._clips_per_segment.sum())

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, the same for every rank."""
        return num_batches(self.num_clips, self.global_batch_size, self.drop_last)

    @property
    def lanes(self) -> tuple[int, int]:
        """(slots, phases): their product is the number of canonical lanes."""
        return int(self._point[2]), int(self._point[3])

    def __len__(self) -> int:
        """Samples per rank in an epoch, repeats included."""
        assert isinstance(self.batch_size, int)
        return self.num_batches * self.batch_size

    def epoch_order(self, epoch: int) -> EpochOrder:
        """The order of one epoch; see ``core.order``."""
        videos = []
        first = 0
        for stream in self.streams:
            videos.append(stream.index.video[stream.segments] + first)
            first += len(stream.index.videos)
        seed = self.shuffle_seed
        segments = segment_order(np.concatenate(videos), self.shuffle, self.shuffle_by, seed, epoch)
        return EpochOrder(segments, self._clips_per_segment, *self.lanes)

    # Epochs and resume.

    def begin_epoch(self) -> tuple[int, int]:
        """Settle (epoch, first sample) of the iteration that is about to start; loaders call it."""
        if self._iterated:
            self._point[0] += 1
            self._point[1] = 0
        self._iterated = self._begun = True
        self._point[4] = 1
        self.clear_failure()
        return int(self._point[0]), int(self._point[1])

    def resume_point(self, presumed_epoch: int) -> tuple[int, int]:
        epoch, sample, _, _, driven = self._point.tolist()
        if driven or presumed_epoch == epoch:
            return epoch, sample
        return presumed_epoch, 0

    def epoch_work(self, epoch: int, sample_in_epoch: int, world: World) -> Sequence[int]:
        self._epoch = epoch
        if self._reader is not None and not self._reader.inherited:
            self._reader.close_all()
        assert isinstance(self.batch_size, int)
        order = self.epoch_order(epoch)
        return WorkerClips(order, sample_in_epoch, self.batch_size, self.drop_last, world)

    def lanes_advice(self, num_workers: int) -> str | None:
        """What is wrong with the number of lanes for this world and ``num_workers``, in words; None if nothing is."""
        slots, phases = self.lanes
        workers = max(num_workers, 1)
        stride = self.global_batch_size * workers
        if slots * phases == 1 or slots * phases % stride == 0:
            return None
        near = max(1, round(slots * phases / stride)) * stride
        return (
            f"global batch {self.global_batch_size} x {workers} workers does not divide the {slots * phases} canonical "
            f"lanes: the samples stay the same, but lanes wander between workers and stretches are decoded again; "
            f"num_canonical_lanes={near} fits (for a new run)"
        )

    def __iter__(self) -> Iterator[Sample]:
        if get_worker_info() is None:
            if not self._begun:
                self.begin_epoch()
            self._begun = False
        try:
            yield from super().__iter__()
        except OnetakeError as error:
            if get_worker_info() is None or not self._point[4]:
                raise
            yield WorkerFailure(error)  # torch would turn it into its own text; the loader raises it as it is
        finally:
            if self._reader is not None and not self._reader.inherited:
                self._reader.close_all()

    def state_at(self, epoch: int, sample: int) -> dict[str, Any]:
        """The state from which training goes on after ``sample`` trained samples of ``epoch``, counted over all
        ranks. Plain containers only. A finished epoch is saved as the start of the next."""
        if not num_batches(max(self.num_clips - sample, 0), self.global_batch_size, self.drop_last):
            epoch, sample = epoch + 1, 0
        world = self.rank_world
        places = self._next_places(epoch, sample)
        return {
            "epoch": epoch,
            "sample_in_epoch": sample,
            "num_canonical_nodes": self.num_canonical_nodes or world.num_nodes,
            "shuffle_seed": self.shuffle_seed,
            "initial_physical_nodes": self.initial_physical_nodes or world.num_nodes,
            "onetake": {
                "version": STATE_VERSION,
                "order": self._order_key(),
                "cursors": pack_cursors(
                    [place and (place.video_id, place.start_frame) for place in places],
                    [place.video.seconds / place.video.num_frames if place else 0.0 for place in places],
                ),
            },
        }

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """See StreamingDataset.state_dict; ``num_samples`` counts trained samples over all ranks."""
        epoch, first = int(self._point[0]), int(self._point[1])
        if not self._iterated:
            return self.state_at(epoch, first)
        return self.state_at(epoch, num_samples if from_beginning else first + num_samples)

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Go on from a saved state, with any number of ranks and workers, and any batch size.

        Raises:
            ResumeError: the state is none of ours, or (with ``resume="strict"``) its order is not this dataset's.
        """
        epoch, sample, order, cursors = read_state(obj)
        slots, phases = int(order.get("slots", 0)), int(order.get("phases", 0))
        if slots < 1 or phases < 1 or epoch < 0 or sample < 0:
            raise ResumeError("the state's numbers are damaged; load another checkpoint")
        kept = self._point.clone()
        self._point[:4] = torch.tensor([epoch, sample, slots, phases])
        changes = check_order(order, self._order_key())
        if not changes and cursors != self.cursors(epoch, sample):
            changes = ["the videos and frames at which lanes go on are not the same"]
        if changes and self.resume == "strict":
            self._point.copy_(kept)
            raise ResumeError(
                "the state does not fit this dataset: " + "; ".join(changes) + ". Restore the settings, or pass "
                'resume="continue" to go on at the same sample of the new order'
            )
        if changes:
            warnings.warn("resuming in another order than was saved: " + "; ".join(changes), stacklevel=2)
            self._point[1] = min(sample, self.num_batches * self.global_batch_size)
        self._iterated = self._begun = False

    def _order_key(self) -> dict[str, Any]:
        slots, phases = self.lanes
        return {
            "generations": [stream.index.generation for stream in self.streams],
            "clips": [stream.clips.to_dict() for stream in self.streams],
            "num_clips": self.num_clips,
            "shuffle": self.shuffle,
            "shuffle_by": self.shuffle_by,
            "shuffle_seed": self.shuffle_seed,
            "slots": slots,
            "phases": phases,
        }

    def cursors(self, epoch: int, sample: int) -> list[Cursor]:
        """Per lane, the video ID and frame at which it goes on after ``sample`` samples; None at its end."""
        places = self._next_places(epoch, sample)
        return [place and (place.video_id, place.start_frame) for place in places]

    def _next_places(self, epoch: int, sample: int) -> list[ClipPlace | None]:
        clips = self.epoch_order(epoch).next_clips(sample).tolist()
        return [None if clip < 0 else self._place(clip)[1] for clip in clips]

    # Samples.

    def _place(self, clip_id: int) -> tuple[int, ClipPlace]:
        shard_id, number = self.spanner[clip_id]
        return shard_id, ClipPlace(self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id], number)

    def get_item(self, sample_id: int, retry: int = _ATTEMPTS) -> Sample:
        """Sample number ``sample_id`` of the dataset, fetching its segment if need be.

        Raises:
            DecodeError, SourceError: the clip's frames can't be had; names the video and the remedy.
        """
        if self._reader is None or self._reader.inherited:
            self._reader = LaneReader(self._own_counters())
        lane = sample_id.lane if isinstance(sample_id, ClipRef) else None
        is_pad = isinstance(sample_id, ClipRef) and sample_id.is_pad
        shard_id, place = self._place(int(sample_id))
        video: list[torch.Tensor] = []

        def allocate(height: int, width: int) -> NDArray[np.uint8]:
            frames = place.spec.num_frames
            shape = (3, frames, height, width) if self.layout == "CTHW" else (frames, 3, height, width)
            video[:] = [torch.empty(shape, dtype=torch.uint8)]
            array = video[0].numpy()  # numpy copies on this thread alone, torch would wake its pool for every frame
            return array.transpose((1, 2, 3, 0) if self.layout == "CTHW" else (0, 2, 3, 1))

        for _ in range(retry):
            try:
                seconds = self._reader.read(place, lane, allocate)
                break
            except FileNotFoundError:
                self.prepare_shard(shard_id)
        else:
            raise SourceError(
                f"the segment of video {place.video_id!r} is evicted faster than it can be read: raise cache_limit="
            )
        self.touch_shard(shard_id)
        sample: Sample = {
            "video": video[0],
            "video_id": place.video_id,
            "start_frame": place.start_frame,
            "frame_index": torch.from_numpy(place.spec.frame_index(place.start_frame)),
            "pts_seconds": torch.from_numpy(seconds),
            "clip_id": int(sample_id),
            "valid": True,
            "is_pad": is_pad,
        }
        return self._transformed(sample, place)

    def _transformed(self, sample: Sample, place: ClipPlace) -> Sample:
        if self.transform is None and self.sample_transform is None:
            return sample
        seed = self.sample_seed(sample["clip_id"], getattr(self, "_epoch", 0), sample["is_pad"])
        if self.transform is not None:
            with seeded(seed):
                sample["video"] = self.transform(sample["video"])
        if self.sample_transform is not None:
            sample = self.sample_transform(sample, torch.Generator().manual_seed(seed))
        return sample

    def sample_seed(self, clip_id: int, epoch: int, is_pad: bool = False) -> int:
        """The seed of a sample's random transforms; see ``core.seeds``."""
        place = self._place(clip_id)[1]
        return sample_seed(self.shuffle_seed, epoch, place.stream.name, place.video_id, place.start_frame, int(is_pad))

    # Counting.

    def share_counters(self, num_workers: int) -> torch.Tensor:
        """Counters that all workers write and this process reads: int64 [workers, number of Counts]."""
        self._reader = None  # it counts elsewhere
        self._counters_of_workers = torch.zeros((max(num_workers, 1), len(Count)), dtype=torch.int64)
        return self._counters_of_workers.share_memory_()

    def _own_counters(self) -> Counters:
        shared = getattr(self, "_counters_of_workers", None)
        if shared is None:
            shared = self.share_counters(1)
        worker = get_worker_info()
        return shared[worker.id if worker and worker.id < len(shared) else 0].numpy()

    def failure(self, shard_id: int) -> Exception:
        place = ClipPlace(self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id], 0)
        try:
            place.stream.check_segment(place.shard)
        except OnetakeError as error:
            return error
        return SourceError(
            f"a segment of video {place.video_id!r} could not be fetched from {place.stream.videos_location}; "
            "the worker that tried says why"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reader": None}
