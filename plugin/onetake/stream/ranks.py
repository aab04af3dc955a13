"""What the ranks tell one another while a dataset is made, be torch.distributed in use yet or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from streaming.base.distributed import maybe_init_dist

__all__ = ["Gather", "joined_ranks"]

Gather = Callable[[str], list[str]]  # what this rank says -> what each rank says

_MAX_BYTES = 1 << 12


@contextmanager
def joined_ranks() -> Iterator[Gather]:
    """Give a function by which ranks tell one another a text of up to 4 KiB (what is longer is cut off).

    Where nobody has initialized torch.distributed yet, it is for as long as this lasts, as StreamingDataset does it
    for itself: so that happens once per dataset, not twice in a row.
    """
    began = maybe_init_dist()
    # A group must not be destroyed while its threads hold the last reference to a tensor that Python knows: to let it
    # go they need the lock that the destructor holds while it waits for them (torch 2.7, ProcessGroupGloo).
    kept: list[torch.Tensor] = []

    def gather(text: str) -> list[str]:
        if not torch.distributed.is_initialized():
            return [text]
        data = np.frombuffer(text.encode()[:_MAX_BYTES], np.uint8)
        mine = torch.zeros(_MAX_BYTES, dtype=torch.uint8)
        mine[: len(data)] = torch.from_numpy(data.copy())
        if torch.distributed.get_backend() == "nccl":
            mine = mine.cuda()
        every = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
        kept.extend([mine, *every])
        torch.distributed.all_gather(every, mine)
        return [told.cpu().numpy().tobytes().rstrip(b"\0").decode(errors="ignore") for told in every]

    try:
        yield gather
    finally:
        if began:
            torch.distributed.destroy_process_group()
        kept.clear()
