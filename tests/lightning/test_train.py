"""Runs composed by Hydra: what they train on, what they leave behind, and what is said of a wrong config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from onetake.core.errors import ConfigError, OnetakeError, SpecError
from onetake.core.shipped import shipped_folder
from onetake.lightning.train import main
from tests.lightning.train_runs import CLASSIFY, Bug, diary, plain_ids, read_diary, write_videos

QUIET = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


@pytest.fixture
def run(videos, tmp_path, monkeypatch):
    """Runs main with overrides, in an empty folder; returns it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(videos)

    def run(*overrides: str) -> Path:
        arguments = [*overrides, *QUIET]
        monkeypatch.setattr(sys, "argv", ["onetake", "train", *arguments])
        main(arguments)
        assert sys.argv == ["onetake", "train", *arguments]
        return tmp_path

    return run


def test_a_run_sees_the_plain_order_and_leaves_its_files_in_the_output_folder(run, videos, capsys):
    folder = run(*CLASSIFY, *diary("seen"), "hydra.run.dir=out", "trainer.max_steps=-1", "trainer.max_epochs=1")
    seen = read_diary(folder / "seen")
    assert seen == plain_ids(videos, 1)
    steps = len(seen)
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {".hydra", "checkpoints", "metrics"}
    assert {path.name for path in (out / "checkpoints").iterdir()} == {f"epoch0-step{steps}.ckpt", "last.ckpt"}
    metrics = (out / "metrics" / "version_0" / "metrics.csv").read_text()
    assert "val_accuracy" in metrics
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith(f"step {steps}: {2 * steps} clips in this run, waited ")
    assert second == f"checkpoints: {out / 'checkpoints'}"


def test_the_last_checkpoint_of_a_folder_goes_on_exactly(run, videos):
    whole = plain_ids(videos, 2)
    arguments = (*CLASSIFY, *diary("seen"), "hydra.run.dir=out", "ckpt_path=last", "trainer.limit_val_batches=0")
    folder = run(*arguments, "trainer.max_steps=3")  # there is none yet
    run(*arguments, "trainer.max_steps=5")
    assert read_diary(folder / "seen") == whole[:5]


def test_a_checkpoint_within_an_epoch_goes_on_exactly(run, videos):
    whole = plain_ids(videos, 2)
    middle = len(whole) // 2 + 3  # in the second epoch
    arguments = (*CLASSIFY, f"callbacks.model_checkpoint.every_n_train_steps={middle}", "trainer.limit_val_batches=0")
    folder = run(*arguments, *diary("seen"), "hydra.run.dir=out", f"trainer.max_steps={middle}")
    checkpoint = f"ckpt_path=out/checkpoints/epoch1-step{middle}.ckpt"
    run(*arguments, *diary("seen"), checkpoint, "trainer.max_steps=-1", "trainer.max_epochs=2")
    assert read_diary(folder / "seen") == whole


def test_logger_callbacks_and_seed_can_be_left_out(run, capsys):
    folder = run(
        *CLASSIFY, "logger=none", "hydra.run.dir=out", "callbacks.model_checkpoint=null", "seed=null",
        "data.shuffle_seed=17", "trainer.max_steps=1", "+trainer.enable_checkpointing=false",
    )  # fmt: skip
    assert {path.name for path in (folder / "out").iterdir()} == {".hydra"}
    assert capsys.readouterr().out.endswith("\nno checkpoints\n")


def test_a_sweep_runs_each_job_in_its_folder(run):
    sweep = ("-m", "hydra.sweep.dir=sweep", *CLASSIFY, "trainer.max_steps=1")
    folder = run(*sweep, *diary("seen-${hydra:job.num}"), "seed=3,4")
    assert len(list((folder / "sweep").glob("[01]/checkpoints/last.ckpt"))) == 2
    assert read_diary(folder / "seen-0") != read_diary(folder / "seen-1")


