"""Samples that are whole videos: what they take of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onetake.core.errors import SpecError
from onetake.core.memory import decoder_bytes
from onetake.decode.scale import output_size
from onetake.stream.stream import VideoStream

__all__ = ["VideoMemory"]


@dataclass(frozen=True)
class VideoMemory:
    """What the samples of a node may take.

    Attributes:
        video_id: the video whose sample takes most.
        clips: its clips.
        sample_bytes: what its pictures take.
        decoder_bytes: what a decoder holds, at most.
        samples: in a batch, of all the node's ranks.
        limit: bytes that they may take.
    """

    video_id: str
    clips: int
    sample_bytes: int
    decoder_bytes: int
    samples: int
    limit: int

    @classmethod
    def of(cls, streams: Sequence[VideoStream], samples: int, limit: int) -> VideoMemory:
        """That of open streams."""
        sizes, decoders = [], []
        for stream in streams:
            assert stream.clips is not None
            clips_of_videos = stream.layout.clips_of_videos[stream.layout.kept]
            for video, clips in zip(stream.layout.videos, clips_of_videos.tolist(), strict=True):
                height, width = output_size(stream.frame_size, video.rotation, video.height, video.width)
                sizes.append((clips * stream.clips.num_frames * 3 * height * width, clips, video.video_id))
                decoders.append(decoder_bytes(video.codec, video.width, video.height, video.pix_fmt))
        largest, clips, video_id = max(sizes)
        return cls(video_id, clips, largest, max(decoders), samples, limit)

    def check(self, ranks_per_node: int, num_workers: int, batches: int) -> None:
        """Raise SpecError where samples may take more than the limit.

        Args:
            ranks_per_node: ranks that share the memory.
            num_workers: of each; 0 counts as one.
            batches: batches of each that may be there at once, the one that is trained on included.
        """
        readers = ranks_per_node * max(num_workers, 1)  # each has what it decodes, beside the sample that it fills
        copies = self.samples * batches + readers
        held = copies * self.sample_bytes + readers * self.decoder_bytes
        if held <= self.limit:
            return
        fits = max(self.limit - readers * self.decoder_bytes, 0) * self.clips // (copies * self.sample_bytes)
        or_fewer = f", or clips_per_sample= up to {fits}" if fits else ""
        raise SpecError(
            f"max_memory={self.limit:,} bytes is too small: with clips_per_sample='all', the sample of video "
            f"{self.video_id!r} holds {self.clips} clips, {self.sample_bytes:,} bytes, and a node may hold {copies} "
            f"such samples, {held:,} bytes with the decoders: raise it, or lower batch_size=, num_workers=, "
            f"prefetch_factor= or frame_size={or_fewer}"
        )
