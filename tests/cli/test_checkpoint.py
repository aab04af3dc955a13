"""`onetake checkpoint`: real checkpoints told right, and every bad input in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections import OrderedDict
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch.callbacks import ModelCheckpoint

from onetake.cli.main import main
from onetake.core.state import pack_cursors
from onetake.lightning import VideoDataModule
from tests.helpers import SPEC, make_loader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Composer's own imports say
    import composer
    from composer import Trainer
    from composer.models import ComposerModel

    from onetake.composer import video_data_spec

SHUFFLED = {"shuffle": True, "shuffle_by": "segment", "shuffle_seed": 17}
Place = tuple[str, int]


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, ["checkpoint", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def described(path: Path) -> dict[str, Any]:
    return json.loads(run(path, "--json"))


def refusal(path: str | Path) -> str:
    result = CliRunner().invoke(main, ["checkpoint", str(path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def places(batch: dict[str, Any]) -> list[Place]:
    return list(zip(batch["video_id"], batch["start_frame"].tolist(), strict=True))


class LightningModel(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[Place]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(places(batch))
        return (self.weight - batch["video"].mean()).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def lightning_fit(videos: Path, folder: Path, steps: int, ckpt: Path | None = None) -> list[list[Place]]:
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=5, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=steps,
    )
    data = VideoDataModule(videos, batch_size=4, clips=SPEC, frame_size=None, num_canonical_lanes=8)
    model = LightningModel()
    trainer.fit(model, datamodule=data, ckpt_path=ckpt, **({"weights_only": True} if ckpt else {}))
    return model.seen


class OurComposerModel(ComposerModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[Place]] = []

    def forward(self, batch):
        self.seen.append(places(batch))
        return self.weight - batch["video"].mean()

    def loss(self, outputs, batch):
        return outputs.square().sum()


def composer_fit(videos: Path, folder: Path, batches: int, ckpt: Path | None = None) -> list[list[Place]]:
    model = OurComposerModel()
    trainer = Trainer(
        model=model,
        train_dataloader=video_data_spec(make_loader(videos)),
        max_duration=f"{batches}ba",
        optimizers=torch.optim.SGD(model.parameters(), 0.01),
        device="cpu",
        save_folder=str(folder),
        save_interval="5ba",
        load_path=ckpt and str(ckpt),
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    return model.seen


def by_lane(state: dict[str, Any]) -> list[Place | None]:
    return [place and (place["video_id"], place["frame"]) for place in state["cursors"]]


def assert_next(state: dict[str, Any], following: list[list[Place]]) -> None:
    """Batch t holds a clip of every slot, in their order, each from the slot's lane of phase t mod 2."""
    cursors = by_lane(state)
    first = state["sample_in_epoch"] // 4
    for batch in (0, 1):
        assert cursors[(first + batch) % 2 :: 2] == following[batch]


