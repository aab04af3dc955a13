"""`onetake index` as a user meets it: the tables, the JSON, and one clear line for what is wrong."""

from __future__ import annotations

import json

import av
import pytest
from click.testing import CliRunner

from onetake.cli.main import main
from onetake.decode.store import read_index
from onetake.decode.synthetic import write_numbered_video
from tests.zoo import write_zoo


@pytest.fixture
def folder(tmp_path):
    write_numbered_video(tmp_path / "good [red].mp4", 60, gop=20)
    (tmp_path / "broken [b] :smile: with a long name, to see whether a pipe gets it whole.mp4").write_bytes(b"nothing")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, ["index", *map(str, arguments), "--workers", "1"])


def test_names_are_printed_as_they_are_and_rows_are_lines(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "broken [b] :smile: with a long name, to see whether a pipe gets it whole.mp4" in result.stdout
    assert "videos" in result.stdout


def test_json_is_json(folder):
    result = run(folder, "--json")
    summary = json.loads(result.stdout)
    assert (summary["videos"], summary["frames"], summary["reused"]) == (1, 60, 0)
    assert list(summary["refused"]) == ["broken [b] :smile: with a long name, to see whether a pipe gets it whole.mp4"]
    assert json.loads(run(folder, "--json").stdout)["reused"] == 1


@pytest.mark.parametrize("name, words", [("nowhere", "does not exist"), ("empty", "no video")])
def test_what_is_wrong_is_told_in_one_line(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / name)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_verifying_reads_all_anew_and_tells_of_damage(tmp_path):
    write_zoo(tmp_path, ["scratch.mp4", "bframes.mp4"])
    for _ in range(2):
        summary = json.loads(run(tmp_path, "--verify", "--json").stdout)
        assert (summary["videos"], summary["reused"]) == (2, 0)
        assert list(summary["damaged"]) == ["scratch.mp4"]
        assert summary["damaged"]["scratch.mp4"] > 0
    assert "scratch.mp4" in run(tmp_path, "--verify").stdout
    assert json.loads(run(tmp_path, "--json").stdout)["reused"] == 2


def test_another_stream_of_the_files(tmp_path):
    write_zoo(tmp_path, ["two_videos.mkv"])
    with av.open(str(tmp_path / "two_videos.mkv")) as container:
        numbers = [stream.index for stream in container.streams.video]
        best = container.streams.best("video").index
    found = {}
    for number in numbers:
        assert json.loads(run(tmp_path, "--stream-index", number, "--json").stdout)["reused"] == 0
        found[number] = read_index(tmp_path).videos[0]
        assert found[number].stream_index == number
    run(tmp_path)
    assert read_index(tmp_path).videos[0] == found[best]
    assert len({(video.width, video.height) for video in found.values()}) == 2
    result = run(tmp_path, "--stream-index", 7)
    assert result.exit_code == 1
    assert (
        "two_videos.mkv: holds no video stream with number 7; leave out the number, or remove the file" in result.stderr
    )


def test_high_dynamic_range_is_told(tmp_path):
    tags = {"color_trc": "smpte2084", "colorspace": "bt2020nc", "color_primaries": "bt2020", "color_range": "tv"}
    write_numbered_video(tmp_path / "hdr.mp4", 30, options=tags)
    assert json.loads(run(tmp_path, "--json").stdout)["hdr"] == {"PQ": 1}
    video = read_index(tmp_path).videos[0]
    assert (video.transfer, video.color_matrix, video.color_range) == ("PQ", "bt2020", "limited")


def test_a_manifest(tmp_path):
    (tmp_path / "videos").mkdir()
    write_numbered_video(tmp_path / "videos" / "a.mp4", 60, gop=20)
    write_numbered_video(tmp_path / "videos" / "b.mp4", 60, gop=20)
    (tmp_path / "list.csv").write_text("path,start_frame,subset\na.mp4,0,x\nb.mp4,60,y\nb.mp4,70,y\n")
    options = "--root", tmp_path / "videos", "--out", tmp_path / "index"
    summary = json.loads(run(tmp_path / "list.csv", *options, "--split-by", "subset", "--json").stdout)
    assert (summary["videos"], summary["spans"], summary["splits"]) == (2, 1, {"x": 1, "y": 1})
    reason = "a span begins where the video has ended: left out (list.csv, line {})"
    assert summary["refused"] == {"b.mp4": f"{reason.format(3)}; {reason.format(4)}"}
    result = run(tmp_path / "list.csv", *options, "--split", "val=0.5", "--split", "test=0.4")
    assert "splits" in result.stdout
    for option, words in (("val", "give NAME=SHARE"), ("val=2", "must be between 0 and 1")):
        result = run(tmp_path / "list.csv", *options, "--split", option)
        assert result.exit_code != 0
        assert words in result.stderr
