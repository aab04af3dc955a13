"""The `onetake` command: a table of subcommands, each imported only when it is called.

Exit status: 0 done; 1 an error that the user can mend, told in one line; 2 wrong usage (click's own);
130 interrupted.
"""

from importlib import import_module
from typing import Any

import click

from onetake import __version__

# name -> (module:function, what `onetake --help` says of it)
COMMANDS = {
    "index": ("onetake.cli.index:index_command", "Index videos where they lie, without rewriting any."),
    "pack": ("onetake.cli.pack:pack_command", "Copy indexed videos into MDS shards, without encoding them anew."),
    "inspect": ("onetake.cli.inspect:inspect_command", "Say what a dataset holds, draw its clips, check its files."),
    "train": ("onetake.cli.train:train_command", "Train with Lightning (Hydra configs) or Composer (a recipe)."),
    "demo": ("onetake.cli.demo:demo_command", "Show the whole path on generated videos, in about three minutes."),
    "checkpoint": (
        "onetake.cli.checkpoint:checkpoint_command",
        "Say where a checkpoint stands: epoch, sample, open videos.",
    ),
    "simulate": (
        "onetake.cli.simulate:simulate_command",
        "Foretell what epochs cost and mix, from the index alone.",
    ),
}


class _Reported(click.ClickException):
    """An OnetakeError on its way to the user."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.format_message()}", file=file, err=True)


class LazyCommand(click.Command):
    """Stands in help, completion and suggestions for a command whose module is not imported yet."""

    def __init__(self, name: str, target: str, short_help: str):
        super().__init__(name, short_help=short_help)
        self.target = target

    def load(self) -> click.Command:
        module, _, function = self.target.partition(":")
        return getattr(import_module(module), function)


class LazyGroup(click.Group):
    """A group of LazyCommands, and the one place where errors become exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the table's order, not the alphabet's

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except Exception as error:
            from onetake.core.errors import OnetakeError  # here, so that --help loads no core
            from onetake.storage.base import StorageError

            if isinstance(error, OnetakeError):
                raise _Reported(str(error)) from error
            if isinstance(error, StorageError):
                raise _Reported(
                    f"{error.filename} can't be reached ({error.strerror}): check the address and the connection, and "
                    "run the same command again"
                ) from error
            raise


@click.group(
    cls=LazyGroup,
    commands={name: LazyCommand(name, *row) for name, row in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="onetake", message="%(prog)s %(version)s")
def main() -> None:
    """Stream clips of long videos into PyTorch training, decoding every video once."""
