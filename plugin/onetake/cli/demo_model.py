"""The demo's network and its Lightning module: torchvision's video ResNet, narrow enough for two cores."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple


class NarrowVideoResNet(nn.Sequential):
    """A video ResNet of torchvision's own blocks, randomly initialised.

    The stem sees three frames at once from the first layer on: a stem of ``(1, k, k)`` would leave motion to
    the few pixels that deep layers keep. Every stage halves height, width and time.

    Args:
        num_classes: length of the output.
        widths: channels of the stem and of each residual stage.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        stem = nn.Sequential(
            nn.Conv3d(3, widths[0], (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2), bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages = [_stage(a, b) for a, b in pairwise(widths)]
        head = (nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
        super().__init__(stem, *stages, *head)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(inplanes: int, planes: int) -> BasicBlock:
    shortcut = nn.Sequential(
        nn.Conv3d(inplanes, planes, kernel_size=1, stride=Conv3DSimple.get_downsample_stride(2), bias=False),
        nn.BatchNorm3d(planes),
    )
    return BasicBlock(inplanes, planes, Conv3DSimple, stride=2, downsample=shortcut)


class DriftClassifier(lightning.LightningModule):
    """Tells from a clip which way its shapes drift. The clip's mean frame is taken off first.

    Batches hold ``video`` (``[B, T, 3, H, W]`` or ``[B, 3, T, H, W]``; uint8, or float in 0..1), ``label`` (int64
    ``[B]``) and ``is_pad`` (bool ``[B]``: a repeat that fills up the last batch, and counts for nothing).

    Logs ``train_loss`` a step, ``val_loss`` and ``val_accuracy`` an epoch.

    Args:
        num_classes: number of labels.
        max_steps: optimizer steps over which the learning rate rises and falls. Given by hand, because
            Lightning's ``estimated_stepping_batches`` builds the loader before its state is restored.
        learning_rate: at its highest.
        weight_decay: AdamW's.
        widths: see :class:`NarrowVideoResNet`.
    """

    def __init__(
        self,
        num_classes: int = 4,
        max_steps: int = 240,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.02,
        widths: tuple[int, ...] = (16, 32, 64),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = NarrowVideoResNet(num_classes, tuple(widths))

    def forward(self, video: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of clips in either layout."""
        if video.shape[1] != 3:
            video = video.transpose(1, 2)
        if not video.is_floating_point():
            video = video.float() / 255
        # Without what stands still: else the network learns by heart which scene has which label, since neighbouring
        # batches of a video show the same one, and never looks at motion.
        return self.network((video - video.mean(2, keepdim=True)) * 8)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss, _, kept = self._judge(batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=kept)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        loss, accuracy, kept = self._judge(batch)
        means = {"val_loss": loss, "val_accuracy": accuracy}  # of the batch; Lightning weighs them by batch_size
        self.log_dict(means, on_epoch=True, prog_bar=True, batch_size=kept, sync_dist=True)

    def _judge(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, int]:
        """Mean loss and accuracy over the clips that are no padding, and how many they are."""
        keep = ~batch["is_pad"]
        logits = self(batch["video"])
        losses = functional.cross_entropy(logits, batch["label"], reduction="none")
        correct = (logits.argmax(1) == batch["label"]).float()
        kept = int(keep.sum())
        # Summed over all clips, not over a selection: a batch of nothing but padding has the loss 0, with a gradient.
        return (losses * keep).sum() / max(kept, 1), (correct * keep).sum() / max(kept, 1), kept

    def configure_optimizers(self) -> dict[str, Any]:
        hyper = self.hparams
        optimizer = torch.optim.AdamW(self.parameters(), hyper.learning_rate, weight_decay=hyper.weight_decay)
        warmup = max(1, hyper.max_steps // 10)

        def factor(step: int) -> float:
            return min((step + 1) / warmup, max(0.02, (hyper.max_steps - step) / (hyper.max_steps - warmup + 1)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
