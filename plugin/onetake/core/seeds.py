"""Seeds that depend on what is drawn for, never on who draws or when."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["sample_seed"]


def sample_seed(seed: int, epoch: int, stream_name: str, video_id: str, start_frame: int, occurrence: int = 0) -> int:
    """The seed of one sample's random transforms: 63 bits, never negative.

    Args:
        seed: the dataset's shuffle seed.
        epoch: the epoch, from 0.
        stream_name: the name of the stream that the video belongs to.
        video_id: the video.
        start_frame: the clip's first frame.
        occurrence: 0 at the clip's first time in the epoch; a repeated clip is augmented anew.
    """
    key = repr((seed, epoch, stream_name, video_id, start_frame, occurrence)).encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 1
