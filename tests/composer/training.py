"""A model that remembers what it was trained on, and a Composer Trainer around it; run by itself for two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.models import ComposerModel
from composer.utils import dist

from onetake.composer import ExactResume, video_data_spec
from tests.helpers import SPEC, record
from tests.resume_check import EPOCHS, Batches, Job, from_arguments, read_ranks, to_arguments, together, write_rank
from tests.servers import quiet_port

DATASET = {"clips": SPEC, "frame_size": None, "num_canonical_lanes": 8}


class Recorder(ComposerModel):
    """Trains one number; keeps the microbatches that it was trained and evaluated on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.train_batches: list[Any] = []
        self.eval_batches: list[Any] = []

    def forward(self, batch):
        (self.train_batches if self.training else self.eval_batches).append(batch)
        video = batch["video"] if isinstance(batch, dict) else batch
        return (self.weight - video.float().mean()).square().sum()

    def loss(self, outputs, batch):
        return outputs

    def eval_forward(self, batch, outputs=None):
        return self(batch)

    @property
    def seen(self) -> Batches:
        return [record(batch) for batch in self.train_batches]


def make_trainer(model: Recorder, train: Any, **arguments: Any) -> Trainer:
    """A Trainer on the CPU, with the callback for exact resume."""
    defaults = {"max_duration": f"{EPOCHS}ep", "callbacks": [ExactResume()], "run_name": "test", "progress_bar": False}
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    return Trainer(model=model, train_dataloader=train, optimizers=optimizer, device="cpu", **defaults | arguments)


def saving(root: Path, every: str, name: str = "{batch}ba.ckpt") -> dict[str, Any]:
    """Arguments of a Trainer that saves ``every`` so often, and at the end."""
    return {
        "save_folder": str(root),
        "save_interval": every,
        "save_filename": name,
        "save_latest_filename": None,
        "save_overwrite": True,
    }


def fit(folder: Path, model: Recorder, batch_size: int = 4, workers: int = 0, **trainer: Any) -> Batches:
    """Train on the videos of ``folder``; what the model saw."""
    data = video_data_spec(folder, batch_size=batch_size, num_workers=workers, **DATASET)
    make_trainer(model, data, **trainer).fit()
    seen = model.seen
    model.train_batches.clear()  # Composer keeps its trainers, and so their models, until the process ends
    return seen


def fit_job(folder: Path, root: Path, job: Job, **trainer: Any) -> Batches:
    """Run a job, as one of its ranks."""
    if job.stop:
        trainer |= saving(root, job.stop, job.checkpoint) | {"max_duration": job.stop}
    if job.resume:
        trainer["load_path"] = str(root / job.resume)
    return fit(folder, Recorder(), job.batch_size, job.workers, **trainer)


def two_ranks(folder: Path, root: Path, jobs: Sequence[Job]) -> list[Batches]:
    """What two ranks saw, started by Composer's launcher as ``composer -n 2`` does; job by job."""
    here = Path(__file__).parents[2]
    outputs = [f"--{name}={root}/rank{{rank}}.{name}" for name in ("stdout", "stderr")]
    launcher = [sys.executable, "-m", "composer.cli.launcher", "-n", "2", f"--master_port={quiet_port()}", *outputs]
    subprocess.run(
        [*launcher, "-m", "tests.composer.training", *to_arguments(folder, root, jobs)],
        cwd=here,
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        check=True,
        timeout=280,
    )
    return [together(batches) for batches in read_ranks(root)]


def main() -> None:
    """Run jobs as a rank that the launcher started; see ``resume_check.to_arguments``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, root, jobs = from_arguments(*sys.argv[1:])
    seen = [fit_job(folder, root, job) for job in jobs]
    write_rank(root, dist.get_global_rank(), seen)


if __name__ == "__main__":
    main()
