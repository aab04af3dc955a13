"""What users get: the built wheel, in an environment that holds the dependencies but not this checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from onetake import __version__

ROOT = Path(__file__).parents[1]


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


def test_wheel_holds_the_package_and_nothing_else(wheel):
    info = f"onetake-{__version__}.dist-info"
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {path.name for path in (ROOT / "plugin").iterdir() if any(path.rglob("*.py"))}
    assert {name.split("/")[0] for name in names} == {*packages, info}
    assert f"{info}/licenses/LICENSE" in names
    sources = {path.relative_to(ROOT / "plugin").as_posix() for path in (ROOT / "plugin").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources  # so no tests either


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
