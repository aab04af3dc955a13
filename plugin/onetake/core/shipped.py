"""The Hydra configs and Composer recipes that come with onetake."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_folder"]

_PACKAGE = Path(__file__).parents[1]


def shipped_folder(name: str) -> Path:
    """Where ``name`` ("configs" or "recipes") stands: inside the installed package, or beside ``plugin/`` in a
    checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parents[1] / name
