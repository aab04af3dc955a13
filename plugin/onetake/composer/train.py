"""Train from a recipe: ``python -m onetake.composer.train RECIPE key=value ...``, on several devices
``composer -n 2 -m onetake.composer.train RECIPE key=value ...``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from composer import Trainer
from composer.core import Callback
from composer.utils import dist, get_device, reproducibility
from omegaconf import OmegaConf

from onetake.composer.cursors import ExactResume
from onetake.composer.recipe import Recipe, check_recipe, find_recipe, load_recipe
from onetake.core.errors import ConfigError, OnetakeError

__all__ = ["build_trainer", "main"]

_EXAMPLES = """\
examples:
  onetake train classify.yaml                                   a recipe that comes with onetake; videos in videos/
  onetake train classify.yaml variables.videos=/data/videos max_duration=2ep
  onetake train mine.yaml train_loader.dataset.clips.stride=2 callbacks.lr_monitor=null
  onetake train classify.yaml --print > mine.yaml               the recipe as it would be run, to start from
  composer -n 8 -m onetake.composer.train mine.yaml             on 8 devices

A value is read as YAML: lr=1e-3, betas=[0.9,0.95], eval_loader=null. A recipe is a file, or else the name of one
that comes with onetake.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="onetake.composer.train",
        description="Train with MosaicML Composer as a YAML recipe says.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="values instead of the recipe's")
    parser.add_argument(
        "--print", "--dry-run", dest="dry_run", action="store_true", help="check the recipe, print it as YAML, and exit"
    )
    return parser


def _say(text: str) -> None:
    if dist.get_global_rank() == 0:
        print(text, flush=True)


def build_trainer(recipe: Recipe) -> Trainer:
    """Open the videos and build the model and all else of a checked recipe.

    Raises:
        OnetakeError: something refuses its arguments, or the videos are not as they should be.
    """
    arguments = dict(recipe.trainer)
    try:
        device = get_device(arguments.get("device"))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"device: {error}") from None
    if arguments.get("precision") is None:
        arguments["precision"] = "amp_bf16" if device.name == "gpu" else "fp32"
        _say(f"precision: {arguments['precision']}, as the recipe gives none and the device is a {device.name}")
    # Datasets ask for their rank, and the ranks of a node wait for one another, as soon as they are opened.
    dist.initialize_dist(device, arguments.get("dist_timeout", 300.0))
    if arguments.get("seed") is not None:
        reproducibility.seed_all(arguments["seed"])
    model = recipe.model.build()
    built = {
        "model": model,
        "train_dataloader": recipe.train.build(),
        "eval_dataloader": recipe.validation.build() if recipe.validation else None,
        "optimizers": recipe.optimizer.build(model.parameters()),
        "schedulers": recipe.scheduler.build() if recipe.scheduler else None,
        "algorithms": [entry.build() for entry in recipe.algorithms],
        "callbacks": _with_exact_resume([entry.build() for entry in recipe.callbacks]),
        "loggers": [entry.build() for entry in recipe.loggers],
    }
    try:
        return Trainer(**arguments | built | {"device": device})
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, OnetakeError) or not _raised_by_composer(error):
            raise
        raise ConfigError(f"composer.Trainer: {error}") from error


def _with_exact_resume(callbacks: list[Callback]) -> list[Callback]:
    known = any(isinstance(callback, ExactResume) for callback in callbacks)
    return callbacks if known else [*callbacks, ExactResume()]


def _raised_by_composer(error: Exception) -> bool:
    """Whether Composer itself refused an argument; otherwise it may be a mistake in anybody's code."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").startswith("composer.")


def train(recipe: Recipe) -> Trainer:
    """Run a checked recipe, and print a line about it at the end.

    Returns:
        The trainer, after the fit, closed.
    """
    trainer = build_trainer(recipe)
    try:
        trainer.fit()
    finally:
        trainer.close()  # also ends the progress bar's line
    timestamp, stats = trainer.state.timestamp, trainer.state.train_dataloader.stats()
    _say(
        f"trained {int(timestamp.batch)} steps, {int(timestamp.sample)} clips; waited {stats['wait_seconds']:.1f} s "
        f"for the {stats['batches']:.0f} batches of this run, {stats['longest_wait_seconds']:.1f} s for one at most"
    )
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line: ``argv``, or the process's arguments. Exits with status 1 and one line on a mistake that
    the user can mend."""
    arguments = _parser().parse_intermixed_args(argv)
    try:
        path, shipped = find_recipe(arguments.recipe)
        recipe = load_recipe(path, arguments.overrides)
        checked = check_recipe(recipe, dist.get_world_size())
        if arguments.dry_run:
            _say(OmegaConf.to_yaml(OmegaConf.create(recipe)).rstrip())
            return
        if shipped:
            _say(f"recipe: {path}, which comes with onetake")
        train(checked)
    except OnetakeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
