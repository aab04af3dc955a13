"""Indexes with metadata and spans: what they hold, what is reused, and that nothing in them is believed."""

from __future__ import annotations

from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onetake.core.errors import IndexFileError, SourceError, SpecError
from onetake.decode.build import index_videos
from onetake.decode.metadata import read_metadata, read_spans
from onetake.decode.store import read_header, read_index
from onetake.decode.synthetic import write_numbered_video

LABELS = "path,video_id,label\nb.mp4,first,7\na.mp4,second,\n"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_numbered_video(folder / "a.mp4", 40, gop=20)
    write_numbered_video(folder / "b.mp4", 50, gop=25)
    # A frame every 40 ms, but for a gap of a second behind frame 9.
    pts = [40 * number + (1000 if number > 9 else 0) for number in range(30)]
    write_numbered_video(folder / "vfr.mkv", 30, gop=10, pts=pts, time_base=Fraction(1, 1000), first_pts=80)
    return folder


def index(videos, folder, content, name="v.csv", **arguments):
    (folder / name).write_text(content)
    return index_videos(folder / name, folder / "index", root=videos, workers=1, segment_seconds=1, **arguments)


def test_metadata_of_videos_stand_in_the_index(videos, tmp_path):
    report = index(videos, tmp_path, LABELS)
    assert [(video.video_id, video.file) for video in report.index.videos] == [("first", "b.mp4"), ("second", "a.mp4")]
    found = read_index(tmp_path / "index")
    assert read_metadata(tmp_path / "index", found).to_pylist() == [{"label": 7}, {"label": None}]
    assert len(read_spans(tmp_path / "index", found)) == 0
    assert (report.spans, report.splits) == (0, {})


def test_other_metadata_reuse_what_was_found_in_the_videos(videos, tmp_path):
    once = index(videos, tmp_path, LABELS)
    again = index(videos, tmp_path, LABELS)
    assert (again.reused, again.index.generation) == (2, once.index.generation)
    changes = [
        LABELS.replace("7", "8"),
        LABELS.replace("label", "number"),
        LABELS.replace("first", "zero"),
        "path\na.mp4",
    ]
    generations = {once.index.generation}
    for content in [*changes, "path\na.mp4\n"]:
        report = index(videos, tmp_path, content)
        assert report.reused == len(report.index.videos)
        generations.add(report.index.generation)
    assert len(generations) == 5
    plain = index_videos(videos, tmp_path / "plain", workers=1, segment_seconds=1)
    assert len(plain.index.videos) == 3
    assert read_metadata(tmp_path / "plain", plain.index).num_columns == 0


def test_a_file_that_is_not_there_is_refused_by_its_line(videos, tmp_path):
    report = index(videos, tmp_path, LABELS + "c.mp4,third,3\n")
    assert [(refusal.file, refusal.reason) for refusal in report.refused] == [
        ("c.mp4", "there is no such file (v.csv, line 4)")
    ]
    assert len(report.index.videos) == 2
    with pytest.raises(
        SourceError, match=r"none of the video files .*\n  x.mp4: there is no such file \(w.csv, line 2"
    ):
        index(videos, tmp_path, "path\nx.mp4\n", "w.csv")


def test_splits_stand_in_the_header(videos, tmp_path):
    report = index(videos, tmp_path, "path,subset\na.mp4,val\nb.mp4,train\nvfr.mkv,train\n", split_by="subset")
    assert report.splits == read_header(tmp_path / "index")["splits"] == {"train": 2, "val": 1}
    metadata = read_metadata(tmp_path / "index", report.index)
    assert metadata["split"].to_pylist() == ["val", "train", "train"]
    hashed = index_videos(videos, tmp_path / "hashed", workers=1, split={"val": 0.5})
    assert set(read_metadata(tmp_path / "hashed", hashed.index)["split"].to_pylist()) <= {"val", "train"}


def test_a_root_goes_with_a_manifest(videos, tmp_path):
    with pytest.raises(SpecError, match="root=.* goes with a manifest"):
        index_videos(videos, tmp_path, root=videos)


SPANS = """path,start_seconds,stop_seconds,start_frame,stop_frame,verb
a.mp4,0.4,0.8,,,open
a.mp4,0.41,0.79,,,peek
a.mp4,0.39999999999,0.80000000001,,,nearly
a.mp4,1.59,99,,,cut off
a.mp4,1.6,99,,,behind
a.mp4,0.5,0.5001,,,a moment
b.mp4,,,10,20,frames
b.mp4,,,45,99,cut off
b.mp4,,,50,60,behind
b.mp4,,,,,all
vfr.mkv,0.36,1.36,,,the gap
vfr.mkv,0.7,1.4,,,inside the gap
vfr.mkv,1.4,1.479,,,after it
vfr.mkv,2.11,,,,to the end
"""


