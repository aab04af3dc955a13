"""Quantities in words, and names that are no harm to a terminal."""

from __future__ import annotations

import pytest
from rich.table import Table

from onetake.cli.console import in_bytes, in_time, printable, table_console


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_999, "1 MB"), (12_345_678_901, "12.3 GB")],
)
def test_bytes(count, words):
    assert in_bytes(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.04 s"), (99, "99 s"), (100, "1.67 min"), (7200, "2.0 h"), (7.2e6, "2,000.0 h")]
)
def test_times(seconds, words):
    assert in_time(seconds) == words


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Straße [b] :smile: █.mp4", "Straße [b] :smile: █.mp4"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\rc\x9b", "a\\nb\\rc\\x9b"),
    ],
)
def test_names_do_nothing_to_a_terminal(capsys, name, shown):
    assert printable(name) == shown
    table = Table(name)
    table.add_row(name)
    console = table_console()
    console.print(table)
    console.print(f"warning: {name}")
    lines = capsys.readouterr().out.splitlines()
    assert sum(shown in line for line in lines) == 3
    assert len(lines) == 6
