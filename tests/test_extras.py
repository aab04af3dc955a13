"""Without Composer, Lightning or Hydra installed, the rest works, and what is missing is named with its command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROLOGUE = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    def __repr__(self):
        return "Missing"

def find_spec(name, package=None, original=__import__("importlib.util").util.find_spec):
    return None if name in {missing} else original(name, package)

sys.meta_path.insert(0, Missing())
__import__("importlib.util").util.find_spec = find_spec
"""

ALL = {"composer", "lightning", "pytorch_lightning", "hydra", "matplotlib"}


def run(missing: set[str], script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` where the packages ``missing`` are not installed."""
    code = PROLOGUE.format(missing=missing) + script
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


MAIN = "from onetake.cli.main import main\nmain(prog_name='onetake')"
MESSAGES = [
    ({"lightning"}, "import onetake.lightning", [], "onetake.lightning needs lightning", "lightning"),
    ({"composer"}, "import onetake.composer", [], "onetake.composer needs composer", "composer"),
    ({"composer"}, MAIN, ["train", "classify.yaml"], "error: onetake train RECIPE.yaml needs composer", "composer"),
    ({"lightning"}, MAIN, ["train", "+experiment=classify"], "error: onetake train needs lightning", "lightning"),
    ({"hydra"}, MAIN, ["train", "+experiment=classify"], "error: onetake train needs hydra", "hydra"),
    ({"composer"}, MAIN, ["demo", "--out", "nowhere"], "error: the demo needs composer", "composer"),
    ({"matplotlib"}, MAIN, ["demo", "--out", "nowhere"], "error: the demo needs matplotlib", "plot"),
]


@pytest.mark.parametrize("missing, script, arguments, words, extra", MESSAGES, ids=[m[3] for m in MESSAGES])
def test_what_is_missing_is_named_with_its_command(missing, script, arguments, words, extra):
    done = run(missing, script, *arguments)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"{words}, which is not installed: pip install 'onetake[{extra}]'" in last
    if script == MAIN:
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_rest_works_without_any_framework(numbered):
    script = f"""
from onetake import ClipSpec, VideoDataset, VideoLoader
dataset = VideoDataset(local={str(numbered)!r}, clips=ClipSpec(4, 3), frame_size=(24, 24), num_canonical_lanes=8)
print(sum(len(batch["clip_id"]) for batch in VideoLoader(dataset, num_workers=1)))
"""
    done = run(ALL, script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.parametrize("arguments", [["--help"], ["index", "--help"], ["checkpoint", "--help"], ["demo", "--help"]])
def test_the_command_line_answers_without_any_framework(arguments):
    done = run(ALL, MAIN, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Usage: onetake" in done.stdout


@pytest.mark.parametrize("own, other", [("lightning", "composer"), ("composer", "lightning")])
def test_each_adapter_works_without_the_other(own, other):
    hydra = "hydra"  # neither needs it
    script = f"import json, onetake.{own}\nprint(json.dumps(onetake.{own}.__all__))"
    done = run({other, hydra}, script)
    assert done.returncode == 0, done.stderr
    assert "AdaptivePrefetch" in json.loads(done.stdout.splitlines()[-1])


def test_recipes_work_without_lightning_and_hydra():
    done = run({"lightning", "pytorch_lightning", "hydra"}, MAIN, "train", "classify.yaml", "--print")
    assert done.returncode == 0, done.stderr
    assert "train_loader:" in done.stdout
