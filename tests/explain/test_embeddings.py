import numpy as np
import pytest
import timm
import torch
from torch import nn

import ctxvision  # noqa: F401
from ctxvision.explain import class_embeddings, on_a_plane, similarities


def test_rows_are_directions():
    model = timm.create_model("contextual_convnext_micro", num_classes=7)
    rows = class_embeddings(model)
    for row, weight in zip(rows, model.context.embedding.weight.detach().numpy(), strict=True):
        np.testing.assert_allclose(row, weight / np.sqrt((weight**2).sum()), rtol=1e-5)
    plain = timm.create_model("resnet10t", num_classes=7)
    np.testing.assert_allclose(
        class_embeddings(plain) * np.linalg.norm(plain.fc.weight.detach(), axis=1, keepdims=True),
        plain.fc.weight.detach(),
        atol=1e-5,
    )
    without = timm.create_model("contextual_convnext_micro", num_classes=7, stages=())
    assert class_embeddings(without).shape == (7, 256)
    with pytest.raises(ValueError, match="neither class embeddings nor"):
        class_embeddings(nn.Sequential(nn.Flatten()))
    with pytest.raises(ValueError, match="neither class embeddings nor"):
        class_embeddings(timm.create_model("resnet10t", num_classes=0))


def test_cosines():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    found = similarities(rows)
    for i in range(6):
        for j in range(6):
            expected = float(torch.cosine_similarity(torch.tensor(rows[i]), torch.tensor(rows[j]), dim=0))
            assert found[i, j] == pytest.approx(expected)
    assert np.abs(similarities(np.zeros((3, 4)))).max() == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 40])
@pytest.mark.parametrize("width", [1, 2, 64])
def test_any_number_of_classes_has_places(count, width):
    rows = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    plane = on_a_plane(rows)
    assert plane.shape == (count, 2)
    assert np.isfinite(plane).all()
    assert np.array_equal(plane, on_a_plane(rows))


def test_equal_classes_do_not_stop_it():
    assert np.isfinite(on_a_plane(np.ones((10, 8), np.float32))).all()


def test_neighbours_are_similar_classes():
    generator = np.random.default_rng(0)
    centres = np.eye(3, 64)
    rows = (centres.repeat(8, 0) + 0.05 * generator.normal(size=(24, 64))).astype(np.float32)
    plane, kind = on_a_plane(rows), np.arange(3).repeat(8)
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=-1) + np.eye(24) * 1e9
    assert (kind[distances.argmin(1)] == kind).all()
