"""onetake for Lightning: ``trainer.fit(model, datamodule=VideoDataModule(...))``."""

from onetake.core.names import require

require("lightning", "lightning", "onetake.lightning")

from onetake.lightning.datamodule import VideoDataModule  # noqa: E402
from onetake.lightning.tuning import AdaptivePrefetch  # noqa: E402

__all__ = ["AdaptivePrefetch", "VideoDataModule"]
