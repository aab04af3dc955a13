"""onetake for Lightning: ``trainer.fit(model, datamodule=VideoDataModule(...))``."""

from onetake.lightning.datamodule import VideoDataModule

__all__ = ["VideoDataModule"]
