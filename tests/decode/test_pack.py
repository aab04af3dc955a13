"""Packs: every frame of every segment as in the original, the same bytes whatever happened on the way, and nothing of
anyone else's touched."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from streaming.base.format.mds import MDSReader

from onetake import index_videos, pack_videos
from onetake.core.errors import IndexFileError, SourceError, SpecError
from onetake.core.index import CONTAINER, UNCHECKED
from onetake.decode import headers, remote_file
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.pack_index import read_shards
from onetake.decode.pack_shard import PackedShard
from onetake.decode.pack_target import PackTarget
from onetake.decode.scale import converter
from onetake.decode.source import open_source
from onetake.decode.store import read_header, read_index, read_table
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.base import StorageError
from onetake.storage.local import LocalStorage
from onetake.storage.open import open_storage
from onetake.storage.s3 import S3Storage
from tests.killing import kill_onetake
from tests.zoo import sequential, write_zoo

CUT = {
    # file: why it is here
    "plain.mp4": "closed GOPs",
    "open.mp4": "open GOPs",
    "open.mkv": "open GOPs, in milliseconds",
    "pyramid.mkv": "B-frames that refer to B-frames",
    "refresh_cut.mkv": "no keyframe, intra refresh",
    "stale_extradata.mp4": "parameter sets in the packets",
    "size_change.mkv": "pictures change their size",
    "paff.mkv": "a picture for each field",
    "hevc_open.mp4": "leading pictures",
    "hevc_radl.mp4": "leading pictures that can be decoded",
    "hevc_10bit.mkv": "ten bits",
    "vp8.webm": "VP8",
    "vp9_hidden.webm": "pictures that are never shown",
    "av1.mkv": "AV1",
    "mpeg4.avi": "AVI",
    "mjpeg.avi": "no codec header",
    "ffv1.mkv": "lossless, only in Matroska",
    "prores.mov": "only in QuickTime",
    "audio.mp4": "sound between the pictures",
    "scattered.mp4": "chunks back to front",
    "rotated90.mp4": "turned",
    "rotated.mkv": "turned",
    "vfr.mp4": "steps between frames differ",
    "ntsc.mkv": "times that are rounded",
    "negative.mp4": "an edit list cuts the front",
    "cut_front.mp4": "an edit list begins inside a GOP",
    "cut_back.mp4": "an edit list ends inside a GOP",
    "delayed.mp4": "begins late",
    "large.mkv": "begins after 30 hours",
    "fragments.mp4": "fragmented",
    "bframes.flv": "FLV",
}
WHOLE = {
    "open.ts": "packets in pieces",
    "bframes.avi": "start codes instead of lengths",
    "packed.avi": "two pictures in a packet",
    "replay.mp4": "an edit list that shows a stretch twice",
    "twins.mkv": "two packets at one time",
    "divx3.avi": "a codec that no common container holds",
}
SHORT = {"refresh_cut.mkv", "cut_front.mp4"}  # too short to be cut
HOW = {"shard_size": 1 << 16, "segment_seconds": 0.7, "overlap": 0.5, "workers": 1}
LOCK = "/".join(["onetake", "work", "lock.json"])  # below a pack's root, while somebody writes it


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, [*CUT, *WHOLE])
    assert not index_videos(folder, segment_seconds=1.5, workers=1).refused
    return folder


@pytest.fixture(scope="module")
def pack(zoo, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "out"
    report = pack_videos(zoo, out, **HOW)
    assert (report.videos, report.whole, report.reused) == (len(CUT) + len(WHOLE), len(WHOLE), 0)
    return out


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder that makes a dozen shards."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_numbered_video(folder / f"{number}.mp4", 300, gop=25, options={"mbtree": "0"})
    index_videos(folder, workers=1)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every empty folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() or not any(path.iterdir())]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
def test_every_frame_of_every_segment_is_that_of_the_original(zoo, pack, name):
    index, header = read_index(pack / "onetake"), read_header(pack / "onetake")
    shards = read_shards(pack / "onetake", index, header)
    shown = sequential(zoo / name)
    number = [video.video_id for video in index.videos].index(name)
    video = index.videos[number]
    assert video.num_frames == len(shown)
    segments = np.flatnonzero(index.video == number)
    assert len(segments) == 1 if name in WHOLE else len(segments) > 1 or name in SHORT
    for segment in segments.tolist():
        first, stop = int(index.first_frame[segment]), int(shards.stop_frame[segment])
        end = first + int(index.num_frames[segment])
        assert stop > end or end == video.num_frames
        table = read_table(pack / "onetake", index, segment)
        path = pack / shards.files[shards.shard_of_segment[segment]]
        window = (int(index.byte_offset[segment]), int(index.byte_length[segment]))
        source = open_source(video, table, path, window=window)
        decoder = ClipDecoder(video, source, converter(None, video.rotation), new_counters())
        for frame in range(first, stop):
            (picture,) = decoder.read([frame])
            assert np.array_equal(picture, np.rot90(shown[frame].pixels, shown[frame].rotation // 90)), (segment, frame)
        decoder.close()


def test_the_packets_keep_numbers_and_times_and_stand_in_the_shards(zoo, pack):
    before, after = read_index(zoo), read_index(pack / "onetake")
    assert [video.video_id for video in before.videos] == [video.video_id for video in after.videos]
    kept = ("num_frames", "codec", "extradata", "time_base", "duration", "frame_ticks", "rotation", "kind")
    for one, other in zip(before.videos, after.videos, strict=True):
        assert [getattr(one, name) for name in kept] == [getattr(other, name) for name in kept]
    times: dict[tuple[int, int], int] = {}
    for segment in range(before.num_segments):
        table = read_table(zoo, before, segment)
        keys = [(int(before.video[segment]), int(frame)) for frame in table.frame]
        times |= dict(zip(keys, table.pts.tolist(), strict=True))
    shards = read_shards(pack / "onetake", after, read_header(pack / "onetake"))
    for segment in range(after.num_segments):
        table, number = read_table(pack / "onetake", after, segment), int(after.video[segment])
        shown = table.frame >= 0
        assert [times[number, int(frame)] for frame in table.frame[shown]] == table.pts[shown].tolist()
        assert shards.last_pts[segment] == times[number, int(shards.stop_frame[segment]) - 1]
        if after.videos[number].kind != CONTAINER:
            data = (pack / shards.files[shards.shard_of_segment[segment]]).read_bytes()
            original = (zoo / before.videos[number].file).read_bytes()
            for offset, size in zip(table.offset.tolist(), table.size.tolist(), strict=True):
                assert data[offset : offset + size] in original


def test_shards_are_no_larger_than_asked_unless_one_segment_is(pack):
    entries = json.loads((pack / "index.json").read_bytes())["shards"]
    assert len(entries) > 5
    assert max(entry["samples"] for entry in entries) > 3
    for entry in entries:
        size = (pack / entry["raw_data"]["basename"]).stat().st_size
        assert size == entry["raw_data"]["bytes"]
        assert size <= 1 << 16 or entry["samples"] == 1


def test_the_same_bytes_from_any_number_of_workers(videos, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    pack_videos(videos, one, **HOW)
    pack_videos(videos, two, **{**HOW, "workers": 2})
    assert content(one) == content(two)
    assert len(content(one)) > 10


def test_on_ray_it_is_the_same(videos, tmp_path, ray_cluster):
    pack_videos(videos, tmp_path / "local", **HOW)
    pack_videos(videos, tmp_path / "ray", **{**HOW, "engine": "ray", "workers": 2})
    assert content(tmp_path / "ray") == content(tmp_path / "local")


def test_from_a_bucket_into_a_bucket(tmp_path, s3, s3_client):
    """Half of it first: what is there is known again; the lock that a killed process left is no one's."""
    (tmp_path / "videos").mkdir()
    write_numbered_video(tmp_path / "videos" / "a.mp4", 150, gop=25)
    index_videos(tmp_path / "videos", workers=1)
    pack_videos(tmp_path / "videos", tmp_path / "local", **HOW)
    source, out = s3(tmp_path / "videos"), s3()
    whole = content(tmp_path / "local")
    pack_videos(source, f"{out}/whole", **HOW)
    bucket = out.removeprefix("s3://")

    def objects(prefix: str) -> dict[str, bytes]:
        pages = s3_client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        bodies = (s3_client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys)
        return dict(zip((key.removeprefix(prefix) for key in keys), bodies, strict=True))

    assert objects("whole/") == whole
    arguments = [sys.executable, "-c", KILLED, "4", "pack", source, f"{out}/killed", *COMMAND, *ALONE]
    assert subprocess.run(arguments, capture_output=True, timeout=60).returncode == -signal.SIGKILL
    left = objects("killed/")
    assert LOCK in left
    assert "index.json" not in left
    report = pack_videos(source, f"{out}/killed", **HOW)
    assert report.reused > 0
    assert objects("killed/") == whole
    holder = {"owner": "elsewhere 1 1", "seconds": time.time()}
    s3_client.put_object(Bucket=bucket, Key=f"taken/{LOCK}", Body=json.dumps(holder))
    with pytest.raises(SourceError, match=r"another process \(elsewhere 1 1\) writes a pack to"):
        pack_videos(source, f"{out}/taken", **HOW)
    s3_client.delete_object(Bucket=source.removeprefix("s3://"), Key="packets.bin")
    with pytest.raises(IndexFileError, match=r"holds no packets\.bin: run `onetake index` again"):
        pack_videos(source, f"{out}/unread", **HOW)
    before = {"owner": f"{socket.gethostname()} {os.getpid()} 1", "seconds": time.time()}
    s3_client.put_object(Bucket=bucket, Key=f"again/{LOCK}", Body=json.dumps(before))
    with PackTarget(open_storage(f"{out}/again"), "key").locked():  # a container that was started again
        pass
    first = PackTarget(open_storage(f"{out}/again"), "key")
    with first.locked():
        s3_client.put_object(Bucket=bucket, Key=f"again/{LOCK}", Body=json.dumps(holder))
        with pytest.raises(SourceError, match=r"another process \(elsewhere 1 1\) writes a pack to"):
            first.record(PackedShard(0, {}, "", ()))


