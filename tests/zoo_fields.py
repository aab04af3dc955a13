"""H.264 written by hand, field by field (PAFF), two packets to a picture: no encoder at hand makes it.

Every macroblock is I_PCM (ITU-T H.264, 7.3.5), so that nothing need be compressed: 32 x 64 pixels, two macroblocks by
two in each field.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from av.packet import Packet

from tests.zoo_make import ZooFile

__all__ = ["FIELDS"]

FRAMES, GOP, FPS = 60, 12, 25


class _Bits:
    """Bits, one after another, as the standard's descriptors write them."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, value: int, count: int) -> _Bits:
        self.text += format(value, f"0{count}b")
        return self

    def ue(self, *values: int) -> _Bits:
        for value in values:
            digits = format(value + 1, "b")
            self.text += "0" * (len(digits) - 1) + digits
        return self

    def aligned(self) -> _Bits:
        self.text += "0" * (-len(self.text) % 8)
        return self

    def unit(self, header: int) -> bytes:
        """The NAL unit: trailing bits, bytes that keep start codes away, a start code in front."""
        self.text += "1"
        body = bytearray()
        zeros = 0
        for byte in int(self.aligned().text, 2).to_bytes(len(self.text) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                body.append(3)
                zeros = 0
            body.append(byte)
            zeros = 0 if byte else zeros + 1
        return b"\0\0\0\1" + bytes([header]) + bytes(body)


def _parameter_sets() -> bytes:
    # Main profile, level 3; IDs, frame_num of 8 bits, order as decoded; 1 reference; 2 x 2 macroblocks a field; fields.
    sps = _Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, 4, 2, 1).u(0, 1).ue(1, 1).u(0b001_00, 5)
    pps = _Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0, 3)
    return sps.unit(0x67) + pps.unit(0x68)


def _field(frame: int, bottom: bool) -> bytes:
    key = frame % GOP == 0 and not bottom
    bits = _Bits().ue(0, 7, 0).u(frame % GOP, 8).u(1, 1).u(bottom, 1)
    if key:
        bits.ue(frame // GOP % 2).u(0, 2)
    else:
        bits.u(0, 1)
    bits.ue(0)
    for block in range(4):
        luma = 16 + (frame * 3 + bottom * 90 + block * 7) % 200
        bits.ue(25).aligned()
        bits.text += format(luma, "08b") * 256 + format(128, "08b") * 128
    return (_parameter_sets() if key else b"") + bits.unit(0x65 if key else 0x41)


def _write(path: Path) -> None:
    base = Fraction(1, 2 * FPS)
    options = {"fflags": "+bitexact"}
    with av.open(str(path), "w", options=options, container_options=options) as container:
        stream = container.add_stream("libx264", rate=FPS)  # for its name alone
        stream.width, stream.height, stream.pix_fmt = 32, 64, "yuv420p"
        stream.codec_context.time_base = base
        stream.codec_context.options = {"x264-params": "bframes=0"}
        stream.codec_context.open()
        for number in range(2 * FRAMES):
            data = _field(number // 2, bool(number % 2))
            packet = Packet(len(data))
            packet.update(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.duration = base, stream, 1
            packet.is_keyframe = number % (2 * GOP) == 0
            container.mux(packet)


_CLAIMS = {"packets": 2 * FRAMES, "frames": FRAMES, "interlaced": FRAMES, "errors": 0}

FIELDS: dict[str, ZooFile] = {
    f"paff.{suffix}": ZooFile("interlaced, a packet for each field", _write, _CLAIMS) for suffix in ("mkv", "mp4", "ts")
}
