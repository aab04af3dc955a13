"""What an open decoder holds of memory, known before it is opened."""

from __future__ import annotations

import re

__all__ = ["decoder_bytes"]

# Pictures that FFmpeg's decoders hold at one thread, once they have warmed up: references, pictures that wait for their
# turn, room for one more, and what is noted of each beside its pixels. Fitted to what tests/benchmarks/bench_memory.py
# measures of videos as each encoder makes them by default, and within 20% of it.
_PICTURES = {"h264": 8, "hevc": 12, "vp9": 6, "av1": 10}
_PICTURES_OF_OTHERS = 8
_BESIDE = 1_000_000  # bytes: the decoder itself, its packets, its scaler


def decoder_bytes(codec: str, width: int, height: int, pix_fmt: str) -> int:
    """Bytes of memory that an open decoder holds, at one thread; what it gave out is not counted.

    1080p, 8 bits, 4:2:0: 26 MB for H.264, 38 MB for HEVC, 20 MB for VP9, 32 MB for AV1; a little over four times that
    for 4K. H.264 holds as many pictures as its encoder was told to refer to: 3 by default, and with 16, which few
    videos have, three times the memory that is said here.

    Args:
        codec: its name in FFmpeg, such as "h264".
        width, height: of its pictures, in pixels.
        pix_fmt: FFmpeg's name of their pixel format.
    """
    picture = width * height * _bits_per_pixel(pix_fmt) // 8
    return _BESIDE + _PICTURES.get(codec, _PICTURES_OF_OTHERS) * picture


def _bits_per_pixel(pix_fmt: str) -> int:
    """As they lie in memory; of a format that is not known, those of 4:4:4."""
    samples = {"420": 12, "422": 16, "440": 16, "411": 12, "410": 9}  # of 8 bits
    chroma = re.search(r"yuv[aj]?(\d{3})", pix_fmt)
    bits = 8 if pix_fmt.startswith("gray") else samples.get(chroma[1], 24) if chroma else 24
    return 2 * bits if re.search(r"(9|1[0246])(le|be)$", pix_fmt) else bits
