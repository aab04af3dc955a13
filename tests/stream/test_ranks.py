"""What ranks tell one another while a dataset is made: two real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from onetake.stream.ranks import joined_ranks
from tests.servers import quiet_port

TIMES = 60  # what goes wrong by chance did once in twenty to two hundred times
RANK = """
import json, os, sys, torch
from pathlib import Path
from onetake.stream.ranks import joined_ranks
rank = os.environ["RANK"]
for _ in range(int(sys.argv[1])):
    with joined_ranks() as gather:
        assert torch.distributed.is_initialized()
        told = gather(f"rank {rank}")
        torch.distributed.barrier()  # as the host's constructor ends
    assert told == ["rank 0", "rank 1"], told
    assert not torch.distributed.is_initialized()
try:
    with joined_ranks() as gather:
        gather("")
        raise ValueError
except ValueError:
    pass
torch.distributed.init_process_group("gloo")
with joined_ranks() as gather:
    told = [gather(""), gather("é" * 5000), gather("a\\nb" if rank == "1" else "")]
assert torch.distributed.is_initialized()
Path(sys.argv[2], rank).write_text(json.dumps(told))
"""


def test_one_rank_tells_itself():
    with joined_ranks() as gather:
        assert gather("é") == ["é"]
    assert not torch.distributed.is_initialized()


def check(folder: Path) -> None:
    told = [json.loads((folder / rank).read_text()) for rank in "01"]
    assert told == [[["", ""], ["é" * 5000] * 2, ["", "a\nb"]]] * 2


def test_two_ranks_meet_again_and_again(tmp_path):
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(quiet_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(TIMES), str(tmp_path)],
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    try:
        for rank in ranks:
            assert rank.wait(150) == 0
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(20)
    check(tmp_path)


def test_two_ranks_of_torchs_launcher_do_too(tmp_path):
    """Its server stays, with all that was said before."""
    (tmp_path / "rank.py").write_text(RANK)
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launcher, str(tmp_path / "rank.py"), "20", str(tmp_path)], check=True, timeout=150)
    check(tmp_path)
