"""segmentation_models_pytorch: its decoders on our networks, as encoders of timm."""

import pytest
import torch

import ctxvision.models  # noqa: F401

DECODERS = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
)
PEERS = {"cotnet_micro": "resnet18", "rednet_micro": "resnet18", "contextual_convnext_micro": "convnext_atto"}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("network", PEERS)
def test_decoder_takes_a_training_step_wherever_timm_s_network_does(decoder, network):
    import segmentation_models_pytorch as smp

    side = 128 if decoder == "PAN" else 64  # pools three times behind the last stage
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))

    def step(encoder):
        torch.manual_seed(0)
        model = getattr(smp, decoder)(f"tu-{encoder}", encoder_weights=None, classes=2).train()
        found = model(images)
        found.square().mean().backward()
        assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
        return found.shape

    try:
        expected = step(PEERS[network])
    except Exception as refused:  # a decoder that needs a level of stride 2, which ConvNeXt has not
        with pytest.raises(type(refused)):
            step(network)
    else:
        assert step(network) == expected == (2, 2, side, side)


@pytest.mark.parametrize("network", ["cotnet_micro", "rednet_micro"])
def test_finest_skip_has_stride_2_and_channels(network):
    import segmentation_models_pytorch as smp

    encoder = smp.encoders.get_encoder(f"tu-{network}", weights=None).eval()
    with torch.inference_mode():
        shapes = [tuple(level.shape) for level in encoder(torch.zeros(1, 3, 64, 64))]
    assert [64 // shape[-1] for shape in shapes] == [1, 2, 4, 8, 16, 32]
    assert [shape[1] for shape in shapes] == list(encoder.out_channels)
    assert min(encoder.out_channels) > 0
