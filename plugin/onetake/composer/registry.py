"""What a recipe can name, and the arguments that what is named takes.

A name is one of onetake's, one of Composer's in snake case as llm-foundry spells them ("speed_monitor",
"decoupled_adamw", "cosine_with_warmup", "wandb"), one of torch's optimizers in lower case, or a dotted path
("my_package.module.Class").
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import composer.algorithms
import composer.callbacks
import composer.loggers
import composer.optim
import torch
from composer.core import Algorithm, Callback, Time
from composer.loggers import LoggerDestination
from composer.models import ComposerModel

from onetake.core.errors import ConfigError, OnetakeError
from onetake.core.names import load_object, nearest

__all__ = ["Chain", "Entry", "Parameters", "check_names", "check_values", "find_target", "make_entry"]

# What an entry of a kind must be once it is built.
_BASES: dict[str, type] = {
    "model": ComposerModel,
    "optimizer": torch.optim.Optimizer,
    "algorithm": Algorithm,
    "callback": Callback,
    "logger": LoggerDestination,
}

_OWN = {
    "model": {"clip_classifier": "onetake.composer.classifier.ClipClassifierModel"},
    "callback": {
        "adaptive_prefetch": "onetake.composer.AdaptivePrefetch",
        "cursor_logger": "onetake.composer.CursorLogger",
        "exact_resume": "onetake.composer.ExactResume",
    },
    "transform": {"folder_labels": "onetake.stream.classify.FolderLabels"},
    # llm-foundry's names for Composer's "cosine_annealing_with_warmup" and "linear_with_warmup".
    "scheduler": {
        "cosine_with_warmup": "composer.optim.CosineAnnealingWithWarmupScheduler",
        "linear_decay_with_warmup": "composer.optim.LinearWithWarmupScheduler",
    },
    "optimizer": {
        "decoupled_adamw": "composer.optim.DecoupledAdamW",
        "decoupled_sgdw": "composer.optim.DecoupledSGDW",
    },
}


class Chain:
    """Transforms called in turn, each with what the one before it returned, and with the same further arguments."""

    def __init__(self, parts: Sequence[Callable[..., Any]]) -> None:
        self.parts = parts

    def __call__(self, value: Any, *further: Any) -> Any:
        for part in self.parts:
            value = part(value, *further)
        return value


@dataclass(frozen=True)
class Entry:
    """Something that a recipe names, with its arguments: lists and values, or entries to be built first.

    Attributes:
        key: where it stands in the recipe, for messages.
        kind: what it must be: "model", "callback", ...
        target: called with the arguments.
    """

    key: str
    kind: str
    target: Callable[..., Any]
    arguments: Mapping[str, Any]

    def build(self, *given: Any) -> Any:
        """Call the target with ``given`` and the arguments.

        Raises:
            ConfigError: the target refused their values, or made something of another kind; names the key.
        """
        arguments = _built(dict(self.arguments))
        try:
            made = self.target(*given, **arguments)
        except (OnetakeError, ValueError) as error:
            raise ConfigError(f"{self.key}: {error}") from error
        base = _BASES.get(self.kind, object)
        if not isinstance(made, base):
            raise ConfigError(f"{self.key}: {type(made).__name__} is no {self.kind}; it must be a {base.__name__}")
        return made


def _built(value: Any) -> Any:
    if isinstance(value, Entry):
        return value.build()
    if isinstance(value, dict):
        return {name: _built(each) for name, each in value.items()}
    return [_built(each) for each in value] if isinstance(value, list) else value


# Names.


@cache
def _known(kind: str) -> dict[str, Any]:
    """Classes and dotted paths of a kind, by the names that a recipe gives them."""
    known: dict[str, Any] = {}
    if kind == "optimizer":
        known = {name.lower(): cls for name, cls in _subclasses(torch.optim, torch.optim.Optimizer).items()}
    elif kind == "scheduler":
        names = (name for name in composer.optim.__all__ if name.endswith("Scheduler") and name != "ComposerScheduler")
        known = {_snake(name.removesuffix("Scheduler")): getattr(composer.optim, name) for name in names}
    elif kind in ("algorithm", "callback", "logger"):
        # Composer's modules are named as one would spell their class in snake case.
        classes = _subclasses(getattr(composer, f"{kind}s"), _BASES[kind])
        known = {cls.__module__.rpartition(".")[2].removesuffix(f"_{kind}"): cls for cls in classes.values()}
        known.pop("logger_destination", None)
    known.pop(kind, None)  # the base class
    return known | _OWN.get(kind, {})


def _subclasses(module: Any, base: type) -> dict[str, type]:
    return {name: cls for name, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, base)}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def find_target(kind: str, name: Any, key: str) -> Any:
    """The class or function that ``name`` stands for; underscores and the kind as a suffix don't matter.

    Raises:
        ConfigError: there is none; names the key and the nearest known name.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{key}: {name!r} is no name; give one such as {next(iter(_known(kind)), 'package.name')!r}")
    known = {_squashed(each, kind): target for each, target in _known(kind).items()}
    target = known.get(_squashed(name, kind), name if "." in name else None)
    if target is None:
        raise ConfigError(f"{key}: there is no {kind} {name!r}{nearest(name, _known(kind))}")
    if not isinstance(target, str):
        return target
    try:
        return load_object(target)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def _squashed(name: str, kind: str) -> str:
    return name.lower().removesuffix(f"_{kind}").replace("_", "")


