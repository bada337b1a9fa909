"""A task from its checkpoint, and files that only claim to be one."""

import pickle

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from _checkpoints import write_classifier
from ctxvision.checkpoints import CheckpointError, warm_start
from ctxvision.data import DataSpec
from ctxvision.tasks import ClassificationTask, load_task

SPEC = DataSpec(("cat", "dog", "emu"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    task = ClassificationTask(
        "test_resnet", SPEC.to_dict(), model_args={"stem_width": 32}, mixup=0.1, optimizer="sgd"
    )
    data = DataLoader(TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 3), batch_size=4)
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, max_epochs=1, enable_progress_bar=False
    )
    trainer.fit(task, data)
    trainer.save_checkpoint(folder / "a.ckpt")
    return task.eval(), folder / "a.ckpt"


def test_everything_comes_back(trained):
    task, path = trained
    loaded = load_task(path)
    assert not loaded.training
    assert loaded.hparams == task.hparams
    assert DataSpec.from_dict(loaded.data_spec) == SPEC
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), task(images))


def change(path, to, **changes):
    checkpoint = torch.load(path, weights_only=True)
    for name, value in changes.items():
        checkpoint[name] = value(checkpoint[name]) if callable(value) else value
    torch.save(checkpoint, to)
    return to


def test_missing_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_task(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="is a folder; name a"):
        load_task(tmp_path)


def test_a_folder_of_runs_names_them(tmp_path):
    for run in ("b", "a", "c"):
        write_classifier(tmp_path / run / "checkpoints" / "best.ckpt")
    with pytest.raises(CheckpointError, match=f"did you mean {tmp_path / 'a'} or {tmp_path / 'b'}\\?$"):
        load_task(tmp_path)


def test_run_folder_stands_for_its_best_checkpoint(tmp_path):
    task = write_classifier(tmp_path / "run" / "checkpoints" / "best.ckpt")
    found = load_task(tmp_path / "run")
    assert all(torch.equal(value, task.state_dict()[name]) for name, value in found.state_dict().items())
    report = warm_start(found.model, tmp_path / "run")
    assert str(report).startswith(f"{tmp_path / 'run'}: {len(task.model.state_dict())} tensors loaded")


@pytest.mark.parametrize("keep", [0, 1, 100, 10_000, -1])
def test_truncated(trained, tmp_path, keep):
    path = tmp_path / "a.ckpt"
    path.write_bytes(trained[1].read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"truncated|not a checkpoint") as error:
        load_task(path)
    assert "\n" not in str(error.value)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("hide", [lambda evil: evil, lambda evil: {"ctxvision": {}, "state_dict": {"a": evil}}])
def test_code_is_refused_and_not_run(tmp_path, write, hide):
    marker = tmp_path / "ran"
    write(hide(Evil(marker)), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="maybe code"):
        load_task(tmp_path / "a.ckpt")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyper_parameters": lambda h: h | {"model": "test_resnetx"}}, "unknown model 'test_resnetx'"),
        ({"hyper_parameters": lambda h: h | {"model": "hf-hub:some/one"}}, "unknown model"),
        ({"hyper_parameters": lambda h: h | {"model": "test_vit"}}, "do not fit together|test_vit"),
        ({"hyper_parameters": lambda h: h | {"surprise": 1}}, "do not fit together"),
        ({"hyper_parameters": lambda h: h | {"data_spec": {}}}, "class_names must be a list of texts"),
        ({"hyper_parameters": lambda h: h | {"model_args": {"pretrained": True}}}, "pretrained"),
        ({"hyper_parameters": lambda h: h | {"model_args": {"pretrained_cfg": {"url": "x"}}}}, "pretrained_cfg"),
        ({"hyper_parameters": 5}, "not a checkpoint of"),
        ({"state_dict": {}}, "do not fit together"),
        ({"state_dict": lambda s: dict(list(s.items())[1:])}, "do not fit together"),
    ],
)
def test_wrong_contents(trained, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_task(change(trained[1], tmp_path / "b.ckpt", **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("contents", [{"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_other_checkpoints(tmp_path, contents):
    torch.save(contents, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint of `ctxvision train`"):
        load_task(tmp_path / "a.ckpt")
