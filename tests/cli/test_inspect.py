"""`onetake inspect` as a user meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from onetake import ClipSpec, pack_videos
from onetake.cli.main import main
from onetake.decode.build import index_videos
from onetake.decode.store import INDEX_FILES, read_index, read_table
from onetake.decode.synthetic import read_number, write_numbered_video
from tests.cli.test_contact_sheet import places
from tests.helpers import SPEC, make_loader
from tests.zoo import write_zoo

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
    for name in INDEX_FILES:
        (tmp_path / name).write_bytes((numbered / name).read_bytes())
    assert inspected(numbered, "--index", tmp_path)["generation"] == inspected(numbered)["generation"]


def test_what_a_manifest_brought_is_told(numbered, tmp_path):
    rows = ["path,label,start_frame,stop_frame", "a.mp4,cat,0,20", "a.mp4,dog,10,30", "b.mp4,cat,5,9"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    index_videos(tmp_path / "list.csv", tmp_path, root=numbered, split={"val": 0.5}, workers=1)
    summary = inspected(numbered, "--index", tmp_path, *CLIPS)
    assert summary["videos"] == 2
    assert summary["spans"] == 3
    assert sum(summary["splits"].values()) == 2
    assert "split" in summary["columns"]
    shown = run(numbered, "--index", tmp_path, *CLIPS)
    assert "annotated spans" in shown
    assert "splits" in shown


def test_a_spec_that_fits_no_video_is_told(numbered):
    assert inspected(numbered, "--num-frames", 1000)["clips"]["clips"] == 0
    assert "videos without a clip" in run(numbered, "--num-frames", 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-frames", 0), "num_frames=0"),
        (("--stride", 2, "--fps", 5), "clips are counted in frames"),
        (("--index", "nowhere"), "no index in nowhere"),
        (("--count", 0), "--count 0: must be at least 1"),
        (("--measure", 0), "--measure 0: must be at least 1"),
        (("--seed", -1), "--seed -1: must be at least 0"),
        (("--sheet", "nowhere/sheet.png"), "--sheet nowhere/sheet.png: there is no folder"),
        (("--sheet", "sheet.png", "--num-frames", 1000), "no video"),
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
    assert (check["files"], check["wrong"]) == (7, [])
    assert "files that differ" in run(numbered, "--check")


def test_checking_tells_what_is_wrong_and_fails(numbered, tmp_path):
    folder = Path(shutil.copytree(numbered, tmp_path / "videos"))
    (folder / "a.mp4").unlink()
    data = bytearray((folder / "b.mp4").read_bytes())
    place = int(read_table(folder, read_index(folder), 5).offset[3])
    data[place] ^= 0xFF
    (folder / "b.mp4").write_bytes(data)
    result = invoke(folder, "--check", "--json")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: not as indexed: 2 of 7 files")
    gone, damaged = json.loads(result.stdout)["check"]["wrong"]
    assert (gone["file"], gone["reason"], gone["damaged"]) == ("a.mp4", "is missing", [])
    assert damaged["video_ids"] == ["b.mp4"]
    (stretch,) = damaged["damaged"]
    assert stretch["byte_offset"] == place
    result = invoke(folder, "--check")
    assert result.exit_code == 1
    (row,) = [line for line in result.stdout.splitlines() if "1 damaged packet" in line]
    assert f"{stretch['byte_offset']}-{stretch['byte_stop'] - 1}" in row
    assert "is missing" in result.stdout


def test_the_sheet_shows_the_frames_it_names(numbered, tmp_path):
    sheet = tmp_path / "sheet.png"
    shown = inspected(numbered, "--sheet", sheet, "--count", 3, *CLIPS)["sheet"]
    assert [clip["clip_id"] for clip in shown] == sorted({clip["clip_id"] for clip in shown})
    assert all(np.array_equal(np.diff(clip["frame_index"]), [3, 3, 3]) for clip in shown)
    picture = np.asarray(Image.open(sheet))
    dataset = make_loader(numbered, frame_size=120).dataset
    for clip in shown:
        sample = dataset[clip["clip_id"]]
        assert sample["video_id"] == clip["video_id"]
        assert sample["frame_index"].tolist() == clip["frame_index"]
        frames = sample["video"].permute(0, 2, 3, 1).numpy()
        found = [places(picture, frame) for frame in frames]
        assert [len(places) for places in found] == [1, 1, 1, 1]
        assert found == sorted(found)
        assert [read_number(frame) for frame in frames] == clip["frame_index"]
    first = sheet.read_bytes()
    run(numbered, "--sheet", sheet, "--count", 3, *CLIPS)
    assert sheet.read_bytes() == first
    run(numbered, "--sheet", sheet, "--count", 3, "--seed", 1, *CLIPS)
    assert sheet.read_bytes() != first


def test_long_clips_are_drawn_in_part_and_turned_videos_upright(tmp_path):
    write_zoo(tmp_path, ["rotated90.mp4"])
    index_videos(tmp_path, workers=1)
    sheet = tmp_path / "sheet.png"
    (clip,) = inspected(tmp_path, "--sheet", sheet, "--count", 1, "--num-frames", 20, "--stride", 1)["sheet"]
    assert len(clip["frame_index"]) == 20
    frames = make_loader(tmp_path, clips=ClipSpec(20), frame_size=120, batch_size=1).dataset[clip["clip_id"]]["video"]
    assert frames.shape[2] > frames.shape[3]
    found = [len(places(np.asarray(Image.open(sheet)), frame.permute(1, 2, 0).numpy())) for frame in frames]
    assert sum(found) == 8
    assert (found[0], found[-1]) == (1, 1)


def test_a_damaged_clip_has_its_reason_on_the_sheet(numbered, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_numbered_video(folder / "a.mp4", 40, gop=40)
    index = index_videos(folder, workers=1).index
    data = bytearray((folder / "a.mp4").read_bytes())
    data[int(read_table(folder, index, 0).offset[0])] ^= 0xFF
    (folder / "a.mp4").write_bytes(data)
    (clip,) = inspected(folder, "--sheet", tmp_path / "sheet.png", "--num-frames", 30, "--stride", 1)["sheet"]
    assert "its bytes are not those that were indexed" in clip["damaged"]
    assert (tmp_path / "sheet.png").exists()
    measured = inspected(folder, "--measure", 1, "--num-frames", 30, "--stride", 1)["measured"]
    assert measured["in_order"]["damaged"] == measured["at_random"]["damaged"] == 1


def test_measuring_counts_what_was_decoded(numbered):
    measured = inspected(numbered, "--measure", 12, *CLIPS)["measured"]
    in_order, at_random = measured["in_order"], measured["at_random"]
    assert in_order["clips"] == at_random["clips"] == 12
    assert in_order["damaged"] == at_random["damaged"] == 0
    assert 4 <= in_order["frames_decoded"] <= at_random["frames_decoded"]
    assert 0 < in_order["bytes_read"] < at_random["bytes_read"]
    assert 0 < in_order["opens"] < 1
    assert in_order["ms"] > 0
    everything = inspected(numbered, "--measure", 1000, *CLIPS)
    assert everything["measured"]["in_order"]["clips"] == everything["clips"]["clips"]
    assert everything["measured"]["in_order"]["frames_decoded"] <= everything["clips"]["decoded_in_order"]
    assert "decoders opened, and jumps" in run(numbered, "--measure", 1, *CLIPS)


def test_a_process_of_its_own_says_nothing_beside(numbered, tmp_path):
    arguments = ["inspect", str(numbered), "--sheet", str(tmp_path / "sheet.png"), "--measure", "2", "--check"]
    script = f"from onetake.cli.main import main\nmain({arguments!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    assert "measured, by one thread" in done.stdout


def test_packs_are_inspected_like_what_they_were_made_of(numbered, s3, tmp_path):
    pack, sheet = tmp_path / "pack", tmp_path / "sheet.png"
    pack_videos(numbered, pack, shard_size=1 << 18, segment_seconds=3, overlap=1.0, workers=1)
    options = ("--sheet", sheet, "--count", 2, *CLIPS)
    there = inspected(numbered, *options)
    for place in (pack, s3(pack)):
        here = inspected(place, "--check", "--measure", 2, *options)
        assert here["check"]["files"] == len(list(pack.glob("*.mds"))) > 1
        assert here["check"]["wrong"] == []
        for name in ("videos", "frames", "seconds", "codecs", "sizes", "frame_rates", "keyframe_distances", "sheet"):
            assert here[name] == there[name], name
        assert here["clips"]["clips"] == there["clips"]["clips"]
        assert here["measured"]["at_random"]["clips"] == 2


def test_a_damaged_pack_is_told(numbered, tmp_path):
    pack_videos(numbered, tmp_path, workers=1)
    (shard,) = tmp_path.glob("*.mds")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    result = invoke(tmp_path, "--check")
    assert result.exit_code == 1
    assert "not as indexed: 1 of 1 files" in result.stderr
    assert shard.name in result.stdout


def test_a_bucket_is_inspected_like_a_folder(numbered, s3, s3_client, tmp_path):
    source = s3(numbered)
    options = ("--check", "--sheet", tmp_path / "sheet.png", "--count", 2, *CLIPS)
    there = inspected(source, *options, "--measure", 3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    here = inspected(numbered, *options)
    below_heading = (slice(40, None), slice(0, 600))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png"))[below_heading], sheet[below_heading])
    assert there.pop("measured")["at_random"]["clips"] == 3
    for told, place in ((here, str(numbered)), (there, source)):
        assert told.pop("source") == told.pop("index") == place
    assert there["check"].pop("other_version") == 7
    assert here["check"].pop("other_version") == 0
    assert there == here
    s3_client.delete_object(Bucket=source.removeprefix("s3://"), Key="a.mp4")
    result = invoke(source, "--index", numbered, "--check", "--json")
    assert result.exit_code == 1
    assert [(file["file"], file["reason"]) for file in json.loads(result.stdout)["check"]["wrong"]] == [
        ("a.mp4", "is missing")
    ]


def test_places_that_are_not_there(s3):
    assert "no index in s3://" in refusal(s3())
    assert "there is no bucket 'no-such-bucket'" in refusal("s3://no-such-bucket/videos")
