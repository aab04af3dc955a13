"""What the ranks tell one another while a dataset is made, be torch.distributed in use yet or not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count

import torch.distributed as dist
from streaming.base.distributed import all_gather_object, get_rank, get_world_size
from torch.cuda import is_available as has_cuda
from torch.distributed.rendezvous import rendezvous

from onetake.stream.compat import launcher_has_store

__all__ = ["Gather", "joined_ranks"]

Gather = Callable[[str], list[str]]  # what this rank says -> what each rank says

_LEAVING_SECONDS = 30.0  # that ranks which have not failed may be apart
_numbers = count()  # every rank makes the same datasets


@contextmanager
def joined_ranks() -> Iterator[Gather]:
    """Give a function by which ranks tell one another a text.

    Where nobody has initialized torch.distributed yet, it is for as long as this lasts, as StreamingDataset would do it
    for itself. That begins anew what others began before at the same address, which goes wrong by chance in two ways:
    a rank that is ahead meets the server that the first rank is about to end; and a group that is ended right after
    a collective waits for ever, as its threads need Python's lock to let go of tensors while its destructor holds it
    (torch 2.7, ProcessGroupGloo). So ranks leave together, and what they say goes through the server, not the group.
    """
    if dist.is_initialized() or get_world_size() == 1:
        yield all_gather_object
        return
    meeting = _Meeting()
    try:
        yield meeting.gather
    finally:
        meeting.end()


class _Meeting:
    """A group of all ranks, and the store that it met by."""

    def __init__(self) -> None:
        store, self._rank, self._size = next(rendezvous("env://", get_rank(), get_world_size()))
        self._line = self._open_line()
        store = dist.PrefixStore(f"onetake/{next(_numbers)}", store)  # a launcher's store has what was said before
        self._store = store
        self._gathered = 0
        backend = "nccl" if has_cuda() and dist.is_nccl_available() else "gloo"  # as StreamingDataset chooses it
        dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=self._rank, world_size=self._size)

    def _open_line(self) -> socket.socket | None:
        """A connection to the first rank's server, which it closes when it ends."""
        if self._rank == 0 or launcher_has_store():
            return None  # the launcher's goes on
        return socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), _LEAVING_SECONDS)

    def gather(self, text: str) -> list[str]:
        """What each rank says; returns once all have."""
        self._gathered += 1
        self._store.set(f"{self._gathered}/{self._rank}", text)
        return [self._store.get(f"{self._gathered}/{rank}").decode() for rank in range(self._size)]

    def end(self) -> None:
        """End the group and the server, and return when no other rank can meet it any more."""
        dist.destroy_process_group()
        store = self._store
        del self._store  # a traceback may keep this object; the server ends with the last of its stores
        with suppress(RuntimeError):  # a rank is gone
            store.set(f"left/{self._rank}", "")
            if self._rank == 0:
                left = [f"left/{rank}" for rank in range(self._size)]
                store.wait(left, timedelta(seconds=_LEAVING_SECONDS))
        if self._line is not None:
            with suppress(OSError), self._line:
                self._line.recv(1)
