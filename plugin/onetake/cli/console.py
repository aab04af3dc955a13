"""Where tables are printed, and quantities in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onetake.core.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["BYTE_UNITS", "byte_bar", "in_bytes", "in_time", "printable", "require_folder", "table_console"]

BYTE_UNITS = ("kB", "MB", "GB", "TB")


def printable(text: str) -> str:
    """A text with everything escaped that would move a cursor or break a line: names of files may hold anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table_console() -> Console:
    """A console that prints names as they are, whatever they look like, and in a pipe never breaks a row. What is not
    printable in them is escaped."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    console = Plain(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 1_000_000
    return console


@contextmanager
def byte_bar(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr, to be told (bytes done, bytes in all); None where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:  # there, even a bar that is disabled prints a line
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


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


def require_folder(option: str, file: Path) -> None:
    """Raise SpecError unless there is a folder for the file that an option names: before the work is done."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise SpecError(f"{option} {file}: there is no folder {folder}")
