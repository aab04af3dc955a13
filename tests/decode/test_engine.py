"""run_all: every item gets its result, whatever becomes of the processes that work on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from ast import literal_eval
from functools import partial
from pathlib import Path

import psutil
import pytest

from onetake.core.errors import OnetakeError, SpecError
from onetake.decode.engine import Crashed, run_all
from tests.test_extras import run as run_without

PROGRAM = "from onetake.decode.engine import run_all\n"
ON_RAY = PROGRAM + "print(list(run_all(abs, [-1, 2], 'ray')))"


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment)


def test_without_a_cluster_it_is_said_how_to_start_one():  # so it stands before those that start one
    done = run_script(ON_RAY)
    assert done.returncode == 1
    assert "engine='ray' found no Ray cluster: start one (`ray start --head`)" in done.stderr


@pytest.fixture(params=["local", "ray"])
def engine(request) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return request.param


def work(folder: Path, item: int) -> tuple[int, int]:
    """(pid, square) of an item. A process dies of 13 always, of 17 once."""
    once = folder / f"{item}"
    if item == 13 or (item == 17 and not once.exists()):
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), item * item


def fail(item: int) -> None:
    raise KeyError(item)


def test_every_item_once_by_several_processes(engine, tmp_path):
    pairs = list(run_all(partial(work, tmp_path), range(10), engine, 2))
    assert sorted((item, result[1]) for item, result in pairs) == [(item, item * item) for item in range(10)]
    assert os.getpid() not in {result[0] for _, result in pairs}


def test_a_process_that_dies_costs_its_own_item_and_only_if_it_dies_again(engine, tmp_path):
    pairs = list(run_all(partial(work, tmp_path), range(10, 30), engine, 2))
    assert len(pairs) == 20
    found = dict(pairs)
    assert found.pop(13) == Crashed()
    assert {item: result[1] for item, result in found.items()} == {i: i * i for i in range(10, 30) if i != 13}
    assert (tmp_path / "17").exists()


def test_what_the_function_raises_ends_the_run(engine):
    with pytest.raises(KeyError):
        list(run_all(fail, range(50), engine, 2))


def test_stopping_midway_leaves_nothing_running(tmp_path):
    results = run_all(partial(work, tmp_path), range(1000), "local", 2)
    _, (pid, _) = next(results)
    results.close()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("workers, items", [(1, 3), (4, 1), (None, 1)])
def test_one_worker_is_this_process(tmp_path, workers, items):
    pairs = list(run_all(partial(work, tmp_path), range(items), "local", workers))
    assert {result[0] for _, result in pairs} == {os.getpid()}


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_no_items(engine, request):
    if engine == "ray":
        request.getfixturevalue("ray_cluster")
    assert list(run_all(fail, [], engine)) == []


def test_arguments_that_cannot_work():
    with pytest.raises(SpecError, match="engine='spark': must be one of 'local', 'ray'"):
        run_all(fail, [1], "spark")
    with pytest.raises(SpecError, match="workers=0: must be a whole number, at least 1"):
        run_all(fail, [1], "local", 0)


def test_a_running_cluster_is_joined_for_the_time_being(ray_cluster):
    import ray

    done = run_script(ON_RAY, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    assert done.returncode == 0, done.stderr
    assert sorted(literal_eval(done.stdout)) == [(-1, 1), (2, 2)]


def test_without_ray_its_extra_is_named():
    done = run_without({"ray"}, ON_RAY)
    assert done.returncode == 1
    assert "engine='ray' needs ray, which is not installed: pip install 'onetake[ray]'" in done.stderr


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(PROGRAM + "list(run_all(abs, [1, 2], workers=2))")
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert 'call this under if __name__ == "__main__", or pass workers=1' in done.stderr.splitlines()[-1]
    assert OnetakeError.__name__ in done.stderr.splitlines()[-1]


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, sys, time\n" + PROGRAM + "def work(item):\n"
        "    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n    list(run_all(work, [1, 2], workers=2))"
    )
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        workers = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    finally:
        parent.kill()
        parent.wait(10)
        parent.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=10)
    for process in alive:
        process.kill()
    assert not alive
