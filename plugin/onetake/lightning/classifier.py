"""A LightningModule that classifies clips."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from onetake.core.errors import ConfigError
from onetake.stream.classify import ClipClassifier, clip_loss

__all__ = ["VideoClassifier"]


class VideoClassifier(pl.LightningModule):
    """Trains a network to tell the class of a clip.

    Batches hold ``video`` (``[B, T, 3, H, W]`` or ``[B, 3, T, H, W]``; uint8, or float in 0..1), ``label`` (int64
    ``[B]``) and ``is_pad`` (bool ``[B]``: a repeat that fills up the last batch, and counts for nothing).

    Logs ``train_loss`` a step, ``val_loss`` and ``val_accuracy`` an epoch.

    Args:
        network: a video model of torchvision by its name, or the dotted path of a module (see ClipClassifier).
        num_classes: number of labels.
        learning_rate: at its highest.
        weight_decay: AdamW's.
        warmup_steps: optimizer steps in which the learning rate rises.
        max_steps: the optimizer step at which it has fallen, linearly, to its lowest. None: it stays at its
            highest. Given by hand, because Lightning's ``estimated_stepping_batches`` builds the loader before its
            state is restored.
        lowest: part of ``learning_rate`` below which it does not fall.
        **options: further arguments of the network.

    Raises:
        ConfigError: there is no such network; or, in training, samples have no label.
    """

    def __init__(
        self,
        network: str = "r3d_18",
        num_classes: int = 400,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.02,
        warmup_steps: int = 0,
        max_steps: int | None = None,
        lowest: float = 0.02,
        **options: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = ClipClassifier(network, num_classes, **options)

    def forward(self, video: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of clips in either layout."""
        logits: Tensor = self.network(video)
        return logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss, _, kept = self._judge(batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=kept)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        loss, accuracy, kept = self._judge(batch)
        means = {"val_loss": loss, "val_accuracy": accuracy}  # of the batch; Lightning weighs them by batch_size
        self.log_dict(means, on_epoch=True, prog_bar=True, batch_size=kept, sync_dist=True)

    def _judge(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, int]:
        if "label" not in batch:
            raise ConfigError(
                "samples have no label: give the data module a sample_transform= that adds one, such as "
                "onetake.stream.classify.FolderLabels"
            )
        return clip_loss(self(batch["video"]), batch)

    def configure_optimizers(self) -> dict[str, Any]:
        hyper = self.hparams
        optimizer = torch.optim.AdamW(self.parameters(), hyper.learning_rate, weight_decay=hyper.weight_decay)
        warmup = max(hyper.warmup_steps, 1)

        def factor(step: int) -> float:
            risen = min((step + 1) / warmup, 1.0)
            if hyper.max_steps is None:
                return risen
            return min(risen, max(hyper.lowest, (hyper.max_steps - step) / max(hyper.max_steps - warmup + 1, 1)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
