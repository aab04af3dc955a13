"""One source of videos: where they are, where they are cached, and how clips are cut from them."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from streaming import Stream
from streaming.base.util import retry, wait_for_file_to_exist
from streaming.base.world import World

from onetake.core.clips import ClipSpec, SegmentClips, clips_of_segments
from onetake.core.errors import CacheError, IndexFileError, SourceError, SpecError
from onetake.core.index import CONTAINER, PacketTable, Video
from onetake.decode.scale import FrameSize, check_frame_size
from onetake.decode.segment import byte_range, max_bytes, run_table
from onetake.decode.source import PacketSource, open_source
from onetake.decode.store import INDEX_FILES, PACKETS_BIN, read_header, read_index, read_table_bytes, safe_path
from onetake.stream.shard import VideoShard
from onetake.stream.source import Folder, open_location

__all__ = ["VideoStream"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
_TICK_SECONDS = 0.05


class VideoStream(Stream):
    """Videos of one place, cut into clips. Several can be mixed in one VideoDataset.

    With ``local`` alone, the videos are read in place: nothing is copied and nothing is ever deleted. With a
    ``remote``, segments are fetched into a folder of their own below ``local`` as they are needed.

    Args:
        remote: where the videos are: a folder or a file:// URL. None: ``local`` has them.
        local: the cache; without ``remote``, the videos' folder. None: a folder under the system's temporary one.
        split: a subfolder of both.
        index: folder of the index, if it is not where the videos are.
        clips: which clips. None: the dataset's.
        frame_size: (height, width), scaled to cover and centre-cropped; an int, the short side; None, native.
            Left out: the dataset's.
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
        proportion: float | None = None,
        repeat: float | None = None,
        choose: int | None = None,
        name: str | None = None,
        download_retry: int | None = None,
        download_timeout: float | None = None,
    ) -> None:
        if remote is None and local is None:
            raise SpecError("VideoStream needs remote= (videos that are cached) or local= (videos read in place)")
        self.weights = check_weights(proportion=proportion, repeat=repeat, choose=choose)
        self.in_place = remote is None
        self.videos_location = fspath(remote if remote is not None else local)  # type: ignore[arg-type]
        self._index_location = None if index is None else fspath(index)
        self._cache_root = (
            Path(local if local is not None else Path(tempfile.gettempdir(), "onetake-cache")).expanduser().absolute()
        )
        if not self.in_place:
            _refuse_nested(self._cache_root, self.videos_location)
        self.subfolder = split
        self.clips = clips
        self._frame_size = frame_size
        self.frame_size: FrameSize = None
        self.name = name if name is not None else split or ""
        super().__init__(
            remote=None if self.in_place else self.videos_location,
            local=str(self._cache_root),
            proportion=proportion,
            repeat=repeat,
            choose=choose,
            download_retry=download_retry,
            download_timeout=download_timeout,
        )

    def apply_default(self, default: dict[str, Any]) -> None:
        """Take over what the dataset says and the stream does not; called by streaming."""
        super().apply_default({**default, "split": None, "keep_zip": False, "validate_hash": None})

    def forget_weights(self) -> None:
        """Undo what the host derived, so that it can be told again."""
        for name in ("proportion", "repeat", "choose"):
            self.__dict__.pop(name, None)
        self.__dict__.update(self.weights)

    num_chosen = 0  # clips that an epoch takes; the dataset settles it

    @property
    def num_clips(self) -> int:
        """Clips that the stream has."""
        return int(self.layout.num_clips.sum())

    def open(self, world: World, number: int, clips: ClipSpec | None, frame_size: FrameSize, split: str | None) -> None:
        """Read the index and lay out the clips. The dataset calls it once, before anything else.

        Args:
            world: this process's place; on each node one process copies the index, the others wait for it.
            number: the stream's place among the dataset's.
            clips, frame_size, split: the dataset's, for what this stream leaves open.

        Raises:
            SpecError: there is no clip spec, or no video is long enough for a clip.
            SourceError: the videos' folder, or a video in it, is missing or was changed.
            IndexFileError: there is no index, or it can't be used.
        """
        if self.clips is None:
            self.clips = clips
        if self.clips is None:
            raise SpecError("no clips= given: say which clips, for example clips=ClipSpec(num_frames=16, stride=4)")
        self.frame_size = frame_size if self._frame_size == "dataset" else check_frame_size(self._frame_size)
        if self.subfolder is None:
            self.subfolder = split
        videos = open_location(self.videos_location).root / (self.subfolder or "")
        self._videos = Folder(videos)
        self._index_source = videos if self._index_location is None else open_location(self._index_location).root
        header = read_header(self._index_source)
        if self.in_place:
            # Nothing is ever written there; the host wants every stream to have a folder of its own.
            self.local = str(videos / f".onetake-{number}")
            self.index = read_index(self._index_source)
            self._check_files()
        else:
            self.local = str(self._cache_root / self._cache_name(header["generation"]))
            self._copy_index(world, header["generation"])
            self.index = read_index(Path(self.local))
        index = self.index
        self.layout: SegmentClips = clips_of_segments(
            self.clips, index.first_frame, index.num_frames, index.video_frames
        )
        self.segments: NDArray[np.int64] = np.flatnonzero(self.layout.num_clips)
        if not len(self.segments):
            longest = max(video.num_frames for video in index.videos)
            raise SpecError(
                f"no video in {self.videos_location} is long enough for a clip: one extends over "
                f"{self.clips.extent} frames, the longest video has {longest}; use fewer frames or a smaller stride"
            )
        self.num_short_videos = sum(video.num_frames < self.clips.extent for video in index.videos)
        if self.num_short_videos and world.is_leader:
            logger.warning(
                "%d of the %d videos in %s are shorter than a clip (%d frames) and give none",
                self.num_short_videos,
                len(index.videos),
                self.videos_location,
                self.clips.extent,
            )

    def _cache_name(self, generation: str) -> str:
        key = [self.videos_location, self.subfolder, generation, self.clips and self.clips.to_dict()]
        return blake2b(repr(key).encode(), digest_size=8).hexdigest()

    def _copy_index(self, world: World, generation: str) -> None:
        """Bring the index into the cache, all but the packet tables, which are read by range."""
        folder = Path(self.local)
        marker = folder / INDEX_FILES[-1]
        if world.is_local_leader:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for name in INDEX_FILES:
                    if name != PACKETS_BIN and not (folder / name).exists():
                        part = folder / f".{name}.part"
                        shutil.copyfile(self._index_source / name, part)
                        part.replace(folder / name)
            except OSError as error:
                raise CacheError(f"the cache {folder} cannot be written ({error.strerror}): check local=") from None
        else:
            wait_for_file_to_exist(
                str(marker), _TICK_SECONDS, 60, f"the node's first process did not copy the index to {marker}"
            )
        if read_header(folder)["generation"] != generation:
            raise IndexFileError(f"the cached index in {folder} is damaged: delete that folder")

    def _check_files(self) -> None:
        """In place, every video must be there as it was indexed."""
        for video in self.index.videos:
            self._check_size(video)

    def _check_size(self, video: Video) -> None:
        try:
            size = self._videos.size(str(safe_path(video.file)))
        except FileNotFoundError:
            raise SourceError(
                f"video {video.video_id!r} is in the index, but not in {self._videos.root}: "
                "put it back, or run `onetake index` again"
            ) from None
        if size != video.file_bytes:
            raise SourceError(
                f"video {video.video_id!r} in {self._videos.root} has {size} bytes, {video.file_bytes} when it was "
                "indexed: it changed; run `onetake index` again"
            )

    # What streaming asks of a stream.

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[Any]:
        """A shard for every segment in which a clip starts."""
        return [
            VideoShard(
                self.local,
                segment,
                int(self.layout.num_clips[segment]),
                self.max_segment_bytes(segment),
                self.in_place,
            )
            for segment in self.segments.tolist()
        ]

    def max_segment_bytes(self, segment: int) -> int:
        """What a segment weighs in the cache at most."""
        if self.in_place:
            return 0
        video = self.index.videos[self.index.video[segment]]
        stop_frame = int(self.layout.stop_frame[segment])
        table_bytes = 2 * int(self.index.table_length[segment]) + 4096
        payload = video.file_bytes if video.kind == CONTAINER else max_bytes(self.index, segment, stop_frame)
        return payload + table_bytes

    def get_index_size(self) -> int:
        """Bytes of the cache that the index takes."""
        if self.in_place:
            return 0
        paths = (Path(self.local, name) for name in INDEX_FILES)
        return sum(path.stat().st_size for path in paths if path.exists())

    def prepare_shard(self, shard: VideoShard) -> int:  # type: ignore[override]
        """Fetch a segment, unless it is in the cache: by how many bytes the cache grew.

        Raises:
            SourceError: its video is not there, or not as it was indexed.
            CacheError: the cache can't be written.
        """
        if self.in_place or shard.bytes_on_disk():
            return 0
        self._retrying(lambda: self._fetch(shard))
        return shard.bytes_on_disk()

    def _retrying(self, run: Callable[[], T]) -> T:
        return retry(OSError, num_attempts=1 + self.download_retry)(run)()

    def _fetch(self, shard: VideoShard) -> None:
        video = self.index.videos[self.index.video[shard.segment]]
        self._check_size(video)
        table = self._run_table(shard.segment)
        start, length = (0, video.file_bytes) if video.kind == CONTAINER else byte_range(table)
        parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in (shard.table_path, shard.path)]
        header = len(table).to_bytes(8, "little") + start.to_bytes(8, "little")
        try:
            parts[0].write_bytes(header + table.to_bytes())
            self._videos.copy(video.file, start, length, parts[1])
        except OSError as error:
            for part in parts:
                part.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError):
                raise
            raise CacheError(
                f"segment {self.index.segment_name(shard.segment)} cannot be written to the cache "
                f"{self.local} ({error.strerror}): make room, or lower cache_limit="
            ) from None
        if parts[1].stat().st_size != length:
            raise SourceError(f"video {video.video_id!r} ended while it was fetched; run `onetake index` again")
        parts[0].replace(shard.table_path)
        parts[1].replace(shard.path)  # last: its presence says that the segment is whole

    def _run_table(self, segment: int) -> PacketTable:
        stop_frame = int(self.layout.stop_frame[segment])
        return run_table(self.index, segment, stop_frame, self._read_table)

    def _read_table(self, segment: int) -> PacketTable:
        index = self.index
        data = read_table_bytes(self._index_source, index, segment)
        if read_header(self._index_source)["generation"] != index.generation:
            raise IndexFileError(f"the index in {self._index_source} was rebuilt since this run opened it: start again")
        return PacketTable.from_bytes(data, int(index.num_packets[segment]))

    def check_segment(self, shard: VideoShard) -> None:
        """Raise SourceError unless the segment's video is there, as it was indexed."""
        self._check_size(self.index.videos[self.index.video[shard.segment]])

    # What the reader asks.

    def open_segment(self, shard: VideoShard) -> tuple[Video, PacketSource]:
        """The segment's video, and a source of its packets.

        Raises:
            FileNotFoundError: the segment is not in the cache.
            VideoError: the video was indexed, but cannot be opened.
        """
        video = self.index.videos[self.index.video[shard.segment]]
        if self.in_place:
            self._check_size(video)
            path = self._videos.root / safe_path(video.file)
            return video, open_source(video, self._run_table(shard.segment), path)
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


def _refuse_nested(cache: Path, remote: str) -> None:
    """The cache is emptied by deleting files, so it must not hold the videos, nor lie among them."""
    videos = open_location(remote).root.absolute()
    cache, videos = cache.resolve(), videos.resolve()
    if cache == videos or cache in videos.parents or videos in cache.parents:
        raise CacheError(
            f"local={cache} and remote={videos} lie within one another: the cache deletes files, so give it a "
            "folder of its own; or leave out remote= to read the videos in place"
        )


def check_weights(**weights: float | None) -> dict[str, float]:
    """The one of ``weights`` that is given, if any; SpecError for several, or for one that is no weight."""
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if len(given) > 1:
        raise SpecError(f"VideoStream({', '.join(f'{n}={w!r}' for n, w in given.items())}): give one of them at most")
    for name, weight in given.items():
        kinds = int if name == "choose" else (int, float)
        if isinstance(weight, bool) or not isinstance(weight, kinds) or not 0 <= weight < float("inf"):
            what = "a whole number of clips" if name == "choose" else "a number"
            raise SpecError(f"VideoStream({name}={weight!r}): must be {what}, not below 0")
    return given
