"""A Lightning run, composed by Hydra: ``onetake train OVERRIDES``, or ``python -m onetake.lightning.train``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from onetake.core.errors import ConfigError, OnetakeError
from onetake.core.names import nearest, require
from onetake.stream.loader import VideoLoader

require("hydra", "hydra", "onetake train")

import hydra  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.errors import HydraException, InstantiationException, MissingConfigException  # noqa: E402
from hydra.types import RunMode  # noqa: E402
from hydra.utils import instantiate  # noqa: E402
from omegaconf import DictConfig, OmegaConf, read_write  # noqa: E402
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException  # noqa: E402

__all__ = ["main", "train"]

# What constructors raise for arguments that don't suit them.
_REFUSALS = (TypeError, ValueError, ImportError, MisconfigurationException)


def train(config: DictConfig) -> pl.Trainer:
    """Build what ``config`` describes, and fit it.

    Args:
        config: as onetake's ``configs/train.yaml``: the nodes ``data``, ``model``, ``trainer``, ``callbacks`` and
            ``logger`` (both by name; null entries are left out), ``seed``, ``ckpt_path``, ``weights_only``.

    Returns:
        The trainer, after the fit.

    Raises:
        OnetakeError: the videos, their index, or an argument of onetake's own is wrong.
        InstantiationException: a node can't be built.
    """
    ckpt_path = config.ckpt_path
    if ckpt_path not in (None, "last") and "://" not in ckpt_path and not Path(ckpt_path).exists():
        raise ConfigError(f"ckpt_path={ckpt_path}: there is no such checkpoint")
    if config.seed is not None:
        pl.seed_everything(config.seed, workers=True, verbose=False)
    data, model = _build(config.data), _build(config.model)
    loggers = [_build(node) for node in (config.logger or {}).values() if node is not None]
    callbacks = [_build(node) for node in (config.callbacks or {}).values() if node is not None]
    trainer: pl.Trainer = _build(config.trainer, logger=loggers or False, callbacks=callbacks)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=config.weights_only if ckpt_path else None)
    return trainer


def _build(node: Any, **arguments: Any) -> Any:
    return instantiate(node, _convert_="all", **arguments)


def _summary(trainer: pl.Trainer) -> str:
    """Two lines on a finished fit. Repeats that fill up an epoch's last batch count as clips."""
    line = f"step {trainer.global_step}"
    loader = trainer.train_dataloader
    if isinstance(loader, VideoLoader):
        stats = loader.stats()
        clips = int(stats["batches"]) * loader.dataset.global_batch_size
        line += f": {clips} clips in this run, waited {stats['wait_seconds']:.1f} s for data"
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    return f"{line}\n" + (f"checkpoints: {folder}" if folder else "no checkpoints")


def main(args: Sequence[str]) -> None:
    """Compose the config that ``args`` describe and train, or do whatever else Hydra's flags among them ask for.

    Args:
        args: as on the command line, at the end of ``sys.argv``.

    Raises:
        OnetakeError: something that the user can mend.
    """
    argv = sys.argv
    command = argv[: len(argv) - len(args)]
    started = False

    def job(config: DictConfig) -> None:
        nonlocal started
        started = True
        try:
            with _as_if_alone(command):
                trainer = train(config)
                if trainer.is_global_zero:
                    print(_summary(trainer), flush=True)
        except (OnetakeError, HydraException, OmegaConfBaseException, MisconfigurationException) as error:
            refusal = _refusal(error)
            if refusal is None:
                raise
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise refusal from None  # Hydra says which job it was
            raise _Refused(refusal) from None

    sys.argv = [argv[0], *args]
    try:
        with _environment(HYDRA_FULL_ERROR="1"):  # errors are raised, not printed
            hydra.main(version_base="1.3", config_path=None, config_name="train")(job)()
    except _Refused as refused:
        raise refused.error from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        refusal = None if started else _refusal(error)  # the job has made of its errors what could be made of them
        if refusal is None:
            raise
        raise refusal from None
    finally:
        sys.argv = argv


class _Refused(BaseException):
    """An error on its way out of Hydra, which would print the overrides before passing on an Exception."""

    def __init__(self, error: OnetakeError) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """With these variables; afterwards all are again as they were."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _as_if_alone(command: Sequence[str]) -> Iterator[None]:
    """Run one job of perhaps several in a way that suits Lightning's DDP.

    For each further process, DDP runs ``sys.argv`` again in ``hydra.run.dir``, so these name this one job, also in a
    sweep. What it leaves behind, variables and the process group, must not reach the sweep's next job.

    Args:
        command: the words before Hydra's arguments.
    """
    settings = HydraConfig.get()
    flags = {"main": "--config-path", "command-line": "--config-dir"}
    folders = [
        f"{flags[source.provider]}={source.path}"
        for source in settings.runtime.config_sources
        if source.provider in flags and source.schema == "file"
    ]
    overrides = [each for each in settings.overrides.hydra if not each.startswith("hydra.mode=")]
    with read_write(settings):
        settings.run.dir = settings.runtime.output_dir
    argv = sys.argv
    sys.argv = [
        *command,
        f"--config-name={settings.job.config_name}",
        *folders,
        *overrides,
        *settings.overrides.task,
        *(
            f"hydra.job.{name}={settings.job[name]}"
            for name in ("id", "num")
            if not OmegaConf.is_missing(settings.job, name)
        ),
        "hydra.mode=RUN",
    ]
    try:
        with _environment():
            yield
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    finally:
        sys.argv = argv


def _refusal(error: Exception) -> OnetakeError | None:
    """What the user is told of an error in the config, in one line; None for an error that is something else."""
    cause = error.__cause__
    if isinstance(error, OnetakeError):
        return error
    if isinstance(error, InstantiationException):
        if isinstance(cause, OnetakeError):
            return cause
        if cause is not None and not isinstance(cause, _REFUSALS):
            return None
        text, _, key = str(error).partition("full_key: ")
        return ConfigError(_one_line(f"{key}: {cause or text}"))
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={name}: there is no such config{nearest(name, error.options)}")
    at_fault = cause if isinstance(cause, OmegaConfBaseException) else error
    if isinstance(at_fault, ConfigAttributeError | ConfigKeyError) and OmegaConf.is_dict(at_fault.parent_node):
        known = [str(key) for key in at_fault.parent_node]
        return ConfigError(f"{at_fault.full_key}: there is no such key{nearest(str(at_fault.key), known)}")
    if isinstance(at_fault, OmegaConfBaseException):
        text, _, _ = str(at_fault).partition("\n    full_key")
        return ConfigError(_one_line(f"{at_fault.full_key}: {text}" if at_fault.full_key else text))
    return ConfigError(_one_line(str(error)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OnetakeError as error:
        sys.exit(f"error: {error}")
