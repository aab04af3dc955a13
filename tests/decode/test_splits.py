"""Splits: by a column, or by hash, and then stable."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from onetake.core.errors import SourceError, SpecError
from onetake.decode.manifest import Manifest, read_manifest
from onetake.decode.splits import check_shares, split_videos

MANY = [f"{number}.mp4" for number in range(4000)]
KNOWN = ["6.mp4", "21.mp4", "25.mp4", "28.mp4", "41.mp4", "52.mp4"]  # whatever changes in the code, these don't


def splits(files, by=None, **shares):
    metadata = split_videos(Manifest.of_files("", files), by, shares).metadata
    return dict(zip(files, metadata["split"].to_pylist(), strict=True))


def from_csv(folder, content):
    (folder / "v.csv").write_text(content)
    return read_manifest(folder / "v.csv")


def test_shares_by_hash():
    counts = Counter(splits(MANY, val=0.1, test=0.05).values())
    assert counts["val"] == pytest.approx(400, abs=60)
    assert counts["test"] == pytest.approx(200, abs=45)
    assert sum(counts.values()) == 4000


def test_videos_stay_where_they_are():
    before = splits(MANY[:1000], val=0.1)
    after = splits(MANY, val=0.1)
    assert all(after[file] == split for file, split in before.items())
    assert [file for file, split in splits(MANY[:60], val=0.1).items() if split == "val"] == KNOWN
    grown = splits(MANY, val=0.2)
    assert all(grown[file] == "val" for file, split in after.items() if split == "val")


def test_videos_of_one_value_stay_together(tmp_path):
    content = "path,source_id\n" + "".join(f"{number}.mp4,s{number % 40}\n" for number in range(400))
    metadata = split_videos(from_csv(tmp_path, content), "source_id", {"val": 0.3}).metadata
    found = set(zip(metadata["source_id"].to_pylist(), metadata["split"].to_pylist(), strict=True))
    assert len(found) == 40
    assert {split for _, split in found} == {"train", "val"}


def test_a_column_that_names_splits(tmp_path):
    manifest = from_csv(tmp_path, "path,subset\na,train\nb,val\n")
    metadata = split_videos(manifest, "subset", {}).metadata
    assert metadata.to_pylist() == [{"subset": "train", "split": "train"}, {"subset": "val", "split": "val"}]
    assert split_videos(manifest, None, {}) is manifest


def test_a_column_split_needs_no_saying(tmp_path):
    metadata = split_videos(from_csv(tmp_path, "path,split\na,0\nb,1\n"), None, {}).metadata
    assert metadata["split"].to_pylist() == ["0", "1"]


def test_spans_of_a_video_are_in_one_split(tmp_path):
    manifest = from_csv(tmp_path, "path,start_frame,split,verb\na,1,x,p\nb,1,y,q\na,2,x,r\n")
    assert split_videos(manifest, None, {}).metadata.to_pylist() == [{"split": "x"}, {"split": "y"}]
    assert manifest.spans.metadata.column_names == ["verb"]
    manifest = from_csv(tmp_path, "path,start_frame,split\na,1,x\na,2,y\n")
    with pytest.raises(SourceError, match=r"line 3: the video has 'split' 'y' here, and 'x' in v\.csv, line 2"):
        split_videos(manifest, None, {})


WRONG = {
    "no such column": ("path,source\na,1\n", "sauce", {}, "no column 'sauce' to split by; did you mean 'source'?"),
    "no value": (
        "path,source\na,x\nb,\n",
        "source",
        {},
        "v.csv, line 3: has no 'source', by which the",
    ),
    "fractions": ("path,source\na,0.5\n", "source", {}, "the column 'source' holds double; split by one of texts or"),
    "two ways": ("path,split\na,x\n", None, {"val": 0.5}, "the manifest has a column 'split' already: rename it"),
}


@pytest.mark.parametrize("content, by, shares, message", WRONG.values(), ids=WRONG)
def test_mistakes(tmp_path, content, by, shares, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        split_videos(from_csv(tmp_path, content), by, shares)


@pytest.mark.parametrize(
    "shares", [{"val": 0}, {"val": 1}, {"val": 0.5, "test": 0.5}, {"train": 0.1}, {"": 0.1}, {"val": "x"}], ids=str
)
def test_shares_that_are_none(shares):
    with pytest.raises(SpecError, match="split="):
        check_shares(shares)


def test_the_rest_of_a_manifest_stays():
    manifest = Manifest.of_files("", MANY[:3])
    assert replace(split_videos(manifest, None, {"val": 0.5}), metadata=manifest.metadata) == manifest
