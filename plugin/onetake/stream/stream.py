"""One source of videos: where they are, where they are cached, and how clips are cut from them."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from streaming import Stream
from streaming.base.util import retry
from streaming.base.world import World

from onetake.core.clips import ClipSpec
from onetake.core.errors import IndexFileError, SpecError
from onetake.core.index import CONTAINER, PacketTable, Video
from onetake.core.layout import Layout, Timeline
from onetake.decode.colour import check_color_matrix
from onetake.decode.index_source import IndexSource, find_index
from onetake.decode.scale import FrameSize, check_frame_size
from onetake.decode.segment import byte_range, most_bytes, run_table
from onetake.decode.source import PacketSource, open_source
from onetake.decode.store import PACK_INDEX_FILES, read_index
from onetake.decode.validate import safe_path
from onetake.storage.base import Storage, StorageError
from onetake.storage.open import is_url, open_storage
from onetake.stream.arguments import (
    check_stream,
    check_stream_index,
    check_weights,
    no_clips,
    refuse_nested,
    refuse_other_streams,
    warn_of_hdr,
    warn_of_short,
)
from onetake.stream.cache import ledger_bytes
from onetake.stream.cached_index import copy_index
from onetake.stream.draws import EpochDraws
from onetake.stream.fetch import check_video, fetch_segment, unreachable
from onetake.stream.pack import Pack, PackShard, cached_table, check_shard, fetch_shard
from onetake.stream.selection import SAMPLE, Selection, choose, settle_split
from onetake.stream.shard import VideoShard
from onetake.stream.shared_cache import SharedCache

__all__ = ["VideoStream"]

T = TypeVar("T")
_KEPT_TIMELINES = 128


class VideoStream(Stream):
    """Videos of one place, cut into clips. Several can be mixed in one VideoDataset.

    With ``local`` alone, the videos are read in place: nothing is copied and nothing is ever deleted. With a
    ``remote``, segments are fetched into a folder of their own below ``local`` as they are needed.

    Args:
        remote: where the videos are: a folder, or a URL (s3://, gs://, az://, file://). None: ``local`` has them.
        local: the cache; without ``remote``, the videos' folder. None: a folder under the system's temporary one.
        split: one of the splits that the index has; where it has none, a subfolder of both.
        index: folder or URL of the index, if it is not where the videos are.
        clips: which clips. None: the dataset's.
        frame_size: (height, width), scaled to cover and centre-cropped; an int, the short side; None, native.
            Left out: the dataset's.
        where: filters the videos by columns of the index, its own and metadata, as pyarrow filters rows:
            ``[("height", ">=", 720), ("label", "in", ["cat", "dog"])]``; of lists of such lists, one must hold.
            A missing value meets no condition. Clips keep their numbers. None: the dataset's.
        columns: the metadata that samples have. None: the dataset's, or else all.
        exclude: IDs of videos that are left out. None: the dataset's.
        spans: what is done with annotated spans of videos. "sample": each span is taken for a video, so that no clip
            crosses its end, and samples have its metadata too. "attach": samples have "spans", a list with a dict of
            each span that they overlap. None: the dataset's, or else nothing.
        stream_index: which stream of each file was indexed; one that has another is refused. None: whichever was.
        color_matrix: how to turn YUV to RGB where a video does not say: "bt601", "bt709", ... None: as players do.
        proportion: the stream's share of an epoch, relative to the other streams'; all of them have one, or none has.
        repeat: how often an epoch goes through the stream; 0.5 takes half of it, in whole segments.
        choose: clips that an epoch takes of the stream. At most one of these three; None of them: all clips, once.
        name: names the stream in seeds of random transforms. None: ``split``.
        download_retry: further attempts at a download that failed. None: the dataset's.
        download_timeout: seconds to wait for what another process downloads. None: the dataset's.

    Raises:
        SpecError: an argument is out of range, or neither ``remote`` nor ``local`` is given.
        CacheError: ``local`` and ``remote`` lie within one another.
    """

    def __init__(
        self,
        *,
        remote: str | PathLike[str] | None = None,
        local: str | PathLike[str] | None = None,
        split: str | None = None,
        index: str | PathLike[str] | None = None,
        clips: ClipSpec | None = None,
        frame_size: FrameSize | str = "dataset",
        where: Sequence[Any] | None = None,
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        spans: str | None = None,
        stream_index: int | None = None,
        color_matrix: str | None = None,
        proportion: float | None = None,
        repeat: float | None = None,
        choose: int | None = None,
        name: str | None = None,
        download_retry: int | None = None,
        download_timeout: float | None = None,
    ) -> None:
        check_stream(remote, local, split, index, clips, name, download_retry, download_timeout)
        self.weights = check_weights(proportion=proportion, repeat=repeat, choose=choose)
        self.in_place = remote is None
        if local is not None and is_url(fspath(local)):
            raise SpecError(f"local={fspath(local)!r}: must be a folder of this machine; give a bucket as remote=")
        self.videos_location = fspath(remote if remote is not None else local)  # type: ignore[arg-type]
        self._index_location = None if index is None else fspath(index)
        self._cache_root = Path(local if local is not None else _temporary_folder("cache")).expanduser().absolute()
        if not self.in_place:
            refuse_nested(self._cache_root, self.videos_location)
        self.clips = clips
        self.selection = Selection.of(split, where, columns, exclude, spans)
        self.stream_index = check_stream_index(stream_index)
        self.color_matrix = check_color_matrix(color_matrix)
        self._frame_size = frame_size
        self.frame_size: FrameSize = None
        self.name = name if name is not None else split or ""
        super().__init__(
            local=str(self._cache_root),
            proportion=proportion,
            repeat=repeat,
            choose=choose,
            download_retry=download_retry,
            download_timeout=download_timeout,
        )
        # Not given to the host, which would make a downloader of its own for it.
        self.remote = None if self.in_place else self.videos_location

    def apply_default(self, default: dict[str, Any]) -> None:
        """Take over what the dataset says and the stream does not; called by streaming."""
        super().apply_default({**default, "split": None, "keep_zip": False, "validate_hash": None})

    def forget_weights(self) -> None:
        """Undo what the host derived, so that it can be told again."""
        for name in ("proportion", "repeat", "choose"):
            self.__dict__.pop(name, None)
        self.__dict__.update(self.weights)

    num_clips = 0  # clips that an epoch can draw from; known once it is open
    num_chosen = 0  # clips that an epoch takes; the dataset settles it
    scaling = "fast"  # the dataset's
    clips_per_sample: int | str = 1  # the dataset's
    cache: SharedCache | None = None  # None: the videos are read in place

    def open(self, world: World, number: int, clips: ClipSpec | None, size: FrameSize, selection: Selection) -> None:
        """Read the index and lay out the clips. The dataset calls it once, before anything else.

        Args:
            world: this process's place; on each node one process copies the index, the others wait for it.
            number: the stream's place among the dataset's.
            clips, size, selection: the dataset's, for what this stream leaves open.

        Raises:
            SpecError: there is no clip spec, no video is long enough for a clip, another stream was indexed, or a
                filter names what is not there or leaves nothing.
            SourceError: the videos' folder, or a video in it, is missing or was changed.
            IndexFileError: there is no index, or it can't be used.
        """
        if self.clips is None:
            self.clips = clips
        if self.clips is None:
            raise SpecError("no clips= given: say which clips, for example clips=ClipSpec(num_frames=16, stride=4)")
        self.frame_size = size if self._frame_size == "dataset" else check_frame_size(self._frame_size)
        root, beside = _open(self._index_location or self.videos_location), self._index_location is None
        self.subfolder, self.selection = settle_split(self.selection.or_else(selection), root, beside)
        self._videos = _open(self.videos_location, self.subfolder)
        self._source = find_index(self._videos) if beside else IndexSource(root)
        folder = self._source.storage.root
        if self.in_place:
            key = self.selection.key()
            # Nothing is ever written there; the host wants every stream to have a folder of its own.
            self.local = str(Path(self._videos.location, f".onetake-{number}{f'-{_digest(key)}' if key else ''}"))
            if folder is None:
                folder = _temporary_folder("index") / self._source.generation
                copy_index(self._source, folder, world)
        else:
            self.local = str(self._cache_root / self._cache_name(self._source.generation))
            folder = Path(self.local)
            copy_index(self._source, folder, world)
        whole = read_index(folder)
        self.pack = Pack.of(folder, whole)
        if self.pack is not None and self.selection.spans == SAMPLE:
            raise SpecError('spans="sample" is not for packs: use the videos themselves, or spans="attach"')
        chosen = choose(folder, whole, self.selection, self.videos_location)
        keyframes = chosen.keyframes() if self.clips.align else None
        self.index, self.metadata, self.attached_spans = chosen.index, chosen.metadata, chosen.attached
        self.video_of_segment = chosen.video_of_segment
        self.layout = Layout(self.clips, self.index, keyframes, self.clips_per_sample, chosen.kept)
        refuse_other_streams(self.layout.videos, self.stream_index, self.videos_location)
        if self.in_place:
            self._check_files()
        if self.pack is not None:
            self.pack.check_reach(self.layout, self.videos_location)
        self.segments: NDArray[np.int64] = np.flatnonzero(self.layout.num_clips)
        self.drawn_segments: NDArray[np.int64] = np.flatnonzero(self.layout.num_kept)
        self._timelines: OrderedDict[int, Timeline] = OrderedDict()
        self._lay_out_epochs(world.is_leader)

    def _lay_out_epochs(self, warn: bool) -> None:
        """Count what an epoch can draw from, and say which videos have no clip."""
        what = "span" if self.selection.spans == SAMPLE else "video"
        self.num_clips = self.layout.num_drawn
        if not self.num_clips:
            raise no_clips(self.layout, what, self.videos_location)
        self.draws = EpochDraws(self.layout, self.name, what == "span")
        self.num_short_videos = self.layout.num_empty_videos
        if warn:
            warn_of_hdr(self.layout.videos, self.videos_location)
        if self.num_short_videos and warn:
            warn_of_short(self.layout, what, self.videos_location)

    @property
    def shard_of_segment(self) -> NDArray[np.int64]:
        """int64 [S], never falling: the shard that holds each segment of the index. In place, every segment is one."""
        if self.pack is not None:
            return self.pack.shard_of_segment
        return np.arange(self.index.num_segments, dtype=np.int64)

    def clips_key(self) -> dict[str, Any]:
        """Plain values that tell apart which clips there are in a sample."""
        assert self.clips is not None
        each = {} if self.clips_per_sample == 1 else {"clips_per_sample": self.clips_per_sample}
        return self.clips.to_dict() | each

    def _cache_name(self, generation: str) -> str:
        key = [self.videos_location, self.subfolder, generation, self.clips_key(), self.selection.key()]
        return _digest(key)

    def _check_files(self) -> None:
        """In place, every video that is read must be there as it was indexed, or every shard as it was packed."""
        if self.pack is not None:
            self.pack.check_files(self._videos)
            return
        for video in {video.file: video for video in self.layout.videos}.values():
            check_video(self._videos, video)

    # What streaming asks of a stream.

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[Any]:
        """A shard for every segment, or MDS file of a pack, in which a clip starts."""
        if self.pack is not None:
            folder = self._videos.location if self.in_place else self.local
            return self.pack.shards(folder, self.layout.num_clips, self.in_place)
        return [
            VideoShard(self.local, segment, int(self.layout.num_clips[segment]), most, self.in_place)
            for segment, most in zip(self.segments.tolist(), self.most_segment_bytes.tolist(), strict=True)
        ]

    @property
    def most_segment_bytes(self) -> NDArray[np.int64]:
        """What each of ``segments`` weighs in the cache at most, int64."""
        if self.in_place:
            return np.zeros(len(self.segments), np.int64)
        if self.pack is not None:
            return self.pack.most_bytes(self.segments)
        return most_bytes(self.index, self.segments, self.layout.stop_frame[self.segments]) + 4096

    def get_index_size(self) -> int:
        """Bytes of the cache that the index takes."""
        if self.in_place:
            return 0
        paths = (Path(self.local, name) for name in PACK_INDEX_FILES)
        return sum(path.stat().st_size for path in paths if path.exists())

    @property
    def fixed_cache_bytes(self) -> int:
        """Bytes of the cache that are no segments."""
        return self.get_index_size() + ledger_bytes(len(self.segments))

    def set_up_local(self, shards: list[Any], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """The host asks what an earlier run left in the cache: the ledger knows."""

    def prepare_shard(self, shard: VideoShard) -> int:  # type: ignore[override]
        """Fetch a segment, unless it is in the cache: by how many bytes the cache grew.

        Raises:
            SourceError: its video is not there, or not as it was indexed.
            CacheError: the cache can't be written.
        """
        if self.in_place or shard.bytes_on_disk():
            return 0
        self._retrying(lambda: self._fetch(shard), shard.segment)
        return shard.bytes_on_disk()

    def _fetch(self, shard: VideoShard) -> None:
        if isinstance(shard, PackShard):
            fetch_shard(self._videos, shard, partial(self._source.read_table, self.index))
            return
        video = self.index.videos[self.index.video[shard.segment]]
        fetch_segment(self._videos, video, self._read_run(shard.segment), shard)

    def _retrying(self, run: Callable[[], T], segment: int) -> T:
        """Do what needs the videos or their index, as often as is allowed."""
        try:
            return retry(StorageError, num_attempts=1 + self.download_retry)(run)()
        except StorageError as error:
            raise unreachable(self._videos, self.index.videos[self.index.video[segment]], error) from None

    def _read_run(self, segment: int, table: PacketTable | None = None) -> PacketTable:
        """The packets that a segment's clips need; of a pack, ``table`` has them all, if it was read already."""
        layout, stop = self.layout, int(self.layout.stop_frame[segment])
        if self.pack is not None:
            stop = min(stop, int(self.pack.stop_frame[segment]))
        stop_pts = int(layout.stop_pts[segment]) if layout.needs_timeline(segment) else None
        read = partial(self._source.read_table, self.index) if table is None else lambda _: table
        return run_table(self.index, segment, stop, read, stop_pts)

    def _run_table(self, segment: int) -> PacketTable:
        return self._retrying(lambda: self._read_run(segment), segment)

    def timeline(self, segment: int) -> Timeline:
        """When the frames of a segment's clips are shown, from the index. Where its packets are at hand, those tell.

        Raises:
            IndexFileError: the packet tables can't be read.
        """
        known = self._timelines.pop(segment, None)
        if known is None:
            known = Timeline.of(self._run_table(segment), int(self.index.first_frame[segment]))
        self._timelines[segment] = known
        while len(self._timelines) > _KEPT_TIMELINES:
            self._timelines.popitem(last=False)
        return known

    def check_segment(self, shard: VideoShard) -> None:
        """Raise SourceError unless the segment's video is there, as it was indexed, or its shard."""
        if isinstance(shard, PackShard):
            check_shard(self._videos, shard.file, shard.num_bytes)
            return
        check_video(self._videos, self.index.videos[self.index.video[shard.segment]])

    # What the reader asks.

    def open_segment(self, shard: VideoShard, segment: int) -> tuple[Video, PacketSource]:
        """A segment's video, and a source of its packets.

        Raises:
            FileNotFoundError: the segment is not in the cache.
            VideoError: the video was indexed, but cannot be opened.
        """
        video = self.index.videos[self.index.video[segment]]
        if isinstance(shard, PackShard):
            assert self.pack is not None
            table = None if self.in_place else cached_table(shard, self.index, segment)
            run = self._run_table(segment) if table is None else self._read_run(segment, table)
            return video, self.pack.open(shard, segment, run)
        if self.in_place:
            check_video(self._videos, video)
            path = Path(self._videos.location, safe_path(video.file))
            return video, open_source(video, self._run_table(segment), path)
        data = shard.table_path.read_bytes()
        num_packets, start = (int.from_bytes(data[at : at + 8], "little") for at in (0, 8))
        try:
            table = PacketTable.from_bytes(data[16:], num_packets)
            length = video.file_bytes if video.kind == CONTAINER else byte_range(table)[1]
        except IndexFileError:
            length = -1
        if shard.path.stat().st_size != length:
            shard.evict()
            raise FileNotFoundError(f"the cached segment {shard.path} was damaged")  # so that it is fetched again
        return video, open_source(video, table, shard.path, start)


def _digest(key: object) -> str:
    return blake2b(repr(key).encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _open(location: str, subfolder: str | None = None) -> Storage:
    storage = open_storage(location)
    if storage.root is not None:
        storage.check()  # a bucket tells as soon as it is read, also where it may not be listed
    return storage.below(subfolder) if subfolder else storage


def _temporary_folder(name: str) -> Path:
    return Path(tempfile.gettempdir(), f"onetake-{name}-{os.getuid()}")  # several users share that folder
