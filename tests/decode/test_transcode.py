"""Packs with more than copied pictures: encoded anew, and with sound."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from av import VideoFrame
from streaming.base.format.mds import MDSReader

from onetake import index_videos, pack_videos
from onetake.core.errors import SourceError
from onetake.core.index import KEYFRAME
from onetake.core.packing import TranscodeSpec
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.pack_index import read_shards
from onetake.decode.scale import converter
from onetake.decode.source import open_source
from onetake.decode.store import read_header, read_index, read_table
from tests.zoo import sequential, write_zoo

SHRUNK = [
    "full_range.mp4", "h264_rgb.mkv", "h264_gray.mp4", "hevc_10bit.mkv", "rotated90.mp4", "open.ts", "vfr.mp4",
    "twins.mkv", "negative.mp4", "packed.avi",
]  # fmt: skip


@pytest.mark.parametrize("transcode", [None, TranscodeSpec(height=48)])
def test_sound_goes_with_its_pictures_if_it_is_asked_for(tmp_path, transcode):
    write_zoo(tmp_path / "zoo", ["audio.mp4", "plain.mp4"])
    index_videos(tmp_path / "zoo", workers=1)
    how = {"segment_seconds": 0.7, "overlap": 0, "workers": 1, "transcode": transcode}
    counts = {}
    for audio in (False, True):
        out = tmp_path / f"out{audio}"
        pack_videos(tmp_path / "zoo", out, audio=audio, **how)
        (entry,) = json.loads((out / "index.json").read_bytes())["shards"]
        reader = MDSReader.from_json(str(out), "", entry)
        heard, seen = [], 0
        for number in range(entry["samples"]):
            sample = reader[number]
            with av.open(io.BytesIO(sample["video"])) as container:
                assert len(container.streams.audio) == (audio and sample["video_id"] == "audio.mp4")
                seen += sum(1 for _ in container.decode(video=0)) if sample["video_id"] == "audio.mp4" else 0
                container.seek(0)
                for packet in container.demux(*container.streams.audio) if container.streams.audio else ():
                    if packet.size:
                        heard.append(bytes(packet))
                        assert -0.1 < float(packet.pts * packet.time_base) < sample["num_frames"] / 25
        counts[audio] = seen
        with av.open(str(tmp_path / "zoo" / "audio.mp4")) as container:
            whole = [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]
        assert heard == (whole[len(whole) - len(heard) :] if audio else [])
        assert len(heard) >= (len(whole) - 3 if audio else 0)
    assert counts[True] == counts[False] == 60
    assert times_of(tmp_path / "outTrue" / "onetake") == times_of(tmp_path / "zoo")


def times_of(folder: Path) -> dict[tuple[int, int], int]:
    """When each frame is shown, by (video, frame)."""
    index, found = read_index(folder), {}
    for segment in range(index.num_segments):
        table = read_table(folder, index, segment)
        rows = np.flatnonzero(table.frame >= 0)
        keys = [(int(index.video[segment]), frame) for frame in table.frame[rows].tolist()]
        found |= dict(zip(keys, table.pts[rows].tolist(), strict=True))
    return found


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_videos_encoded_anew_keep_frames_and_times(tmp_path, codec):
    zoo, out = tmp_path / "zoo", tmp_path / "out"
    write_zoo(zoo, [*SHRUNK, "torn.ts"])
    index_videos(zoo, segment_seconds=0.8, workers=1)
    spec = TranscodeSpec(height=48, codec=codec, gop=10, crf=20)
    report = pack_videos(zoo, out, segment_seconds=1, overlap=0.4, workers=1, transcode=spec)
    assert (report.whole, report.damaged) == (0, {"torn.ts": 20})
    assert times_of(zoo) == times_of(out / "onetake")
    index = read_index(out / "onetake")
    shards = read_shards(out / "onetake", index, read_header(out / "onetake"))
    originals = {name: sequential(zoo / name) for name in SHRUNK}
    for segment in range(index.num_segments):
        video = index.videos[index.video[segment]]
        if video.video_id not in originals:
            continue
        assert (video.height if video.rotation % 180 == 0 else video.width) == 48
        shown = originals[video.video_id]
        assert video.num_frames == len(shown)
        table = read_table(out / "onetake", index, segment)
        assert np.diff(np.append(np.flatnonzero(table.flags & KEYFRAME), len(table))).max() <= 10
        source = open_source(video, table, out / shards.files[shards.shard_of_segment[segment]])
        decoder = ClipDecoder(video, source, converter(None), new_counters())
        for frame in range(int(index.first_frame[segment]), int(shards.stop_frame[segment])):
            (picture,) = decoder.read([frame])
            truth = VideoFrame.from_ndarray(np.ascontiguousarray(shown[frame].pixels), format="rgb24")
            truth = truth.reformat(video.width, video.height, interpolation="AREA").to_ndarray()
            assert np.abs(picture.astype(int) - truth).mean() < 10  # levels; of another frame, it is 20 or more
        decoder.close()


def test_what_cannot_be_encoded_is_named(tmp_path):
    write_zoo(tmp_path / "zoo", ["plain.mp4"])
    index_videos(tmp_path / "zoo", workers=1)
    spec = TranscodeSpec(48, "libx265")
    with pytest.raises(SourceError, match=r"plain\.mp4: cannot be encoded by libx265 \(pictures of 72 x 48 are too"):
        pack_videos(tmp_path / "zoo", tmp_path / "out", workers=1, transcode=spec)
