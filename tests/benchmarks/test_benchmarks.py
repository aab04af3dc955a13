"""The benchmarks run, on small videos, and every contender delivers the frames that it should. Nothing is timed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.benchmarks import bench_decode, bench_index, bench_order, bench_scale
from tests.benchmarks.contenders import BASELINE, CONTENDERS, make_task
from tests.benchmarks.media import write_video

PEERS = {"torchcodec, random", "decord, random"}  # not everywhere to be had


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(bench_decode, "SIZE", (96, 160))
    monkeypatch.setattr(bench_decode, "why_missing", lambda name: "not installed" if name in PEERS else "")
    monkeypatch.setattr(bench_scale, "CASES", [((96, 160), 48)])
    monkeypatch.setattr(bench_scale, "PICTURES", 2)


def test_decoding(small, tmp_path):
    arguments = ["--frames", "68", "--rounds", "1", "--stride", "1", "--stride", "4", "--size", "64", "64"]
    done = CliRunner().invoke(bench_decode.main, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for peer in PEERS:
        assert f"{peer}: not installed" in done.output
    found = json.loads((tmp_path / "decode.json").read_text())
    assert {(row["codec"], row["stride"], row["contender"]) for row in found["rows"]} == {
        (codec, stride, name) for codec in ("h264", "hevc") for stride in (1, 4) for name in CONTENDERS.keys() - PEERS
    }
    assert all(row["frames_agree"] for row in found["rows"])
    assert all(row["ratio"] == 1 for row in found["rows"] if row["contender"] == BASELINE)
    assert (tmp_path / "decode.png").read_bytes().startswith(b"\x89PNG")


def test_a_contender_that_gives_other_frames_is_found_out(small, monkeypatch, tmp_path):
    write_video(tmp_path / "v.mp4", "h264", [], 96, 160, 68)
    task = make_task(tmp_path / "v.mp4", 16, 2, (64, 64))
    right = CONTENDERS["onetake, lane order"][0]

    def late(given):
        """Each frame is the one after it."""
        yield from right(type(given)(given.path, [[f + 1 for f in clip] for clip in given.clips], *rest(given)))

    def rest(given):
        return given.frame_size, given.video, given.table

    def blank(given):
        yield from ((number, np.zeros_like(frames)) for number, frames in right(given))

    def few(given):
        yield next(iter(right(given)))

    monkeypatch.setattr(bench_decode, "CONTENDERS", {"right": (right, None), **{
        way.__name__: (way, None) for way in (late, blank, few)
    }})  # fmt: skip
    found = bench_decode.agreement(task, ["right", "late", "blank", "few"])
    assert found == {"right": True, "late": False, "blank": False, "few": False}


def test_order(tmp_path):
    done = CliRunner().invoke(bench_order.main, ["--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "order.json").read_text())
    assert [row["task"]["name"] for row in found["epochs"]] == [task.name for task in bench_order.TASKS]
    assert all(0.2 < row["segments_kept"] < 0.3 for row in found["epochs"])  # a node of four
    assert all(row["peak_mb"] >= row["peak_mb_of_the_index"] > 0 for row in found["epochs"])
    assert {row["shuffle_by"]: row["share"] > 0.95 for row in found["mixing"]} == {"segment": True, "video": True}


def test_what_a_perfect_shuffle_shows_is_known_exactly():
    """Of the six pairs out of four clips, one is of one video."""
    assert bench_order.expected_distinct(np.array([2, 1, 1]), 2) == pytest.approx(2 - 1 / 6)
    assert bench_order.expected_distinct(np.array([5, 1]), 6) == pytest.approx(2)


def test_scaling(small):
    done = CliRunner().invoke(bench_scale.main, ["--quick"])
    assert done.exit_code == 0, done.output
    for name in bench_scale.routes():
        assert name.split(",")[0] in done.output


def test_a_large_index(tmp_path):
    done = CliRunner().invoke(bench_index.main, ["--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "index.json").read_text())
    assert (found["videos"], found["segments"]) == (20, 1000)
    assert found["bytes a packet"] <= 8
    assert found["bytes a segment"] <= 300
    clips = sum(item.video.num_frames // 64 for item in bench_index.indexed_videos(20, 1000))
    assert {row["clips"] for row in found["opens"].values()} == {clips}
    assert list(tmp_path.iterdir()) == [tmp_path / "index.json"]
