"""The zoo's files that are odd outside: containers, times, edit lists, other streams, damage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.stream import Disposition

from onetake.decode.synthetic import write_numbered_video
from tests import zoo_edits as edits
from tests.zoo_make import Take, ZooFile, encode, one, write

VFR = np.cumsum(np.random.default_rng(0).integers(1, 5, 60)).tolist()
WRAP = 2**33 // 3600 - 30  # ticks of 1/25 s: a transport stream's clock begins anew 30 frames later


def _with_audio(path: Path) -> None:
    write_numbered_video(path, 60, width=96, height=64, gop=20, audio=True, options={"mbtree": "0"})


def _scattered(path: Path) -> None:
    _with_audio(path)
    edits.scatter_chunks(path)


def _concatenated(path: Path) -> None:
    codec = "mpeg2video" if path.suffix == ".mpg" else "libx264"
    parts = []
    for first in (0, 60):
        write(path, Take(codec, first=first), format="vob" if path.suffix == ".mpg" else None)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))


def _two_videos(large_first: bool) -> Any:
    """A small and a larger stream side by side."""

    def make(path: Path) -> None:
        small, large = Take(bframes=0), Take(size=(128, 96), bframes=0, first=100)
        with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
            streams = []
            for take in (large, small) if large_first else (small, large):
                stream = container.add_stream("libx264", rate=25)
                take.set_up(stream.codec_context)
                streams.append((stream, encode(take, stream.codec_context)))
            for pair in zip(*(packets for _, packets in streams), strict=True):
                for packet, (stream, _) in zip(pair, streams, strict=True):
                    packet.stream, packet.time_base = stream, Fraction(1, 25)
                    container.mux(packet)

    return make


def _jpeg() -> tuple[Take, list[Packet]]:
    take = Take("mjpeg", frames=1, size=(320, 240), pix_fmt="yuvj420p", first=500)
    return take, encode(take)


def _attach(container: Any, stream: Any) -> None:
    container.add_attachment("cover.jpg", "image/jpeg", bytes(_jpeg()[1][0]))


def _covered(container: Any, stream: Any) -> None:
    take, packets = _jpeg()
    cover = container.add_stream("mjpeg", rate=25)
    take.set_up(cover.codec_context)
    cover.disposition = Disposition.attached_pic
    packets[0].stream, packets[0].time_base = cover, Fraction(1, 25)
    container.mux(packets[0])


def _rotated(degrees: int) -> Any:
    return lambda container, stream: stream.set_display_rotation(degrees)


def _timecode(container: Any, stream: Any) -> None:
    container.metadata["timecode"] = "01:00:00:00"


CONTAINERS: dict[str, ZooFile] = {
    "fast.mp4": one("its header in front", container_options={"movflags": "faststart"}),
    "fragments.mp4": one("fragmented", {"first_pts": 1024},
        container_options={"movflags": "frag_keyframe+empty_moov"}),
    "fragments_dash.mp4": one("fragmented, bases in the fragments",
        container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "negative_cts.mp4": one("no edit list, negative composition offsets",
        container_options={"movflags": "negative_cts_offsets"}),
    "no_edits.mp4": one("no edit list", {"first_pts": 1024}, container_options={"use_editlist": "0"}),
    "bframes.mov": one("QuickTime"),
    "bframes.ts": one("transport stream with B-frames"),
    "bframes.m2ts": one("transport stream of 192-byte packets", container_options={"mpegts_m2ts_mode": "1"}),
    "bframes.avi": one("AVI with H.264 B-frames", {"unsorted": True, "reordered": False, "kinds": "BIP"}),
    "bframes.flv": one("FLV"),
    "live.mkv": one("a live recording: sizes unknown, no index", container_options={"live": "1"}),
    "bframes.mpg": one("H.264 in a program stream", {"no_pts": 53}, format="vob"),
    "audio.mp4": ZooFile("audio interleaved", _with_audio, {"streams": "av"}),
    "audio.ts": ZooFile("audio interleaved", _with_audio, {"streams": "av"}),
    "scattered.mp4": ZooFile("its chunks stand back to front in the file", _scattered, {"streams": "av"}),
    "timecode.mov": one("a timecode track", {"streams": "dv"}, set_up=_timecode),
    "two_videos.mp4": ZooFile("two video streams, the larger one last; players choose the first",
        _two_videos(False), {"streams": "vv"}),
    "two_videos.mkv": ZooFile("two video streams, the larger one first", _two_videos(True), {"streams": "vv"}),
    "two_videos.ts": ZooFile("two video streams, the larger one last; players choose the first", _two_videos(False),
        {"streams": "vv"}),
    "cover.mkv": one("a larger picture attached", {"streams": "vv", "sizes": [(96, 64)]}, set_up=_attach),
    "cover.mp4": one("a larger picture as a second video stream", {"streams": "vv", "sizes": [(96, 64)]},
        set_up=_covered),
    "rotated90.mp4": one("turned by 90 degrees", {"rotation": 90}, set_up=_rotated(90)),
    "rotated180.mov": one("turned by 180 degrees", {"rotation": -180}, set_up=_rotated(180)),
    "rotated270.mp4": one("turned by 270 degrees", {"rotation": -90}, set_up=_rotated(-90)),
    "rotated.mkv": one("turned by 90 degrees", {"rotation": 90}, set_up=_rotated(90)),
}  # fmt: skip

TIMES: dict[str, ZooFile] = {
    "vfr.mp4": one("steps between frames differ", {"uneven": True}, pts=VFR, fps=100),
    "vfr.mkv": one("steps between frames differ", {"uneven": True}, pts=VFR, fps=100, bframes=0),
    "vfr.webm": one("steps between frames differ", {"uneven": True}, pts=VFR, fps=100, codec="libvpx-vp9"),
    "ntsc.mkv": one("29.97 frames a second in milliseconds", {"uneven": True}, fps=Fraction(30000, 1001)),
    "film.mkv": one("23.976 frames a second in milliseconds", {"uneven": True}, fps=Fraction(24000, 1001)),
    "negative.mp4": one("begins before 0: the edit list cuts seven frames", {"discarded": 7, "frames": 53},
        edit=edits.shifted(-7)),
    "negative.mkv": one("begins before 0", {"no_pts": 7}, edit=edits.shifted(-7),
        container_options={"avoid_negative_ts": "disabled"}),
    "large.mkv": one("begins after 30 hours", {"first_pts": 108_000_000}, edit=edits.shifted(2_700_000)),
    "wrap.ts": one("its clock begins anew midway", {"first_pts": -111392}, edit=edits.shifted(WRAP)),
    "concat.ts": ZooFile("two recordings in one file: times begin anew midway", _concatenated),
    "concat.mpg": ZooFile("two recordings in one file: times begin anew midway", _concatenated),
    "dropped.avi": one("frames dropped at capture", {"uneven": True, "codec": "mpeg4"}, codec="mpeg4", bframes=0,
        pts=[number + number // 10 for number in range(60)]),
    "delayed.mp4": one("an empty edit first", {"first_pts": 25600}, edit=edits.shifted(50)),
    "cut_front.mp4": one("an edit list that begins in the middle of a GOP",
        {"packets": 40, "discarded": 15, "frames": 25},
        after=lambda path: edits.edit_list(path, [(1.0, 1024 + 27 * 512)])),
    "cut_back.mp4": one("an edit list that ends in the middle of a GOP", {"discarded": 35, "frames": 25},
        after=lambda path: edits.edit_list(path, [(1.0, 1024)])),
    "replay.mp4": one("an edit list that shows a stretch twice", {"packets": 120, "twins": 40}, repeats=20,
        after=lambda path: edits.edit_list(path, [(1.2, 1024), (1.2, 1024 + 10 * 512)])),
    "two_edits.mp4": one("an edit list that leaves out a stretch", {"packets": 81, "twins": 34, "frames": 40},
        after=lambda path: edits.edit_list(path, [(0.8, 1024), (0.8, 1024 + 35 * 512)])),
    "gap.mp4": one("an edit list with a pause; FFmpeg shows some frames twice instead",
        {"packets": 122, "twins": 61, "frames": 48}, repeats=8,
        after=lambda path: edits.edit_list(path, [(0.8, 1024), (0.4, -1), (0.8, 1024 + 35 * 512)])),
    "backwards.mp4": one("an edit list that shows the end first", {"packets": 100, "twins": 0},
        after=lambda path: edits.edit_list(path, [(1.2, 1024 + 30 * 512), (1.2, 1024)])),
    "twins.mkv": one("two packets with one pts", {"twins": 1}, bframes=0, edit=edits.twin_pts(31)),
    "unsorted.mkv": one("a pts that falls, without B-frames", {"unsorted": True, "kinds": "IP"}, bframes=0,
        edit=edits.swapped_pts(31)),
    "holes.mkv": one("pictures that no one refers to are missing", {"frames": 58}, edit=edits.without(3, 9)),
}  # fmt: skip

DAMAGED: dict[str, ZooFile] = {
    "noise.mp4": one("a GOP of noise", {"errors": 20, "frames": 40}, after=edits.noise_over_gop),
    "noise.mkv": one("a GOP of noise", {"errors": 20, "frames": 40}, after=edits.noise_over_gop),
    "noise_hevc.mp4": one("a GOP of noise", {"errors": 20, "frames": 39}, after=edits.noise_over_gop,
        codec="libx265"),
    "noise_vp9.webm": one("a GOP of noise", {"errors": 20, "frames": 40}, after=edits.noise_over_gop,
        codec="libvpx-vp9"),
    "scratch.mp4": one("half a packet of noise", {"corrupt": 1}, after=lambda path: edits.noise_in_packet(path, 24)),
    # Packet 25 is frame 28; 25 to 27 refer to it and are shown before it, so only the frames up to 24 are sound.
    "quiet_scratch.mkv": one("a damaged picture that FFmpeg owns up to after it has shown others that refer to it",
        {"corrupt": 1, "errors": 0}, bframes=3, params="b-pyramid=normal",
        after=lambda path: edits.flip_bit(path, 25, 1557)),
    "lost.mp4": one("a reference picture is missing", {"frames": 59}, bframes=0, edit=edits.without(26)),
    "lost.ts": one("three pictures are missing", {"packets": 57, "frames": 57},
        after=lambda path: edits.lose_pictures(path, 27, 29)),
    "torn.ts": one("a part of a keyframe is missing", {"packets": 60},
        after=lambda path: edits.lose_part(path, 20)),
    "cut_off.mkv": one("cut off", {"packets": 35, "frames": 35}, after=edits.cut_off),
    "cut_off.ts": one("cut off", {"packets": 35, "frames": 35}, after=edits.cut_off),
    "cut_off.mp4": one("cut off, its header in front", {"packets": 36, "frames": 35, "errors": 1}, after=edits.cut_off,
        container_options={"movflags": "faststart"}),
}  # fmt: skip
