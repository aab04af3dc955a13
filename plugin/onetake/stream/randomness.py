"""Random transforms that depend on the sample alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """The global generators of torch, numpy and Python are seeded within, and put back afterwards.

    Args:
        seed: at most 63 bits.
        device: an accelerator whose generator is to be put back too; torch seeds all of them.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    accelerator = device is not None and device.type != "cpu"
    devices = [device] if accelerator else []
    device_type = device.type if accelerator and device is not None else "cuda"
    with torch.random.fork_rng(devices=devices, device_type=device_type):
        torch.default_generator.manual_seed(seed)
        if accelerator:
            torch.get_device_module(device).manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
