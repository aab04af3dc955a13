"""Values that users give, checked: an error names the argument, its value, and what it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath

from onetake.core.errors import SpecError

__all__ = [
    "check_callables",
    "check_choice",
    "check_count",
    "check_flags",
    "check_mapping",
    "check_path",
    "check_seconds",
    "check_text",
]


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise SpecError unless ``value`` is allowed."""
    if value not in allowed:
        raise SpecError(f"{name}={value!r}: must be one of {', '.join(map(repr, allowed))}")


def check_count(name: str, value: object, lowest: int = 1) -> None:
    """Raise SpecError unless ``value`` is a whole number, and not below ``lowest``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise SpecError(f"{name}={value!r}: must be a whole number, at least {lowest}")


def check_seconds(name: str, value: object) -> None:
    """Raise SpecError unless ``value`` is a number above 0; it may be infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise SpecError(f"{name}={value!r}: must be a number of seconds, above 0")


def check_flags(**values: object) -> None:
    """Raise SpecError unless each is True or False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise SpecError(f"{name}={value!r}: must be True or False")


def check_callables(**values: object) -> None:
    """Raise SpecError unless each can be called, or is None."""
    for name, value in values.items():
        if value is not None and not callable(value):
            raise SpecError(f"{name}={value!r}: must be a function or another callable, or None")


def check_mapping(name: str, value: object) -> None:
    """Raise SpecError unless ``value`` is a mapping of arguments, or None."""
    if value is not None and not isinstance(value, Mapping):
        raise SpecError(f"{name}={value!r}: must be a dict of arguments, or None")


def check_text(name: str, value: object) -> None:
    """Raise SpecError unless ``value`` is a text, or None."""
    if value is not None and not isinstance(value, str):
        raise SpecError(f"{name}={value!r}: must be a text, or None")


def check_path(name: str, value: object, optional: bool = True) -> None:
    """Raise SpecError unless ``value`` is a path or a URL, or None where that is ``optional``."""
    if value is None and optional:
        return
    if not isinstance(value, (str, PathLike)) or not isinstance(fspath(value), str) or not fspath(value):
        or_none = ", or None" if optional else ""
        raise SpecError(f"{name}={value!r}: must be a path or a URL{or_none}")
