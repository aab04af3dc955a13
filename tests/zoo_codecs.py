"""The zoo's files that are odd inside: codecs, reference structures, pixel formats, parameter sets."""

from __future__ import annotations

from av.video.frame import PictureType

from tests import zoo_edits as edits
from tests.zoo_make import Take, ZooFile, one, takes


def _late(number: int) -> PictureType:
    return PictureType.P if number < 30 else PictureType.NONE


OPEN_GOP = {"bframes": 3, "params": "open-gop=1:b-pyramid=normal"}
OPEN_HEVC = {"codec": "libx265", "bframes": 3, "params": "open-gop=1:b-adapt=0"}
CLOSED_HEVC = {"codec": "libx265", "bframes": 3, "params": "open-gop=0:b-adapt=0"}
PYRAMID = {"bframes": 3, "params": "b-pyramid=normal"}
LATE = {**PYRAMID, "types": _late}
HIDDEN_VP9 = {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "25"}, "gop": 30}
INTERLACED = {"flags": "+ildct+ilme"}

H264: dict[str, ZooFile] = {
    "plain.mp4": one("no B-frames", {"kinds": "IP", "reordered": False}, bframes=0),
    "bframes.mp4": one("two B-frames at a time", {"reordered": True, "leading": 0}),
    "pyramid.mkv": one("B-frames that others refer to", {"reordered": True}, **PYRAMID),
    "open.mp4": one("open GOPs", {"leading": 6}, **OPEN_GOP),
    "open.mkv": one("open GOPs", {"leading": 6}, **OPEN_GOP),
    "open.ts": one("open GOPs", {"leading": 6}, **OPEN_GOP),
    "mbaff.mp4": one("interlaced, fields chosen per macroblock", {"interlaced": 60}, params="tff=1"),
    "refresh.mp4": one("no keyframe but the first: intra refresh", {"keys": 3, "kinds": "IP"},
        params="intra-refresh=1", bframes=0),
    "refresh_cut.mkv": one("begins in the middle of an intra refresh", {"slices": (1,), "kinds": "P", "frames": 36},
        params="intra-refresh=1", bframes=0, edit=edits.start_at_key(1)),
    "refresh_cut.ts": one("begins in the middle of an intra refresh", {"slices": (1,), "kinds": "P", "frames": 36},
        params="intra-refresh=1", bframes=0, edit=edits.start_at_key(1)),
    "slices.mp4": one("four slices a picture", params="slices=4"),
    "cavlc.mp4": one("CAVLC", params="cabac=0"),
    "baseline.mp4": one("Baseline profile", {"kinds": "IP"}, options={"profile": "baseline"}, bframes=0),
    "refs.mkv": one("weighted prediction, many references", params="ref=8:weightp=2:weightb=1:mixed-refs=1",
        bframes=3),
    "lossless.mp4": one("lossless 4:4:4", {"pix_fmt": "yuv444p"}, options={"qp": "0", "crf": "-1"},
        pix_fmt="yuv444p"),
    "h264_10bit.mkv": one("10 bits", {"pix_fmt": "yuv420p10le"}, pix_fmt="yuv420p10le"),
    "h264_422.mp4": one("4:2:2", {"pix_fmt": "yuv422p"}, pix_fmt="yuv422p"),
    "h264_gray.mp4": one("monochrome", pix_fmt="gray"),
    "h264_rgb.mkv": one("RGB coded as such", {"pix_fmt": "gbrp"}, codec="libx264rgb", pix_fmt="rgb24",
        options={"preset": "veryfast", "mbtree": "0"}),
    "full_range.mp4": one("full range", {"pix_fmt": "yuvj420p"}, pix_fmt="yuvj420p"),
    "h264_odd.mp4": one("97 x 65 in 4:4:4", {"sizes": [(97, 65)], "pix_fmt": "yuv444p"}, size=(97, 65),
        pix_fmt="yuv444p"),
    "h264_crop.mp4": one("cropped to 98 x 66", {"sizes": [(98, 66)]}, size=(98, 66)),
    "tiny.mp4": one("one macroblock a picture", {"sizes": [(16, 16)]}, size=(16, 16), options={"crf": "4"}),
    "one_key.mp4": one("one keyframe", {"keys": 1}, gop=250),
    "gop2.mp4": one("a keyframe every other picture", {"keys": 30}, gop=2, bframes=0),
    "all_intra.mov": one("keyframes only", {"keys": 60}, gop=1, bframes=0),
    "hrd.ts": one("filler, buffering periods and picture timing", options={"b": "200k", "maxrate": "200k",
        "bufsize": "100k"}, params="nal-hrd=cbr:aud=1"),
    "sps_change.mkv": takes("other parameter sets from the middle on", Take(frames=40),
        Take(first=40, frames=40, params="ref=5:cabac=0", bframes=3), claims={"keys": 4}),
    "sps_change.mp4": takes("other parameter sets from the middle on", Take(frames=40),
        Take(first=40, frames=40, params="ref=5:cabac=0", bframes=3), claims={"keys": 4}),
    "sps_change.ts": takes("other parameter sets from the middle on", Take(frames=40),
        Take(first=40, frames=40, params="ref=5:cabac=0", bframes=3), claims={"keys": 4}),
    "size_change.mkv": takes("pictures grow midway", Take(frames=40), Take(first=40, frames=40, size=(128, 96)),
        claims={"sizes": [(96, 64), (128, 96)]}),
    "size_change.mp4": takes("pictures grow midway", Take(frames=40), Take(first=40, frames=40, size=(128, 96)),
        claims={"sizes": [(96, 64), (128, 96)]}),
    "size_change.ts": takes("pictures grow midway", Take(frames=40), Take(first=40, frames=40, size=(128, 96)),
        claims={"sizes": [(96, 64), (128, 96)]}),
    "stale_extradata.mp4": takes("the header describes a stream that is not there; the right one is in the packets",
        Take(frames=20), Take(first=20, frames=60, size=(128, 96)),
        edit=lambda packets: packets[20:], claims={"sizes": [(128, 96)], "frames": 60}),
    "late_reorder.mp4": one("reordering starts late, unannounced", after=edits.clear_reordering, **LATE),
    "late_reorder.mkv": one("reordering starts late, unannounced; FFmpeg itself loses a frame",
        {"frames": 59, "packets": 60}, after=edits.clear_reordering, **LATE),
    "late_reorder.mov": one("reordering that grows late from one picture to two, unannounced",
        after=edits.clear_reordering, **PYRAMID),
    "one_flag.mp4": one("keyframes not flagged", {"entries": 1, "keys": 3}, edit=edits.flagged(0)),
    "one_flag.mkv": one("keyframes not flagged", {"entries": 1, "keys": 3}, edit=edits.flagged(0)),
    "all_flags.mp4": one("all packets flagged as keyframes", {"entries": 60, "slices": (1, 5)}, edit=edits.flagged()),
    "all_flags.mkv": one("all packets flagged as keyframes", {"slices": (1, 5)}, edit=edits.flagged(), bframes=0),
    "headless.mkv": one("begins with a predicted picture", {"packets": 59, "frames": 40}, edit=edits.without(0)),
    "headless.ts": one("begins with a predicted picture", {"packets": 59, "frames": 40}, edit=edits.without(0)),
}  # fmt: skip

