"""Packs as streaming reads them, and as onetake does."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streaming import MDSWriter, StreamingDataset

from onetake import ClipSpec, index_videos, pack_videos
from onetake.core.errors import IndexFileError, SourceError, SpecError
from onetake.decode.mds import COLUMNS, index_bytes, shard_entry, write_shard
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.local import LocalStorage
from tests.helpers import bytes_in, check_going_on, decode_all, make_loader, record
from tests.zoo import write_zoo

ZOO = [
    "plain.mp4", "open.mkv", "hevc_open.mp4", "vp9_hidden.webm", "av1.mkv", "ffv1.mkv", "open.ts", "packed.avi",
    "rotated90.mp4", "vfr.mp4", "vfr.mkv", "negative.mp4", "cut_front.mp4", "two_edits.mp4",
]  # fmt: skip
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


def clips_of(folder: Path, **dataset) -> list[tuple[int, str, int, int]]:
    """An epoch's clips, by their IDs: (clip ID, video ID, start frame, checksum of the pixels)."""
    return sorted(clip for batch in make_loader(folder, **dataset) for clip in record(batch))


def cut_pack(pack: Path, name: str, keep: int) -> None:
    data = (pack / name).read_bytes()
    (pack / name).write_bytes(data[:keep])


@pytest.mark.parametrize(
    "clips",
    [
        ClipSpec(4, 3),
        ClipSpec(8, 2, 5),
        ClipSpec(4, fps=10, hop_seconds=0.3),
        ClipSpec(3, 2, align="keyframe"),
        ClipSpec(4, 3, clips_per_video=2),
        ClipSpec(4, 3, jitter=True),
    ],
    ids=["grid", "overlapping", "by time", "keyframes", "some", "jitter"],
)
def test_a_pack_has_the_clips_of_its_videos(numbered, pack, clips):
    for how in ({"local": pack}, {"local": pack, "index": pack / "onetake"}):
        found = clips_of(pack, clips=clips, **how)
        assert found == clips_of(numbered, clips=clips)
        assert len(found) > 5


@pytest.mark.parametrize("clips", [ClipSpec(4, 1), ClipSpec(3, fps=12, hop_seconds=0.2)], ids=["frames", "time"])
def test_odd_videos_have_the_same_clips_in_a_pack(tmp_path, clips):
    write_zoo(tmp_path / "zoo", ZOO)
    index_videos(tmp_path / "zoo", segment_seconds=1, workers=1)
    pack_videos(tmp_path / "zoo", tmp_path / "pack", segment_seconds=0.7, overlap=0.7, workers=1)
    how = {"clips": clips, "batch_size": 1}
    assert clips_of(tmp_path / "pack", **how) == clips_of(tmp_path / "zoo", **how)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_fetched_whole_and_once(numbered, pack, tmp_path, workers, monkeypatch):
    fetched = tmp_path / "fetched"
    copy = LocalStorage.copy

    def told(self, file, start, length, *arguments):
        with fetched.open("a") as log:
            log.write(f"{file} {start} {length}\n")
        return copy(self, file, start, length, *arguments)

    monkeypatch.setattr(LocalStorage, "copy", told)
    how = {"remote": pack, "local": tmp_path / "cache", "shuffle": True, "shuffle_by": "shard"}
    loader = make_loader(pack, workers, **how, predownload=4, num_canonical_lanes=4, batch_size=2)
    assert sorted(clip for batch in loader for clip in record(batch)) == clips_of(numbered)
    lines = [line for line in fetched.read_text().splitlines() if ".mds" in line]
    entries = json.loads((pack / "index.json").read_bytes())["shards"]
    wanted = {f"{entry['raw_data']['basename']} 0 {entry['raw_data']['bytes']}" for entry in entries}
    assert set(lines) == wanted
    assert len(lines) <= len(wanted) + 4  # a lane's cut may be inside a shard


def test_going_on_inside_a_shard(pack):
    loader = make_loader(pack, shuffle=True)
    epochs = [[record(batch) for batch in loader] for _ in range(2)]
    check_going_on(pack, 0, epochs, 5, shuffle=True)


def test_clips_that_run_further_than_the_overlap_are_refused_with_what_would_do(numbered, tmp_path):
    how = {"shard_size": 1 << 16, "segment_seconds": 1.5, "workers": 1}
    pack_videos(numbered, tmp_path / "short", overlap=0.2, **how)
    assert clips_of(tmp_path / "short", clips=ClipSpec(5, 1)) == clips_of(numbered, clips=ClipSpec(5, 1))
    for number, clips in enumerate([ClipSpec(16, 2, 4), ClipSpec(16, fps=12, hop_seconds=0.2)]):
        with pytest.raises(SpecError, match=r"clips run over the ends of \d+ of the .* --overlap 1\.") as caught:
            make_loader(tmp_path / "short", clips=clips)
        overlap = float(str(caught.value).rsplit(" ", 1)[1])
        pack_videos(numbered, tmp_path / f"long{number}", overlap=overlap, **how)
        assert clips_of(tmp_path / f"long{number}", clips=clips) == clips_of(numbered, clips=clips)


