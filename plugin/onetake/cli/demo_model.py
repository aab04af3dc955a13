"""The demo's network: torchvision's video ResNet, narrow enough for two cores."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
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


class DriftNetwork(nn.Module):
    """Tells from a clip, float [B, 3, T, H, W] in 0..1, which way its shapes drift.

    The clip's mean frame is taken off first: else the network learns by heart which scene has which label, since
    neighbouring batches of a video show the same one, and never looks at motion.

    Args:
        num_classes: length of the output.
        widths: see :class:`NarrowVideoResNet`.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.network = NarrowVideoResNet(num_classes, tuple(widths))

    def forward(self, video: Tensor) -> Tensor:
        """Logits [B, num_classes]."""
        logits: Tensor = self.network((video - video.mean(2, keepdim=True)) * 8)
        return logits
