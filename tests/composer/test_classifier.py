"""The classifier for Composer: padding counts for nothing, neither in the loss nor in the accuracy."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from onetake.composer.classifier import ClipClassifierModel
from onetake.core.errors import ConfigError

NETWORK = "tests.composer.recipe_runs.Network"


def batch(pads):
    generator = torch.Generator().manual_seed(3)
    return {
        "video": torch.randint(0, 256, (4, 3, 3, 8, 8), dtype=torch.uint8, generator=generator),
        "label": torch.tensor([0, 1, 2, 1]),
        "is_pad": torch.tensor(pads),
    }


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ClipClassifierModel(3, NETWORK)


def test_loss_and_accuracy_leave_out_padding(model):
    data = batch([False, False, True, True])
    logits = model(data)
    assert tuple(logits.shape) == (4, 3)
    torch.testing.assert_close(model.loss(logits, data), functional.cross_entropy(logits[:2], data["label"][:2]))
    outputs = functional.one_hot(torch.tensor([0, 2, 2, 1]), 3).float()
    metric = model.get_metrics(is_train=False)["MulticlassAccuracy"]
    model.update_metric(data, outputs, metric)
    assert metric.compute() == 0.5


def test_a_batch_of_nothing_but_padding(model):
    data = batch([True] * 4)
    logits = model(data)
    loss = model.loss(logits, data)
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None for parameter in model.parameters())
    metric = model.get_metrics(is_train=True)["MulticlassAccuracy"]
    model.update_metric(data, logits, metric)
    model.update_metric(batch([False] * 4), functional.one_hot(torch.tensor([0, 1, 2, 2]), 3).float(), metric)
    assert metric.compute() == 0.75


def test_training_and_evaluation_count_apart(model):
    assert (
        model.get_metrics(is_train=True)["MulticlassAccuracy"]
        is not model.get_metrics(is_train=False)["MulticlassAccuracy"]
    )


def test_layouts_and_options():
    torch.manual_seed(0)
    model = ClipClassifierModel(3, NETWORK, width=2)
    data = batch([False] * 4)
    swapped = data | {"video": torch.cat([data["video"], data["video"][:, :1]], 1)}  # [4, 4, 3, 8, 8]
    torch.testing.assert_close(model(swapped), model(swapped | {"video": swapped["video"].transpose(1, 2)}))
    with pytest.raises(ConfigError, match="does not take these arguments"):
        ClipClassifierModel(3, NETWORK, depth=2)


def test_a_network_of_torchvision():
    model = ClipClassifierModel(4, "r3d_18")
    data = {"video": torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8)}
    assert tuple(model.eval()(data).shape) == (1, 4)
