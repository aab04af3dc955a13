"""`onetake index` as a user meets it: the tables, the JSON, and one clear line for what is wrong."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from onetake.cli.main import main
from onetake.decode.synthetic import write_numbered_video


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
