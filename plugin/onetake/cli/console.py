"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console

__all__ = ["table_console"]


def table_console() -> Console:
    """A console that prints names as they are, whatever they look like, and in a pipe never breaks a row."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 1_000_000
    return console
