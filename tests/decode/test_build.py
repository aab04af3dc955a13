"""index_videos: what it writes, what it reuses, what it refuses and in which words."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onetake.core.errors import SourceError, SpecError
from onetake.core.index import CONTAINER, PACKETS
from onetake.decode.build import IndexProgress, index_videos
from onetake.decode.pack import pack_videos
from onetake.decode.store import INDEX_FILES, read_index, read_keyframes, read_table
from onetake.decode.synthetic import write_numbered_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of videos without an index; never written to."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    write_numbered_video(folder / "a.mp4", 220, gop=24, audio=True)
    write_numbered_video(folder / "sub" / "b.mkv", 120, gop=30, codec="libx265")
    write_numbered_video(folder / "c.ts", 100, gop=25)
    write_numbered_video(folder / "sub" / "d.MP4", 40, gop=24, first_pts=-5)
    return folder


@pytest.fixture
def mine(videos, tmp_path) -> Path:
    """A copy of it, with the same modification times."""
    shutil.copytree(videos, tmp_path / "mine")
    return tmp_path / "mine"


def index(folder, out=None, **arguments):
    return index_videos(folder, out, **{"segment_seconds": 2, "workers": 1, **arguments})


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in INDEX_FILES}


# What is written


def test_an_index_beside_the_videos(mine):
    before = {path for path in mine.rglob("*")}
    seen = []
    report = index(mine, progress=seen.append)
    assert {path for path in mine.rglob("*")} - before == {mine / name for name in INDEX_FILES}
    assert (report.out, report.reused, report.refused) == (str(mine), 0, ())
    assert [video.video_id for video in report.index.videos] == ["a.mp4", "c.ts", "sub/b.mkv", "sub/d.MP4"]
    assert [video.num_frames for video in report.index.videos] == [220, 100, 120, 35]
    assert [video.kind for video in report.index.videos] == [PACKETS, CONTAINER, PACKETS, PACKETS]
    sizes = [video.file_bytes for video in report.index.videos]
    assert seen == [
        IndexProgress(video.file, i + 1, 4, sum(sizes[: i + 1]), sum(sizes), sum(sizes[: i + 1]))
        for i, video in enumerate(report.index.videos)
    ]
    assert report.bytes_read == sum(sizes)
    again = read_index(mine)
    assert again.generation == report.index.generation
    assert again.videos == report.index.videos
    header = json.loads((mine / "index.json").read_text())
    assert (header["videos"], header["frames"], header["segments"]) == (4, 475, again.num_segments)


def test_an_index_in_a_folder_of_its_own(videos, tmp_path):
    report = index(videos, tmp_path / "deep" / "index")
    assert sorted(path.name for path in (tmp_path / "deep" / "index").iterdir()) == sorted(INDEX_FILES)
    assert not list(videos.glob("*.json"))
    assert report.out == str(tmp_path / "deep" / "index")


def test_segments_start_at_keyframes_follow_one_another_and_are_about_as_long_as_asked(videos, tmp_path):
    found = index(videos, tmp_path).index
    for number, video in enumerate(found.videos):
        segments = np.flatnonzero(found.video == number)
        stops = (found.first_frame + found.num_frames)[segments]
        assert found.first_frame[segments].tolist() == [0, *stops[:-1].tolist()]
        assert stops[-1] == video.num_frames
        assert all(50 <= length < 50 + 30 for length in found.num_frames[segments[:-1]])
        for segment in segments.tolist():
            table = read_table(tmp_path, found, segment)
            assert table.key_rows[0] == 0
            assert len(table.key_rows) == found.num_keyframes[segment]
            assert table.frame[0] == found.first_frame[segment] or (table.frame[0] == -1 and segment == segments[0])
    assert np.bincount(found.video).tolist() == [4, 2, 2, 1]


def test_keyframes_are_known_without_packet_tables(videos, tmp_path):
    found = index(videos, tmp_path).index
    keys = read_keyframes(tmp_path, found)
    assert len(keys.start) == found.num_segments + 1
    assert keys.start[-1] == len(keys.frame) == len(keys.pts)
    for segment in range(found.num_segments):
        table = read_table(tmp_path, found, segment)
        shown = table.key_rows[table.frame[table.key_rows] >= 0]
        own = slice(keys.start[segment], keys.start[segment + 1])
        assert keys.frame[own].tolist() == table.frame[shown].tolist()
        assert keys.pts[own].tolist() == table.pts[shown].tolist()
        assert found.first_pts[segment] == table.pts[table.frame == found.first_frame[segment]][0]
    cut = found.videos.index(next(video for video in found.videos if video.file == "sub/d.MP4"))
    assert found.num_keyframes[found.video == cut].tolist() == [2]  # of which an edit list cuts the first away
    assert keys.frame[keys.start[-2] :].tolist() == [19]


def test_byte_ranges_hold_the_segments_packets_and_no_more(videos, tmp_path):
    found = index(videos, tmp_path).index
    for segment in range(found.num_segments):
        video, table = found.videos[found.video[segment]], read_table(tmp_path, found, segment)
        start, length = int(found.byte_offset[segment]), int(found.byte_length[segment])
        if video.kind == CONTAINER:
            assert (start, length) == (0, video.file_bytes)
        else:
            assert (start, start + length) == (table.offset.min(), (table.offset + table.size).max())
            assert start + length <= video.file_bytes


def test_packet_tables_take_at_most_8_bytes_a_packet(videos, tmp_path):
    found = index(videos, tmp_path, segment_seconds=60).index
    assert (tmp_path / "packets.bin").stat().st_size <= 8 * found.num_packets.sum()


def test_a_short_video_is_one_segment(videos, tmp_path):
    found = index(videos, tmp_path, segment_seconds=60).index
    assert found.video.tolist() == [0, 1, 2, 3]
    assert found.first_frame.tolist() == [0] * 4


def test_packets_without_a_position_do_not_spoil_the_index(tmp_path):
    write_numbered_video(tmp_path / "a.mpg", 60, codec="mpeg1video", bframes=0)
    write_numbered_video(tmp_path / "b.mp4", 60)
    assert [video.kind for video in index(tmp_path).index.videos] == [CONTAINER, PACKETS]


def test_the_same_videos_give_the_same_index_wherever_they_are(mine, videos, tmp_path):
    for path in mine.rglob("*.*"):
        os.utime(path, ns=(1, 1))
    one, other = index(mine), index(videos, tmp_path / "out")
    assert one.index.generation == other.index.generation
    assert (mine / "packets.bin").read_bytes() == (tmp_path / "out" / "packets.bin").read_bytes()


def test_several_processes_give_the_same_index(videos, tmp_path):
    index(videos, tmp_path / "one", workers=1)
    index(videos, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


# What is reused


def test_what_has_not_changed_is_reused(mine):
    first = index(mine)
    before = content(mine)
    second = index(mine)
    assert (first.reused, second.reused) == (0, 4)
    assert content(mine) == before


def test_a_touched_file_is_read_again_and_found_the_same(mine):
    first = index(mine)
    os.utime(mine / "a.mp4", ns=(10**18, 10**18))
    second = index(mine)
    assert second.reused == 3
    assert second.index.generation == first.index.generation
    assert second.index.videos[0].version == str(10**18)
    assert index(mine).reused == 4


def test_a_changed_file_is_read_again(mine):
    first = index(mine)
    write_numbered_video(mine / "a.mp4", 90)
    second = index(mine)
    assert second.reused == 3
    assert second.index.generation != first.index.generation
    assert second.index.videos[0].num_frames == 90


def test_new_files_come_in_and_removed_ones_go(mine, videos, tmp_path):
    (mine / "sub" / "b.mkv").unlink()
    index(mine)
    shutil.copy2(videos / "sub" / "b.mkv", mine / "sub")
    (mine / "c.ts").unlink()
    report = index(mine)
    assert report.reused == 2
    assert [video.file for video in report.index.videos] == ["a.mp4", "sub/b.mkv", "sub/d.MP4"]
    (videos / "c.ts").touch()
    assert report.index.generation == index(mine, tmp_path / "fresh").index.generation


def test_another_segment_length_reuses_nothing(mine):
    assert index(mine).reused == 0
    assert index(mine, segment_seconds=3).reused == 0


@pytest.mark.parametrize("name", INDEX_FILES)
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_damaged_index_is_built_anew(mine, name, damage):
    index(mine)
    before = content(mine)
    if damage == "missing":
        (mine / name).unlink()
    else:
        (mine / name).write_bytes(b"garbage")
    report = index(mine)
    assert report.reused == (4 if name == "spans.parquet" else 0)  # that one follows from the manifest
    assert content(mine) == before


# What is refused


@pytest.fixture(scope="module")
def bad(tmp_path_factory, videos) -> Path:
    """Files that are no use, and one that is."""
    folder = tmp_path_factory.mktemp("bad")
    other = folder / "elsewhere.data"
    write_numbered_video(folder / "good.mp4", 30)
    write_numbered_video(folder / "fast.mp4", 60, container_options={"movflags": "faststart"})
    shutil.copy(folder / "good.mp4", other)
    whole, fast, mkv = ((folder / n).read_bytes() for n in ("good.mp4", "fast.mp4", videos / "sub" / "b.mkv"))
    with av.open(str(folder / "fast.mp4")) as container:
        boundary = [packet.pos for packet in container.demux(video=0) if packet.size][40]
    (folder / "fast.mp4").unlink()
    files = {
        "text.mp4": b"This is not a video.\n" * 100,
        "empty.mp4": b"",
        "cut_in_packet.mp4": fast[: len(fast) * 2 // 3],
        "cut_at_packet.mp4": fast[:boundary],
        "cut.mkv": mkv[: len(mkv) * 2 // 3],
        "no_moov.mp4": whole[: whole.index(b"moov") - 4],
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.2,\nelsewhere.data\n#EXT-X-ENDLIST\n",
        "script.mp4": b"ffconcat version 1.0\nfile elsewhere.data\n",
        "noise.mkv": np.random.default_rng(0).bytes(5000),
        "back\\slash.mp4": whole,
        os.fsdecode(b"no_utf8_\xff.mp4"): whole,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder


UNREADABLE = r"not a readable video file \(.*\); remove it, or copy or encode it again"
NAME = "an index cannot hold this file name; rename it"
REFUSED = {
    "text.mp4": UNREADABLE,
    "empty.mp4": "the file is empty; remove it or copy it again",
    "cut_in_packet.mp4": r"cut off or damaged at byte \d+; copy it again",
    "cut_at_packet.mp4": "cut off: its header announces 60 frames, the file holds 40; copy it again",
    "cut.mkv": r"cut off: its header announces \d+ bytes, the file holds \d+; copy it again",
    "no_moov.mp4": UNREADABLE,
    "playlist.mp4": UNREADABLE,
    "script.mp4": UNREADABLE,
    "noise.mkv": UNREADABLE,
    "sound.mp4": "holds no video stream that can be decoded; remove it",
    "back\\slash.mp4": NAME,
    os.fsdecode(b"no_utf8_\xff.mp4"): NAME,
}


@pytest.fixture(scope="module")
def refused(bad, tmp_path_factory):
    report = index(bad, tmp_path_factory.mktemp("index"))
    assert [video.file for video in report.index.videos] == ["good.mp4"]
    assert sorted(refusal.file for refusal in report.refused) == sorted(REFUSED)
    return {refusal.file: refusal.reason for refusal in report.refused}


@pytest.mark.parametrize("file", REFUSED, ids=ascii)
def test_a_file_that_is_no_use_is_reported_with_its_reason(refused, file):
    assert re.match(REFUSED[file], refused[file]), refused[file]


def test_the_script_would_have_been_followed(bad):
    with av.open(str(bad / "script.mp4")) as container:  # so the test above tests something
        assert container.format.name == "concat"
        assert next(container.decode(video=0)).width == 128


def test_a_colon_in_a_name_is_only_a_colon(mine, monkeypatch):
    (mine / "a.mp4").rename(mine / "12:30:00 a.mp4")
    (mine / "c.ts").rename(mine / "file:c.ts")
    report = index(mine)
    assert not report.refused
    assert [video.file for video in report.index.videos][:2] == ["12:30:00 a.mp4", "file:c.ts"]
    monkeypatch.chdir(mine)
    assert index(".", "out").index.generation == report.index.generation


def test_only_videos_are_looked_at(mine):
    for name in ("notes.txt", ".hidden.mp4", "sub/cover.jpg"):
        (mine / name).write_text("no video")
    (mine / "folder.mp4").mkdir()
    assert not index(mine).refused


def test_folders_that_hold_nothing(tmp_path):
    empty, text, hopeless = tmp_path / "empty", tmp_path / "text.mp4", tmp_path / "hopeless"
    empty.mkdir()
    hopeless.mkdir()
    for path in (text, hopeless / "x.mp4", hopeless / "y.mkv"):
        path.write_text("no video")
    table = {
        tmp_path / "none": "none does not exist: check the path",
        text: r"text\.mp4 is a file: check the path",
        empty: r"no video files in .*empty: files are found by their suffixes, .*\.mp4",
        hopeless: r"none of the video files in .*hopeless can be used:\n  x\.mp4: not a readable.*\n  y\.mkv: not a",
    }
    for folder, message in table.items():
        with pytest.raises(SourceError, match=message):
            index(folder)


ARGUMENTS = [
    ({"segment_seconds": 0}, "segment_seconds=0: must be a number of seconds, above 0"),
    ({"segment_seconds": -1.5}, r"segment_seconds=-1\.5: must be a number of seconds"),
    ({"segment_seconds": float("nan")}, "segment_seconds=nan: must be a number of seconds"),
    ({"workers": 0}, "workers=0: must be a whole number, at least 1"),
]


@pytest.mark.parametrize("arguments, message", ARGUMENTS, ids=str)
def test_impossible_arguments(videos, tmp_path, arguments, message):
    with pytest.raises(SpecError, match=message):
        index(videos, tmp_path, **arguments)


def test_a_place_that_cannot_be_written_is_said_before_the_work(videos, tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    with pytest.raises(SourceError, match="file/index cannot be written|the index cannot be written to .*file/index"):
        index(videos, tmp_path / "file" / "index", progress=lambda *what: seen.append(what))
    assert not seen


def test_another_programs_index_is_not_overwritten(mine):
    theirs = json.dumps({"version": 2, "shards": []})  # streaming's own, of MDS shards
    (mine / "index.json").write_text(theirs)
    with pytest.raises(SourceError, match=r"index\.json belongs to another program: name another folder with --out"):
        index(mine)
    assert (mine / "index.json").read_text() == theirs
    assert index(mine, mine / "out").index.num_segments


@pytest.mark.parametrize("name", ["videos.parquet", "spans.parquet"])
def test_a_manifest_that_is_named_like_a_part_of_the_index_is_not_overwritten(mine, name):
    pq.write_table(pa.table({"path": ["a.mp4"]}), mine / name)
    before = (mine / name).read_bytes()
    with pytest.raises(SourceError, match=f"{name} is no part of an index, which would replace it"):
        index_videos(mine / name, workers=1)
    assert (mine / name).read_bytes() == before
    assert index_videos(mine / name, mine / "out", workers=1).index.num_segments


def test_the_index_of_a_pack_is_not_overwritten(mine):
    index(mine)
    pack_videos(mine, mine / "pack", workers=1)
    before = read_index(mine / "pack" / "onetake")
    with pytest.raises(SourceError, match="holds the index of a pack"):
        index(mine, mine / "pack" / "onetake")
    assert read_index(mine / "pack" / "onetake").generation == before.generation
