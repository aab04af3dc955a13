"""VideoClassifier: its schedule, its logs, what it makes of padding and of samples without a label."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from onetake.core.errors import ConfigError
from onetake.lightning.classifier import VideoClassifier

SMALL = {"network": "onetake.cli.demo_model.NarrowVideoResNet", "num_classes": 4, "widths": (4, 8)}


def batch(pads: list[bool]) -> dict:
    generator = torch.Generator().manual_seed(0)
    size = len(pads)
    video = torch.randint(0, 256, (size, 4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return {"video": video, "label": torch.arange(size) % 4, "is_pad": torch.tensor(pads)}


def rates(model: VideoClassifier, steps: int) -> list[float]:
    """The learning rates of the first steps."""
    configured = model.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"max_steps": 4}, [1, 0.75, 0.5, 0.25, 0.02, 0.02]),
        ({"warmup_steps": 2, "max_steps": 5, "lowest": 0.5}, [0.5, 1, 0.75, 0.5, 0.5, 0.5]),
        ({"warmup_steps": 9, "max_steps": 3}, [1 / 9, 2 / 9, 3 / 9, 0.02, 0.02, 0.02]),
    ],
)
def test_learning_rate_rises_and_falls(schedule, factors):
    model = VideoClassifier(**SMALL, learning_rate=0.1, weight_decay=0.3, **schedule)
    assert rates(model, 6) == pytest.approx([0.1 * factor for factor in factors])
    assert model.configure_optimizers()["optimizer"].param_groups[0]["weight_decay"] == 0.3


def test_padding_counts_for_nothing():
    model = VideoClassifier(**SMALL).eval()
    padded, whole = batch([False, False, True]), batch([False, False, False])
    first_two = {name: value[:2] for name, value in whole.items()}
    loss, accuracy, kept = model._judge(padded)
    assert kept == 2
    torch.testing.assert_close((loss, accuracy), model._judge(first_two)[:2])


def test_torchvisions_networks_go_by_their_names():
    with torch.device("meta"):
        model = VideoClassifier(num_classes=7)
    assert type(model.network.network).__name__ == "VideoResNet"
    assert model.network.network.fc.out_features == 7
    with pytest.raises(ConfigError, match="did you mean 'r3d_18'"):
        VideoClassifier(network="r3d_19")


def test_fit_logs_and_the_checkpoint_holds_the_arguments(tmp_path):
    model = VideoClassifier(**SMALL, max_steps=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    batches = [batch([False] * 4), batch([False, True, True, True])]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.fit(model, loader, loader)
    assert {"train_loss", "val_loss", "val_accuracy"} <= trainer.callback_metrics.keys()
    model.eval()
    means = [model._judge(each)[0] for each in batches]
    expected = (4 * means[0] + means[1]) / 5  # by clips, not by batches
    torch.testing.assert_close(trainer.callback_metrics["val_loss"], expected.detach(), rtol=1e-4, atol=1e-5)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = VideoClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()
    torch.testing.assert_close(loaded(batches[0]["video"]), model(batches[0]["video"]))


def test_samples_need_a_label():
    unlabelled = {name: value for name, value in batch([False]).items() if name != "label"}
    with pytest.raises(ConfigError, match=r"no label: .*sample_transform=.*FolderLabels"):
        VideoClassifier(**SMALL).training_step(unlabelled, 0)
