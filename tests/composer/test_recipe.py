"""Every shipped recipe runs; every mistake in a recipe or an override is told in one line that names its key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from composer.callbacks import NaNMonitor
from composer.loggers import MLFlowLogger, WandBLogger
from omegaconf import OmegaConf

from onetake import ClipSpec
from onetake.composer.recipe import check_recipe, find_recipe, load_recipe
from onetake.composer.registry import Chain, find_target
from onetake.composer.train import main, train
from onetake.core.errors import ConfigError
from onetake.core.shipped import shipped_folder
from onetake.stream.selection import Selection
from tests.composer.recipe_runs import Scale, Seen, name_it, write_videos
from tests.servers import quiet_port

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.name for path in shipped_folder("recipes").glob("*.yaml"))
HERE = "tests.composer.recipe_runs"
SMALL = [
    "max_duration=2ba",
    "eval_interval=2ba",
    "progress_bar=false",
    "variables.num_workers=0",
    "train_loader.dataset.frame_size=[32,32]",
    "train_loader.dataset.clips.num_frames=4",
    "train_loader.dataset.num_canonical_lanes=4",
    "device_train_batch_size=4",
    f"model.network={HERE}.Network",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes") / "videos"
    write_videos(folder)
    return folder


def overrides(videos: Path, recipe: str = "classify.yaml") -> list[str]:
    given = [f"variables.videos={videos}", *SMALL]
    if recipe == "mix.yaml":
        given += [f"variables.more_videos={videos / 'val'}", "train_loader.dataset.streams.second.clips.num_frames=4"]
    return given


def checked(videos: Path, *more: str):
    return check_recipe(load_recipe(find_recipe("classify.yaml")[0], [*overrides(videos), *more]))


def run(*command: str, **kwargs) -> subprocess.CompletedProcess:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )


# Runs.


@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_run(recipe, videos, capsys):
    main([recipe, *overrides(videos, recipe)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"recipe: {shipped_folder('recipes') / recipe}, which comes with onetake"
    assert lines[1] == "precision: fp32, as the recipe gives none and the device is a cpu"
    assert lines[-1].startswith("trained 2 steps, 8 clips; waited ")
    assert "for the 2 batches of this run" in lines[-1]


def test_two_processes_share_a_global_batch(videos, tmp_path):
    more = ["device_train_batch_size=null", "global_train_batch_size=4", f"save_folder={tmp_path}", "save_interval=1ba"]
    launcher = ("composer.cli", "-n", "2", f"--master_port={quiet_port()}", "-m", "onetake.composer.train")
    done = run(*launcher, "classify.yaml", *overrides(videos), *more)
    assert done.returncode == 0, done.stderr
    assert "trained 2 steps, 8 clips" in done.stdout
    assert done.stdout.count("precision:") == 1
    assert (tmp_path / "ep0-ba2-rank0.pt").exists()


def test_classes_are_those_of_the_training_folder(videos):
    trainer = train(checked(videos, f"callbacks={{{HERE}.Seen: {{}}}}"))
    seen = next(each for each in trainer.state.callbacks if isinstance(each, Seen))
    classes = ["down", "left", "right", "up"]
    batches = [*seen.batches, next(iter(trainer.state.evaluators[0].dataloader.dataloader))]
    for batch in batches:
        folders = [Path(video_id).parent.name for video_id in batch["video_id"]]
        assert [classes[label] for label in batch["label"].tolist()] == folders


def test_accuracy_is_logged_and_a_run_goes_on_from_its_checkpoint(videos, tmp_path):
    saving = [f"save_folder={tmp_path}", "callbacks=null", "autoresume=true"]
    first = train(checked(videos, *saving))
    assert 0 <= first.state.eval_metrics["eval"]["MulticlassAccuracy"].compute() <= 1
    second = train(checked(videos, *saving, "max_duration=3ba"))
    assert int(second.state.timestamp.batch) == 3
    assert second.state.train_dataloader.stats()["batches"] == 1


# What a recipe can say.


def test_transforms_are_given_by_name_with_arguments_alone_or_in_turn(videos):
    recipe = checked(
        videos,
        f"train_loader.dataset.transform={{name: {HERE}.Scale, factor: 0.5}}",
        f"train_loader.device_transform=[torchvision.transforms.v2.RandomHorizontalFlip,"
        f" {{name: {HERE}.Scale, factor: 2}}]",
        f"eval_loader.dataset.sample_transform={HERE}.name_it",
    )
    arguments = recipe.train.arguments
    transform = arguments["transform"].build()
    assert isinstance(transform, Scale)
    assert transform.factor == 0.5
    chain = arguments["device_transform"].build()
    assert isinstance(chain, Chain)
    assert [type(part).__name__ for part in chain.parts] == ["RandomHorizontalFlip", "Scale"]
    assert recipe.validation.arguments["sample_transform"] is name_it


def test_clips_of_a_stream_come_before_those_of_the_dataset(videos):
    recipe = check_recipe(load_recipe(find_recipe("mix.yaml")[0], overrides(videos, "mix.yaml")))
    arguments = recipe.train.arguments
    assert arguments["clips"].build() == ClipSpec(4, 4)
    assert [stream.build().clips for stream in arguments["streams"]] == [None, ClipSpec(4, 2)]
    assert [stream.arguments["name"] for stream in arguments["streams"]] == ["first", "second"]


CLIPS = [
    ("{num_frames: 4, fps: 8}", ClipSpec(4, fps=8)),
    ("{num_frames: 4, fps: 12.5, hop_seconds: 0.1}", ClipSpec(4, fps="25/2", hop_seconds="1/10")),
    ("{num_frames: 4, fps: 30000/1001, jitter: true}", ClipSpec(4, fps="30000/1001", jitter=True)),
    ("{num_frames: 4, align: keyframe, clips_per_video: 2}", ClipSpec(4, align="keyframe", clips_per_video=2)),
]


@pytest.mark.parametrize("written, spec", CLIPS, ids=[written for written, _ in CLIPS])
def test_clips_by_time_and_few_of_them(videos, written, spec):
    recipe = checked(videos, "train_loader.dataset.clips=null", f"train_loader.dataset.clips={written}")
    assert recipe.train.arguments["clips"].build() == spec


def test_filters_columns_and_splits(videos):
    given = 'train_loader.dataset.where=[[height, ">=", 9]]', "train_loader.dataset.columns=[]"
    recipe = checked(videos, *given, "train_loader.dataset.split=null", "train_loader.dataset.exclude=[]")
    asked = {name: recipe.train.arguments[name] for name in ("where", "columns", "exclude", "split")}
    assert asked == {"where": [["height", ">=", 9]], "columns": [], "exclude": [], "split": None}
    mix = [
        *overrides(videos, "mix.yaml"),
        'train_loader.dataset.streams.second.where=[[height, ">", 9]]',
        "train_loader.dataset.streams.second.spans=attach",
    ]
    recipe = check_recipe(load_recipe(find_recipe("mix.yaml")[0], mix))
    first, second = [stream.build().selection for stream in recipe.train.arguments["streams"]]
    assert first == Selection()
    assert second == Selection(where=((("height", ">", 9),),), spans="attach")


def test_numbers_and_null(videos):
    recipe = checked(videos, "optimizer.lr=1e-4", "eval_loader=null", "callbacks.lr_monitor=null")
    assert recipe.optimizer.arguments["lr"] == 1e-4
    assert recipe.validation is None
    assert [entry.key for entry in recipe.callbacks] == [
        "callbacks.adaptive_prefetch",
        "callbacks.cursor_logger",
        "callbacks.speed_monitor",
    ]


def test_a_global_batch_is_divided_by_the_devices(videos):
    recipe = load_recipe(
        find_recipe("classify.yaml")[0],
        [*overrides(videos), "device_train_batch_size=null", "global_train_batch_size=12"],
    )
    plan = check_recipe(recipe, world_size=4)
    assert (plan.train.arguments["batch_size"], plan.validation.arguments["batch_size"]) == (3, 3)


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        ("logger", "wandb", WandBLogger),
        ("logger", "wandb_logger", WandBLogger),
        ("logger", "mlflow", MLFlowLogger),
        ("callback", "nan_monitor", NaNMonitor),
        ("callback", "composer.callbacks.NaNMonitor", NaNMonitor),
        ("optimizer", "decoupled_adamw", "DecoupledAdamW"),
        ("optimizer", "sgd", "SGD"),
        ("scheduler", "cosine_with_warmup", "CosineAnnealingWithWarmupScheduler"),
        ("scheduler", "linear_decay_with_warmup", "LinearWithWarmupScheduler"),
        ("scheduler", "constant_with_warmup", "ConstantWithWarmupScheduler"),
        ("algorithm", "gradient_clipping", "GradientClipping"),
        ("algorithm", "cut_mix", "CutMix"),
        ("callback", "cursor_logger", "CursorLogger"),
        ("callback", "adaptive_prefetch", "AdaptivePrefetch"),
    ],
)
def test_names(kind, name, target):
    found = find_target(kind, name, "key")
    assert found is target or found.__name__ == target


def test_print_shows_what_would_be_run(videos, capsys):
    main(["classify", "--print", "optimizer.lr=1e-4", "variables.videos=elsewhere", "callbacks.lr_monitor=null"])
    printed = OmegaConf.create(capsys.readouterr().out)
    assert printed.train_loader.dataset.local == "elsewhere/train"
    assert printed.optimizer.lr == 1e-4
    assert printed.callbacks.lr_monitor is None
    check_recipe(OmegaConf.to_container(printed))


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "composer -n 8 -m onetake.composer.train" in capsys.readouterr().out


# Mistakes.

DATASET = "train_loader.dataset"
MISTAKES = [
    ("trian_loader.name=video", "trian_loader: unknown key; did you mean 'train_loader'?"),
    ("train_loader.num_wokers=2", "train_loader.num_wokers: unknown key; did you mean 'num_workers'?"),
    (f"{DATASET}.clip.stride=2", f"{DATASET}.clip: unknown key; did you mean 'clips'?"),
    (f"{DATASET}.clips.strid=2", f"{DATASET}.clips.strid: unknown key; did you mean 'stride'?"),
    (f"{DATASET}.streams.a.lokal=x", f"{DATASET}.streams.a.lokal: unknown key; did you mean 'local'?"),
    (f"{DATASET}.sample_transform.video=x", f"{DATASET}.sample_transform.video: unknown key; did you mean 'videos'?"),
    ("optimizer.rl=1", "optimizer.rl: unknown key; did you mean 'lr'?"),
    ("scheduler.alpah=1", "scheduler.alpah: unknown key; did you mean 'alpha'?"),
    ("callbacks.speed_monitor.window=1", "callbacks.speed_monitor.window: unknown key; did you mean 'window_size'?"),
    ("loggers.wandb.projct=x", "loggers.wandb.projct: unknown key; did you mean 'project'?"),
    ("algorithms.mixup.alpah=1", "algorithms.mixup.alpah: unknown key; did you mean 'alpha'?"),
    ("variables.vidoes=x", "variables.vidoes: unknown key; did you mean 'videos'?"),
    (
        "callbacks.speed_moniter={}",
        "callbacks.speed_moniter: there is no callback 'speed_moniter'; did you mean 'speed_monitor'?",
    ),
    ("optimizer.name=adamww", "optimizer.name: there is no optimizer 'adamww'; did you mean 'adamw'?"),
    ("model.name=classifier", "model.name: there is no model 'classifier'; did you mean 'clip_classifier'?"),
    ("model.name=null", "model.name: None is no name; give one such as 'clip_classifier'"),
    (
        "model.name=onetake.composer.nothing.Model",
        "model.name: 'onetake.composer.nothing.Model': there is no module "
        "'onetake.composer.nothing'; check the spelling, or install it",
    ),
    ("train_loader.name=text", "train_loader.name: there is no loader 'text'; known: video"),
    ("max_duration=null", "max_duration: missing; it must be given"),
    ("optimizer=null", "optimizer: missing; it must be given"),
    ("model.num_classes=???", "model.num_classes: has no value (???); give one: model.num_classes=VALUE"),
    (f"{DATASET}.transform={{name: {HERE}.Scale}}", f"{DATASET}.transform.factor: missing; it must be given"),
    ("device_train_batch_size=eight", "device_train_batch_size: 'eight' must be a whole number"),
    ("device_train_batch_size=0", "device_train_batch_size: 0 must be at least 1"),
    (
        "device_train_batch_size=null",
        "device_train_batch_size or global_train_batch_size: give one of the two, not none",
    ),
    (
        "global_train_batch_size=8",
        "device_train_batch_size or global_train_batch_size: give one of the two, and null for the other",
    ),
    ("max_duration=2epochs", "max_duration: '2epochs' must be a whole number or a time such as 10ep, 500ba or 1dur"),
    ("precision=fp33", "precision: 'fp33' must be one of fp32, amp_fp16, amp_bf16, amp_fp8"),
    ("optimizer.lr=fast", "optimizer.lr: 'fast' must be a number"),
    ("train_loader.num_workers=two", "train_loader.num_workers: 'two' must be a whole number"),
    ("train_loader.pin_memory=maybe", "train_loader.pin_memory: 'maybe' must be true or false"),
    (f"{DATASET}.clips=16", f"{DATASET}.clips: 16 must be a mapping"),
    (f"{DATASET}.clips.num_frames=many", f"{DATASET}.clips.num_frames: 'many' must be a whole number"),
    (f"{DATASET}.streams=videos", f"{DATASET}.streams: 'videos' must be a mapping of names to values"),
    ("eval_loader=videos", "eval_loader: 'videos' must be a mapping of names to values"),
    (
        f"{DATASET}.num_canonical_nodes=2",
        f"{DATASET}.num_canonical_nodes: num_canonical_nodes= does not apply to "
        "VideoDataset: lanes make the order independent of nodes: use num_canonical_lanes=",
    ),
    (f"{DATASET}.batch_size=2", f"{DATASET}.batch_size: give device_train_batch_size instead"),
    (f"{DATASET}.drop_last=true", f"{DATASET}.drop_last: give train_loader.drop_last instead"),
    (
        f"{DATASET}.local=${{variables.vidoes}}",
        f"{DATASET}.local: ${{variables.vidoes}} stands for nothing; did you mean 'variables.videos'?",
    ),
    (
        "save_folder=${oc.env:NOT_SET_ANYWHERE}",
        "save_folder: KeyError raised while resolving interpolation: "
        "\"Environment variable 'NOT_SET_ANYWHERE' not found\"",
    ),
    ("max_duration", "override 'max_duration': must be key=value, such as max_duration=2ep"),
    ("=2", "override '=2': must be key=value, such as max_duration=2ep"),
    ("optimizer.betas=[0.9", "override 'optimizer.betas=[0.9': expected ',' or ']', but got '<stream end>'"),
    ("callbacks=[lr_monitor]", "override 'callbacks=[lr_monitor]': Cannot merge DictConfig with ListConfig"),
    # What only building finds.
    ("device=gpuu", "device: device (gpuu) must be one of (cpu, gpu, mps, tpu, hpu)."),
    (f"{DATASET}.clips.stride=0", f"{DATASET}.clips: ClipSpec(stride=0): must be at least 1"),
    (f"{DATASET}.layout=HWC", "train_loader: layout='HWC': must be one of 'TCHW', 'CTHW'"),
    ("model.network=r3d_19", "model: network 'r3d_19' is no video model of torchvision; did you mean 'r3d_18'?"),
    (
        "model.depth=3",
        f"model: network '{HERE}.Network' does not take these arguments: Network.__init__() got an "
        "unexpected keyword argument 'depth'",
    ),
    (
        f"callbacks={{{HERE}.Scale: {{factor: 2}}}}",
        f"callbacks.{HERE}.Scale: Scale is no callback; it must be a Callback",
    ),
    ("load_path=nowhere.pt", "composer.Trainer: Local path nowhere.pt does not exist"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line(override, message, videos, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["classify.yaml", *overrides(videos), override])
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_mistake_shows_no_traceback_under_the_launcher():
    done = run("composer.cli", "-n", "1", "-m", "onetake.composer.train", "classify.yaml", "trian_loader=x")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: trian_loader: unknown key; did you mean 'train_loader'?"
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  name: [x\noptimizer: 3\n", ", line 3: expected ',' or ']', but got ':'"),
        ("seed: 1\nseed: 2\n", ", line 2: found duplicate key seed"),
        ("- a\n- b\n", ": a recipe is a mapping of keys to values"),
        ("\tseed: 1\n", ", line 1: found character '\\t' that cannot start any token"),
    ],
)
def test_a_file_that_is_no_recipe(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_recipe_that_is_not_there():
    with pytest.raises(
        ConfigError, match="there is no recipe 'clasify.yaml', nor one .*; did you mean 'classify.yaml'"
    ):
        find_recipe("clasify.yaml")
    for elsewhere in ("nowhere/classify.yaml", ""):  # a mistyped path must not train another recipe
        with pytest.raises(ConfigError, match="there is no recipe"):
            find_recipe(elsewhere)


def test_a_global_batch_that_the_devices_do_not_divide(videos):
    recipe = load_recipe(
        find_recipe("classify.yaml")[0],
        [*overrides(videos), "device_train_batch_size=null", "global_train_batch_size=6"],
    )
    with pytest.raises(
        ConfigError, match="global_train_batch_size: 6 can't be divided by 4 devices; give a multiple of 4"
    ):
        check_recipe(recipe, world_size=4)


def test_the_word_list_of_a_section_is_complete():
    with pytest.raises(ConfigError) as caught:
        check_recipe({"zzz": 1})
    for name in ("train_loader", "max_duration", "save_folder", "seed", "global_train_batch_size"):
        assert name in str(caught.value)
    assert "train_dataloader," not in str(caught.value)
