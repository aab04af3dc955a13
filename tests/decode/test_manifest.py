"""Manifests: what is read of them, and every mistake by its line."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onetake.core.errors import SourceError
from onetake.decode.manifest import is_manifest, read_manifest

CSV = """path,label,caption,score,day,seen
b.mp4,3,"two
lines",0.5,2024-01-02,true
./x/../sub/a.mp4,,NA,,2024-02-03,false
"""
JSONL = '{"path": "b.mp4", "tags": ["x", "y"], "n": 1}\n\n{"path": "a.mp4", "tags": [], "n": null}\n'


def read(folder, name, content, **arguments):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_manifest(path, **arguments)


def test_csv(tmp_path):
    manifest = read(tmp_path, "videos.csv", CSV)
    assert manifest.root == str(tmp_path)
    assert manifest.files == manifest.video_ids == ["b.mp4", "sub/a.mp4"]
    assert manifest.metadata.to_pylist() == [
        {"label": 3, "caption": "two\nlines", "score": 0.5, "day": "2024-01-02", "seen": True},
        {"label": None, "caption": "NA", "score": None, "day": "2024-02-03", "seen": False},
    ]
    assert manifest.spans is None
    assert manifest.place(1) == " (videos.csv, line 4)"  # the first row runs over two lines


def test_jsonl(tmp_path):
    manifest = read(tmp_path, "videos.jsonl", JSONL)
    assert manifest.files == ["b.mp4", "a.mp4"]
    assert manifest.metadata.to_pylist() == [{"tags": ["x", "y"], "n": 1}, {"tags": [], "n": None}]
    assert manifest.place(1) == " (videos.jsonl, line 3)"


def test_parquet(tmp_path):
    table = pa.table(
        {
            "path": pa.array(["a.mp4", "b.mp4"]).dictionary_encode(),
            "kind_of": pa.array(["x", "y"]).dictionary_encode(),
            "small": pa.array([1, 2], pa.int8()),
            "half": pa.array([0.5, None], pa.float32()),
            "box": pa.array([[1, 2], [3, 4]], pa.list_(pa.int16(), 2)),
        }
    )
    pq.write_table(table, tmp_path / "videos.parquet")
    manifest = read_manifest(tmp_path / "videos.parquet")
    assert [str(field.type) for field in manifest.metadata.schema] == ["string", "int64", "double", "list<item: int64>"]
    assert manifest.metadata["box"].to_pylist() == [[1, 2], [3, 4]]
    assert manifest.place(1) == " (videos.parquet, row 2)"


def test_texts_that_look_like_numbers_stay_texts(tmp_path):
    manifest = read(tmp_path, "videos.csv", "path,video_id\n001,0007\n2,\n")
    assert (manifest.files, manifest.video_ids) == (["001", "2"], ["0007", "2"])


def test_a_column_without_a_value_is_one_of_texts(tmp_path):
    assert read(tmp_path, "v.csv", "path,note\na.mp4,\n").metadata.schema.field("note").type == pa.string()


@pytest.mark.parametrize("suffix, manifest", [("csv", True), ("JSONL", True), ("parquet", True), ("mp4", False)])
def test_manifests_are_known_by_their_suffix(tmp_path, suffix, manifest):
    assert is_manifest(tmp_path / f"v.{suffix}") == manifest
    (tmp_path / f"v.{suffix}").mkdir()
    assert not is_manifest(tmp_path / f"v.{suffix}")


@pytest.mark.parametrize("form", ["{}/videos/a.mp4", "file://{}/videos/a.mp4", "a.mp4", "./a.mp4"])
def test_paths_below_the_root(tmp_path, form):
    content = f"path\n{form.format(tmp_path)}\n"
    assert read(tmp_path, "v.csv", content, root=tmp_path / "videos").files == ["a.mp4"]


def test_urls_below_a_root_that_is_one(tmp_path):
    content = "path\ns3://bucket/videos/a/b.mp4\na/c.mp4\n"
    manifest = read(tmp_path, "v.csv", content, root="s3://bucket/videos/")
    assert (manifest.root, manifest.files) == ("s3://bucket/videos/", ["a/b.mp4", "a/c.mp4"])


OUTSIDE = ["../a.mp4", "sub/../../a.mp4", "/etc/passwd", "s3://bucket/a.mp4", "file:///etc/passwd", "."]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_are_not(tmp_path, path):
    with pytest.raises(SourceError, match=r"v\.csv, line 3: .* is not below the root .*--root"):
        read(tmp_path, "v.csv", f"path\nok.mp4\n{path}\n", root=tmp_path / "videos")


WRONG = {
    # name: file, content, what is said
    "no rows": ("v.csv", "path,label\n", "v.csv has no rows"),
    "empty": ("v.csv", "", "v.csv can't be read (Empty CSV file): mend it"),
    "an empty jsonl": ("v.jsonl", "\n", "v.jsonl has no rows"),
    "no path": ("v.csv", "paths,label\na.mp4,1\n", "v.csv has no column 'path'; did you mean 'paths'?"),
    "a path that is missing": ("v.csv", "path,l\na.mp4,1\n,2\n", "v.csv, line 3: has no path"),
    "null for a path": ("v.jsonl", '{"path": "a"}\n{"path": null}\n', "v.jsonl, line 2: has no path"),
    "a number for a path": ("v.jsonl", '{"path": 1}\n', "the column 'path' holds int64, and must hold texts"),
    "too few values": ("v.csv", 'path,l,m\n"a\nb.mp4",1,2\nc.mp4,1\n', "v.csv, line 4: has 2 values, and there are 3"),
    "too many values": ("v.csv", "path,l\n\na.mp4,1,2\n", "v.csv, line 3: has 3 values, and there are 2 columns"),
    "no UTF-8": ("v.csv", b"path,l\na.mp4,x\nb.mp4,\xff\n", "v.csv, line 3: is not UTF-8"),
    "no JSON": ("v.jsonl", '{"path": "a"}\n\n{"path": \n', "v.jsonl, line 3: can't be parsed"),
    "no object": ("v.jsonl", '{"path": "a"}\n["b"]\n', "v.jsonl, line 2: must be an object"),
    "another type": (
        "v.jsonl",
        '{"path": "a", "n": 1}\n{"path": "b", "n": null}\n{"path": "c", "n": "x"}\n',
        "v.jsonl, line 3: 'n' is a text, and a number before; let it be the same in all rows",
    ),
    "nested": ("v.jsonl", '{"path": "a", "s": {"x": 1}}\n', "the column 's' holds struct<x: int64>, and metadata are"),
    "no Parquet": ("v.parquet", "nonsense", "v.parquet can't be read ("),
    "a column twice": ("v.csv", "path,l,l\na,1,2\n", "v.csv has 'l' twice"),
    "a column without a name": ("v.csv", "path,\na,1\n", "v.csv has a column without a name"),
    "a key of samples": ("v.csv", "path,valid\na,1\n", "the column 'valid' is named like one of onetake's own; rename"),
    "a column of videos.parquet": ("v.csv", "path,height\na,1\n", "the column 'height' is named like one of onetake's"),
    "a file twice": ("v.csv", "path,l\na,1\nb,1\n./a,2\n", "v.csv, line 4: the video stands in v.csv, line 2 already"),
    "a file under two IDs": ("v.csv", "path,video_id\na,x\na,y\n", "v.csv, line 3: the video 'a' is 'y' here, and 'x'"),
    "two files of one ID": ("v.csv", "path,video_id\na,x\nb,x\n", "line 3: video_id 'x' is that of 'a' already (v.csv"),
    "an ID that is another's path": (
        "v.csv",
        "path,video_id\na,b\nb,\n",
        "line 3: video_id 'b' is that of 'a'",
    ),
    "a backslash": ("v.csv", "path\na\\b.mp4\n", "v.csv, line 2: an index cannot hold the file name"),
    "both": (
        "v.csv",
        "path,start_seconds,stop_frame\na,1,\na,1,5\n",
        "v.csv, line 3: says its span in seconds and in frames",
    ),
    "backwards": ("v.csv", "path,start_seconds,stop_seconds\na,1,2\na,2,2\n", "line 3: its span stops before it has"),
    "negative": ("v.csv", "path,start_frame,stop_frame\na,-1,2\n", "line 2: a span's start and stop must be finite"),
    "infinite": ("v.csv", "path,start_seconds,stop_seconds\na,1,inf\n", "line 2: a span's start and stop must be"),
    "no number": ("v.jsonl", '{"path": "a", "start_seconds": NaN}\n', "v.jsonl, line 1"),
    "a text for a number": (
        "v.csv",
        "path,start_seconds\na,1\nb,soon\n",
        "line 3: start_seconds must be a number",
    ),
    "a fraction of a frame": ("v.csv", "path,start_frame,stop_frame\na,1.5,2\n", "a number of frames must be whole"),
    "a span twice": (
        "v.csv",
        "path,start_frame,stop_frame,l\na,1,2,x\na,1,2,y\na,1,2,x\n",
        "v.csv, line 4: the span stands in v.csv, line 2 already",
    ),
}


@pytest.mark.parametrize("name, content, message", WRONG.values(), ids=WRONG)
def test_mistakes(tmp_path, name, content, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        read(tmp_path, name, content)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match=r"the manifest .*/v\.csv does not exist: check the path"):
        read_manifest(tmp_path / "v.csv")


def test_rows_of_spans(tmp_path):
    manifest = read(
        tmp_path,
        "v.csv",
        "path,start_seconds,stop_seconds,start_frame,stop_frame,verb\n"
        "a.mp4,0.5,1.5,,,open\nb.mp4,,,3,9,close\na.mp4,,2,,,wait\nb.mp4,,,,,all\n",
    )
    assert (manifest.files, manifest.video.tolist()) == (["a.mp4", "b.mp4"], [0, 1, 0, 1])
    assert manifest.metadata.column_names == []
    assert manifest.spans.metadata["verb"].to_pylist() == ["open", "close", "wait", "all"]
    assert manifest.spans.frames.tolist() == [[-1, -1], [3, 9], [-1, -1], [-1, -1]]
    assert str(manifest.spans.seconds.tolist()) == "[[0.5, 1.5], [nan, nan], [nan, 2.0], [nan, nan]]"
