"""onetake for MosaicML Composer: ``Trainer(train_dataloader=video_data_spec(...))``, and recipes."""

from onetake.core.names import require

require("composer", "composer", "onetake.composer")

from onetake.composer.cursors import CursorLogger, ExactResume  # noqa: E402
from onetake.composer.spec import video_data_spec  # noqa: E402
from onetake.composer.tuning import AdaptivePrefetch  # noqa: E402

__all__ = ["AdaptivePrefetch", "CursorLogger", "ExactResume", "video_data_spec"]