@pytest.mark.parametrize(
    ("overrides", "error", "text"),
    [
        (["data.batchsize=4"], ConfigError, "data.batchsize: there is no such key; did you mean 'batch_size'?"),
        (["modl=classifier"], ConfigError, "modl: there is no such key; did you mean 'model'?"),
        (["+experiment=clasify"], ConfigError, "experiment=clasify: there is no such config; did you mean 'classify'?"),
        (["trainer=gpu"], ConfigError, "trainer=gpu: there is no such config; did you mean 'cpu'?"),
        (["experiment=classify"], ConfigError, r"No match in the defaults list. .* use \+experiment=classify"),
        (["seed=["], ConfigError, "no viable alternative at input"),
        (["callbacks=null"], ConfigError, "Config group override must be a string"),
        (["--config-dir=nowhere"], ConfigError, "Additional config directory '.*nowhere' not found"),
        (["--config-name=nothing"], ConfigError, "Cannot find primary config 'nothing'"),
        (["--resolve"], ConfigError, "can only be used in conjunction with --cfg"),
        (["videos=${nothing}"], ConfigError, "Interpolation key 'nothing' not found"),
        (["trainer.max_epochs=???"], ConfigError, "trainer.max_epochs: Missing mandatory value"),
        (["+trainer.steps=3"], ConfigError, r"trainer: Trainer.__init__\(\) got an unexpected keyword .*'steps'"),
        (["trainer.devices=0"], ConfigError, r"trainer: `Trainer\(devices=0\)` value is not a valid input"),
        (["model._target_=onetake.nothing"], ConfigError, "model: Error loading 'onetake.nothing'"),
        (["model.network=r3d"], ConfigError, "network 'r3d' is no video model of torchvision; did you mean 's3d'?"),
        (["ckpt_path=none.ckpt"], ConfigError, "ckpt_path=none.ckpt: there is no such checkpoint"),
        (["clips.stride=0"], SpecError, r"ClipSpec\(stride=0\): must be at least 1"),
        (["videos=nowhere"], OnetakeError, "the folder nowhere/train does not exist"),
        (["videos=unindexed"], OnetakeError, "onetake index"),
        (["data.sample_transform=null"], ConfigError, "samples have no label"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_users_error_is_one_line(run, tmp_path, capfd, overrides, error, text):
    (tmp_path / "unindexed" / "train").mkdir(parents=True)
    bare = overrides[0].lstrip("+").startswith(("experiment", "trainer=", "callbacks=", "--"))
    with pytest.raises(error, match=text) as raised:
        run(*(() if bare else CLASSIFY), *overrides)
    assert "\n" not in str(raised.value)
    assert "Error executing job" not in capfd.readouterr().err  # Hydra's own line


def test_in_a_sweep_hydra_says_which_job_it_was(run, capfd):
    with pytest.raises(SpecError, match="stride=0"):
        run("-m", *CLASSIFY, "clips.stride=0,2")
    assert "'clips.stride=0'" in capfd.readouterr().err


def test_a_bug_keeps_its_traceback(run):
    with pytest.raises(ZeroDivisionError, match="the test stops here"):
        run(*CLASSIFY, f"+callbacks.bug._target_={Bug.__module__}.Bug")
    with pytest.raises(InstantiationException) as raised:
        run(*CLASSIFY, f"model._target_={Bug.__module__}.broken_model")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_own_configs_come_along(run, tmp_path, capsys):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - classify\nclips:\n  stride: 7\n"
    )
    run("--config-dir", "mine", "--cfg", "job", "--package", "clips", "+experiment=own")
    assert "stride: 7" in capsys.readouterr().out


def test_a_users_own_application_finds_the_configs(videos, tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "cpu.yaml").write_text("mine: true\n")
    (tmp_path / "app.yaml").write_text(
        f"videos: {videos}\nseed: 5\n"
        "clips: {_target_: onetake.ClipSpec, num_frames: 4}\n"
        "defaults: [_self_, data: videos, trainer: cpu, experiment: classify]\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("app", ["data.batch_size=2", "data.frame_size=32", "data.num_canonical_lanes=4"])
    assert config.trainer == {"mine": True}  # an application's own files come first
    data = instantiate(config.data)
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    assert (dataset.batch_size, dataset.shuffle_seed) == (2, 5)
    assert dataset[0]["label"] in range(4)


def test_every_shipped_option_composes(tmp_path):
    folder = shipped_folder("configs")
    options = {path.parent.name: [] for path in folder.glob("*/*.yaml")}
    for path in folder.glob("*/*.yaml"):
        options[path.parent.name].append(path.stem)
    assert options.keys() == {"callbacks", "data", "experiment", "logger", "model", "trainer"}
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        for group, names in options.items():
            for name in names:
                override = f"{'+' if group == 'experiment' else ''}{group}={name}"
                config = compose("train", [override, f"output_dir={tmp_path}"])
                assert config.clips == {"_target_": "onetake.ClipSpec", "num_frames": 16, "stride": 4, "hop": None}
