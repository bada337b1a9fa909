"""Building networks as timm and torch build theirs, and what tools do with the built ones."""

import pytest
import timm
import torch
from torch.nn.utils import skip_init

from ctxvision.models import CoTNet, RedNet, contextual, cotnet, rednet
from ctxvision.models.contextual import ContextualConvNeXt, ContextualResNet

ALL = [name for family in (cotnet, rednet, contextual) for name in family.default_cfgs]
MICRO = [name for name in ALL if name.endswith("micro")]
SMALL = {"num_classes": 5}


@pytest.mark.parametrize(
    "name", ["cotnet50", "cotnext50_2x48d", "se_cotnetd152", "rednet26", "contextual_resnet50", *MICRO]
)
def test_device_and_dtype_are_those_asked_for(name):
    model = timm.create_model(name, device="meta", dtype=torch.bfloat16, **SMALL)
    tensors = [*model.parameters(), *model.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}
    assert {t.dtype for t in tensors} - {torch.int64} == {torch.bfloat16}
    names = {
        key: tensor.shape for key, tensor in timm.create_model(name, device="meta", **SMALL).state_dict().items()
    }
    assert names == {key: tensor.shape for key, tensor in model.state_dict().items()}
    model.reset_classifier(3)
    assert model.get_classifier().weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", MICRO)
def test_a_network_in_double_precision_runs(name):
    model = timm.create_model(name, dtype=torch.float64, **SMALL).eval()
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (CoTNet, {"planes": (16, 16, 16, 16)}),
        (RedNet, {"planes": (32, 32, 32, 32)}),
        (ContextualConvNeXt, {"dims": (16, 16, 16, 16), "contextual_blocks": (1, 1, 1, 1)}),
        (ContextualResNet, {"planes": (16, 16, 16, 16)}),
    ],
)
def test_initialisation_can_be_skipped(network, arguments):
    model = skip_init(network, (1, 1, 1, 1), **arguments, **SMALL)
    assert {p.device.type for p in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", MICRO)
def test_scripting_is_refused_in_one_line(name):
    model = timm.create_model(name, **SMALL)
    with (
        pytest.warns(),
        pytest.raises(NotImplementedError, match=r"torch.jit.script cannot compile \w+: .*torch.jit.trace"),
    ):
        torch.jit.script(model)
    with pytest.raises(NotImplementedError, match=r"torch.jit.script cannot compile"):
        torch.jit.script(torch.nn.Sequential(model))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", MICRO)
def test_traces_with_gradients_pass_torch_s_own_check(name):
    tiny = {"depths": (1, 1, 1, 1)} | ({"contextual_blocks": (1, 1, 1, 1)} if "convnext" in name else {})
    model = timm.create_model(name, **tiny, **SMALL).eval()
    images = torch.randn(2, 3, 32, 32)
    traced = torch.jit.trace(model, images)  # runs twice, the second time without gradients
    torch.testing.assert_close(traced(images), model(images))


@pytest.mark.parametrize("name", MICRO)
def test_timm_s_train_script_scales_the_classifier(name):
    model = timm.create_model(name, **SMALL).eval()
    classifier, before = model.get_classifier(), model.get_classifier().weight.clone()
    with torch.no_grad():  # --head-init-scale and --head-init-bias
        classifier.weight.mul_(0.5)
        classifier.bias.mul_(0.5)
        torch.nn.init.constant_(classifier.bias, -1.0)
    assert torch.equal(classifier.weight, before / 2)
    assert "context.embedding.bias" not in model.state_dict()
    assert torch.isfinite(model(torch.randn(2, 3, 32, 32))).all()
    model.reset_classifier(7)
    assert hasattr(model.get_classifier(), "bias")