HEVC: dict[str, ZooFile] = {
    "hevc.mp4": one("closed GOPs", {"tag": "hev1", "leading": 0, "reordered": True}, **CLOSED_HEVC),
    "hevc_hvc1.mp4": one("tagged hvc1", {"tag": "hvc1"}, **CLOSED_HEVC,
        set_up=lambda container, stream: setattr(stream.codec_context, "codec_tag", "hvc1")),
    "hevc_open.mp4": one("CRA with RASL pictures", {"slices": (0, 1, 8, 9, 20, 21), "leading": 6}, **OPEN_HEVC),
    "hevc_open.mkv": one("CRA with RASL pictures", {"slices": (0, 1, 8, 9, 20, 21), "leading": 6}, **OPEN_HEVC),
    "hevc_open.ts": one("CRA with RASL pictures", {"slices": (0, 1, 8, 9, 20, 21), "leading": 6}, **OPEN_HEVC),
    "hevc_radl.mp4": one("IDR with RADL pictures", {"slices": (0, 1, 6, 7, 19, 20), "leading": 6}, codec="libx265",
        bframes=3, params="open-gop=0:radl=3:min-keyint=20:b-adapt=2"),
    "hevc_layers.mkv": one("temporal layers", {"slices": (1, 2, 3, 20)}, codec="libx265", bframes=3,
        params="open-gop=0:b-adapt=0:temporal-layers=3"),
    "hevc_cut.mp4": one("begins with a CRA and its RASL pictures",
        {"slices": (0, 1, 8, 9, 21), "discarded": 3, "frames": 40}, **OPEN_HEVC, edit=edits.start_at_key(1)),
    "hevc_cut.mkv": one("begins with a CRA and its RASL pictures",
        {"slices": (0, 1, 8, 9, 21), "packets": 43, "frames": 40}, **OPEN_HEVC, edit=edits.start_at_key(1)),
    "hevc_cut.ts": one("begins with a CRA and its RASL pictures",
        {"slices": (0, 1, 8, 9, 21), "packets": 43, "frames": 40}, **OPEN_HEVC, edit=edits.start_at_key(1)),
    "hevc_10bit.mkv": one("10 bits", {"pix_fmt": "yuv420p10le"}, **CLOSED_HEVC, pix_fmt="yuv420p10le"),
    "hevc_444.mp4": one("4:4:4", {"pix_fmt": "yuv444p"}, **CLOSED_HEVC, pix_fmt="yuv444p"),
    "hevc_crop.mp4": one("cropped to 98 x 66", {"sizes": [(98, 66)]}, **CLOSED_HEVC, size=(98, 66)),
    "hevc_size_change.mkv": takes("pictures grow midway", Take(frames=40, **CLOSED_HEVC),
        Take(first=40, frames=40, size=(128, 96), **CLOSED_HEVC), claims={"sizes": [(96, 64), (128, 96)]}),
}  # fmt: skip