@pytest.fixture(scope="module")
def lightning_folder(numbered, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lightning")
    lightning_fit(numbered, folder, 5)
    return folder


@pytest.fixture(scope="module")
def composer_folder(numbered, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("composer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        composer_fit(numbered, folder, 5)
    return folder


def test_lightning(numbered, lightning_folder, tmp_path):
    file = lightning_folder / "step=5.ckpt"
    summary = described(file)
    (state,) = summary.pop("states")
    assert summary == {
        "file": str(file),
        "framework": "lightning",
        "framework_version": pl.__version__,
        "optimizer_steps": 5,
        "batches": None,
    }
    assert state["paths"][-1] == "VideoDataModule/train"
    assert {**state, **SHUFFLED, "epoch": 0, "sample_in_epoch": 20, "num_lanes": 8, "finished_lanes": []} == state
    assert state["num_clips"] == make_loader(numbered).dataset.num_clips
    assert_next(state, lightning_fit(numbered, tmp_path, 7, file))


@pytest.mark.filterwarnings("ignore")
def test_composer(numbered, composer_folder, tmp_path):
    link, file = composer_folder / "latest-rank0.pt", composer_folder / "ep0-ba5-rank0.pt"
    assert link.is_symlink()
    summary = described(link)
    (state,) = summary.pop("states")
    assert summary == {
        "file": str(file),
        "framework": "composer",
        "framework_version": composer.__version__,
        "optimizer_steps": None,
        "batches": 5,
    }
    assert state["paths"] == ["state/dataset_state/train"]
    assert {**state, **SHUFFLED, "epoch": 0, "sample_in_epoch": 20, "num_lanes": 8, "finished_lanes": []} == state
    assert_next(state, composer_fit(numbered, tmp_path, 7, file))


def test_in_words(composer_folder):
    link, file = composer_folder / "latest-rank0.pt", composer_folder / "ep0-ba5-rank0.pt"
    (state,) = described(file)["states"]
    text = run(link)
    for words in (f"{file} ({link} points to it)", f"Composer {composer.__version__}", "batches trained"):
        assert words in text
    assert f"20 of {state['num_clips']}" in text
    assert state["generations"][0] in text
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.count("│") == 5]
    expected = sorted(state["cursors"], key=lambda place: (place["video_id"], place["lane"]))
    assert table == [[str(p["lane"]), p["video_id"], str(p["frame"]), p["time_code"]] for p in expected]


def test_the_newest_of_a_folder(composer_folder, lightning_folder, tmp_path):
    assert described(composer_folder)["file"] == str(composer_folder / "ep0-ba5-rank0.pt")  # not the link to it
    for number, name in enumerate(["b.ckpt", "c.ckpt", "a.ckpt"]):
        shutil.copy(lightning_folder / "step=5.ckpt", tmp_path / name)
        os.utime(tmp_path / name, (number, number))
    (tmp_path / "later.txt").touch()
    (tmp_path / "gone.ckpt").symlink_to("nowhere")
    assert described(tmp_path)["file"] == str(tmp_path / "a.ckpt")
    assert f"a.ckpt (the newest of 3 in {tmp_path})" in run(tmp_path)


@pytest.fixture(scope="module")
def state(numbered) -> dict[str, Any]:
    loader = make_loader(numbered)
    running = iter(loader)
    for _ in islice(running, 3):
        pass
    running.close()
    return loader.state_dict()


@pytest.mark.parametrize("form", ["zip", "legacy", "json", "json.pt"])
def test_a_state_saved_by_a_loop_of_ones_own(numbered, state, tmp_path, form):
    saved = {"step": 3, "more": [{"loader": state}]}
    file = tmp_path / f"saved.{form}"
    if form.startswith("json"):
        file.write_text(json.dumps(saved))
    else:
        torch.save(saved, file, _use_new_zipfile_serialization=form == "zip")
    summary = described(file)
    assert (summary["framework"], summary["optimizer_steps"], summary["batches"]) == (None, None, None)
    (told,) = summary["states"]
    assert (told["paths"], told["sample_in_epoch"]) == (["more/0/loader"], 12)
    loader = make_loader(numbered)
    loader.load_state_dict(state)
    assert_next(told, [places(batch) for batch in islice(loader, 2)])
    assert "unknown" in run(file)


def hand_made(cursors: list[Place | None], seconds: float = 0.04, **changes: Any) -> dict[str, Any]:
    packed = pack_cursors(cursors, [seconds if at else 0.0 for at in cursors])
    order = {"generations": ["g1", "g2"], "num_clips": 1234, **SHUFFLED, "slots": 2, "phases": len(cursors) // 2}
    onetake = {"version": 1, "order": order, "cursors": packed}
    return {"epoch": 3, "sample_in_epoch": 1200, "onetake": onetake, **changes}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_finished_lanes(tmp_path):
    file = write(tmp_path / "s.json", hand_made([None, ("b", 90_000), None, None, ("a", 25), ("b", 0), None, None]))
    (told,) = described(file)["states"]
    assert told["finished_lanes"] == [0, 2, 3, 6, 7]
    assert told["cursors"][0] is None
    assert told["cursors"][1] == {
        "lane": 1,
        "video_id": "b",
        "frame": 90_000,
        "seconds": pytest.approx(3600),
        "time_code": "01:00:00.000",
    }
    text = run(file)
    for words in ("5: 0, 2-3, 6-7", "1,200 of 1,234", "g1, g2", "the top level", "by segment"):
        assert words in text
    assert [line.split()[1] for line in text.splitlines() if line.count("│") == 5] == ["4", "1", "5"]


def test_every_lane_finished_and_no_shuffle(tmp_path):
    saved = hand_made([None, None])
    saved["onetake"]["order"]["shuffle"] = False
    text = run(write(tmp_path / "s.json", saved))
    assert "no open videos" in text
    assert "│ shuffle           │ off " in text


def test_an_order_that_tells_nothing(tmp_path):
    saved = hand_made([("a", 1)])
    saved["onetake"]["order"] = {}
    text = run(write(tmp_path / "s.json", saved))
    assert "│ 1,200 of ? " in text
    for name in ("shuffle          ", "shuffle seed     ", "index generations"):
        assert f"│ {name} │ ? " in text


@pytest.mark.parametrize(
    "frame, seconds, code",
    [
        (0, 0.04, "00:00:00.000"),
        (1, 1001 / 30_000, "00:00:00.033"),
        (59_9996, 0.0001, "00:01:00.000"),
        (3_599_999, 0.001, "00:59:59.999"),
        (25 * 3600 * 123, 0.04, "123:00:00.000"),
    ],
)
def test_time_codes(tmp_path, frame, seconds, code):
    (told,) = described(write(tmp_path / "s.json", hand_made([("a", frame)], seconds)))["states"]
    assert told["cursors"][0]["time_code"] == code


def test_a_state_without_durations(tmp_path):
    saved = hand_made([("a", 25), None])
    del saved["onetake"]["cursors"]["frame_seconds"]
    file = write(tmp_path / "s.json", saved)
    (told,) = described(file)["states"]
    assert told["cursors"] == [{"lane": 0, "video_id": "a", "frame": 25, "seconds": None, "time_code": None}, None]
    assert "?" in run(file)


def test_long_and_odd_video_ids_are_shown_whole(tmp_path):
    odd = ["x" * 400 + ".mp4", "[bold]a[/bold].mp4", ":smile:.mp4", "a\x1b[31m\nb.mp4", "\udcff.mp4", "videos/ü.mp4"]
    text = run(write(tmp_path / "s.json", hand_made([(name, 1) for name in odd])))
    for name in [*odd[:3], r"a\x1b[31m\nb.mp4", r"\udcff.mp4", odd[5]]:
        assert f"│ {name} " in text


def test_many_lanes_are_all_listed(tmp_path):
    cursors = [(f"{lane % 7}.mp4", lane) for lane in range(2000)]
    text = run(write(tmp_path / "s.json", hand_made(cursors)))
    rows = [line.split("│")[1:3] for line in text.splitlines() if line.count("│") == 5]
    assert [(name.strip(), int(lane)) for lane, name in rows] == sorted((f"{i % 7}.mp4", i) for i in range(2000))


def test_several_states(tmp_path):
    first, second = hand_made([("a", 1)]), hand_made([("b", 2)], epoch=4)
    saved = OrderedDict(train=first, again=[json.loads(json.dumps(first))], other={"x": second})
    saved["itself"] = saved
    file = tmp_path / "s.pt"
    torch.save(saved, file)
    told = described(file)["states"]
    assert [(one["paths"], one["epoch"]) for one in told] == [(["train", "again/0"], 3), (["other/x"], 4)]
    text = run(file)
    assert "│ train, again/0 " in text
    assert "│ other/x " in text


class Odd:
    """Something that only the code of its owner can load."""


def test_what_would_need_the_files_code(tmp_path, state):
    torch.save({"hyper": Odd(), "where": Path("x"), "loader": state}, tmp_path / "s.pt")
    message = refusal(tmp_path / "s.pt")
    assert f"holds pathlib.PosixPath, {Odd.__module__}.Odd, which can't be loaded without running" in message
    assert "write its onetake state to a JSON file" in message


def test_paths_that_are_no_checkpoint(tmp_path):
    assert "there is no checkpoint nowhere.pt: check the path" in refusal("nowhere.pt")
    assert "fetch the checkpoint first" in refusal("s3://bucket/ep0.pt")
    assert "File name too long" in refusal("a" * 300)
    assert "is no file" in refusal("/dev/null")
    assert "holds no checkpoint (.ckpt, .pt, .pth): name the file" in refusal(tmp_path)
    (tmp_path / "latest.pt").symlink_to("gone.pt")
    assert "latest.pt points to gone.pt, which is not there" in refusal(tmp_path / "latest.pt")


def test_a_sharded_checkpoint(tmp_path, state):
    (tmp_path / ".metadata").touch()
    (tmp_path / "__0_0.distcp").touch()
    message = refusal(tmp_path)
    assert "is a sharded checkpoint: make one file of it" in message
    assert f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {tmp_path} one.pt" in message
    torch.save({"pytorch-lightning_version": "2.6", "VideoDataModule": {"train": state}}, tmp_path / "meta.pt")
    assert described(tmp_path)["states"][0]["paths"] == ["VideoDataModule/train"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("s.pt", b"", "is empty"),
        ("s.pt", b"not a checkpoint at all", "is no torch file, or damaged"),
        ("s.pt", b"PK\x03\x04" + bytes(200), "is a damaged or truncated torch file"),
        ("s.pt", pickle.dumps({"epoch": 1}), "is no torch file, or damaged"),
        ("s.json", b"", "is no JSON, or damaged"),
        ("s.json", b'{"epoch": 1', "is no JSON, or damaged"),
        ("s.json", b"\xff\xfe\x00", "is no JSON, or damaged"),
        ("s.json", b"[" * 100_000, "is no JSON, or damaged"),
        ("s.json", b"[1, {}, null]", "holds no state of onetake"),
        ("ep0.pt.gz", b"\x1f\x8b", "is compressed or an archive: unpack it"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated_checkpoints(lightning_folder, composer_folder, tmp_path, share):
    for file in (lightning_folder / "step=5.ckpt", composer_folder / "ep0-ba5-rank0.pt"):
        content = file.read_bytes()
        (tmp_path / "s.pt").write_bytes(content[: int(len(content) * share)])
        assert "is a damaged or truncated torch file" in refusal(tmp_path / "s.pt")


def test_no_state_of_ours(tmp_path):
    state = {"epoch": 0, "sample_in_epoch": 5}  # streaming's own
    torch.save({"state": {"dataset_state": {"train": state}}, "model": {"w": torch.zeros(3)}}, tmp_path / "s.pt")
    message = refusal(tmp_path / "s.pt")
    assert "s.pt holds no state of onetake" in message
    assert "fit with a VideoDataModule" in message


def broken(*keys: str | int, value: Any) -> dict[str, Any]:
    saved = node = hand_made([("a", 25), None, ("b", 5)])
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return {"train": saved}


CURSORS = ("onetake", "cursors")


@pytest.mark.parametrize(
    "saved, words",
    [
        (broken("onetake", value="x"), "not saved by onetake"),
        (broken("onetake", "version", value=99), "has version 99"),
        (broken("epoch", value="x"), "is damaged"),
        (broken("sample_in_epoch", value=-1), "is damaged"),
        (broken("onetake", "order", value=None), "is damaged"),
        (broken(*CURSORS, value=[]), "cursors are damaged"),
        (broken(*CURSORS, "lanes", 0, value=[9, 0]), "cursors are damaged"),
        (broken(*CURSORS, "lanes", 0, value=[0, -5]), "a frame before the first"),
        (broken(*CURSORS, "frame_seconds", value=[]), "cursors are damaged"),
        (broken(*CURSORS, "frame_seconds", value=[[-1.0, 2]]), "a frame before the first"),
        (broken(*CURSORS, "frame_seconds", value=[[float("nan"), 2]]), "is damaged"),
        (broken(*CURSORS, "lanes", 0, value=[0, 10**400]), "damaged"),
        (broken(*CURSORS, "lanes", 0, value=[torch.zeros(3), 0]), "is damaged"),
    ],
)
def test_damaged_states(tmp_path, saved, words):
    torch.save(saved, tmp_path / "s.pt")
    message = refusal(tmp_path / "s.pt")
    assert "s.pt, at train: " in message
    assert words in message
