"""`onetake pack` as a user meets it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from onetake import index_videos
from onetake.cli.main import main
from tests.zoo import write_zoo


def run(*arguments):
    return CliRunner().invoke(main, ["pack", *map(str, arguments), "--workers", "1"])


def test_a_summary_in_words_and_as_json(numbered, tmp_path):
    out = tmp_path / "out"
    result = run(numbered, out, "--shard-size", "100kb", "--segment-seconds", 2, "--hashes", "sha1,md5")
    assert result.exit_code == 0, result.output
    assert "videos" in result.stdout
    assert result.stderr == ""
    again = json.loads(run(numbered, out, "--shard-size", "100kb", "--segment-seconds", 2, "--hashes", "sha1,md5",
                           "--json").stdout)  # fmt: skip
    entries = json.loads((out / "index.json").read_bytes())["shards"]
    assert again["videos"] == 7
    assert again["frames"] == 230 + 260 + 200 + 300 + 150 + 180 + 5
    assert again["shards"] == again["reused"] == len(entries)
    assert again["bytes"] == sum((out / entry["raw_data"]["basename"]).stat().st_size for entry in entries)
    assert again["whole"] == 1
    assert {tuple(entry["raw_data"]["hashes"]) for entry in entries} == {("md5", "sha1")}


def test_encoding_anew_names_the_damaged(tmp_path):
    write_zoo(tmp_path / "zoo", ["scratch.mp4", "plain.mp4"])
    index_videos(tmp_path / "zoo", workers=1)
    how = ["--transcode", "--height", 32, "--gop", 5, "--crf", 30]
    result = run(tmp_path / "zoo", tmp_path / "out", *how)
    assert result.exit_code == 0, result.output
    assert "scratch.mp4" in result.stdout
    assert list(json.loads(run(tmp_path / "zoo", tmp_path / "out", *how, "--json").stdout)["damaged"]) == [
        "scratch.mp4"
    ]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--shard-size", "1kb"], "shard_size=1024"),
        (["--overlap", "-1"], "overlap=-1"),
        (["--hashes", "crc"], "hashes=['crc']"),
        (["--engine", "moon"], "engine='moon'"),
        (["--index", "nowhere"], "nowhere"),
        (["--gop", "10"], "--gop says how to encode: give --transcode"),
        (["--transcode", "--codec", "h264"], "codec='h264': must be one of libx264"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(numbered, tmp_path, options, words):
    result = run(numbered, tmp_path / "out", *options)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not (tmp_path / "out").exists()
