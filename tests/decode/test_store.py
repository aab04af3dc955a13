"""Opening an index: nothing in it is trusted, and every fault names the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onetake.core.errors import IndexFileError
from onetake.decode.build import index_videos
from onetake.decode.store import INDEX_FILES, read_header, read_index, read_table
from onetake.decode.synthetic import write_numbered_video
from onetake.decode.validate import safe_path
from onetake.decode.work import WORK

AGAIN = "run `onetake index` again"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_numbered_video(folder / "a.mp4", 100, gop=25)
    write_numbered_video(folder / "b.mp4", 60, gop=25)
    index_videos(folder, folder / "index", segment_seconds=1, workers=1)
    return folder / "index"


@pytest.fixture
def mine(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "index"))


def rewrite(folder: Path, name: str, column: str, values: list) -> None:
    """One column of a parquet file replaced, everything else (the generation too) left as it is."""
    table = pq.read_table(folder / name)
    array = pa.array(values, table.schema.field(column).type)
    pq.write_table(
        table.set_column(table.schema.get_field_index(column), table.schema.field(column), array), folder / name
    )


def edit_header(folder: Path, **values) -> None:
    header = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**header, **values}))


def refused(folder: Path, *messages: str) -> None:
    with pytest.raises(IndexFileError) as caught:
        read_index(folder)
    assert all(message in str(caught.value) for message in messages), str(caught.value)


def test_the_index_that_the_others_are_made_from_is_good(good):
    index = read_index(good)
    assert index.first_frame.tolist() == [0, 25, 50, 75, 0, 25, 50]
    assert index.num_frames.tolist() == [25, 25, 25, 25, 25, 25, 10]
    assert [len(read_table(good, index, segment)) for segment in range(7)] == index.num_packets.tolist()


def test_a_missing_index(tmp_path):
    refused(tmp_path, f"no index in {tmp_path}: run `onetake index` on the videos' folder first")
    refused(tmp_path / "nowhere", "no index in", "run `onetake index`")


HEADERS = {
    "no JSON": (b"{", "index.json cannot be read (", AGAIN),
    "no text": (b"\xff\xfe\x00", "index.json cannot be read (", AGAIN),
    "empty": (b"", "index.json cannot be read (", AGAIN),
    "of streaming": (b'{"version": 2, "shards": []}', "index.json is not an index of onetake", "(--out)"),
    "a list": (b"[]", "index.json is not an index of onetake", "(--out)"),
    "newer": (b'{"format": "onetake", "version": 99}', "has version 99, this onetake reads version 4", AGAIN),
    "no version": (b'{"format": "onetake"}', "has version None, this onetake reads version 4", AGAIN),
    "no generation": (b'{"format": "onetake", "version": 4}', "is damaged ('generation')", AGAIN),
}


@pytest.mark.parametrize("data, message, remedy", HEADERS.values(), ids=HEADERS)
def test_headers(mine, data, message, remedy):
    (mine / "index.json").write_bytes(data)
    refused(mine, message, remedy)


def test_a_folder_in_the_headers_place(mine):
    (mine / "index.json").unlink()
    (mine / "index.json").mkdir()
    refused(mine, "index.json cannot be read (", AGAIN)


@pytest.mark.parametrize("name", ["videos.parquet", "segments.parquet"])
def test_half_written(mine, good, tmp_path, name):
    index_videos(good.parent, tmp_path / "other", segment_seconds=2, workers=1)
    shutil.copy(tmp_path / "other" / name, mine)
    refused(mine, f"the files of the index in {mine} don't belong together", AGAIN)


def test_a_header_of_another_generation(mine):
    edit_header(mine, generation="0" * 32)
    refused(mine, "don't belong together", AGAIN)


@pytest.mark.parametrize("name", ["videos.parquet", "segments.parquet"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut", "no column", "no stamp"])
def test_damaged_parquet(mine, name, damage):
    path = mine / name
    data, table = path.read_bytes(), pq.read_table(path)
    if damage == "missing":
        path.unlink()
    elif damage == "no column":
        pq.write_table(table.drop_columns("num_frames"), path)
    elif damage == "no stamp":
        pq.write_table(table.replace_schema_metadata(None), path)
    else:
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 99, "cut": data[: len(data) // 2]}[damage])
    refused(mine, str(mine), AGAIN)


OUTSIDE = ["/etc/passwd", "../a.mp4", "sub/../../a.mp4", "..", "sub\\..\\a.mp4", "C:/a.mp4", "C:\\a.mp4",
           "http://host/a.mp4", "file:/etc/passwd", "a\0.mp4", ""]  # fmt: skip


@pytest.mark.parametrize("file", OUTSIDE)
def test_a_file_outside_the_videos_folder(mine, file):
    rewrite(mine, "videos.parquet", "file", [file, "b.mp4"])
    refused(mine, f"the index names a file outside the videos' folder: {file!r}; do not use this index")


@pytest.mark.parametrize("file", ["a.mp4", "sub/a.mp4", "..a/b..mp4", "12:30 a.mp4", "ü/ä b.mkv"])
def test_a_file_inside_it(file):
    assert str(safe_path(file)) == file


BIG = 2**62
INCONSISTENT = [
    # file, column, values -> what is said
    ("segments", "video", [0, 0, 0, 0, 2, 2, 2], "segments and videos don't match"),
    ("segments", "video", [1, 1, 1, 1, 0, 0, 0], "segments and videos don't match"),
    ("segments", "video", [0, 0, 0, 0, 0, 0, 0], "segments and videos don't match"),
    ("segments", "video", [0, 0, 0, 0, -1, -1, -1], "segments and videos don't match"),
    ("segments", "first_frame", [0, 25, 50, 75, 0, 26, 50], "segments leave out frames"),
    ("segments", "first_frame", [5, 25, 50, 75, 0, 25, 50], "segments leave out frames"),
    ("segments", "num_frames", [25, 25, 25, 24, 25, 25, 10], "segments leave out frames"),
    ("segments", "num_frames", [25, 25, 25, 25, 25, 25, 11], "segments leave out frames"),
    ("segments", "num_packets", [25, 25, 25, 25, 25, 25, -10], "a length is negative"),
    ("segments", "byte_offset", [-1, 0, 0, 0, 0, 0, 0], "a length is negative"),
    ("segments", "table_offset", [0, 0, 0, 0, 0, 0, 10**6], "packet tables lie outside packets.bin"),
    ("segments", "table_length", [0, 0, 0, 0, 0, 0, 10**6], "packet tables lie outside packets.bin"),
    ("segments", "table_length", [2**63 - 1] * 7, "packet tables lie outside packets.bin"),
    ("segments", "table_offset", [BIG * 2 - 1] * 7, "packet tables lie outside packets.bin"),
    ("videos", "kind", ["packets", "other"], "its kind can't be right"),
    ("videos", "video_id", ["a.mp4", "a.mp4"], "a video's ID stands twice"),
    ("videos", "num_frames", [100, 61], "segments leave out frames"),
    ("videos", "num_frames", [100, -60], "the number of its frames can't be right"),
]


@pytest.mark.parametrize("name, column, values, message", INCONSISTENT)
def test_tables_that_contradict_themselves(mine, name, column, values, message):
    rewrite(mine, f"{name}.parquet", column, values)
    refused(mine, f"the index in {mine} is damaged", message, AGAIN)


@pytest.mark.parametrize("name, rows", [("videos", 0), ("segments", 0), ("videos", 1), ("segments", 4)])
def test_rows_that_are_missing(mine, name, rows):
    table = pq.read_table(mine / f"{name}.parquet")
    pq.write_table(table[:rows], mine / f"{name}.parquet")
    refused(mine, f"the index in {mine} is damaged", AGAIN)


def test_nulls(mine):
    rewrite(mine, "segments.parquet", "byte_offset", [None] * 7)
    refused(mine, "is damaged", AGAIN)


PACKET_TABLES = {
    "missing": (None, "packets.bin cannot be read (No such file or directory)"),
    "cut off": (b"short", "packets.bin is damaged ("),
    "garbage": (b"garbage" * 1000, "packets.bin is damaged ("),
}


@pytest.mark.parametrize("data, message", PACKET_TABLES.values(), ids=PACKET_TABLES)
def test_packet_tables(mine, data, message):
    index = read_index(mine)
    (mine / "packets.bin").unlink()
    if data is not None:
        (mine / "packets.bin").write_bytes(data)
    with pytest.raises(IndexFileError, match=AGAIN) as caught:
        read_table(mine, index, 2)
    assert message in str(caught.value)


def test_an_index_that_was_not_written_to_its_end_is_not_opened(mine, good, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        index_videos(good.parent, mine, segment_seconds=2, workers=1)
    refused(mine, "no index in", "run `onetake index`")
    assert [path.name for path in mine.glob(".*")] == [WORK]


def test_an_index_written_again_unchanged_is_never_gone(mine, good, monkeypatch):
    def look(*arguments, **options):
        assert read_header(mine) == before
        return write(*arguments, **options)

    write, before = pq.write_table, read_header(mine)
    monkeypatch.setattr(pq, "write_table", look)
    assert index_videos(good.parent, mine, segment_seconds=1, workers=1).reused == 2
    assert sorted(path.name for path in mine.iterdir()) == sorted(INDEX_FILES)
