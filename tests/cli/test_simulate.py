"""`onetake simulate`: what it foretells is what a loader counts, and every bad input is told in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from onetake import ClipSpec, pack_videos
from onetake.cli.main import main
from onetake.core.simulate import Simulation
from tests.helpers import make_loader

CLIPS = ("--num-frames", 4, "--stride", 3)


def run(*arguments: str | int | Path) -> str:
    result = CliRunner().invoke(main, ["simulate", "--ranks", "1", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def simulated(*arguments: str | int | Path) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json"))


def refusal(*arguments: str | int | Path) -> str:
    result = CliRunner().invoke(main, ["simulate", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.filterwarnings("ignore:global batch .* does not divide:UserWarning")
@pytest.mark.parametrize(
    ("workers", "lanes", "spec", "options"),
    [
        (0, 8, ClipSpec(4, 3), CLIPS),
        (2, 8, ClipSpec(4, 3), CLIPS),
        (2, 7, ClipSpec(4, 3), CLIPS),  # wander
        (3, 8, ClipSpec(8, 1, 2), ("--num-frames", 8, "--stride", 1, "--hop", 2)),  # wander
        (0, 3, ClipSpec(4, 3), CLIPS),  # fewer than clips in a batch
        (0, None, ClipSpec(4, fps=5), ("--num-frames", 4, "--fps", 5)),
        (2, 8, ClipSpec(4, 3, clips_per_video=3), (*CLIPS, "--clips-per-video", 3)),
        (0, 8, ClipSpec(4, 3, jitter=True), (*CLIPS, "--jitter")),
        (0, 8, ClipSpec(4, 3, align="keyframe"), (*CLIPS, "--align", "keyframe")),
    ],
)
def test_it_foretells_what_a_loader_counts(numbered, tmp_path, workers, lanes, spec, options):
    remote = {"remote": numbered, "local": tmp_path / "cache"}
    loader = make_loader(numbered, workers, clips=spec, num_canonical_lanes=lanes, **remote)
    videos = [
        len({video for video, pad in zip(batch["video_id"], batch["is_pad"].tolist(), strict=True) if not pad})
        for batch in loader
    ]
    if lanes is not None:
        options = (*options, "--lanes", lanes)
    told = simulated(numbered, "--workers", workers, "--batch-size", 4, *options)["simulations"][0]
    dataset, stats = loader.dataset, loader.stats()
    assert (told["slots"], told["phases"]) == dataset.lanes
    assert told["clips"] == dataset.num_clips
    assert told["steps"] == len(loader)
    assert told["opens"] == stats["opens"]
    assert told["distinct_videos"] == pytest.approx(np.mean(videos))
    assert (told["warning"] is None) == (dataset.lanes_advice(workers) is None)
    cached = [shard for shard in dataset.shards if shard.path.exists()]
    assert told["segments"] == len(cached)
    assert told["node_bytes"] == pytest.approx(sum(shard.path.stat().st_size for shard in cached), rel=0.2)
    assert told["frames_decoded"] >= stats["frames_decoded"]
    assert told["seeks"] == pytest.approx(stats["seeks"], abs=3)


def test_of_a_pack_it_shuffles_shards_as_a_dataset_does(numbered, tmp_path):
    pack_videos(numbered, tmp_path / "pack", shard_size=1 << 16, segment_seconds=1.5, overlap=1.0, workers=1)
    loader = make_loader(tmp_path / "pack", clips=ClipSpec(4, 3))
    videos = [len({*batch["video_id"]}) for batch in loader]
    assert loader.dataset.num_clips % 4 == 0  # no repeats
    told = simulated(tmp_path / "pack", "--workers", 0, "--batch-size", 4, "--lanes", 8, *CLIPS)
    assert told["shuffle"]["shuffle_by"] == loader.dataset.shuffle_by == "shard"
    assert told["simulations"][0]["opens"] == loader.stats()["opens"]
    assert told["simulations"][0]["distinct_videos"] == pytest.approx(np.mean(videos))
    by_segment = simulated(tmp_path / "pack", "--batch-size", 4, "--lanes", 8, "--shuffle-by", "segment", *CLIPS)
    assert by_segment["shuffle"]["shuffle_by"] == "segment"
    assert by_segment["simulations"] != told["simulations"]


def test_two_epochs_are_those_that_a_loader_delivers(numbered):
    loader = make_loader(numbered, 0)
    videos = [len({*batch["video_id"]}) for _ in range(2) for batch in loader]
    assert loader.dataset.num_clips % 4 == 0  # no repeats
    told = simulated(numbered, "--workers", 0, "--batch-size", 4, "--lanes", 8, "--epochs", 2, *CLIPS)
    assert told["simulations"][0]["distinct_videos"] == pytest.approx(np.mean(videos))
    assert told["simulations"][0]["opens"] == loader.stats()["opens"] / 2


def test_json_holds_the_world_and_a_simulation_for_each_number_of_lanes(numbered):
    options = ("--nodes", 2, "--ranks", 2, "--workers", 2, "--batch-size", 2, "--compare-lanes", "16,24,16", *CLIPS)
    summary = simulated(numbered, *options)
    assert set(summary) == {
        "index",
        "generation",
        "videos",
        "clips",
        "world",
        "shuffle",
        "epochs",
        "simulations",
    }
    assert summary["videos"] == 7
    assert summary["clips"] == {"num_frames": 4, "stride": 3, "hop": 12}
    assert summary["world"] == {
        "nodes": 2,
        "ranks": 2,
        "workers": 2,
        "batch_size": 2,
        "predownload": None,
        "global_batch": 8,
    }
    good, bad = summary["simulations"]
    assert set(good) == {*Simulation.__dataclass_fields__, "warning"}
    assert (good["lanes"], bad["lanes"]) == (16, 24)
    assert good["warning"] is None
    assert bad["warning"].startswith("24 lanes: global batch 8 x 2 workers = 16 does not divide them")
    assert bad["warning"].endswith("num_canonical_lanes=16 or 32 fits")
    assert bad["opens"] > good["opens"]


def test_the_table_has_a_column_for_each_number_of_lanes_and_says_what_is_wrong(numbered):
    shown = run(numbered, "--workers", 2, "--batch-size", 4, "--compare-lanes", "8,12", *CLIPS)
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in map(_cells, shown.splitlines())}
    assert rows["lanes (slots x phases)"] == ["8 (4 x 2)", "12 (4 x 3)"]
    assert rows["steps of a lane that stay on a worker"][0] == "100.0%"
    assert shown.count("warning:") == 1
    assert "warning: 12 lanes: global batch 4 x 2 workers = 8 does not divide them" in shown


def _cells(line: str) -> list[str]:
    cells = line.split("│")
    return cells if len(cells) > 2 else ["", "", ""]


def test_the_plot_is_drawn(numbered, tmp_path):
    plot = tmp_path / "plot.png"
    run(numbered, "--nodes", 2, "--workers", 0, "--batch-size", 4, "--compare-lanes", "8,16", "--plot", plot, *CLIPS)
    from matplotlib.image import imread

    picture = imread(plot)
    assert picture.shape[:2] == (630, 810)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20


def test_a_part_of_the_steps_is_told(numbered):
    told = simulated(numbered, "--workers", 0, "--batch-size", 2, "--steps", 8, *CLIPS)["simulations"][0]
    assert told["steps_simulated"] == 8 < told["steps"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", 0), "batch_size=0: must be at least 1"),
        (("--nodes", 0), "nodes=0: must be at least 1"),
        (("--lanes", 0), "--lanes 0: must be at least 1"),
        (("--epochs", 0), "--epochs 0: must be at least 1"),
        (("--steps", 0), "--steps 0: must be at least 1"),
        (("--seed", -1), "--seed -1: must be at least 0"),
        (("--compare-lanes", "8,x"), "--compare-lanes 8,x: must be whole numbers"),
        (("--compare-lanes", "8,0"), "--compare-lanes 8,0: must be whole numbers"),
        (("--compare-lanes", "8", "--lanes", 8), "give one of the two"),
        (("--num-frames", 1000), "no video of the index has a clip: the longest has 300 frames"),
        (("--stride", 2, "--fps", 5), "clips are counted in frames"),
        (("--fps", "x"), "fps='x'"),
        (("--shuffle-by", "clip"), "shuffle_by='clip': must be one of"),
        (("--batch-size", 1000, "--drop-last"), "with drop_last no batch is left"),
        (("--plot", "nowhere/plot.png"), "--plot nowhere/plot.png: there is no folder"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(numbered, options, message):
    assert message in refusal(numbered, "--num-frames", 4, *options)


def test_a_world_is_presumed(numbered):
    result = CliRunner().invoke(main, ["simulate", str(numbered), "--num-frames", "4", "--json"])
    told = json.loads(result.stdout)
    assert (told["world"]["ranks"], told["world"]["global_batch"], told["clips"]["stride"]) == (8, 64, 4)


def test_no_index(tmp_path):
    assert "no index in" in refusal(tmp_path)
    assert "no index in" in refusal(tmp_path / "nowhere")


def test_a_plot_that_cannot_be_written(numbered, tmp_path):
    plot = tmp_path / "file" / "plot.png"
    plot.parent.mkdir()
    plot.mkdir()
    result = CliRunner().invoke(main, ["simulate", str(numbered), "--plot", str(plot)])
    assert result.exit_code == 2
    assert "is a directory" in result.stderr


def test_it_loads_no_torch(numbered):
    script = (
        "import sys\nfrom onetake.cli.main import main\n"
        f"try: main(['simulate', {str(numbered)!r}, '--json'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print([name for name in ('torch', 'streaming', 'matplotlib') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "[]\n"
