"""What of a VideoDataset is cache: segments come when a sample needs them, and stay until it is read."""

from __future__ import annotations

from collections.abc import Sequence

from onetake.stream.caching import bring, let_go
from onetake.stream.compat import World
from onetake.stream.ordered import OrderedDataset
from onetake.stream.shared_cache import SharedCache

__all__ = ["CachedDataset"]


class CachedDataset(OrderedDataset):
    """A dataset whose streams have a part of the machine's cache; see ``caching.open_caches``."""

    def epoch_work(self, epoch: int, sample_in_epoch: int, world: World) -> Sequence[int]:
        for cache in self._caches():
            cache.begin_epoch(epoch)
        return super().epoch_work(epoch, sample_in_epoch, world)

    def bring_shard(self, shard_id: int, urgent: bool) -> bool:
        stream, shard = self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id]
        return bring(stream, shard, urgent, lambda: self.has_failed)

    def let_shard_go(self, shard_id: int) -> None:
        let_go(self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id])

    def let_all_shards_go(self) -> None:
        """Hold nothing for samples that were never read, as an iteration is over."""
        for cache in self._caches():
            cache.let_go_of_all()

    def release(self) -> None:
        for cache in self._caches():
            cache.end()
        super().release()

    def _caches(self) -> set[SharedCache]:
        return {stream.cache for stream in getattr(self, "streams", ()) if stream.cache is not None}