def make_entry(kind: str, target: Any, arguments: Mapping[str, Any], key: str, given: Collection[str] = ()) -> Entry:
    """An entry whose arguments are checked; ``given`` are those that are not the recipe's to give.

    Raises:
        ConfigError: an argument is unknown, missing or of the wrong type; names the key.
    """
    parameters = Parameters.of(target, without=given)
    check_names(key, arguments, parameters)
    return Entry(key, kind, target, check_values(key, arguments, parameters))


# Arguments.


@dataclass(frozen=True)
class Parameters:
    """What can be given to a class or function by name.

    Attributes:
        hints: the type of each parameter; Any if it is not said.
        required: those without a default.
        more: whether it takes further ones.
    """

    hints: Mapping[str, Any]
    required: frozenset[str] = frozenset()
    more: bool = False

    @property
    def callables(self) -> list[str]:
        """The parameters that take something to be called."""
        return [name for name, hint in self.hints.items() if any(get_origin(o) is Callable for o in _options(hint))]

    @classmethod
    def of(cls, target: Callable[..., Any], without: Collection[str] = ()) -> Parameters:
        """The parameters of ``target``, except those that are not the user's to give."""
        function = target.__init__ if inspect.isclass(target) else target  # type: ignore[misc]
        try:
            parameters = dict(inspect.signature(target).parameters)
        except (TypeError, ValueError):  # written in C
            return cls({}, more=True)
        try:
            types = get_type_hints(function)
        except Exception:  # a name that exists for type checkers only
            types = {}
        more = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        usable = {
            name: each
            for name, each in parameters.items()
            if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) and name not in without
        }
        hints = {
            name: Union[types.get(name, Any), None] if each.default is None else types.get(name, Any)  # noqa: UP007
            for name, each in usable.items()
        }
        return cls(hints, frozenset(name for name, each in usable.items() if each.default is each.empty), more)


def check_names(key: str, section: Mapping[str, Any], parameters: Parameters) -> None:
    """Raise ConfigError for a key that is not among the parameters, or a parameter that is missing."""
    prefix = f"{key}." if key else ""
    for name in section:
        if name not in parameters.hints and not parameters.more:
            raise ConfigError(f"{prefix}{name}: unknown key{nearest(str(name), parameters.hints)}")
    for name in parameters.hints:
        if name in parameters.required and name not in section:
            raise ConfigError(f"{prefix}{name}: missing; it must be given")


def check_values(key: str, section: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """The section, with entries for those of its mappings that give the arguments of a dataclass, such as a ClipSpec.

    Raises:
        ConfigError: a value is not of its parameter's type, as far as YAML can tell; names the key.
    """
    prefix = f"{key}." if key else ""
    checked = dict(section)
    for name, value in section.items():
        hint = parameters.hints.get(name, Any)
        if isinstance(value, Entry) or callable(value):  # already made of what the recipe says
            continue
        _check_type(f"{prefix}{name}", value, hint)
        spec = next((option for option in _options(hint) if is_dataclass(option)), None)
        if spec is not None and isinstance(value, dict):
            checked[name] = make_entry("spec", spec, value, f"{prefix}{name}")
    return checked


def _check_type(key: str, value: Any, hint: Any) -> None:
    options = _options(hint)
    if Any in options or (value is None and NoneType in options):
        return
    special = any(option is Time or (isinstance(option, type) and issubclass(option, Enum)) for option in options)
    allowed = []
    for option in options:
        if special and option is str:
            continue  # not any text, but that of the time or choice
        fits, words = _fits(value, option)
        if fits:
            return
        if words and words not in allowed:
            allowed.append(words)
    if allowed:
        raise ConfigError(f"{key}: {value!r} must be {' or '.join(allowed)}")


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else, itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, option: Any) -> tuple[bool, str]:
    """(whether the value is of this type, the type in words); no words for a type that YAML can't give."""
    kind = get_origin(option) or option
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is Literal:
        return value in get_args(option), f"one of {', '.join(map(str, get_args(option)))}"
    if not isinstance(kind, type):
        return False, ""
    if is_dataclass(kind):
        return isinstance(value, dict), "a mapping"
    if issubclass(kind, Enum):
        values = [str(member.value) for member in kind]
        return str(value).lower() in values, f"one of {', '.join(values)}"
    if kind is Time:
        return isinstance(value, str) and _is_time(value), "a time such as 10ep, 500ba or 1dur"
    if kind is bool:
        return isinstance(value, bool), "true or false"
    if kind is int:
        return number and isinstance(value, int), "a whole number"
    if kind is float:
        return number, "a number"
    if kind is str or issubclass(kind, PathLike):
        return isinstance(value, str), "text"
    if issubclass(kind, Mapping):
        return isinstance(value, dict), "a mapping"
    if kind in (list, tuple, set, frozenset, Sequence, Iterable, Collection):
        return isinstance(value, list), "a list"
    return False, ""


def _is_time(value: str) -> bool:
    try:
        Time.from_timestring(value)
    except ValueError:
        return False
    return True
