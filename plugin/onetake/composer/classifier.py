"""A Composer model that classifies clips."""

from __future__ import annotations

from typing import Any

from composer.models import ComposerModel
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from onetake.stream.classify import ClipClassifier, clip_loss

__all__ = ["ClipClassifierModel"]


class ClipClassifierModel(ComposerModel):
    """Learns "label" (int64 [B]) from "video" ([B, T, 3, H, W] or [B, 3, T, H, W]); padding counts for nothing.

    The metric is the accuracy, called "MulticlassAccuracy", of training and of evaluation.

    Args:
        num_classes: number of labels.
        network: a video model of torchvision by its name, or the dotted path of a module; see
            ``stream.classify.ClipClassifier``.
        **options: further arguments of the network.

    Raises:
        ConfigError: there is no such network, or it doesn't take the arguments.
    """

    def __init__(self, num_classes: int, network: str = "r3d_18", **options: Any) -> None:
        super().__init__()
        self.network = ClipClassifier(network, num_classes, **options)
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.eval_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Logits, float [B, num_classes]."""
        logits: Tensor = self.network(batch["video"])
        return logits

    def loss(self, outputs: Tensor, batch: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Mean cross-entropy of the clips that are no padding."""
        return clip_loss(outputs, batch)[0]

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        """The accuracy, by the name that Composer logs it under."""
        return {"MulticlassAccuracy": self.train_accuracy if is_train else self.eval_accuracy}

    def update_metric(self, batch: dict[str, Any], outputs: Tensor, metric: Metric) -> None:
        """Count a batch, but for its padding."""
        keep = ~batch["is_pad"]
        if keep.any():
            metric.update(outputs[keep], batch["label"][keep])
