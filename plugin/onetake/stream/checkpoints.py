"""Where a checkpoint stands, told without the videos, their index or the model's code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.torch_version import TorchVersion

from onetake.core.errors import ResumeError, SourceError
from onetake.core.state import cursor_seconds, read_state

__all__ = ["read_checkpoint"]

_SUFFIXES = (".ckpt", ".pt", ".pth")
_PACKED = (".bz2", ".gz", ".lz4", ".lzma", ".lzo", ".tar", ".tgz", ".xz", ".zst")
_NUMPY = ("core", "_core")  # as numpy 1 and 2 call it, whichever saved the file


def read_checkpoint(path: str) -> dict[str, Any]:
    """What ``onetake checkpoint --json`` prints of ``path``; and, as "found", how the file was come by.

    Raises:
        SourceError: there is no such file.
        ResumeError: it is no checkpoint, is damaged, or holds no state of onetake.
    """
    file, note = _find(path)
    content = _load(file)
    return {"file": str(file), "found": note, **_written_by(content), "states": _states(content, file)}


def _find(path: str) -> tuple[Path, str]:
    """The file to read, and in words how it was come by ("" if ``path`` names it).

    Raises:
        SourceError: there is none.
        ResumeError: it is in a form that is not read.
    """
    if "://" in path:
        raise SourceError(f"{path} is not on this machine: fetch the checkpoint first, and give the local file")
    try:
        file, note = _newest(Path(path)) if Path(path).is_dir() else (Path(path), "")
        if file.is_symlink():
            if not file.exists():
                raise SourceError(f"{path} points to {file.readlink()}, which is not there: name the checkpoint itself")
            file, note = file.resolve(), note or f"{path} points to it"
        if not file.exists():
            raise SourceError(f"there is no checkpoint {path}: check the path")
        if not file.is_file():
            raise SourceError(f"{path} is no file: give a checkpoint, or a folder of them")
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}") from None
    if file.suffix in _PACKED:
        raise ResumeError(f"{file} is compressed or an archive: unpack it, and give the file inside")
    return file, note


def _newest(folder: Path) -> tuple[Path, str]:
    """The checkpoint of ``folder`` that was written last, and that in words; raises as ``_find`` does."""
    if (folder / ".metadata").is_file() and not (folder / "meta.pt").is_file():  # there Lightning keeps its counters
        raise ResumeError(
            f"{folder} is a sharded checkpoint: make one file of it (python -m torch.distributed.checkpoint."
            f"format_utils dcp_to_torch {folder} one.pt), and give that"
        )
    files = [file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file()]
    if not files:
        raise SourceError(f"folder {folder} holds no checkpoint ({', '.join(_SUFFIXES)}): name the file, or its folder")
    newest = max(files, key=lambda file: (file.stat().st_mtime_ns, not file.is_symlink(), file.name))
    return newest, f"the newest of {len(files)} in {folder}"


def _load(file: Path) -> Any:
    """What a torch or JSON file holds; no code in it is run.

    Raises:
        SourceError: it can't be read.
        ResumeError: it is neither, or damaged, or holds what can't be loaded safely.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
        if file.suffix == ".json" or start.lstrip().startswith((b"{", b"[")):
            return json.loads(file.read_bytes())
    except OSError as error:
        raise SourceError(f"{file} can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ResumeError(f"{file} is no JSON, or damaged ({error}): give another checkpoint") from None
    if not start:
        raise ResumeError(f"{file} is empty: give another checkpoint")
    return _load_torch(file, is_zip=start.startswith(b"PK"))


def _load_torch(file: Path, is_zip: bool) -> Any:
    with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch thinks of old formats
        try:
            return torch.load(str(file), weights_only=True, map_location="cpu", mmap=is_zip)
        except Exception:  # damaged pickles fail in every way there is
            try:
                refused = torch.serialization.get_unsafe_globals_in_checkpoint(str(file)) if is_zip else []
            except Exception:
                refused = []
    if refused:
        raise ResumeError(
            f"{file} holds {', '.join(sorted(refused))}, which can't be loaded without running the file's code. If you "
            "trust it, load it with torch.load(..., weights_only=False), write its onetake state to a JSON file, and "
            "give that"
        )
    what = "a damaged or truncated torch file" if is_zip else "no torch file, or damaged"
    raise ResumeError(f"{file} is {what}: give a checkpoint of Lightning or Composer, or another one")


def _harmless() -> list[Any]:
    """What Composer's checkpoints hold besides tensors and plain containers: clocks, versions, random states."""
    rebuild = [np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    names = [(function, f"numpy.{core}.multiarray.{function.__name__}") for function in rebuild for core in _NUMPY]
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [timedelta, TorchVersion, np.ndarray, np.dtype, *kinds, *names]


def _written_by(content: Any) -> dict[str, Any]:
    """Framework, its version and what it has counted, each None where not known."""

    def at(*keys: str) -> Any:
        node = content
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    framework = version = steps = batches = None
    if at("pytorch-lightning_version") is not None:
        framework, version, steps = "lightning", at("pytorch-lightning_version"), at("global_step")
    elif at("state", "timestamp", "Timestamp") is not None:
        framework, version = "composer", at("state", "metadata", "composer_env_info", "composer_version")
        batches = at("state", "timestamp", "Timestamp", "batch")
    return {
        "framework": framework,
        "framework_version": None if version is None else str(version),
        "optimizer_steps": steps if isinstance(steps, int) else None,
        "batches": batches if isinstance(batches, int) else None,
    }


def _states(content: Any, file: Path) -> list[dict[str, Any]]:
    """Every state that ``content`` holds; one that it holds several times comes once, with all its paths.

    Raises:
        ResumeError: there is none, or one is damaged.
    """
    found: list[tuple[list[str], dict[str, Any]]] = []
    for path, state in _walk(content):
        try:
            description = _describe(state)
        except ResumeError as error:
            raise ResumeError(f"{file}, at {path or 'its top level'}: {error}") from None
        same = next((paths for paths, known in found if known == description), None)
        if same is None:
            found.append(([path], description))
        else:
            same.append(path)
    if not found:
        raise ResumeError(
            f"{file} holds no state of onetake: its training data came from elsewhere, or the state was not saved "
            "(Lightning: fit with a VideoDataModule; Composer: give the Trainer a video_data_spec(); your own "
            "loop: save loader.state_dict())"
        )
    return [{"paths": paths, **description} for paths, description in found]


def _walk(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, state) of the states in nested containers, in the file's order; a path is keys joined by slashes."""
    todo, seen = [("", content)], set()
    while todo:
        path, node = todo.pop()
        if isinstance(node, Mapping) and {"onetake", "epoch", "sample_in_epoch"} <= node.keys():
            yield path, node
            continue
        if not isinstance(node, Mapping | list | tuple) or id(node) in seen:
            continue
        seen.add(id(node))  # a pickle may hold itself
        children = node.items() if isinstance(node, Mapping) else enumerate(node)
        todo += reversed([(f"{path}/{key}" if path else str(key), child) for key, child in children])


def _describe(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state in plain values; ``cursors`` has an entry per lane, None at the lane's end.

    Raises:
        ResumeError: it is damaged, or of another version.
    """
    try:
        state = json.loads(json.dumps(state, allow_nan=False))  # plain containers and finite numbers, or not ours
        epoch, sample, order, cursors = read_state(state)
        packed = state["onetake"]["cursors"]
        seconds = cursor_seconds(packed) if "frame_seconds" in packed else [None] * len(cursors)
        places = [
            at and {"lane": lane, "video_id": at[0], "frame": at[1], "seconds": time, "time_code": _time_code(time)}
            for lane, (at, time) in enumerate(zip(cursors, seconds, strict=True))
        ]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ResumeError(f"the state is damaged ({error}); load another checkpoint") from None
    if any(place and min(place["frame"], place["seconds"] or 0) < 0 for place in places):
        raise ResumeError("the state is damaged (a frame before the first); load another checkpoint")
    return {
        "epoch": epoch,
        "sample_in_epoch": sample,
        "num_clips": order.get("num_clips"),
        "num_lanes": len(places),
        "finished_lanes": [lane for lane, place in enumerate(places) if place is None],
        "shuffle": order.get("shuffle"),
        "shuffle_by": order.get("shuffle_by"),
        "shuffle_seed": order.get("shuffle_seed"),
        "generations": order.get("generations"),
        "cursors": places,
    }


def _time_code(seconds: float | None) -> str | None:
    """HH:MM:SS.mmm."""
    if seconds is None:
        return None
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"
