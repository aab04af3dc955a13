"""One function over many items: in processes of this machine, or on a Ray cluster. No item is lost to a crash."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_sentinel
from threading import Thread
from typing import Any, TypeVar

from onetake.core.errors import OnetakeError
from onetake.core.names import require
from onetake.core.values import check_choice, check_count

__all__ = ["ENGINES", "Crashed", "check_engine", "run_all"]

ENGINES = ("local", "ray")
_IN_FLIGHT = 2  # items per worker: one that it works on, and the next
_RETRIES = 2  # of an item whose Ray worker died, each on another worker

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Crashed:
    """Stands for the result of an item whose process died, and died again when it had the item to itself."""


def check_engine(engine: str, workers: int | None) -> None:
    """Raise SpecError unless these can be given to ``run_all``."""
    check_choice("engine", engine, ENGINES)
    if workers is not None:
        check_count("workers", workers)


def run_all(
    function: Callable[[T], R], items: Sequence[T], engine: str = "local", workers: int | None = None
) -> Iterator[tuple[T, R | Crashed]]:
    """Call ``function`` on every item; give (item, result) pairs in any order.

    Only a few items per worker are under way at any time, however many there are. An item whose process dies (a decoder
    crashes, memory ran out) is tried again by itself before it is given up as ``Crashed``; others are not affected. So
    ``function`` may be called more than once on an item. What it raises ends the run, and is raised here.

    Args:
        function: at the top level of a module, since it is pickled by name.
        items: can be pickled.
        engine: "local": processes of this machine. "ray": the Ray cluster that this process has joined, else the one
            that ``RAY_ADDRESS`` names or that runs on this machine. Its nodes need onetake and this Python version.
        workers: how many items are worked on at once. None: one per CPU, of this machine or of the cluster. 1, locally:
            this process does all, and a crash is its own.

    Raises:
        SpecError: ``engine`` or ``workers`` is none that there is.
        MissingExtraError: Ray is not installed.
        OnetakeError: worker processes can't start, or there is no cluster.
    """
    check_engine(engine, workers)
    if engine == "ray":
        return _run_on_ray(function, items, workers)
    workers = min(workers or os.cpu_count() or 1, len(items))
    if workers <= 1:
        return ((item, function(item)) for item in items)
    return _run_in_processes(function, items, workers)


def _run_in_processes(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[T, R | Crashed]]:
    waiting = deque(items)
    while waiting:
        under_way: dict[Future[R], T] = {}
        try:
            with _pool(workers) as pool:
                while waiting or under_way:
                    while waiting and len(under_way) < _IN_FLIGHT * workers:
                        future = pool.submit(function, waiting[0])
                        under_way[future] = waiting.popleft()
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield under_way.pop(future), result
        except BrokenProcessPool:
            # One of these brought its process down, and the pool with it: which is found out one at a time.
            for item in under_way.values():
                yield item, _run_alone(function, item)


def _run_alone(function: Callable[[T], R], item: T) -> R | Crashed:
    with _pool(1) as pool:
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return Crashed()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned: forked ones would inherit the threads' locks of whatever library the caller uses.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise OnetakeError(
            "worker processes could not start: in a script, call this under "
            'if __name__ == "__main__", or pass workers=1'
        ) from None
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent dies, even by SIGKILL; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for_sentinel([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _run_on_ray(function: Callable[[T], R], items: Sequence[T], workers: int | None) -> Iterator[tuple[T, R | Crashed]]:
    require("ray", "ray", "engine='ray'")
    import ray

    crashes = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    with _cluster(ray):
        limit = workers or _IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_call)
        waiting = deque(items)
        under_way: dict[Any, T] = {}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < limit:
                    item = waiting.popleft()
                    under_way[task.remote(function, item)] = item
                (done,), _ = ray.wait(list(under_way), num_returns=1)
                item = under_way.pop(done)
                try:
                    result = ray.get(done)
                except crashes:
                    yield item, Crashed()
                else:
                    yield item, result
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)


def _call(function: Callable[[T], R], item: T) -> R:  # `function` may be a partial, which Ray takes for no function
    return function(item)


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Joined to a Ray cluster: as the caller has done it, or for the time being."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    except ConnectionError:
        raise OnetakeError(
            "engine='ray' found no Ray cluster: start one (`ray start --head`), or name one in RAY_ADDRESS"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
