"""Loops of other people: accelerate, Lightning's Trainer with torch.compile, averages of weights, DataParallel."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def test_accelerate_trains(build, tmp_path):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # transformers' trainer may have made one before
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    model = build(num_classes=4).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES, LABELS), batch_size=2)
    before = copy.deepcopy(model.state_dict())
    wrapped, optimizer, data = accelerator.prepare(model, optimizer, data)
    for images, labels in data:
        with accelerator.accumulate(wrapped):
            loss = nn.functional.cross_entropy(wrapped(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    assert loss.isfinite()
    after = accelerator.unwrap_model(wrapped).state_dict()
    assert any(not torch.equal(after[key], before[key]) for key in before)
    accelerator.save_state(tmp_path / "state")
    accelerator.load_state(tmp_path / "state")


def test_accelerate_builds_without_memory(build):
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch

    whole = build(num_classes=4)
    with init_empty_weights():
        empty = build(num_classes=4)
    empty.load_state_dict(whole.state_dict(), assign=True)
    assert callable(load_checkpoint_and_dispatch)
    with torch.inference_mode():
        assert torch.equal(empty.eval()(IMAGES), whole(IMAGES))


@pytest.mark.parametrize("network", ["cotnet_micro", "contextual_convnext_micro"])
def test_lightning_trains_a_compiled_network(network, tmp_path):
    import lightning
    import timm

    import ctxvision.models  # noqa: F401

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = torch.compile(timm.create_model(network, num_classes=4), backend="aot_eager")

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES, LABELS), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=True, precision="bf16-mixed",
    )  # fmt: skip
    trainer.fit(Module(), data)
    assert trainer.global_step == 2


@pytest.mark.parametrize("average", ["timm", "torch"])
def test_average_of_weights_computes_as_the_network(build, average):
    from timm.utils import ModelEmaV3

    model = build(num_classes=4)
    shadow = ModelEmaV3(model, decay=0.0) if average == "timm" else AveragedModel(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    shadow.update(model) if average == "timm" else shadow.update_parameters(model)
    with torch.inference_mode():
        assert torch.allclose(shadow.module.eval()(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_compute_the_same(build):
    model = build(num_classes=4)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    copies.append(nn.DataParallel(model))
    with torch.inference_mode():
        expected = model(IMAGES)
        model.forward_features(IMAGES)
        assert all(torch.equal(again(IMAGES), expected) for again in copies)
    assert torch.equal(copy.deepcopy(model)(IMAGES), expected), "after a call that remembers class sets"
