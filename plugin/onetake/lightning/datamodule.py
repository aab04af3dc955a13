"""Clips of long videos as a LightningDataModule, resumed in the middle of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MethodType
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from onetake.core.errors import SpecError
from onetake.lightning.compat import (
    accept_sized_loaders,
    distributed_environment,
    processed_batches,
    shift_loaded_progress,
)
from onetake.stream.device import check_device_arguments, to_float, transform_on_device
from onetake.stream.loader import VideoLoader
from onetake.stream.opening import Source, open_dataset

__all__ = ["VideoDataModule"]

Transform = Callable[[Tensor], Any]

_STAGES = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "val", "test", "predict"),
}


class _TrainLoader(VideoLoader):
    """A loader that saves what was trained on, not what was handed out: Lightning asks it for its state."""

    datamodule: VideoDataModule

    def state_dict(self, trained_batches: int | None = None) -> dict[str, Any]:
        if trained_batches is None:
            return self.datamodule.training_state()
        return super().state_dict(trained_batches)


class _Batches:
    """A loader that is no DataLoader: those Lightning builds anew for prediction, around a sampler of indices."""

    def __init__(self, loader: VideoLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader)


class VideoDataModule(pl.LightningDataModule):
    """Clips for training, validation, test and prediction.

    Checkpoints hold the position inside each open video; a run resumed with ``trainer.fit(..., ckpt_path=...)``
    sees exactly the clips that the interrupted one would have seen, whatever the number of devices and workers.

    Args:
        train, val, test, predict: the videos of each: a folder (read in place), a VideoStream, several, or a
            mapping of VideoDataset arguments, which come before those given for all.
        batch_size: samples per batch and device.
        num_workers: decoding processes per device.
        transform: called with the uint8 frames of a training sample, in the worker (see VideoDataset).
        val_transform: the same for all other samples.
        device_transform: a torchvision v2 module, or any callable, run on the device with the uint8 video of a
            sample ([T, C, H, W]), with the sample's own seed. None: conversion to float32 in 0..1.
        val_device_transform: the same for all but training samples. None: ``device_transform``.
        per_batch: call the device transforms once with the whole batch ([B, T, C, H, W]) instead: faster, but
            torchvision then draws once for all its samples.
        val_batch_size: batch size of all but training. None: ``batch_size``.
        loader: further arguments of VideoLoader, such as ``pin_memory`` or ``collate_fn``.
        **dataset: further arguments of VideoDataset, for all of them, such as ``clips`` and ``frame_size``. All
            but training are unshuffled, in lanes that suit their batch size, unless their mapping says otherwise.

    Raises:
        SpecError: no videos, or an argument is out of range. What the videos and their index have wrong is
            raised by ``setup``.
    """

    def __init__(
        self,
        train: Source | None = None,
        val: Source | None = None,
        test: Source | None = None,
        predict: Source | None = None,
        *,
        batch_size: int = 8,
        num_workers: int = 0,
        transform: Transform | None = None,
        val_transform: Transform | None = None,
        device_transform: Transform | None = None,
        val_device_transform: Transform | None = None,
        per_batch: bool = False,
        val_batch_size: int | None = None,
        loader: Mapping[str, Any] | None = None,
        **dataset: Any,
    ) -> None:
        super().__init__()
        check_device_arguments(
            per_batch, loader, device_transform=device_transform, val_device_transform=val_device_transform
        )
        sources = {"train": train, "val": val, "test": test, "predict": predict}
        self._sources = {name: source for name, source in sources.items() if source is not None}
        if not self._sources:
            raise SpecError("VideoDataModule needs videos: give train=, val=, test= or predict=")
        for name in sources.keys() - self._sources.keys():  # Lightning then sees that there are none
            method = f"{name}_dataloader"
            setattr(self, method, MethodType(getattr(pl.LightningDataModule, method), self))
        self._batch_sizes = {name: val_batch_size or batch_size for name in self._sources} | {"train": batch_size}
        self._transforms = dict.fromkeys(self._sources, val_transform) | {"train": transform}
        self.device_transform = to_float if device_transform is None else device_transform
        self.val_device_transform = self.device_transform if val_device_transform is None else val_device_transform
        self.per_batch = per_batch
        self._num_workers = num_workers
        self._loader_arguments = dict(loader or {})
        self._dataset_arguments = dataset
        self._loaders: dict[str, VideoLoader] = {}
        self._left_off: tuple[pl.Trainer | None, dict[str, Any]] | None = None

    # Building.

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets of a stage; once, however often it is called."""
        accept_sized_loaders()
        for name in _STAGES.get(stage, _STAGES[None]):
            if name in self._sources and name not in self._loaders:
                with distributed_environment(self.trainer):
                    self._loaders[name] = self._build(name)
                if name == "train" and self._left_off and self._left_off[0] is self.trainer:
                    self._loaders[name].load_state_dict(self._left_off[1])  # the same trainer goes on fitting

    def _build(self, name: str) -> VideoLoader:
        dataset = open_dataset(
            self._sources[name],
            batch_size=self._batch_sizes[name],
            training=name == "train",
            world_size=self.trainer.world_size if self.trainer is not None else 1,
            num_workers=self._num_workers,
            transform=self._transforms[name],
            **self._dataset_arguments,
        )
        if name != "train":
            return VideoLoader(dataset, self._num_workers, **self._loader_arguments)
        loader = _TrainLoader(dataset, self._num_workers, **self._loader_arguments)
        loader.datamodule = self
        return loader

    def teardown(self, stage: str | None = None) -> None:
        """Let go of a stage's datasets, their workers and caches; where training was is kept."""
        if "train" in _STAGES.get(stage, _STAGES[None]) and "train" in self._loaders and self.trainer is not None:
            self._left_off = self.trainer, self.training_state()
        for name in _STAGES.get(stage, _STAGES[None]):
            self._loaders.pop(name, None)

    def _loader(self, name: str) -> VideoLoader:
        if name not in self._loaders:
            self.setup(None)
        return self._loaders[name]

    def train_dataloader(self) -> VideoLoader:
        """The loader of the training clips."""
        return self._loader("train")

    def val_dataloader(self) -> VideoLoader:
        """The loader of the validation clips."""
        return self._loader("val")

    def test_dataloader(self) -> VideoLoader:
        """The loader of the test clips."""
        return self._loader("test")

    def predict_dataloader(self) -> Iterable[Any]:
        """The batches of clips to predict on."""
        return _Batches(self._loader("predict"))

    # Resume. Lightning restores a loader's own state only in some cases, and asks for it at times when batches
    # were handed out, but not trained on; so the state travels as the data module's.

    def training_state(self) -> dict[str, Any]:
        """The state from which training goes on exactly, by what the trainer has trained on."""
        if "train" not in self._loaders and self._left_off:
            return self._left_off[1]  # a checkpoint saved after the fit
        loader = self._loaders["train"]
        trainer, dataset = self.trainer, loader.dataset
        processed = processed_batches(trainer) if trainer is not None else 0
        if not loader.started or trainer is None:
            return dataset.state_dict(0, False)
        if processed >= trainer.num_training_batches:
            return dataset.state_at(loader.epoch + 1, 0)
        skipped = self._batches_before(loader.first_sample)
        return loader.state_dict(max(processed - skipped, 0))

    def _batches_before(self, first_sample: int) -> int:
        """How many of an epoch's batches are not given any more when it goes on at ``first_sample``."""
        dataset = self._loaders["train"].dataset
        return dataset.num_batches - dataset.batches_left(first_sample)

    def state_dict(self) -> dict[str, Any]:
        """The training position, for the checkpoint."""
        return {"train": self.training_state()} if "train" in self._loaders or self._left_off else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; Lightning calls it.

        Raises:
            ResumeError: the checkpoint does not fit the data or the settings; it says what changed.
        """
        if "train" not in state_dict or "train" not in self._loaders:
            return
        state = state_dict["train"]
        loader = self._loaders["train"]
        loader.load_state_dict(state)
        if self.trainer is not None:
            sample = int(state["sample_in_epoch"])
            shift_loaded_progress(self.trainer, self._batches_before(sample), epoch_finished=sample == 0)

    # On the device.

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn the uint8 videos of a batch into what the model takes."""
        training = self.trainer is None or self.trainer.training
        transform = self.device_transform if training else self.val_device_transform
        return transform_on_device(batch, transform, self._current_loader(), training, self.per_batch)

    def _current_loader(self) -> VideoLoader:
        trainer = self.trainer
        if trainer is None or trainer.training:
            return self._loaders["train"]
        name = "val" if trainer.validating or trainer.sanity_checking else "test" if trainer.testing else "predict"
        return self._loaders[name]
