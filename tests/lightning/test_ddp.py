"""Two ranks over gloo see what one rank sees, in halves, and resume as one does, also into another world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lightning.training import EPOCHS, Recorder, fit


def two_ranks(folder: Path, root: Path, workers: int, steps: int = 0, ckpt: Path | None = None) -> list:
    """What the two ranks saw, batch by batch: [batch][rank]."""
    root.mkdir()
    arguments = [folder, root, 2, workers, 2, steps, ckpt or ""]
    subprocess.run(
        [sys.executable, "-m", "tests.lightning.training", *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        check=True,
        timeout=240,
        stdout=subprocess.DEVNULL,
    )
    ranks = [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(2)]
    return list(zip(*ranks, strict=True))


def together(batches: list) -> list:
    """Global batches as sets of samples."""
    return [sorted(tuple(sample) for rank in batch for sample in rank) for batch in batches]


@pytest.fixture(scope="module")
def alone(numbered, tmp_path_factory):
    """One rank with the same global batch."""
    seen = fit(numbered, tmp_path_factory.mktemp("alone"), Recorder(), batch_size=4)
    return [sorted(batch) for batch in seen]


def test_two_ranks_are_one_rank_in_halves(numbered, tmp_path, alone):
    batches = two_ranks(numbered, tmp_path / "two", workers=2)
    assert together(batches) == alone
    ids = [[sample[0] for batch in batches for sample in batch[rank]] for rank in range(2)]
    per_epoch = len(alone) // EPOCHS
    for rank in range(2):
        first = [sample[0] for batch in batches[:per_epoch] for sample in batch[rank]]
        assert len(first) == len(set(first))
    assert abs(len(ids[0]) - len(ids[1])) <= 2 * EPOCHS


@pytest.mark.parametrize("steps", [7, "first epoch"])
def test_two_ranks_stop_and_go_on_with_two_and_with_one(numbered, tmp_path, alone, steps):
    steps = len(alone) // EPOCHS if steps == "first epoch" else steps
    two_ranks(numbered, tmp_path / "stopped", workers=1, steps=steps)
    checkpoint = tmp_path / "stopped" / f"step={steps}.ckpt"
    assert together(two_ranks(numbered, tmp_path / "resumed", 1, ckpt=checkpoint)) == alone[steps:]
    one = fit(numbered, tmp_path / "one", Recorder(), checkpoint, batch_size=4)
    assert [sorted(batch) for batch in one] == alone[steps:]
