"""Where tables are printed, and quantities in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BYTE_UNITS", "in_bytes", "in_time", "table_console"]

BYTE_UNITS = ("kB", "MB", "GB", "TB")


def table_console() -> Console:
    """A console that prints names as they are, whatever they look like, and in a pipe never breaks a row."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 1_000_000
    return console


def in_bytes(count: float) -> str:
    """Bytes in words."""
    if count < 1000:
        return f"{count:.0f} B"
    power = next((power for power in (1, 2, 3) if count < 999.5 * 1000**power), 4)
    return f"{count / 1000**power:.3g} {BYTE_UNITS[power - 1]}"


def in_time(seconds: float) -> str:
    """A duration in words."""
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 99.95 * 60 else f"{seconds / 3600:,.1f} h"
