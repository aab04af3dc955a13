"""What ranks tell one another while a dataset is made: two real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import torch

from onetake.stream.ranks import joined_ranks

TIMES = 60  # a group that was ended too early hung once in twenty times
RANK = """
import json, os, sys, torch
from onetake.stream.ranks import joined_ranks
rank = os.environ["RANK"]
for _ in range(int(sys.argv[1])):
    with joined_ranks() as gather:
        told = gather(f"rank {rank}")
    assert told == ["rank 0", "rank 1"], told
    assert not torch.distributed.is_initialized()
torch.distributed.init_process_group("gloo")
with joined_ranks() as gather:
    told = [gather(""), gather("é" * 5000 + rank), gather("a\\nb" if rank == "1" else "")]
assert torch.distributed.is_initialized()
print(json.dumps(told))
"""


def test_one_rank_tells_itself():
    with joined_ranks() as gather:
        assert gather("é") == ["é"]
    assert not torch.distributed.is_initialized()


def test_two_ranks_meet_again_and_again():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(TIMES)],
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [json.loads(rank.communicate(timeout=150)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(20)
    assert said[0] == said[1] == [["", ""], ["é" * 2048] * 2, ["", "a\nb"]]
