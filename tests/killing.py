"""The real `onetake` command, killed by SIGKILL at a chosen call."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["kill_onetake"]

# Runs `onetake` until the n-th call of a function has returned, then kills itself, and says who its workers were.
_KILLED = """
import importlib, os, signal, sys
import psutil
from onetake.cli.main import main

if __name__ == "__main__":
    module, owner, name, count = sys.argv[1:5]
    owner = getattr(importlib.import_module(module), owner) if owner else importlib.import_module(module)
    original, left = getattr(owner, name), int(count)

    def last(*arguments, **options):
        global left
        result = original(*arguments, **options)
        left -= 1
        if not left:
            print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, last)
    main(sys.argv[5:], prog_name="onetake")
"""


def kill_onetake(folder: Path, where: tuple[str, str, str, int], *arguments: object) -> None:
    """Run `onetake`, and kill it when a call has returned; its workers have to end by themselves.

    Args:
        folder: for the script that does so.
        where: module, class ("" for none), function, and which of its calls, counted from 1.
        arguments: of `onetake`.
    """
    (folder / "killed.py").write_text(_KILLED)
    command = [sys.executable, folder / "killed.py", *where, *arguments, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    workers = []
    for pid in map(int, done.stdout.split()):
        with suppress(psutil.NoSuchProcess):
            workers.append(psutil.Process(pid))
    _, alive = psutil.wait_procs(workers, timeout=60)
    for process in alive:
        process.kill()
    assert not alive