OTHERS: dict[str, ZooFile] = {
    "vp8.webm": one("VP8", codec="libvpx"),
    "vp8_hidden.webm": one("VP8 with frames that are not shown", {"packets": 60, "frames": 57}, codec="libvpx",
        edit=edits.hidden_vp8(10, 27, 41)),
    "vp9.webm": one("VP9", codec="libvpx-vp9"),
    "vp9_hidden.webm": one("VP9 with hidden frames in superframes", {"bundles": 4}, **HIDDEN_VP9),
    "vp9_hidden.mp4": one("VP9 with hidden frames in superframes", {"bundles": 4}, **HIDDEN_VP9),
    "vp9_444.webm": one("VP9 profile 1", {"pix_fmt": "yuv444p"}, codec="libvpx-vp9", pix_fmt="yuv444p"),
    "vp9_odd.webm": one("99 x 67 in 4:2:0", {"sizes": [(99, 67)]}, codec="libvpx-vp9", size=(99, 67)),
    "vp9_size_change.webm": takes("pictures grow midway", Take("libvpx-vp9", frames=40),
        Take("libvpx-vp9", first=40, frames=40, size=(128, 96)), claims={"sizes": [(96, 64), (128, 96)]}),
    "av1.mp4": one("AV1 with hidden frames", {"bundles": 15}, codec="libsvtav1"),
    "av1.mkv": one("AV1 with hidden frames", {"bundles": 15}, codec="libsvtav1"),
    "av1_10bit.mp4": one("AV1 in 10 bits", {"pix_fmt": "yuv420p10le"}, codec="libsvtav1", pix_fmt="yuv420p10le"),
    "av1_odd.webm": one("98 x 66 in AV1", {"sizes": [(98, 66)]}, codec="libsvtav1", size=(98, 66)),
    "mpeg4.mp4": one("MPEG-4 part 2 with B-frames", {"leading": 6}, codec="mpeg4"),
    "mpeg4.avi": one("MPEG-4 part 2 with B-frames in AVI", {"leading": 6}, codec="mpeg4"),
    "mpeg4_odd.mp4": one("99 x 67 in MPEG-4 part 2", {"sizes": [(99, 67)], "leading": 6}, codec="mpeg4",
        size=(99, 67)),
    "packed.avi": one("MPEG-4 part 2 with packed B-frames",
        {"tag": "DX50", "kinds": "BIP", "reordered": False, "unsorted": True}, codec="mpeg4", bframes=1,
        options={"flags": "+bitexact", "b_strategy": "0"}, edit=edits.packed_bframes,
        set_up=lambda container, stream: setattr(stream.codec_context, "codec_tag", "DX50")),
    "mpeg2.ts": one("MPEG-2 with B-frames", {"leading": 6}, codec="mpeg2video"),
    "mpeg2.mpg": one("MPEG-2 program stream", {"leading": 6, "format": "mpeg"}, codec="mpeg2video", format="vob"),
    "mpeg2_interlaced.ts": one("interlaced MPEG-2", {"interlaced": 60}, codec="mpeg2video", options=INTERLACED),
    "mpeg1.mpg": one("MPEG-1 system stream", {"codec": "mpeg1video"}, codec="mpeg1video"),
    "mjpeg.avi": one("MJPEG", {"keys": 60}, codec="mjpeg", pix_fmt="yuvj420p"),
    "mjpeg_odd.mov": one("99 x 67 in MJPEG", {"sizes": [(99, 67)]}, codec="mjpeg", pix_fmt="yuvj420p", size=(99, 67)),
    "ffv1.mkv": one("FFV1, predicted", {"keys": 3}, codec="ffv1"),
    "prores.mov": one("ProRes", {"pix_fmt": "yuv422p10le"}, codec="prores_ks", pix_fmt="yuv422p10le"),
    "wmv2.asf": one("WMV2", codec="wmv2", options={"q:v": "3"}),
    "divx3.avi": one("DivX 3", codec="msmpeg4v3", options={"q:v": "3"}),
}  # fmt: skip
