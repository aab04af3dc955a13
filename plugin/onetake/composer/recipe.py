"""Recipes: a YAML file and overrides in, a checked plan out. Nothing is opened or built.

A recipe has llm-foundry's form::

    variables: {videos: videos}                # what other values may refer to, as ${variables.videos}
    train_loader: {name: video, dataset: {local: ..., clips: {...}, ...}, num_workers: 4, ...}
    eval_loader: {...}                         # may be left out, as all that follows but model, optimizer, max_duration
    model: {name: ..., argument: value, ...}   # so too optimizer, scheduler
    callbacks: {name: {argument: value, ...}}  # so too algorithms, loggers; null for one leaves it out
    device_train_batch_size: 8                 # or global_train_batch_size, of all devices together
    max_duration: 10ep                         # and any other argument of composer.Trainer
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer import Trainer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from streaming import StreamingDataset
from torch.utils.data import DataLoader

from onetake.composer.registry import Chain, Entry, Parameters, check_names, check_values, find_target, make_entry
from onetake.composer.spec import video_data_spec
from onetake.core.errors import ConfigError, SpecError
from onetake.core.names import nearest
from onetake.core.shipped import shipped_folder
from onetake.stream.checks import refuse_replaced
from onetake.stream.dataset import VideoDataset
from onetake.stream.stream import VideoStream

__all__ = ["Recipe", "check_recipe", "find_recipe", "load_recipe"]

# The Trainer's own names for what a recipe spells otherwise, or can't hold.
_NOT_THE_RECIPES = {
    "self",
    "train_dataloader",
    "eval_dataloader",
    "optimizers",
    "schedulers",
    "algorithm_passes",
    "load_object_store",
    "profiler",
}
_TRAINER = Parameters.of(Trainer, without=_NOT_THE_RECIPES)
_TOP = Parameters(
    hints=_TRAINER.hints
    | dict.fromkeys(("variables", "train_loader", "eval_loader", "optimizer", "scheduler"), Any)
    | dict.fromkeys(("model", "algorithms", "callbacks", "loggers"), Any)
    | dict.fromkeys(("device_train_batch_size", "global_train_batch_size", "device_eval_batch_size"), int | None),
    required=frozenset(("train_loader", "model", "optimizer", "max_duration")),
)
_OF_THE_LOADER = Parameters.of(
    DataLoader,
    without=("dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "generator", "drop_last", "num_workers"),
)
_LOADER = Parameters(
    hints=_OF_THE_LOADER.hints
    | {"name": str, "dataset": Any, "num_workers": int, "drop_last": bool, "device_transform": Any, "per_batch": bool},
    required=frozenset(("name", "dataset")),
)
_DATASET = Parameters(
    hints=Parameters.of(StreamingDataset).hints | Parameters.of(VideoDataset).hints | {"streams": Any}
)


@dataclass(frozen=True)
class Recipe:
    """What a run needs, checked, but not yet built.

    Attributes:
        train, validation: build to DataSpecs.
        optimizer: builds when it is given the model's parameters.
        trainer: further arguments of composer.Trainer.
    """

    train: Entry
    validation: Entry | None
    model: Entry
    optimizer: Entry
    scheduler: Entry | None
    algorithms: Sequence[Entry]
    callbacks: Sequence[Entry]
    loggers: Sequence[Entry]
    trainer: Mapping[str, Any]


# Reading.


def find_recipe(name: str) -> tuple[Path, bool]:
    """The recipe's file, and whether it is one of those that come with onetake.

    Raises:
        ConfigError: there is no such file, neither here nor among those.
    """
    path = Path(name)
    if path.is_file():
        return path, False
    folder = shipped_folder("recipes")
    shipped = folder / f"{path.name.removesuffix('.yaml')}.yaml"
    if name in (path.name, f"recipes/{path.name}") and shipped.is_file():
        return shipped, True
    known = sorted(each.name for each in folder.glob("*.yaml"))
    raise ConfigError(f"there is no recipe {name!r}, nor one that comes with onetake{nearest(path.name, known)}")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe as plain containers, with the overrides ("key.key=value") merged and references filled in.

    Raises:
        ConfigError: the file is no YAML mapping, an override is none, or a reference leads nowhere.
    """
    try:
        recipe = OmegaConf.load(path)
    except Exception as error:
        mark = getattr(error, "problem_mark", None)  # a syntax error, by whichever YAML parser OmegaConf uses
        if mark is None and not isinstance(error, (OSError, UnicodeDecodeError, OmegaConfBaseException)):
            raise
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: {_first_line(getattr(error, 'problem', None) or error)}") from None
    if not isinstance(recipe, DictConfig):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    for override in overrides:
        _apply(recipe, override)
    try:
        plain = OmegaConf.to_container(recipe, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: has no value (???); give one: {error.full_key}=VALUE") from None
    except InterpolationKeyError as error:
        variables = [f"variables.{name}" for name in recipe.get("variables") or {}]
        missing = re.sub(r"Interpolation key '(.*)' not found", r"\1", _first_line(error))
        raise ConfigError(f"{error.full_key}: ${{{missing}}} stands for nothing{nearest(missing, variables)}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _apply(recipe: DictConfig, override: str) -> None:
    key, separator, _ = override.partition("=")
    if not key or not separator:
        raise ConfigError(f"override {override!r}: must be key=value, such as max_duration=2ep")
    section, _, name = key.partition(".")
    variables = recipe.get("variables") or {}
    if section == "variables" and name.partition(".")[0] not in variables:
        raise ConfigError(f"{key}: unknown key{nearest(name, variables)}")
    try:
        recipe.merge_with_dotlist([override])
    except Exception as error:
        if not isinstance(error, OmegaConfBaseException) and not hasattr(error, "problem_mark"):
            raise
        raise ConfigError(f"override {override!r}: {_first_line(getattr(error, 'problem', None) or error)}") from None


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [""])[0]


# Checking.


def check_recipe(recipe: Mapping[str, Any], world_size: int = 1) -> Recipe:
    """A plan of the run.

    Args:
        recipe: plain containers, as ``load_recipe`` gives them.
        world_size: devices that ``global_train_batch_size`` is divided by.

    Raises:
        ConfigError: a key is unknown or missing, or a value can't be right; names the key.
    """
    recipe = {key: value for key, value in recipe.items() if value is not None}
    check_names("", recipe, _TOP)
    check_values("", recipe, _TOP)
    batch_size = _device_batch_size(recipe, world_size)
    eval_batch_size = recipe.get("device_eval_batch_size", batch_size)
    has_eval, has_scheduler = "eval_loader" in recipe, "scheduler" in recipe
    return Recipe(
        train=_loader("train_loader", recipe, batch_size, training=True),
        validation=_loader("eval_loader", recipe, eval_batch_size, training=False) if has_eval else None,
        model=_named("model", recipe["model"], "model"),
        optimizer=_named("optimizer", recipe["optimizer"], "optimizer", given=("params",)),
        scheduler=_named("scheduler", recipe["scheduler"], "scheduler") if has_scheduler else None,
        algorithms=_group("algorithm", recipe),
        callbacks=_group("callback", recipe),
        loggers=_group("logger", recipe),
        trainer={
            name: value
            for name, value in recipe.items()
            if name in _TRAINER.hints and name not in ("model", "algorithms", "callbacks", "loggers")
        },
    )


def _device_batch_size(recipe: Mapping[str, Any], world_size: int) -> int:
    names = ("device_train_batch_size", "global_train_batch_size")
    given = [name for name in names if name in recipe]
    if len(given) != 1:
        raise ConfigError(
            f"{' or '.join(names)}: give one of the two, {'and null for the other' if given else 'not none'}"
        )
    for name in (*given, "device_eval_batch_size"):
        if recipe.get(name, 1) < 1:
            raise ConfigError(f"{name}: {recipe[name]} must be at least 1")
    size = recipe[given[0]]
    if given[0] == names[0]:
        return size
    if size % world_size:
        raise ConfigError(
            f"{names[1]}: {size} can't be divided by {world_size} devices; give a multiple of {world_size}"
        )
    return size // world_size


def _section(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: {value!r} must be a mapping of names to values")
    return value


def _named(key: str, value: Any, kind: str, given: Sequence[str] = ()) -> Entry:
    """The entry of a section {name: ..., argument: value, ...}."""
    section = _section(key, value)
    if "name" not in section:
        raise ConfigError(f"{key}.name: missing; it must be given")
    arguments = {name: each for name, each in section.items() if name != "name"}
    target = find_target(kind, section["name"], f"{key}.name")
    return make_entry(kind, target, arguments, key, given)


def _group(kind: str, recipe: Mapping[str, Any]) -> list[Entry]:
    """The entries of a section {name: {argument: value, ...}, ...}."""
    key = f"{kind}s"
    section = _section(key, recipe.get(key, {}))
    return [
        make_entry(
            kind, find_target(kind, name, f"{key}.{name}"), _section(f"{key}.{name}", arguments), f"{key}.{name}"
        )
        for name, arguments in section.items()
        if arguments is not None
    ]


def _loader(key: str, recipe: Mapping[str, Any], batch_size: int, training: bool) -> Entry:
    """The entry that builds a DataSpec."""
    section = _section(key, recipe[key])
    check_names(key, section, _LOADER)
    if section["name"] != "video":
        raise ConfigError(f"{key}.name: there is no loader {section['name']!r}; known: video")
    section = {name: value for name, value in section.items() if value is not None and name != "name"}
    for name in ("device_transform", *_LOADER.callables):
        if name in section:
            section[name] = _transform(f"{key}.{name}", section[name])
    check_values(key, section, _LOADER)
    arguments = _dataset(f"{key}.dataset", _section(f"{key}.dataset", section.pop("dataset")))
    for name in ("num_workers", "device_transform", "per_batch", "drop_last"):
        if name in section:
            arguments[name] = section.pop(name)
    arguments |= {"batch_size": batch_size, "training": training, "loader": section}
    return Entry(key, "loader", video_data_spec, arguments)


def _dataset(key: str, section: dict[str, Any]) -> dict[str, Any]:
    """Arguments of VideoDataset, with entries for the clips, the streams and the transforms."""
    for name in section:
        try:
            refuse_replaced([name])
        except SpecError as error:
            raise ConfigError(f"{key}.{name}: {error}") from None
    for name in ("batch_size", "drop_last"):
        if name in section:
            remedy = "device_train_batch_size" if name == "batch_size" else f"{key.partition('.')[0]}.drop_last"
            raise ConfigError(f"{key}.{name}: give {remedy} instead")
    check_names(key, section, _DATASET)
    arguments = dict(section)
    if arguments.get("streams") is not None:
        streams = _section(f"{key}.streams", arguments["streams"])
        arguments["streams"] = [
            _stream(f"{key}.streams.{name}", name, stream) for name, stream in streams.items() if stream is not None
        ]
    for name in _DATASET.callables:
        if arguments.get(name) is not None:
            arguments[name] = _transform(f"{key}.{name}", arguments[name])
    return check_values(key, arguments, _DATASET)


def _stream(key: str, name: str, value: Any) -> Entry:
    return make_entry("stream", VideoStream, {"name": name, **_section(key, value)}, key)


def _transform(key: str, value: Any) -> Any:
    """What a recipe gives to be called with samples: {name: ..., argument: value}, called with the arguments to make
    it; a name alone, of a class to make one of or of a function as it is; or a list of these, called in turn."""
    if isinstance(value, list):
        parts = [_transform(f"{key}.{number}", part) for number, part in enumerate(value)]
        return Entry(key, "transform", Chain, {"parts": parts})
    if isinstance(value, dict):
        return _named(key, value, "transform")
    target = find_target("transform", value, key)
    return make_entry("transform", target, {}, key) if inspect.isclass(target) else target
