"""`onetake train` as a command: help, dispatch, errors, DDP, and every experiment from the editable install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from onetake.cli.main import main
from onetake.core.shipped import shipped_folder
from tests.lightning.train_runs import CLASSIFY, SMALL, diary, plain_ids, read_diary, write_videos

ROOT = Path(__file__).parents[2]
ONETAKE = Path(sys.executable).parent / "onetake"
EXPERIMENTS = sorted(path.stem for path in (shipped_folder("configs") / "experiment").glob("*.yaml"))
TWO_RANKS = ("+experiment=classify", *SMALL, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder / "videos")
    return folder


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``, out of this process and without the variables of its Trainers."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "PL_GLOBAL_SEED")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env["PYTHONPATH"] = str(ROOT)  # for tests.lightning.train_runs
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)


def batches(seen: Path) -> list[list[int]]:
    """The clip IDs of the global batches, of both ranks."""
    return [sorted(a + b) for a, b in zip(read_diary(seen, 0), read_diary(seen, 1), strict=True)]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_both_forms_and_the_config_groups(flag):
    result = CliRunner().invoke(main, ["train", flag])
    assert result.exit_code == 0
    for text in (
        "onetake train [KEY=VALUE]...",
        "onetake train RECIPE.yaml",
        "experiment: classify",
        "trainer: cpu, ddp",
    ):
        assert text in result.stdout


def test_cfg_and_info_are_hydras():
    result = CliRunner().invoke(main, ["train", "--cfg", "job", "--resolve", "--package", "data", "videos=here"])
    assert (result.exit_code, "train: here/train" in result.stdout) == (0, True)
    result = CliRunner().invoke(main, ["train", "--info", "searchpath"])
    assert (result.exit_code, "| onetake" in result.stdout) == (0, True)


def test_a_recipe_is_composers():
    result = CliRunner().invoke(main, ["train", "nowhere/recipe.yaml", "max_duration=1ep"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "nowhere/recipe.yaml" in result.stderr


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("hydra", [], "hydra"), ("lightning", [], "lightning"), ("composer", ["recipe.yaml"], "composer")],
)
def test_a_missing_extra_is_named(tmp_path, package, arguments, extra):
    script = (
        f"import sys; sys.modules[{package!r}] = None; from onetake.cli.main import main; main({['train', *arguments]})"
    )
    done = run(tmp_path, sys.executable, "-c", script)
    assert done.returncode == 1
    assert done.stderr.startswith("error: onetake train")
    assert done.stderr.endswith(f"needs {package}, which is not installed: pip install 'onetake[{extra}]'\n")


def test_a_users_error_is_one_line_and_exit_status_1(tmp_path):
    result = CliRunner().invoke(main, ["train", "model.netwerk=r3d_18"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: model.netwerk: there is no such key; did you mean 'network'?\n"
    done = run(tmp_path, sys.executable, "-m", "onetake.lightning.train", *CLASSIFY, "videos=nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the folder nowhere/train does not exist: check the path\n"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs(videos, tmp_path, experiment):
    arguments = (f"+experiment={experiment}", "trainer=cpu", *SMALL, "trainer.limit_val_batches=1")
    done = run(videos, ONETAKE, "train", *arguments, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2].startswith("step 2: 4 clips in this run")
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_two_processes_train_on_the_batches_of_one(videos, tmp_path):
    arguments = (*TWO_RANKS, "trainer.max_steps=-1", "trainer.max_epochs=1", *diary(tmp_path / "seen"))
    done = run(videos, ONETAKE, "train", *arguments, f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert batches(tmp_path / "seen") == [sorted(batch) for batch in plain_ids(videos / "videos", 1, batch_size=4)]
    assert [path.name for path in (tmp_path / "out").glob("*.log")].count("train.log") == 1
    assert not (videos / "outputs").exists()  # the second process has written beside the first


def test_a_sweep_of_two_processes_runs_each_job_once(videos, tmp_path):
    flags = ("-m", *TWO_RANKS, "seed=3,4", f"hydra.sweep.dir={tmp_path}", *diary(tmp_path / "${hydra:job.num}"))
    done = run(videos, sys.executable, "-m", "onetake.lightning.train", *flags)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/checkpoints/last.ckpt"))) == 2
    assert done.stdout.count("step 2: 8 clips in this run") == 2
    seen = [batches(tmp_path / job) for job in "01"]
    assert [len(job) for job in seen] == [2, 2]
    assert seen[0] != seen[1]