KILLED = """
import os, signal, sys
from onetake.decode import pack_target
from onetake.storage.local import LocalStorage
from onetake.storage.open import open_storage
from onetake.storage.s3 import S3Storage
left = int(sys.argv[1])
def counted(method):
    def call(*arguments):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return method(*arguments)
    return call
for storage in (LocalStorage, S3Storage):
    storage.write, storage.delete = counted(storage.write), counted(storage.delete)
sys.argv = ["onetake", *sys.argv[2:]]
from onetake.cli.main import main
main()
"""
COMMAND = ["--shard-size", "65536", "--segment-seconds", "0.7", "--overlap", "0.5"]
ALONE = ["--workers", "1", "--json"]


def test_killed_at_any_write_it_goes_on_to_the_same_bytes(videos, tmp_path):
    """The real command is killed by SIGKILL before its first write, its fourth one, and so on up to the last."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack_videos(videos, whole, **HOW)
    kills = 0
    for writes in (1, 4, 6, 7, 8, 9, 9):
        arguments = [sys.executable, "-c", KILLED, str(writes), "pack", str(videos), str(out), *COMMAND, *ALONE]
        done = subprocess.run(arguments, capture_output=True, timeout=60, text=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
    report = pack_videos(videos, out, **HOW)
    assert kills >= 4
    assert report.reused > 3
    assert content(out) == content(whole)


def test_killed_in_the_middle_of_a_write_nothing_is_left_behind(videos, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack_videos(videos, whole, **HOW)
    noted = ("onetake.decode.pack_target", "PackTarget", "record", 2)
    kill_onetake(tmp_path, noted, "pack", videos, out, *COMMAND, "--workers", 2)
    (out / ".shard.00007.mds.123.part").write_bytes(b"half")  # as a write leaves that is killed midway
    (out / "shard.00008.mds").write_bytes(b"of a run that could not note it any more")
    report = pack_videos(videos, out, **HOW)
    assert report.reused == 2
    assert content(out) == content(whole)


def test_what_is_done_is_not_done_again(videos, tmp_path):
    first = pack_videos(videos, tmp_path / "out", **HOW)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mds")}
    again = pack_videos(videos, tmp_path / "out", **HOW)
    assert (first.reused, again.reused) == (0, first.shards)
    assert first.generation == again.generation
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mds")}


def test_a_finished_pack_that_lacks_a_shard_is_not_said_to_be_whole(videos, tmp_path):
    pack_videos(videos, tmp_path / "out", **HOW)
    whole = content(tmp_path / "out")
    (tmp_path / "out" / "shard.00001.mds").unlink()
    with pytest.raises(SourceError, match=r"shard\.00001\.mds is missing: .* delete index\.json and run"):
        pack_videos(videos, tmp_path / "out", **HOW)
    (tmp_path / "out" / "index.json").write_text('{"shards": [1]}')
    with pytest.raises(SourceError, match=r"index\.json is damaged: delete it"):
        pack_videos(videos, tmp_path / "out", **HOW)
    (tmp_path / "out" / "index.json").unlink()
    pack_videos(videos, tmp_path / "out", **HOW)
    assert content(tmp_path / "out") == whole


def test_what_is_no_video_does_not_stop_it(tmp_path):
    (tmp_path / "videos").mkdir()
    write_numbered_video(tmp_path / "videos" / "a.mp4", 20)
    (tmp_path / "videos" / "b.txt").symlink_to("nothing")
    index_videos(tmp_path / "videos", workers=1)
    assert pack_videos(tmp_path / "videos", tmp_path / "out", **HOW).videos == 1


@pytest.mark.parametrize("name", ["notes.txt", "sub/a.mds", ".hidden"])
def test_a_folder_of_others_is_left_alone(videos, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(SourceError, match="no part of a pack: name a new or empty folder"):
        pack_videos(videos, tmp_path, **HOW)
    assert content(tmp_path) == {name: b"mine"}


def test_shards_of_others_are_left_alone(videos, tmp_path):
    (tmp_path / "shard.00000.mds").write_text("mine")
    (tmp_path / "index.json").write_text('{"version": 2, "shards": []}')
    before = content(tmp_path)
    with pytest.raises(SourceError, match="name another folder"):
        pack_videos(videos, tmp_path, **HOW)
    assert content(tmp_path) == before


def test_other_options_need_another_folder(videos, tmp_path):
    pack_videos(videos, tmp_path / "out", **HOW)
    before = content(tmp_path)
    with pytest.raises(SourceError, match="made with other options"):
        pack_videos(videos, tmp_path / "out", **{**HOW, "overlap": 1})
    assert content(tmp_path) == before


def test_two_at_once_are_refused(videos, tmp_path):
    with PackTarget(LocalStorage(tmp_path / "out"), "key").locked():
        with pytest.raises(SourceError, match="another process of this machine writes a pack to"):
            pack_videos(videos, tmp_path / "out", **HOW)
    assert pack_videos(videos, tmp_path / "out", **HOW).shards > 3


def test_a_disk_that_is_full_costs_nothing_that_is_done(videos, tmp_path, monkeypatch):
    write, left = LocalStorage.write, 5

    def fail_after_some(self, file, source):
        nonlocal left
        left -= 1
        if left < 0 and "work" in file:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, file, source)

    monkeypatch.setattr(LocalStorage, "write", fail_after_some)
    with pytest.raises(SourceError, match=r"cannot be written to .* \(No space left on device\): what is there is"):
        pack_videos(videos, tmp_path / "out", **HOW)
    monkeypatch.undo()
    assert pack_videos(videos, tmp_path / "out", **HOW).reused == 2


def test_a_pack_is_not_packed_again(pack, tmp_path):
    with pytest.raises(SourceError, match="pack the videos that it was made of"):
        pack_videos(pack, tmp_path / "out", index=pack / "onetake", **HOW)


def test_without_an_index(tmp_path):
    with pytest.raises(IndexFileError, match="onetake index"):
        pack_videos(tmp_path, tmp_path / "out", **HOW)
    with pytest.raises(SpecError, match="shard_size="):
        pack_videos(tmp_path, tmp_path / "out", shard_size="much")


@pytest.fixture
def changing(tmp_path) -> Path:
    folder = tmp_path / "changing"
    folder.mkdir()
    for name in "abc":
        write_numbered_video(folder / f"{name}.mp4", 150, gop=25)
    index_videos(folder, workers=1)
    return folder


def test_a_video_of_another_size_is_named_before_anything_is_packed(changing, tmp_path):
    with (changing / "b.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SourceError, match=r"'b\.mp4' .*changed.*Nothing was packed"):
        pack_videos(changing, tmp_path / "out", **HOW)
    (changing / "b.mp4").unlink()
    with pytest.raises(SourceError, match=r"'b\.mp4' .*is not there"):
        pack_videos(changing, tmp_path / "out", **HOW)
    assert not list((tmp_path / "out").rglob("*"))


def test_a_video_with_other_bytes_is_named_and_the_others_are_kept(changing, tmp_path):
    sound = (changing / "b.mp4").read_bytes()
    index = read_index(changing)
    offset = int(read_table(changing, index, 1).offset[60])
    damaged = bytearray(sound)
    damaged[offset] ^= 1
    (changing / "b.mp4").write_bytes(damaged)
    with pytest.raises(SourceError, match=rf"\d of \d+ shards could not be packed.*\n  b\.mp4: at byte {offset} "):
        pack_videos(changing, tmp_path / "out", **HOW)
    assert not (tmp_path / "out" / "index.json").exists()
    (changing / "b.mp4").write_bytes(sound)
    report = pack_videos(changing, tmp_path / "out", **HOW)
    assert 0 < report.reused < report.shards
    pack_videos(changing, tmp_path / "other", **HOW)
    assert content(tmp_path / "out") == content(tmp_path / "other")


def test_segments_are_files_that_players_read(zoo, pack):
    """What any reader of MDS gets: the segment's own frames first, upright as the original."""
    odd = {"refresh_cut.mkv", "size_change.mkv", "stale_extradata.mp4"}  # FFmpeg itself opens these differently
    entries = json.loads((pack / "index.json").read_bytes())["shards"]
    counts: dict[str, int] = {}
    for entry in entries:
        reader = MDSReader.from_json(str(pack), "", entry)
        for number in range(entry["samples"]):
            sample = reader[number]
            name, start, count = sample["video_id"], sample["start_frame"], sample["num_frames"]
            counts[name] = counts.get(name, 0) + count
            if name in WHOLE:
                assert sample["video"] == (zoo / name).read_bytes()
            if name not in CUT or name in odd:
                continue
            shown = sequential(zoo / name)
            with av.open(io.BytesIO(sample["video"])) as container:
                frames = list(container.decode(container.streams.video[0]))[:count]
            assert len(frames) == count
            for at, frame in enumerate(frames, start):
                assert np.array_equal(frame.to_ndarray(format="rgb24"), shown[at].pixels), (name, at)
                assert frame.rotation == shown[at].rotation
    index = read_index(zoo)
    assert counts == {video.video_id: video.num_frames for video in index.videos}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_from_a_bucket_is_that_of_a_folder_and_no_video_is_fetched_again_for_each_segment(
    s3, tmp_path, monkeypatch, name
):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_numbered_video(folder / name, 600, gop=15, width=320, height=240, audio=True)
    index_videos(folder, workers=1)
    how = {**HOW, "audio": True}
    report = pack_videos(folder, tmp_path / "local", **how)
    assert report.segments > 15
    fetched = []
    get = S3Storage._get

    def record(self, key, start, length, version):
        if key == name:
            fetched.append(length)
        return get(self, key, start, length, version)

    monkeypatch.setattr(S3Storage, "_get", record)
    monkeypatch.setattr(remote_file, "_BLOCK", 1 << 13)
    pack_videos(s3(folder), tmp_path / "remote", **how)
    assert content(tmp_path / "remote") == content(tmp_path / "local")
    size = (folder / name).stat().st_size
    assert sum(fetched) < 5 * size
    with av.open(io.BytesIO(first_sample(tmp_path / "remote"))) as container:
        assert len([packet for packet in container.demux(audio=0) if packet.size]) > 20