@pytest.fixture
def small(tmp_path, numbered) -> Path:
    out = tmp_path / "small"
    pack_videos(numbered, out, shard_size=1 << 16, segment_seconds=3, overlap=1, workers=1)
    return out


@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_that_is_missing_or_cut_off_is_named(small, tmp_path, remote):
    how = {"remote": small, "local": tmp_path / "cache"} if remote else {"local": small}
    cut_pack(small, "shard.00002.mds", 1000)
    with pytest.raises(SourceError, match=r"shard\.00002\.mds in .* has 1000 bytes.*copy the pack again"):
        list(make_loader(small, **how))
    (small / "shard.00002.mds").unlink()
    with pytest.raises(SourceError, match=r"shard\.00002\.mds is missing in"):
        list(make_loader(small, **how))


def test_a_pack_without_its_list_of_shards(small):
    cut_pack(small, "onetake/shards.parquet", 100)
    with pytest.raises(IndexFileError, match=r"shards\.parquet is damaged"):
        make_loader(small)
    (small / "onetake" / "shards.parquet").unlink()
    with pytest.raises(IndexFileError, match=r"shards\.parquet is damaged"):
        make_loader(small)


@pytest.mark.parametrize(
    "file, column, value",
    [
        ("shards", "bytes", -1),
        ("shards", "bytes", -(2**63)),
        ("segments", "byte_offset", 1 << 20),
        ("segments", "byte_offset", 2**63 - 1),
        ("segments", "byte_length", 2**63 - 1),
    ],
)
def test_a_list_of_shards_is_not_trusted(small, file, column, value):
    path = small / "onetake" / f"{file}.parquet"
    table = pq.read_table(path)
    values = [value, *table[column].to_pylist()[1:]]
    number = table.schema.get_field_index(column)
    pq.write_table(table.set_column(number, table.schema.field(column), pa.array(values, pa.int64())), path)
    with pytest.raises(IndexFileError, match=r"shards\.parquet is damaged \(a segment lies outside its shard\)"):
        make_loader(small)


def test_a_shard_that_is_cut_off_in_the_cache_is_fetched_again(numbered, small, tmp_path):
    how = {"remote": small, "local": tmp_path / "cache"}
    loader = make_loader(small, **how)
    expected = sorted(clip for batch in loader for clip in record(batch))
    cached = sorted((tmp_path / "cache").rglob("*.mds"))
    assert len(cached) > 3
    cut_pack(cached[0].parent, cached[0].name, 3000)
    cut_pack(cached[1].parent, cached[1].with_suffix(".table").name, 10)
    again = sorted(clip for batch in loader for clip in record(batch))
    assert again == expected == clips_of(numbered)


def test_metadata_go_with_the_videos(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "ab":
        write_numbered_video(tmp_path / "videos" / f"{name}.mp4", 60, gop=20)
    (tmp_path / "labels.csv").write_text("path,label,split\nvideos/a.mp4,cat,train\nvideos/b.mp4,dog,val\n")
    index_videos(tmp_path / "labels.csv", tmp_path / "index", workers=1)
    pack_videos(tmp_path, tmp_path / "pack", index=tmp_path / "index", segment_seconds=0.8, overlap=1, workers=1)
    found = {batch["video_id"][0]: batch["label"][0] for batch in make_loader(tmp_path / "pack", batch_size=1)}
    assert found == {"videos/a.mp4": "cat", "videos/b.mp4": "dog"}
    dogs = make_loader(tmp_path / "pack", batch_size=1, where=[("label", "=", "dog")])
    assert {batch["video_id"][0] for batch in dogs} == {"videos/b.mp4"}
    plain = StreamingDataset(local=str(tmp_path / "pack"), batch_size=1)
    assert {sample["video_id"]: sample["metadata"]["label"] for sample in plain} == found


def test_from_a_bucket_through_a_cache_that_holds_a_part_of_it(numbered, small, tmp_path, s3):
    """Every clip once, while shards come and go."""
    limit = 350_000
    assert sum(path.stat().st_size for path in small.glob("*.mds")) > limit
    how = {"remote": s3(small), "local": tmp_path / "cache", "cache_limit": limit}
    loader = make_loader(small, **how, batch_size=1, num_canonical_lanes=1, predownload=1)
    found = []
    for batch in loader:
        found += record(batch)
        assert bytes_in(tmp_path / "cache", "*.mds") <= limit
    assert sorted(found) == clips_of(numbered)
