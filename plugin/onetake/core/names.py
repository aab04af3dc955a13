"""Objects and packages by their names, as configs and recipes give them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from onetake.core.errors import ConfigError, MissingExtraError

__all__ = ["load_object", "nearest", "require"]


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the known name that is most like ``name``, or all of them if none is."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


def load_object(path: str) -> Any:
    """What a dotted path names, such as ``"torchvision.transforms.v2.RandomHorizontalFlip"``.

    Raises:
        ConfigError: there is no such module, or nothing of that name in it.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ConfigError(f"{path!r} is no dotted path: give package.module.name")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, but needs another one that is not
        raise ConfigError(f"{path!r}: there is no module {error.name!r}; check the spelling, or install it") from None
    try:
        return getattr(module, name)
    except AttributeError:
        names = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(f"{path!r}: module {module_name!r} has no {name!r}{nearest(name, names)}") from None


def require(package: str, extra: str, what: str) -> None:
    """Raise MissingExtraError unless ``package`` can be imported.

    Args:
        package: the name it is imported by.
        extra: onetake's extra that brings it.
        what: who needs it, for the message.
    """
    if find_spec(package) is None:
        raise MissingExtraError(f"{what} needs {package}, which is not installed: pip install 'onetake[{extra}]'")