def test_sound_that_can_not_be_fetched_is_no_end_of_it(s3, tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_numbered_video(folder / "a.mp4", 100, gop=25, audio=True)
    index_videos(folder, workers=1)
    source = s3(folder)
    read = S3Storage.read

    def fail(self, file, start, length, version=None):
        if version is not None and start >= 1 << 13:
            raise StorageError(errno.EIO, "SlowDown", file)
        return read(self, file, start, length, version)

    monkeypatch.setattr(S3Storage, "read", fail)
    monkeypatch.setattr(remote_file, "_BLOCK", 1 << 13)
    with pytest.raises(SourceError, match="SlowDown"):
        pack_videos(source, tmp_path / "remote", **{**HOW, "audio": True})


def first_sample(pack: Path) -> bytes:
    """The file of a pack's first segment."""
    entry = json.loads((pack / "index.json").read_text())["shards"][0]
    return MDSReader.from_json(str(pack), "", entry)[0]["video"]


def test_packets_that_were_never_read_before_get_check_sums(s3, tmp_path, monkeypatch):
    """As of an index by header bytes alone: what is packed is what was there."""
    monkeypatch.setattr(headers, "_FIRST_BYTES", 64)  # so that a small file has packets that are not read
    monkeypatch.setattr(headers, "_NEXT_BYTES", 16)
    (tmp_path / "videos").mkdir()
    write_numbered_video(tmp_path / "videos" / "a.mp4", 300, gop=10)
    with (tmp_path / "videos" / "a.mp4").open("ab") as file:
        file.write((3 << 20).to_bytes(4, "big") + b"free" + bytes((3 << 20) - 8))  # smaller files are read whole
    source, index = s3(tmp_path / "videos"), tmp_path / "index"
    known = index_videos(source, index, workers=1).index
    unread = read_table(index, known, 0).flags & UNCHECKED
    assert unread.any()
    pack_videos(source, tmp_path / "pack", index=index, **HOW)
    folder = tmp_path / "pack" / "onetake"
    packed = read_index(folder)
    tables = [read_table(folder, packed, segment) for segment in range(packed.num_segments)]
    shards = read_shards(folder, packed, read_header(folder))
    for table, shard in zip(tables, shards.shard_of_segment.tolist(), strict=True):
        data = (tmp_path / "pack" / shards.files[shard]).read_bytes()
        for row, (offset, size) in enumerate(zip(table.offset.tolist(), table.size.tolist(), strict=True)):
            assert not table.flags[row] & UNCHECKED
            assert table.has_bytes(row, data[offset : offset + size])
