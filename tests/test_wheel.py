"""What users get: the built wheel, in an environment that holds the dependencies but not this checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from onetake import __version__
from tests.lightning.train_runs import SMALL, write_videos

ROOT = Path(__file__).parents[1]
SMALL_RECIPE = (
    "max_duration=2ba",
    "model.network=onetake.cli.demo_model.DriftNetwork",
    "train_loader.num_workers=0",
    "train_loader.dataset.frame_size=[32,32]",
    "train_loader.dataset.clips.num_frames=4",
    "train_loader.dataset.num_canonical_lanes=4",
    "eval_loader.num_workers=0",
    "eval_loader.dataset.frame_size=[32,32]",
    "device_train_batch_size=2",
)


def run(*command: str | Path, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel, seeing the dependencies through one .pth file.

    A folder named in a .pth file has its own .pth files ignored, so the editable install stays out of sight.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    # The wheel first, the link second: pip must not find, and replace, the running environment's onetake.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q"]
    run(*pip, "--disable-pip-version-check", wheel, cwd=folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return folder


def files_below(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def test_wheel_holds_the_packages_the_configs_and_nothing_else(wheel):
    info = f"onetake-{__version__}.dist-info"
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"onetake", "hydra_plugins", info}
    assert f"{info}/licenses/LICENSE" in names
    assert {name for name in names if name.endswith(".py")} == files_below(
        ROOT / "plugin", "*.py"
    )  # so no tests either
    for folder in ("configs", "recipes"):
        inside = {name for name in names if name.startswith(f"onetake/{folder}/")}
        assert inside == {f"onetake/{folder}/{name}" for name in files_below(ROOT / folder, "*.yaml")}


def test_editable_install_copies_no_configs(tmp_path):
    """Copies would grow old, while the checkout's are edited."""
    script = f"from hatchling.build import build_editable; print(build_editable({str(tmp_path)!r}))"
    name = run(sys.executable, "-c", script, cwd=ROOT).splitlines()[-1]
    names = zipfile.ZipFile(tmp_path / name).namelist()
    assert [name for name in names if ".dist-info/" not in name] == ["_onetake.pth"]


def test_sdist_holds_what_the_wheel_is_built_from(tmp_path):
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("plugin/onetake", "plugin/hydra_plugins", "configs", "recipes"):
        assert {f"{folder}/{name}" for name in files_below(ROOT / folder, "*.*") if "__pycache__" not in name} <= names


def test_onetake_is_the_wheels(environment):
    script = "import onetake; print(onetake.__file__); print(onetake.ClipSpec.__module__)"
    file, module = run(environment / "bin" / "python", "-c", script, cwd=environment).splitlines()
    assert Path(file).is_relative_to(environment)
    assert module == "onetake.core.clips"


def test_command_runs_from_the_wheel(environment):
    assert "Usage: onetake" in run(environment / "bin" / "onetake", "--help", cwd=environment)
    version = run(environment / "bin" / "onetake", "--version", cwd=environment)
    assert version == f"onetake {__version__}\n"


def test_streaming_finds_the_stream_by_name(environment):
    script = (
        "from importlib.metadata import entry_points\n"
        "print(*{entry.value for entry in entry_points(group='streaming_streams_registry', name='video')})"
    )
    assert run(environment / "bin" / "python", "-c", script, cwd=environment) == ("onetake.stream.stream:VideoStream\n")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder in which the shipped configs and recipes find their videos."""
    folder = tmp_path_factory.mktemp("run")
    write_videos(folder / "videos")
    shutil.copytree(folder / "videos" / "train", folder / "more_videos")
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")))
def test_every_experiment_runs_from_the_wheel(environment, videos, name):
    arguments = (f"+experiment={name}", "trainer=cpu", *SMALL, f"hydra.run.dir=ran/{name}")
    out = run(environment / "bin" / "onetake", "train", *arguments, cwd=videos)
    assert "step 2: 4 clips in this run" in out
    sources = (videos / "ran" / name / ".hydra" / "hydra.yaml").read_text()
    assert f"path: {environment}/lib" in sources


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_recipe_runs_from_the_wheel(environment, videos, name):
    (recipe,) = environment.glob(f"lib/python*/site-packages/onetake/recipes/{name}")
    assert recipe.read_bytes() == (ROOT / "recipes" / name).read_bytes()
    run(environment / "bin" / "onetake", "train", recipe, *SMALL_RECIPE, f"save_folder=saved/{name}", cwd=videos)
    assert any((videos / "saved" / name).glob("**/*ba2*"))
