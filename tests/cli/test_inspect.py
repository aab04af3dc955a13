"""`onetake inspect` as a user meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from onetake.cli.main import main
from onetake.decode.store import read_index, read_table
from tests.helpers import SPEC, make_loader

CLIPS = ("--num-frames", 4, "--stride", 3)


def invoke(*arguments: str | int | Path) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def run(*arguments: str | int | Path) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def inspected(*arguments: str | int | Path) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json"))


def refusal(*arguments: str | int | Path) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_json_says_what_is_there_and_what_a_loader_gets(numbered):
    summary = inspected(numbered, *CLIPS)
    loader = make_loader(numbered)
    assert summary["videos"] == 7
    assert summary["frames"] == 230 + 260 + 200 + 300 + 150 + 180 + 5
    assert summary["codecs"] == {"h264": 6, "hevc": 1}
    assert summary["kinds"] == {"packets": 6, "container": 1}
    assert (
        summary["bytes"]
        == sum(path.stat().st_size for path in numbered.rglob("*.m*")) + (numbered / "e.ts").stat().st_size
    )
    assert sum(summary["keyframe_distances"].values()) > 7
    clips = summary["clips"]
    assert clips["spec"] == SPEC.to_dict()
    assert clips["clips"] == loader.dataset.num_clips
    assert (clips["videos_without"], clips["examples"]) == (1, ["short.mp4"])
    for _ in loader:
        pass
    stats = loader.stats()
    assert clips["decoded_in_order"] * clips["clips"] >= stats["frames_decoded"]
    assert clips["decoded_in_order"] < clips["decoded_at_random"]


def test_tables_say_the_same(numbered):
    shown = run(numbered, *CLIPS)
    rows = {cells[1].strip(): cells[2].strip() for line in shown.splitlines() if len(cells := line.split("│")) == 4}
    assert rows["videos"] == "7"
    assert rows["codecs"] == "h264 (6), hevc (1)"
    assert rows["videos without a clip"] == "1: short.mp4"
    assert rows["16-31"].startswith("█")
    assert "clips (num_frames=4, stride=3, hop=12)" in shown


def test_the_index_may_lie_elsewhere(numbered, tmp_path):
    for name in ("index.json", "videos.parquet", "segments.parquet", "packets.bin"):
        (tmp_path / name).write_bytes((numbered / name).read_bytes())
    assert inspected(numbered, "--index", tmp_path)["generation"] == inspected(numbered)["generation"]


def test_a_spec_that_fits_no_video_is_told(numbered):
    assert inspected(numbered, "--num-frames", 1000)["clips"]["clips"] == 0
    assert "videos without a clip" in run(numbered, "--num-frames", 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-frames", 0), "num_frames=0"),
        (("--stride", 2, "--fps", 5), "clips are counted in frames"),
        (("--index", "nowhere"), "no index in nowhere"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(numbered, options, message):
    assert message in refusal(numbered, *options)


def test_no_index_or_a_damaged_one(numbered, tmp_path):
    assert "no index in" in refusal(tmp_path)
    (tmp_path / "index.json").write_bytes((numbered / "index.json").read_bytes())
    assert "is damaged" in refusal(tmp_path)
    (tmp_path / "index.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path)


def test_telling_what_is_there_loads_no_torch(numbered):
    script = (
        "import sys\nfrom onetake.cli.main import main\n"
        f"try: main(['inspect', {str(numbered)!r}, '--json'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print([name for name in ('torch', 'streaming', 'matplotlib') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "[]\n"


def test_checking_finds_nothing_wrong(numbered):
    check = inspected(numbered, "--check", *CLIPS)["check"]
    assert (check["videos"], check["wrong"]) == (7, [])
    assert "videos that differ" in run(numbered, "--check")


def test_checking_tells_what_is_wrong_and_fails(numbered, tmp_path):
    folder = Path(shutil.copytree(numbered, tmp_path / "videos"))
    (folder / "a.mp4").unlink()
    data = bytearray((folder / "b.mp4").read_bytes())
    place = int(read_table(folder, read_index(folder), 5).offset[3])
    data[place] ^= 0xFF
    (folder / "b.mp4").write_bytes(data)
    result = invoke(folder, "--check", "--json")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: not as indexed: 2 of 7 videos")
    gone, damaged = json.loads(result.stdout)["check"]["wrong"]
    assert (gone["video_id"], gone["reason"], gone["damaged"]) == ("a.mp4", "is missing", [])
    assert damaged["video_id"] == "b.mp4"
    (stretch,) = damaged["damaged"]
    assert stretch["byte_offset"] == place
    result = invoke(folder, "--check")
    assert result.exit_code == 1
    (row,) = [line for line in result.stdout.splitlines() if "1 damaged packet" in line]
    assert f"{stretch['byte_offset']}-{stretch['byte_stop'] - 1}" in row
    assert "is missing" in result.stdout