def test_spans_become_frames_by_the_times_of_frames(videos, tmp_path):
    report = index(videos, tmp_path, SPANS)
    spans = read_spans(tmp_path / "index", report.index)
    found = {}
    for number, verb in enumerate(spans.metadata["verb"].to_pylist()):
        file = report.index.videos[spans.video[number]].file
        found[file, verb] = spans.start_frame[number], spans.stop_frame[number]
    assert found == {
        ("a.mp4", "open"): (10, 20),
        ("a.mp4", "peek"): (10, 20),
        ("a.mp4", "nearly"): (10, 20),
        ("a.mp4", "cut off"): (39, 40),
        ("a.mp4", "a moment"): (12, 13),
        ("b.mp4", "frames"): (10, 20),
        ("b.mp4", "cut off"): (45, 50),
        ("b.mp4", "all"): (0, 50),
        ("vfr.mkv", "the gap"): (9, 10),
        ("vfr.mkv", "inside the gap"): (9, 10),
        ("vfr.mkv", "after it"): (10, 12),
        ("vfr.mkv", "to the end"): (27, 30),
    }
    assert [(refusal.file, refusal.reason) for refusal in report.refused] == [
        ("a.mp4", "a span begins where the video has ended: left out (v.csv, line 6)"),
        ("b.mp4", "a span begins where the video has ended: left out (v.csv, line 10)"),
    ]
    assert report.spans == 12
    video = report.index.videos[0]
    seconds = video.to_seconds(spans.start_pts[spans.video == 0])
    assert seconds.tolist() == pytest.approx([0.4, 0.4, 0.4, 0.48, 1.56])


def edit(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def with_column(name, values):
    return lambda table: table.append_column(name, pa.array(values))


def of_spans(name, value):
    def change(table):
        values = table[name].to_pylist()
        values[0] = value
        return table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))

    return change


VIDEO_TABLES = {
    "a key of samples": with_column("valid", [1, 2]),
    "a struct": with_column("s", [{"x": 1}, {"x": 2}]),
    "bytes": with_column("s", [b"1", b"2"]),
    "a column twice": lambda table: table.append_column("label", pa.array([1, 2])),
}
SPAN_TABLES = {
    "a video that is none": of_spans("video", 9),
    "before the video": of_spans("start_frame", -1),
    "behind the video": of_spans("stop_frame", 99),
    "no frame": of_spans("stop_frame", 3),
    "not sorted": of_spans("start_frame", 19),
    "no time": of_spans("start_pts", 2**61),
    "a missing value": of_spans("start_pts", None),
    "no such column": lambda table: table.drop_columns(["stop_pts"]),
    "a key of samples": with_column("clip_id", [1, 2]),
}
TWO_SPANS = "path,start_frame,stop_frame\na.mp4,3,20\na.mp4,5,9\n"


@pytest.mark.parametrize("change", VIDEO_TABLES.values(), ids=VIDEO_TABLES)
def test_metadata_are_not_believed(videos, tmp_path, change):
    report = index(videos, tmp_path, LABELS)
    edit(tmp_path / "index" / "videos.parquet", change)
    with pytest.raises(IndexFileError, match=r"the index in .* is damaged \(.*\): run `onetake index` again"):
        read_metadata(tmp_path / "index", report.index)


def test_tables_of_other_indexes_are_refused(videos, tmp_path):
    report = index(videos, tmp_path, LABELS)
    for name, read in (("videos.parquet", read_metadata), ("spans.parquet", read_spans)):
        path = tmp_path / "index" / name
        pq.write_table(pq.read_table(path).replace_schema_metadata({"onetake": '{"generation": "0"}'}), path)
        with pytest.raises(IndexFileError, match="its files don't belong together"):
            read(tmp_path / "index", report.index)


@pytest.mark.parametrize("change", SPAN_TABLES.values(), ids=SPAN_TABLES)
def test_spans_are_not_believed(videos, tmp_path, change):
    report = index(videos, tmp_path, TWO_SPANS)
    edit(tmp_path / "index" / "spans.parquet", change)
    with pytest.raises(IndexFileError, match=r"the index in .* is damaged \(.*\): run `onetake index` again"):
        read_spans(tmp_path / "index", report.index)


def test_spans_that_are_not_there(videos, tmp_path):
    report = index(videos, tmp_path, TWO_SPANS)
    (tmp_path / "index" / "spans.parquet").unlink()
    with pytest.raises(IndexFileError, match="is damaged"):
        read_spans(tmp_path / "index", report.index)
