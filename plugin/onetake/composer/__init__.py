"""onetake for MosaicML Composer: ``Trainer(train_dataloader=video_data_spec(...))``, and recipes."""

from onetake.core.names import require

require("composer", "composer", "onetake.composer")

__all__: list[str] = []
