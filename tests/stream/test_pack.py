"""Packs as streaming reads them, and as onetake does."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from streaming import MDSWriter, StreamingDataset

from onetake import pack_videos
from onetake.decode.mds import COLUMNS, index_bytes, shard_entry, write_shard
from tests.helpers import decode_all

HASHES = ["md5", "sha1"]
HOW = {"shard_size": 1 << 16, "segment_seconds": 1.5, "overlap": 1.0, "workers": 1, "hashes": HASHES}


@pytest.fixture(scope="module")
def pack(numbered, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "out"
    pack_videos(numbered, out, **HOW)
    return out


def test_shards_are_what_streamings_writer_makes(tmp_path):
    samples = [
        {
            "metadata": {"label": number, "caption": "Straße"},
            "num_frames": 10 + number,
            "start_frame": 2**40 + number,
            "start_seconds": number / 3,
            "video": bytes(range(number, 200)),
            "video_id": f"é/{number}.mp4",
        }
        for number in range(4)
    ]
    columns = {name: encoding for name, (encoding, _) in COLUMNS.items()}
    with MDSWriter(out=str(tmp_path), columns=columns, hashes=HASHES, size_limit=1 << 20) as writer:
        for sample in samples:
            writer.write(sample)
    shard = write_shard(samples, HASHES, 1 << 20)
    assert shard.data == (tmp_path / "shard.00000.mds").read_bytes()
    entry = shard_entry("shard.00000.mds", shard.data, len(samples), HASHES, 1 << 20)
    assert index_bytes([entry]) == (tmp_path / "index.json").read_bytes()
    for start, sample in zip(shard.video_starts, samples, strict=True):
        assert shard.data[start : start + len(sample["video"])] == sample["video"]


def test_a_plain_streaming_dataset_reads_it(numbered, pack, tmp_path):
    """From a remote; the frames of all segments are those of the videos."""
    dataset = StreamingDataset(remote=str(pack), local=str(tmp_path), batch_size=1)
    frames: dict[str, list[np.ndarray]] = {}
    for sample in dataset:
        own = frames.setdefault(sample["video_id"], [])
        assert sample["start_frame"] == len(own)
        with av.open(io.BytesIO(sample["video"])) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])]
        own += decoded[: sample["num_frames"]]
    entries = json.loads((pack / "index.json").read_bytes())["shards"]
    assert len(dataset) == sum(entry["samples"] for entry in entries)
    for entry in entries:
        data = (pack / entry["raw_data"]["basename"]).read_bytes()
        assert entry["raw_data"]["hashes"] == {name: hashlib.new(name, data).hexdigest() for name in HASHES}
    assert len(frames) == 7
    for video_id, found in frames.items():
        assert np.array_equal(found, decode_all(numbered / video_id))
