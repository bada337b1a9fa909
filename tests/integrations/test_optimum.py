"""optimum's ONNX exporter on our networks, in an environment of its own: it is pinned to transformers 4."""

import pytest
import timm
import torch


@pytest.mark.parametrize("network", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
def test_export_equals_the_network(network, tmp_path):
    import onnxruntime
    from optimum.exporters.onnx import onnx_export_from_model

    import ctxvision.integrations.optimum  # noqa: F401

    torch.manual_seed(0)
    model = timm.create_model(network, num_classes=5).eval()
    onnx_export_from_model(model, tmp_path, task="image-classification", no_dynamic_axes=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 224, 224)
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(found), model(images), rtol=1e-3, atol=1e-4)
