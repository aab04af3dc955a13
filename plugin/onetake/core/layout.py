"""Where the clips of an index are: how many start in each segment, and which frames each one holds.

Positions in a video are counted from its first frame, in whole *units*: a tick of its clock is ``Grid.scale`` of them,
chosen so that the start and every target time of every clip is a whole number. Where clips are counted in frames, a
frame is a tick and a unit. So both kinds of grids are one arithmetic, of whole numbers alone.

A container's clock may be too coarse for the frame rate: MKV at 24, 29.97 or 30 fps rounds every time to a
millisecond. A frame then counts as on screen one tick before its time already (*tolerance*): two roundings of half a
tick, that of its own time and that of the first frame's. A clip starts and ends within its video by the same measure.
There is no tolerance where frames are equally spaced (a few may be so by chance), nor where they last so few ticks that
one is not small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onetake.core.clips import ClipSpec
from onetake.core.draw import pick_clips
from onetake.core.grid import Grid, Timeline
from onetake.core.index import Keyframes, Video, VideoIndex
from onetake.core.lane_counts import default_lanes

__all__ = ["Grid", "Layout", "Timeline", "choose_lanes"]

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]

_FEWEST_TICKS = 8  # that a frame must last on average for one tick to be small
_FEW_FRAMES = 64  # 23.976 frames a second on a clock of 90 kHz: three steps of 3754 ticks, then one of 3753


_grid = lru_cache(maxsize=1024)(Grid.of)


class Layout:
    """The clips of an index. A clip belongs to the segment it starts in, and has a number, counted over all segments.

    With jitter, an epoch's clips start up to a hop later, but count where they would start without it.

    With several clips per sample, samples take the place of clips in all of this: runs of so many clips of a video, one
    after the other from its first on. Clips at its end that don't fill one are left out.

    Args:
        spec: which clips.
        index: S segments of V videos.
        keyframes: the index's, for a spec that is aligned to them.
        clips_per_sample: how many; "all" of a video.
        kept: bool [V], the videos of which an epoch takes clips; the others' are counted all the same. None: all.

    Attributes:
        clips_of_videos: int64 [V], clips of each video, also those that are in no sample.
        num_clips: int64 [S], clips that start in each segment.
        kept: bool [V], whether an epoch takes clips of a video.
        num_kept: int64 [S], those of ``num_clips`` that an epoch may take: none of a video that is not kept.
        clips_before: int64 [S + 1], the number of each segment's first clip; the last entry is the number of clips.
        first_clip: int64 [S], the same, counted within the segment's video.
        stop_frame: int64 [S], no frame from here on is needed by the segment's clips; 0 where there is no clip. It may
            lie in a later segment. The first such frame, unless times decide and are not equally spaced.
        stop_pts: int64 [S], no frame shown after this time is needed; None where clips are counted in frames.
    """

    def __init__(
        self,
        spec: ClipSpec,
        index: VideoIndex,
        keyframes: Keyframes | None = None,
        clips_per_sample: int | str = 1,
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        self.spec, self.index, self.clips_per_sample = spec, index, clips_per_sample
        videos = index.videos
        self._first_segment = np.searchsorted(index.video, np.arange(len(videos) + 1)).astype(np.int64)
        self._first = index.first_frame[self._first_segment[:-1]]  # frame of each video: spans have others than 0
        frames = np.array([video.num_frames for video in videos], np.int64)
        if spec.by_time:
            self._origin = index.first_pts[self._first_segment[:-1]]
            self._begin = index.first_pts - self._origin[index.video]
            self._duration = np.array([max(video.duration, 1) for video in videos], np.int64)
            even = np.array([video.frame_ticks > 0 for video in videos], np.bool_) & (frames >= _FEW_FRAMES)
            self._tolerance = (~even & (self._duration >= _FEWEST_TICKS * frames)).astype(np.int64)
        else:
            self._origin = self._tolerance = np.zeros_like(frames)
            self._begin, self._duration = index.first_frame - self._first[index.video], frames
        self._key_frame = self._key_tick = np.zeros(0, np.int64)
        if spec.align is None:
            clips = self._on_grid()
        else:
            assert keyframes is not None
            clips = self._at_keyframes(keyframes)
        self.num_clips = self._in_samples(clips)
        self.kept = np.ones(len(videos), np.bool_) if kept is None else kept
        self.num_kept = np.where(self.kept[index.video], self.num_clips, 0)
        self.clips_before = np.concatenate([[0], np.cumsum(self.num_clips)]).astype(np.int64)
        self.first_clip = self.clips_before[:-1] - self.clips_before[self._first_segment[index.video]]
        last_tick = self._last_ticks()
        self.stop_frame = self._stop_frames(last_tick)
        self.stop_pts = self._origin[index.video] + last_tick if spec.by_time else None

    # How many clips.

    def _clocks(self) -> Iterator[tuple[Grid, Int64Array, Int64Array]]:
        """(grid, its videos, its segments) for each kind of clock."""
        index = self.index
        numbers: dict[tuple[int, int], int] = {}
        bases = [video.time_base if self.spec.by_time else (1, 1) for video in index.videos]
        clock = np.array([numbers.setdefault(base, len(numbers)) for base in bases], np.int64)
        for base, number in numbers.items():
            yield _grid(self.spec, base), np.flatnonzero(clock == number), np.flatnonzero(clock[index.video] == number)

    def _room(self, grid: Grid, videos: Int64Array) -> NDArray[Any]:
        """From how many positions of each of ``videos`` a clip fits; not positive if from none."""
        # A keyframe's time is rounded as well.
        slack = (2 if self.spec.align is None else 3) * self._tolerance[videos]
        return grid.exact(self._duration[videos] - slack) * grid.scale - grid.span

    def _on_grid(self) -> Int64Array:
        """Clips of each segment."""
        index = self.index
        first = np.zeros(index.num_segments, np.int64)
        total = np.zeros(len(index.videos), np.int64)
        for grid, videos, segments in self._clocks():
            total[videos] = np.maximum(-(-self._room(grid, videos) // grid.hop), 0)
            begin = grid.exact(self._begin[segments] - self._tolerance[index.video[segments]])
            first[segments] = np.maximum(-(-begin * grid.scale // grid.hop), 0)
        first = np.minimum(first, total[index.video])
        stop = np.append(first[1:], 0)
        stop[self._first_segment[1:] - 1] = total
        return stop - first

    def _at_keyframes(self, keyframes: Keyframes) -> Int64Array:
        """Clips of each segment: the first keyframe of each cell of the grid, where a clip fits."""
        index = self.index
        segment = np.repeat(np.arange(index.num_segments), np.diff(keyframes.start))
        video = index.video[segment]
        tick = keyframes.pts - self._origin[video] if self.spec.by_time else keyframes.frame - self._first[video]
        kept = np.zeros(len(tick), np.bool_)
        for grid, videos, segments in self._clocks():
            keys = np.flatnonzero(np.isin(segment, segments, kind="table"))
            room = np.zeros(len(index.videos), object)
            room[videos] = self._room(grid, videos)
            own = video[keys]
            cell = grid.exact(tick[keys] + self._tolerance[own]) * grid.scale // grid.hop
            first = (np.diff(own, prepend=-1) != 0) | (np.diff(cell, prepend=-1) != 0)
            kept[keys] = first & (grid.exact(tick[keys]) * grid.scale < room[own]).astype(np.bool_)
        self._key_frame, self._key_tick = keyframes.frame[kept], tick[kept]
        return np.bincount(segment[kept], minlength=index.num_segments).astype(np.int64)

    def _in_samples(self, clips: Int64Array) -> Int64Array:
        """Samples that start in each segment, of the clips that do."""
        before = np.concatenate([[0], np.cumsum(clips)]).astype(np.int64)
        self._first_key = before[self._first_segment]  # of each video
        self.clips_of_videos = np.diff(self._first_key)
        each = self.clips_per_sample
        self._each = np.maximum(self.clips_of_videos, 1) if isinstance(each, str) else np.full_like(self._origin, each)
        video = self.index.video
        first, size = before[:-1] - self._first_key[video], self._each[video]
        whole = self.clips_of_videos[video] // size
        samples: Int64Array = np.minimum(-(-(first + clips) // size), whole) - np.minimum(-(-first // size), whole)
        return samples

    @property
    def num_clips_of_videos(self) -> Int64Array:
        """int64 [V]."""
        return np.diff(self.clips_before[self._first_segment])

    @property
    def most_clips(self) -> int:
        """Clips of that of the videos kept which has most of them, also those that are in no sample."""
        return int(self.clips_of_videos[self.kept].max())

    @property
    def num_empty_videos(self) -> int:
        """How many of the videos kept have no sample."""
        return int(np.count_nonzero(self.num_clips_of_videos[self.kept] == 0))

    @property
    def frames_spanned(self) -> float:
        """Frames of the video from a clip to the next, or to the clip's end if that comes first; on average, and for
        all clips of a sample."""
        spec, videos = self.spec, self.index.videos
        each = int((self.num_clips_of_videos * self._each).sum()) / max(int(self.num_clips.sum()), 1)
        if not spec.by_time:
            return each * min(spec.extent, spec.hop_frames)
        rate = sum(video.num_frames for video in videos) / max(sum(video.seconds for video in videos), 1e-6)
        return each * max(float(min(spec.extent_time, spec.hop_time)) * rate, 1)

    # What an epoch draws from.

    @property
    def videos(self) -> Sequence[Video]:
        """Those that are kept."""
        return [self.index.videos[number] for number in np.flatnonzero(self.kept).tolist()]

    @property
    def num_drawn(self) -> int:
        """How many clips an epoch draws from: all, or ``clips_per_video`` of each video that has more."""
        clips, most = self.num_clips_of_videos[self.kept], self.spec.clips_per_video
        return int((clips if most is None else np.minimum(clips, most)).sum())

    def pick(self, keys: UInt64Array, seed: int, epoch: int) -> Int64Array | None:
        """Numbers of the clips that an epoch draws from, rising; None for all that are kept. See
        ``core.draw.pick_clips``."""
        if self.spec.clips_per_video is None:
            return None
        picked = pick_clips(self.num_clips_of_videos, self.spec.clips_per_video, keys, seed, epoch)
        if self.kept.all():
            return picked
        stops = self.clips_before[self._first_segment[1:]]
        taken: Int64Array = picked[self.kept[np.searchsorted(stops, picked, side="right")]]
        return taken

    def num_picked(self, picked: Int64Array | None) -> Int64Array:
        """int64 [S]: how many clips of each segment are among those that ``pick`` gave."""
        return self.num_kept if picked is None else np.diff(np.searchsorted(picked, self.clips_before))

    # How far segments reach.

    def _last_ticks(self) -> Int64Array:
        """int64 [S]: no clip of the segment has a frame that comes on screen after this tick."""
        last = np.zeros(self.index.num_segments, np.int64)
        for grid, videos, segments in self._clocks():
            segments = segments[self.num_clips[segments] > 0]
            video = self.index.video[segments]
            clip = (self.first_clip[segments] + self.num_clips[segments]) * self._each[video] - 1
            if self.spec.align is not None:
                start = grid.exact(self._key_tick[self._first_key[video] + clip]) * grid.scale
            else:
                room = np.zeros(len(self.index.videos), object)
                room[videos] = self._room(grid, videos)
                start = np.minimum(
                    clip.astype(object) * grid.hop + (grid.hop - 1 if self.spec.jitter else 0), room[video] - 1
                )
            last[segments] = (start + grid.span) // grid.scale + self._tolerance[video]
        return last

    def _stop_frames(self, last_tick: Int64Array) -> Int64Array:
        index = self.index
        segments = np.flatnonzero(self.num_clips)
        video, last = index.video[segments], last_tick[segments]
        stop = np.zeros(index.num_segments, np.int64)
        if not self.spec.by_time:
            stop[segments] = self._first[video] + last + 1
            return stop
        ticks = np.array([video.frame_ticks for video in index.videos], np.int64)[video]
        even, uneven = ticks > 0, ticks == 0
        stop[segments[even]] = self._first[video[even]] + last[even] // ticks[even] + 1
        stop[segments[uneven]] = self._first_frame_after(segments[uneven], last[uneven])
        return stop

    def _first_frame_after(self, segments: Int64Array, tick: Int64Array) -> Int64Array:
        """The first frame of the first segment after each of ``segments`` that begins after ``tick``; where the video
        has none, where its frames end."""
        index = self.index
        video = np.append(index.video, -1)
        begin = np.append(self._begin, 0)
        own = index.video[segments]
        after = segments + 1
        going = np.arange(len(segments))
        while len(going):
            going = going[(video[after[going]] == own[going]) & (begin[after[going]] <= tick[going])]
            after[going] += 1
        ends = self._first[own] + np.array([video.num_frames for video in index.videos], np.int64)[own]
        return np.where(video[after] == own, np.append(index.first_frame, 0)[after], ends)

    # One clip.

    def needs_timeline(self, segment: int) -> bool:
        """Whether frames of the segment's clips follow from times that only packet tables tell."""
        return self.spec.by_time and not self.index.videos[self.index.video[segment]].frame_ticks

    def shift(self, segment: int, draw: int) -> int:
        """By how many units a random number of 64 bits shifts the grid of the segment's video: less than a hop."""
        return self._grid(segment).hop * draw >> 64

    def frames(self, segment: int, clip: int, shift: int, timeline: Callable[[], Timeline]) -> list[int]:
        """The frames of clip number ``clip`` of a segment: T numbers that never fall. Of a sample of K clips, K * T
        numbers, clip after clip; the first is the lowest, the last the highest.

        Args:
            segment: the segment.
            clip: the clip's number within the segment.
            shift: see ``shift``; 0 without jitter.
            timeline: gives the timeline of the segment's clips; called where it is needed.
        """
        count = self._grid(segment).num_frames
        clips = self._clips_in(segment, clip)
        return [frame for own in clips for frame in self._frames(segment, own, count, shift, timeline)]

    def start_frame(self, segment: int, clip: int, shift: int, timeline: Callable[[], Timeline]) -> int:
        """The first of ``frames``."""
        return self._frames(segment, self._clips_in(segment, clip)[0], 1, shift, timeline)[0]

    def _clips_in(self, segment: int, sample: int) -> range:
        """The clips of a sample, counted within their video."""
        each = int(self._each[self.index.video[segment]])
        first = (int(self.first_clip[segment]) + sample) * each
        return range(first, first + each)

    def _frames(self, segment: int, clip: int, count: int, shift: int, timeline: Callable[[], Timeline]) -> list[int]:
        ticks = self._grid(segment).targets(self._position(segment, clip, shift), count)
        video = int(self.index.video[segment])
        first = int(self._first[video])
        if not self.spec.by_time:
            return [first + tick for tick in ticks]
        head = [] if self.spec.align is None else [int(self._key_frame[self._first_key[video] + clip])]
        tolerance = int(self._tolerance[video])
        rest = [tick + tolerance for tick in ticks[len(head) :]]
        frame_ticks = self.index.videos[video].frame_ticks
        if frame_ticks:
            return head + [first + tick // frame_ticks for tick in rest]
        origin = int(self._origin[video])
        return head + (timeline().on_screen([origin + tick for tick in rest]) if rest else [])

    def _position(self, segment: int, clip: int, shift: int) -> int:
        grid, video = self._grid(segment), int(self.index.video[segment])
        if self.spec.align is not None:
            return int(self._key_tick[self._first_key[video] + clip]) * grid.scale
        start = clip * grid.hop + shift
        return min(start, int(self._room(grid, np.array([video]))[0]) - 1) if shift else start

    def _grid(self, segment: int) -> Grid:
        return _grid(self.spec, self.index.videos[self.index.video[segment]].time_base)


def choose_lanes(
    layouts: Sequence[Layout], num_clips: Sequence[int], global_batch: int, num_lanes: int | None, times: int = 1
) -> tuple[tuple[int, int], float]:
    """Lanes for a first run, and what they cost.

    Args:
        layouts: of each stream.
        num_clips: how many clips an epoch takes of each.
        global_batch: clips in a step of all ranks.
        num_lanes: what the user asked for, or None.
        times: how often there are so many lanes: where each stream has its own, as often as there are streams.

    Returns:
        (slots, phases), see ``core.order.default_lanes``; and how many frames are decoded in vain where lanes start,
        per frame that the epoch's clips span.
    """
    frames = keyframes = spanned = 0
    for layout, clips in zip(layouts, num_clips, strict=True):
        spanned += round(clips * layout.frames_spanned)
        if layout.spec.align is None and layout.clips_per_sample != "all":
            filled = np.flatnonzero(layout.num_kept)
            frames += int(layout.index.num_frames[filled].sum())
            keyframes += int(layout.index.num_keyframes[filled].sum())
    lead_in = times * frames / keyframes / 2 if keyframes else 0.0
    lanes = default_lanes(global_batch, num_lanes, lead_in, spanned)
    return lanes, lanes[0] * lanes[1] * lead_in / max(spanned, 1)
