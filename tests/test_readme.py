"""The README's Python runs, as it stands there but for places and sizes."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

from onetake.decode.build import index_videos
from onetake.decode.synthetic import write_numbered_video

README = (Path(__file__).parents[1] / "README.md").read_text()
SMALLER = {
    "num_workers=4": "num_workers=0",
    "num_workers=1": "num_workers=0",
    "num_frames=16, stride=4": "num_frames=4, stride=3",
    "16, stride=2": "4, stride=2",
    "epoch_size=100_000": "epoch_size=40",
    "range(10)": "range(2)",
    "/mnt/archive/videos": "videos",
    "/mnt/more": "more",
    "/scratch/cache": "cache",
}


def examples() -> dict[str, list[str]]:
    """Python blocks by section."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^#+ ", README, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
        if blocks:
            found[part.partition("\n")[0]] = blocks
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("readme")
    for name, frames in (("videos", (60, 90, 45)), ("more", (50, 40))):
        (root / name).mkdir()
        for number, count in enumerate(frames):
            write_numbered_video(root / name / f"{number}.mp4", count, gop=20)
        index_videos(root / name, workers=1)
    return root


def run(code: str, folder: Path, monkeypatch, **names) -> dict:
    """The names that an example leaves, run beside the videos, at a small size."""
    for given, small in SMALLER.items():
        code = code.replace(given, small)
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lanes start in the middle of a video")
        exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("section", EXAMPLES)
def test_it_is_python(section):
    for code in EXAMPLES[section]:
        compile(code, section, "exec")


def test_three_ways_of_sampling(folder, monkeypatch):
    frames, videos, drained = EXAMPLES["Three ways of sampling"]
    seen: list[torch.Tensor] = []
    left = run(frames, folder, monkeypatch, train_on=seen.append)
    assert {tuple(video.shape[1:]) for video in seen} == {(3, 256, 256)}
    assert left["dataset"].num_clips == 3 + 4 + 2  # one frame a second

    seen.clear()
    left = run(videos, folder, monkeypatch, train_on=seen.append)
    assert {tuple(clip.shape) for clip in seen} == {(4, 3, 256, 256)}
    assert len(seen) >= sum((count - 10) // 12 + 1 for count in (60, 90, 45))
    assert len(left["dataset"]) == 4  # three videos, and one again to fill the batch

    seen.clear()
    run(drained, folder, monkeypatch, train_on=seen.append)
    assert [tuple(video.shape) for video in seen] == [(1, 4, 3, 256, 256)] * 15


def test_streams(folder, monkeypatch):
    (code,) = EXAMPLES["Several streams"]
    assert run(code, folder, monkeypatch)["dataset"].num_clips == 40


def test_a_loop_of_your_own(folder, monkeypatch):
    (code,) = EXAMPLES["A loop of your own"]
    seen, saved = [], []
    model = torch.nn.Linear(1, 1)
    run(code, folder, monkeypatch, train_on=seen.append, save=saved.append, model=model)
    assert len(seen) == len(saved) == 4
    assert [state["loader"]["epoch"] for state in saved] == [0, 1, 1, 2]


MANIFEST = "Manifests, metadata, spans, filters, splits"


def test_manifests(tmp_path, monkeypatch):
    videos, spans = re.findall(r"^```\n(path,.*?)^```", README, re.DOTALL | re.MULTILINE)
    for name in ("cats/1.mp4", "dogs/2.mp4", "cats/3.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_numbered_video(tmp_path / "videos" / name, 60, gop=20)
    (tmp_path / "videos.csv").write_text(videos + "cats/3.mp4,,channel7\n")
    (tmp_path / "spans.csv").write_text(spans)
    shared = {"root": tmp_path / "videos", "workers": 1}
    index_videos(tmp_path / "videos.csv", tmp_path / "index", split={"val": 0.02}, split_by="source_id", **shared)
    index_videos(tmp_path / "spans.csv", tmp_path / "spans", **shared)

    filters, with_spans = EXAMPLES[MANIFEST]
    sample = run(filters, tmp_path, monkeypatch)["dataset"][0]
    assert (sample["video_id"], sample["label"]) == ("cats/1.mp4", 0)
    assert "source_id" not in sample
    left = run(with_spans, tmp_path, monkeypatch)
    assert (left["within"][0]["verb"], left["within"][0]["start_frame"]) == ("sleeps", 12)
    assert [span["verb"] for span in left["beside"][3]["spans"]] == ["sleeps", "stretches"]
