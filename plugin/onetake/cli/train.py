"""``onetake train``: a Composer recipe, or a Lightning run composed by Hydra."""

from __future__ import annotations

import click

from onetake.core.names import require

_USAGE = """\
Train on clips, with Lightning or with MosaicML Composer.

  onetake train [KEY=VALUE]... [HYDRA FLAGS]   Lightning, as Hydra composes it from the configs below
  onetake train RECIPE.yaml [KEY=VALUE]...     Composer, as the recipe says

For example:

  onetake train +experiment=classify videos=my/videos data.batch_size=4 clips.stride=2
  onetake train my/recipe.yaml max_duration=2ep
"""


@click.command("train", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def train_command(args: tuple[str, ...]) -> None:
    """Train on clips, with Lightning (Hydra configs) or with Composer (a recipe)."""
    first = next((word for word in args if not word.startswith("-")), "")
    hydras = any(word.startswith("--config-") for word in args)  # whose values may be YAML files
    if first.endswith((".yaml", ".yml")) and "=" not in first and not hydras:
        require("composer", "composer", "onetake train RECIPE.yaml")
        from onetake.composer.train import main
    else:
        if not {"--help", "-h"}.isdisjoint(args):
            click.echo(_USAGE)
        require("lightning", "lightning", "onetake train")
        from onetake.lightning.train import main
    main(list(args))
